"""A run, or several, as one HTML page that people read in a browser, with nothing fetched from anywhere."""

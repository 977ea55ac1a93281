"""HTML report of one or several runs; the file fetches nothing."""

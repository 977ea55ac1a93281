"""Face detection, tracking and annotation in photographs, videos and webcams."""

"""Faces in photographs, videos and webcams: found, cut out, read, followed and drawn."""

"""Shards: a data set as tar files of encoded images that are read from a folder, a web server or an object store."""

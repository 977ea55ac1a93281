"""Readers of data sources: csv files, class folders, FER+ votes, drawn faces."""

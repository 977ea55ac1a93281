"""Command line: one file per command; each builds a configuration, calls one function and prints the result."""

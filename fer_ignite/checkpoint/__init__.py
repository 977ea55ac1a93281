"""Checkpoint files: format, archive, saving, the run folder and atomic writes."""

"""Engines, their handlers, checkpoints: everything between a batch and a finished run."""

"""Experiment trackers MLflow, Weights & Biases and ClearML: sent by a thread, continued on resume."""

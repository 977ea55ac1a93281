"""A run's record in MLflow, Weights & Biases or ClearML: beside its own files, sent by a thread, continued on resume."""

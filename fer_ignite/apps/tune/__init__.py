"""Hyperparameter search and learning-rate range test; neither reads the test split."""

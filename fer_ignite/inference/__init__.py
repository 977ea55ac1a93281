"""Loaded models, prediction from image files and evaluation."""

"""Batch augmentation: parameters, geometry, color, mixup and test-time views."""

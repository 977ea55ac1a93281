"""Data: sources, dataset cache, sampler, loaders and batch augmentation."""

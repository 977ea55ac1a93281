"""The dataset cache: all images of a data set, decoded once, in memory-mapped arrays."""

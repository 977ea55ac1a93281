"""Export of a checkpoint as one checked file with preprocessing, classes, temperature and a model card."""

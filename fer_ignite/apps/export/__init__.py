"""A checkpoint taken elsewhere: one file with preparation, classes and temperature inside, checked, with a model card."""

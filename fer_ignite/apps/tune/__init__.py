"""Finding good settings: the learning rate by a range test, any settings by a search; neither ever reads test."""

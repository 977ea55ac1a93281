"""A run from validated settings to its summary."""

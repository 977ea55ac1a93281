"""Optional applications on top of the trainer; none is imported by the core."""

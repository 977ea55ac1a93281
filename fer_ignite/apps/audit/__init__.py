"""Data audit: duplicates, contradicting labels, blank images and likely label errors."""

"""Trust your data: copies, contradictions, blanks, and labels that are probably wrong."""

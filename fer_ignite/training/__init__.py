"""Training: engines, events, handlers and session."""

"""Checkpoint files: what they hold, which network they fit, loading and saving."""

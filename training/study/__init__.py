"""Many fine-tunings, measured and written as tables."""

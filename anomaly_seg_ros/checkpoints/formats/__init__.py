"""Public checkpoint formats, one file each."""

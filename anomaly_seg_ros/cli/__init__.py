"""Command-line tools, one file each."""

"""Pasting foreign objects into road scenes: location, size, edges and labels."""

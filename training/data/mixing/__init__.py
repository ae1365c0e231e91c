"""Pasting foreign objects into road scenes: where, how large, with which edges and labels."""

"""Networks, and what wraps any other."""

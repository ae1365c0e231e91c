"""Weight files: reading safely, recognising, loading."""

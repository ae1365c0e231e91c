"""Reading and writing files and pixels: bounded readers, images, YAML, JSON, NumPy archives."""

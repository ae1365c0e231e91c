"""Training data: road scenes, foreign objects, how they are mixed, and style alignment."""

"""What training sees: road scenes, foreign objects, mixing and style."""

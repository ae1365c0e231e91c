"""The detector node, and what replays bags through it."""

"""Bounded readers, images, pixel formats, atomic writes."""

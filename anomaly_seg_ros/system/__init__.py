"""Devices, memory, timing, installed files, crash logs."""

"""The machine and the process: devices, memory, timing, installed files, crash logs."""

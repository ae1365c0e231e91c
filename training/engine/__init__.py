"""The training loop, and its configuration, storage, logs and processes."""

"""The training loop and what it stands on: configuration, storage, logs, processes."""

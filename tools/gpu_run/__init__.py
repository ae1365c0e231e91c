"""One prepared run for a machine with a GPU and ten minutes."""

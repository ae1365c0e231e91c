"""From an RGB image to labels, anomaly scores and masks."""

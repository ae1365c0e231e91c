"""The benchmark suite: many models x scores x data sets, all metrics, one run."""

"""Models, data sets and bags to figures, reports and films."""

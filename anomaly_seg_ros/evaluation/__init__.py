"""What an evaluation yields: figures (results), a page (report, plots) and a film (video)."""

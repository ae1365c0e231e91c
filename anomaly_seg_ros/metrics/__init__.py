"""Exact, mergeable metrics in bounded memory."""

"""What is fuzzed, for tools/fuzz.py (coverage-guided) and test/fuzz (hypothesis)."""

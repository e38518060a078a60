"""Conversations whose speakers are known: ``python -m benchmarks.conversations build/conversations``."""

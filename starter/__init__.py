"""Trains and measures the starter models on synthesized speech: `python -m starter --help`."""

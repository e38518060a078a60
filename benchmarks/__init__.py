"""Measures the server, its engines and FunASR's own pipeline with the same weights and cores."""

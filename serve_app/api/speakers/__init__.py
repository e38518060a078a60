"""The HTTP API of enrolled speakers."""

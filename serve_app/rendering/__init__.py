"""Transcripts as subtitles and as JSON shapes. Pure functions: no HTTP, no model."""

"""The WebSocket protocol of FunASR's runtime servers."""

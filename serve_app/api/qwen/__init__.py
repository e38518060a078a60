"""The WebSocket protocol of funasr-api for Qwen3-ASR."""

"""``/api-ws/v1/realtime``: Qwen's dialect of OpenAI's realtime protocol, for transcription only."""

"""The WebSocket protocol of Aliyun's Intelligent Speech Interaction (NLS)."""

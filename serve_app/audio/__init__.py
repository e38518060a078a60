"""From what a client sent to mono int16 PCM at 16 kHz."""

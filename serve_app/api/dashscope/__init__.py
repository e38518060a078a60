"""DashScope's (Bailian's) speech recognition: its two WebSockets, and its tasks for recordings."""

"""Named voices: enrolled ones, kept per owner, and those that come with a request."""

from serve_app.speakers.service import SpeakerService

__all__ = ["SpeakerService"]

"""Recordings in which each speaker has a channel, as of telephone calls."""

from collections.abc import Sequence
from dataclasses import replace

from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.pipeline.types import Speaker, Transcript

MOST_CHANNELS = 8
"""As many as can be told apart this way: each costs as much as a recording of its own."""


def join_channels(
    channels: Sequence[Transcript], tuning: SpeakerTuning, language: str | None = None
) -> Transcript:
    """All that is said, in the order in which sentences begin; each speaker has the number of the channel,
    from 1.

    ``language`` (ISO 639-1) is what the caller knows of the whole; ``None``: told by script.
    """
    said = [sentence for channel in channels for sentence in channel.sentences]
    duration = max((channel.duration for channel in channels), default=0.0)
    applied = (text for channel in channels for text in channel.applied)
    whole = Transcript.of(duration, said, language, applied)
    labeled = [
        replace(sentence, speaker=Speaker(number, tuning.label(number, whole.language)))
        for number, channel in enumerate(channels, 1)
        for sentence in channel.sentences
    ]
    return replace(whole, sentences=tuple(sorted(labeled, key=lambda sentence: sentence.begin)))

"""Speakers of several channels, each of which was transcribed by itself."""

from collections.abc import Sequence
from dataclasses import replace

from serve_app.pipeline.types import Sentence, Speaker, Transcript


def apart(channels: Sequence[Transcript]) -> tuple[Transcript, ...]:
    """Number the speakers of all channels together, in the order in which they begin to speak.

    Whoever is heard on two channels is two people, unless the voice has a name. A single channel stays as it
    is.
    """
    if len(channels) < 2:
        return tuple(channels)
    spoken = [
        (sentence, channel)
        for channel, transcript in enumerate(channels)
        for sentence in transcript.sentences
    ]
    numbers: dict[tuple[int, str | int], int] = {}
    for sentence, channel in sorted(spoken, key=lambda item: item[0].begin):
        if sentence.speaker:
            numbers.setdefault(_person(sentence.speaker, channel), len(numbers) + 1)

    def renumbered(sentence: Sentence, channel: int) -> Sentence:
        speaker = sentence.speaker
        if speaker is None:
            return sentence
        return replace(sentence, speaker=_numbered(speaker, numbers[_person(speaker, channel)]))

    return tuple(
        replace(transcript, sentences=tuple(renumbered(item, channel) for item in transcript.sentences))
        for channel, transcript in enumerate(channels)
    )


def _person(speaker: Speaker, channel: int) -> tuple[int, str | int]:
    return (-1, speaker.name) if speaker.name else (channel, speaker.number)


def _numbered(speaker: Speaker, number: int) -> Speaker:
    """``speaker`` under another number, which the label of one without a name ends with."""
    label = speaker.label if speaker.name else speaker.label.removesuffix(str(speaker.number)) + str(number)
    return replace(speaker, number=number, label=label)

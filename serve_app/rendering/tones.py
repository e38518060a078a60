"""How something was said and what else was heard, under the names that all protocols use for it.

The names are those of :class:`deployments.messages.Recognition`. They are in an answer only where the model
tells them; a model of which nothing is known but words leaves every answer as it was.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from serve_app.pipeline.live.events import SentenceFinal
from serve_app.pipeline.types import Sentence, Transcript

Tone = dict[str, Any]


def has_tone(sentence: Sentence) -> bool:
    """Whether anything is known of how a sentence of a recording was said."""
    return sentence.emotion is not None or bool(sentence.events)


def tone_of(sentence: Sentence) -> Tone:
    """``emotion`` (``None`` where it is not clear) and ``events`` of a sentence of a recording."""
    return {"emotion": sentence.emotion, "events": [*sentence.events]} if has_tone(sentence) else {}


def tone_together(sentences: Iterable[Sentence]) -> tuple[str | None, list[str]]:
    """The emotion in which most was said, and all events."""
    milliseconds: Counter[str] = Counter()
    events: dict[str, None] = {}
    for sentence in sentences:
        if sentence.emotion is not None:
            milliseconds[sentence.emotion] += round(1000 * (sentence.end - sentence.begin))
        events |= dict.fromkeys(sentence.events)
    return _most(milliseconds), [*events]


def live_tone(final: SentenceFinal) -> Tone:
    """The same, and ``language``, of a sentence that was spoken just now."""
    if final.raw is None:
        return {}
    return {"language": final.language, "emotion": final.emotion, "events": [*final.events]}


class LiveTones:
    """The same of several sentences together: language and emotion of the longest part of the speech, and all
    events."""

    def __init__(self) -> None:
        self._told = False
        self._languages: Counter[str] = Counter()
        self._emotions: Counter[str] = Counter()
        self._events: dict[str, None] = {}

    def add(self, final: SentenceFinal) -> None:
        """The next sentence."""
        if final.raw is None:
            return
        self._told = True
        milliseconds = round(1000 * (final.end - final.begin))
        if final.language is not None:
            self._languages[final.language] += milliseconds
        if final.emotion is not None:
            self._emotions[final.emotion] += milliseconds
        self._events |= dict.fromkeys(final.events)

    @property
    def fields(self) -> Tone:
        if not self._told:
            return {}
        language, emotion = (_most(heard) for heard in (self._languages, self._emotions))
        return {"language": language, "emotion": emotion, "events": [*self._events]}


def _most(heard: Counter[str]) -> str | None:
    return max(heard, key=lambda name: heard[name], default=None)


def language_of(transcript: Transcript) -> Tone:
    """``language``, for answers that otherwise have no place for it."""
    return {} if transcript.raw is None else {"language": transcript.language}


def raw_text(transcript: Transcript) -> str:
    """What the model wrote, with its tags; the text, if it writes none."""
    return transcript.text if transcript.raw is None else transcript.raw

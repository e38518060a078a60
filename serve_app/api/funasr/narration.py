"""The events of a live session as results: increments while a sentence goes on, its text when it ends."""

from typing import Literal

from serve_app.api.funasr.replies import Reply, hotwords_told, milliseconds, result, spaced, spoken_by
from serve_app.api.hotwords import HotwordsTold
from serve_app.api.live_speakers import SpeakerChanges
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    LiveOptions,
    Partial,
    SentenceFinal,
    SpeakersMerged,
    SpeechStarted,
)
from serve_app.pipeline.text import is_cjk
from serve_app.pipeline.types import Speaker
from serve_app.rendering.tones import live_tone

_FIRST, _FURTHER, _FINISHED = 0, 1, 2
"""``slice_type`` of the first and of further partials of a sentence, and of its end."""


class Narration:
    """Tells one live session; of all its results exactly one, the last, has ``is_final`` set.

    With ``2pass``, clients drop the increments of a sentence when its ``2pass-offline`` text comes, and
    append that. With ``online`` all is increments, which clients string together, so what was sent is
    never taken back.
    """

    def __init__(
        self,
        mode: Literal["online", "2pass"],
        *,
        speakers: bool = False,
        hotwords: HotwordsTold | None = None,
        raw: bool = False,
    ) -> None:
        """``speakers``: the ends of sentences tell who spoke; ``hotwords``: they tell what became of these;
        ``raw``: with ``2pass``, their text is what the model wrote, with its tags."""
        self._raw = raw
        self._hotwords = hotwords or HotwordsTold(LiveOptions())
        self._speakers = SpeakerChanges(lambda speaker: speaker.label) if speakers else None
        self._online = mode == "online"
        self._label = "2pass-online" if self._online else "2pass-offline"
        self._sent = ""
        self._previous = ""
        """The last sentence before the current one that has a text."""
        self._is_over = False

    def tell(self, event: LiveEvent) -> Reply | None:
        """The result to send for an event, if any."""
        match event:
            case SpeechStarted():
                self._sent = ""
                return None
            case Partial():
                return self._increment(event)
            case SentenceFinal():
                return self._sentence(event)
            case SpeakersMerged() if self._speakers is not None:
                self._speakers.merged(event)
                return None
            case Finished() if not self._is_over:
                told = hotwords_told(self._hotwords.overall)
                return result(self._label, "", final=True, **self._spoken_by(None), **told)
            case _:
                return None

    def _increment(self, event: Partial) -> Reply | None:
        # Only what stays: an increment cannot be taken back.
        new = self._new(event.text[: event.stable])
        if not new:
            return None
        is_first = not self._sent
        self._sent += new
        text = self._apart(new) if is_first else new
        told: Reply = {} if self._hotwords.live is None else {"hotwords_applied": self._hotwords.live}
        slice_type = _FIRST if is_first else _FURTHER
        return result("2pass-online", text, final=False, **_slice(event, slice_type), **told)

    def _sentence(self, event: SentenceFinal) -> Reply | None:
        self._is_over = event.cause == "end"
        hotwords = self._hotwords.sentence(event)
        heard, text = bool(self._sent), event.text
        if self._online and heard:
            text = self._new(text)
        else:
            text = self._apart(text if self._online else spaced(text))
        self._previous, self._sent = event.text or self._previous, ""
        if not (text or heard or self._is_over):
            return None
        words = () if self._online else event.words
        if self._raw and not self._online and event.raw is not None:
            text = event.raw
        extra = {**_slice(event, _FINISHED), **live_tone(event), **self._spoken_by(event.speaker)}
        extra |= hotwords_told(hotwords)
        return result(self._label, text, final=self._is_over, words=words, **extra)

    def _spoken_by(self, speaker: Speaker | None) -> Reply:
        if self._speakers is None:
            return {}
        return {**spoken_by(speaker), **self._speakers.fields(speaker)}

    def _new(self, text: str) -> str:
        """What ``text`` has more than was sent, also where it begins differently after all."""
        return text[len(self._sent) :]

    def _apart(self, text: str) -> str:
        """The begin of a sentence, after a space where both sides of it are in Latin script."""
        if not text or not self._previous or is_cjk(text[0]) or is_cjk(self._previous[-1]):
            return text
        return f" {text}"


def _slice(event: Partial | SentenceFinal, slice_type: int) -> Reply:
    return {
        "slice_type": slice_type,
        "index": event.index,
        "start_time": milliseconds(event.begin),
        "end_time": milliseconds(event.end),
    }

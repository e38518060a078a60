"""The events of a live session, told as results of a task.

Times are whole milliseconds on the clock of the task's audio. The text of a sentence is always all of it:
it replaces what was told of that sentence before.
"""

import math
from collections.abc import Sequence
from typing import Any

from serve_app.api.dashscope.wire import Payload
from serve_app.api.hotwords import HotwordsTold, hotword_fields
from serve_app.api.live_speakers import SpeakerChanges
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    LiveOptions,
    Partial,
    SentenceFinal,
    SpeakersMerged,
)
from serve_app.pipeline.types import Speaker, TimedWord
from serve_app.rendering.tones import live_tone

_MOODS = {"happy": "positive", **dict.fromkeys(("sad", "angry", "fearful", "disgusted"), "negative")}

HEARTBEAT: Payload = {
    "output": {
        "sentence": {
            "sentence_id": 0,
            "begin_time": 0,
            "end_time": None,
            "text": "",
            "heartbeat": True,
            "sentence_end": False,
            "words": [],
        }
    },
    "usage": None,
}
"""Says that the task goes on, to clients that asked to be told."""


class Narration:
    """Tells one task. Sentences are counted from 1; those of which there is nothing to tell do not count."""

    def __init__(self, *, speakers: bool = False, hotwords: HotwordsTold | None = None) -> None:
        """``speakers``: sentences tell who spoke; ``hotwords``: they tell what became of these."""
        self._hotwords = hotwords or HotwordsTold(LiveOptions())
        self._speakers = SpeakerChanges(_number) if speakers else None
        self.duration = 0.0
        """Seconds of audio that are worked off."""
        self._told = 0
        self._index = -1
        """The session's number of the sentence that was told last."""

    def tell(self, event: LiveEvent) -> Payload | None:
        """The payload of a result, if the event is one."""
        match event:
            case Partial() if event.text:
                return self._result(event, end=None)
            case SentenceFinal() if event.text or event.index == self._index:
                self.duration = event.end
                told = _tone(event) | self._spoken_by(event.speaker)
                told |= hotword_fields(self._hotwords.sentence(event))
                return self._result(event, end=_ms(event.end), **told)
            case SpeakersMerged() if self._speakers is not None:
                self._speakers.merged(event)
            case Finished():
                self.duration = event.duration
        return None

    @property
    def usage(self) -> Payload:
        """What has been recognized up to now, in whole seconds."""
        return {"duration": math.ceil(self.duration)}

    def _spoken_by(self, speaker: Speaker | None) -> Payload:
        if self._speakers is None:
            return {}
        changes = self._speakers.fields(speaker)
        if speaker is None:
            return {"speaker_id": None, **changes}
        named = {} if speaker.name is None else {"speaker_name": speaker.name}
        confidence = round(speaker.confidence, 3)
        return {"speaker_id": _number(speaker), "speaker_confidence": confidence, **named, **changes}

    def _result(self, event: Partial | SentenceFinal, end: int | None, **extra: Any) -> Payload:
        if event.index != self._index:
            self._index = event.index
            self._told += 1
        sentence = {
            "sentence_id": self._told,
            "begin_time": _ms(event.begin),
            "end_time": end,
            "text": event.text,
            "heartbeat": False,
            "sentence_end": end is not None,
            "words": _words(event.words, fixed=end is not None),
            **extra,
        }
        return {"output": {"sentence": sentence}, "usage": None if end is None else self.usage}


def _tone(event: SentenceFinal) -> Payload:
    """How it was said; ``emo_tag`` is DashScope's own field, and it knows three moods."""
    mood = None if event.emotion is None else _MOODS.get(event.emotion, "neutral")
    return live_tone(event) | ({} if mood is None else {"emo_tag": mood})


def _number(speaker: Speaker) -> int:
    """DashScope's speakers are numbers, from 0."""
    return speaker.number - 1


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _words(words: Sequence[TimedWord], fixed: bool) -> list[dict[str, Any]]:
    return [
        {
            "begin_time": _ms(word.begin),
            "end_time": _ms(word.end),
            "text": word.text,
            "punctuation": word.mark,
            "fixed": fixed,
        }
        for word in words
    ]

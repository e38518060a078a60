"""The events of a live session, told as the events of a task.

Times are whole milliseconds on the clock of the task's audio. Texts are cumulative: each one replaces what
was told of its sentence (of all, for a recognizer) before.
"""

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.api.hotwords import HotwordsTold, hotword_fields
from serve_app.api.live_speakers import SpeakerChanges
from serve_app.api.nls.frames import Payload
from serve_app.api.nls.wire import Service, Start
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    Partial,
    SentenceFinal,
    SpeakersMerged,
    SpeechStarted,
)
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import Speaker, TimedWord
from serve_app.rendering.tones import LiveTones, live_tone

Told = tuple[str, Payload | None]
"""Name and payload of an event."""


class Narration(Protocol):
    """Tells one task."""

    @property
    def started(self) -> Told:
        """What answers the start."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the last event was told; none may follow."""
        ...

    def tell(self, event: LiveEvent) -> Iterator[Told]:
        """The events to send for one of the session's, none for some."""
        ...


def narration_of(start: Start) -> Narration:
    """The narration that fits a task."""
    if start.service is Service.TRANSCRIBER:
        return TranscriberNarration(start)
    return RecognizerNarration(start)


@dataclass(slots=True)
class TranscriberNarration:
    """Sentence by sentence, counted from 1, until the client stops."""

    start: Start
    is_over: bool = False
    _speakers: SpeakerChanges = field(default_factory=lambda: SpeakerChanges(_label))
    _hotwords: HotwordsTold = field(init=False)

    def __post_init__(self) -> None:
        self._hotwords = HotwordsTold(self.start.options)

    @property
    def started(self) -> Told:
        return "TranscriptionStarted", {"session_id": self.start.session_id}

    def tell(self, event: LiveEvent) -> Iterator[Told]:
        match event:
            case SpeechStarted():
                yield "SentenceBegin", {"index": event.index + 1, "time": _ms(event.begin)}
            case Partial():
                yield "TranscriptionResultChanged", self._changed(event)
            case SentenceFinal():
                hotwords = hotword_fields(self._hotwords.sentence(event))
                told = live_tone(event) | self._spoken_by(event.speaker) | hotwords
                yield "SentenceEnd", self._ended(event) | told
            case SpeakersMerged():
                self._speakers.merged(event)
            case Finished():
                self.is_over = True
                yield "TranscriptionCompleted", None

    def _spoken_by(self, speaker: Speaker | None) -> Payload:
        if self.start.speakers is None:
            return {}
        return _spoken_by(speaker) | self._speakers.fields(speaker)

    def _changed(self, event: Partial) -> Payload:
        return {
            "index": event.index + 1,
            "time": _ms(event.end),
            "result": event.text,
            "words": _words(event.words) if self.start.words else [],
            "status": 0,
        }

    def _ended(self, event: SentenceFinal) -> Payload:
        end = _ms(event.end)
        return {
            "index": event.index + 1,
            "time": end,
            "begin_time": _ms(event.begin),
            "result": event.text,
            "confidence": _confidence(event.spoken),
            "words": _words(event.spoken) if self.start.words else [],
            "status": 0,
            "gender": "",
            "gender_score": 0.0,
            "fixed_result": "",
            "unfixed_result": "",
            "audio_extra_info": "",
            "sentence_id": uuid.uuid4().hex,
            # What is known of the next sentence, which is nothing: this one ended by a pause.
            "stash_result": {
                "sentenceId": event.index + 2,
                "beginTime": end,
                "text": "",
                "currentTime": end,
                "fixedText": "",
                "unfixedText": "",
                "words": [],
            },
        }


@dataclass(slots=True)
class RecognizerNarration:
    """All that is said as one text."""

    start: Start
    is_over: bool = False
    _words: tuple[TimedWord, ...] = ()
    _spoken: list[TimedWord] = field(default_factory=list)
    _speakers: dict[int, tuple[float, Speaker]] = field(default_factory=dict)
    """How much each speaker said, in seconds, and as whom they were told last, by number."""
    _tones: LiveTones = field(default_factory=LiveTones)
    _hotwords: HotwordsTold = field(init=False)

    def __post_init__(self) -> None:
        self._hotwords = HotwordsTold(self.start.options)

    @property
    def started(self) -> Told:
        return "RecognitionStarted", {"session_id": self.start.session_id}

    def tell(self, event: LiveEvent) -> Iterator[Told]:
        match event:
            case Partial():
                yield "RecognitionResultChanged", {"result": _text((*self._words, *event.words))}
            case SentenceFinal():
                self._words += event.words
                self._spoken += event.spoken
                self._hotwords.sentence(event)
                self._tones.add(event)
                self._add(event.speaker, event.end - event.begin)
                if self.start.one_sentence and event.text and event.cause == "silence":
                    yield self._completed(event.end)
            case SpeakersMerged():
                seconds, _ = self._speakers.pop(event.gone.number, (0.0, event.gone))
                self._add(event.kept, seconds)
            case Finished():
                yield self._completed(event.duration)

    def _completed(self, seconds: float) -> Told:
        self.is_over = True
        payload: Payload = {"result": _text(self._words), "duration": _ms(seconds)}
        if self.start.words:
            payload["words"] = _words(self._spoken)
        if self.start.speakers is not None:
            _, most = max(self._speakers.values(), key=lambda said: said[0], default=(0.0, None))
            payload |= _spoken_by(most)
        return "RecognitionCompleted", payload | self._tones.fields | hotword_fields(self._hotwords.overall)

    def _add(self, speaker: Speaker | None, seconds: float) -> None:
        if speaker is not None:
            before, _ = self._speakers.get(speaker.number, (0.0, speaker))
            self._speakers[speaker.number] = before + seconds, speaker


def _label(speaker: Speaker) -> str:
    return speaker.label


def _spoken_by(speaker: Speaker | None) -> Payload:
    """Who spoke; as all that is not known, an empty string where that is not certain at all."""
    if speaker is None:
        return {"speaker_id": "", "speaker_confidence": 0.0}
    return {"speaker_id": speaker.label, "speaker_confidence": round(speaker.confidence, 3)}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(words: Sequence[TimedWord]) -> str:
    return join_words((word.text, word.mark) for word in words)


def _words(words: Sequence[TimedWord]) -> list[Payload]:
    return [{"text": word.text, "startTime": _ms(word.begin), "endTime": _ms(word.end)} for word in words]


def _confidence(words: Sequence[TimedWord]) -> float:
    """The geometric mean of the words' probabilities; 0 where there are none."""
    if not words:
        return 0.0
    mean = sum(word.log_prob for word in words) / len(words)
    return round(math.exp(min(0.0, mean)), 3)

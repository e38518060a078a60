"""The events of a live session, told as segments.

A segment is a sentence that a pause ended, or that was cut; segments of which nothing was understood are
none. What is told of all of them is one line for each.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from deployments.engines.qwen3_languages import LANGUAGES
from serve_app.api.hotwords import HotwordsTold, hotword_fields
from serve_app.pipeline.live.events import Finished, LiveEvent, LiveOptions, Partial, SentenceFinal
from serve_app.pipeline.types import TimedWord

Message = dict[str, Any]

_REASONS = {"silence": "silence", "cut": "max_duration", "end": "final"}


class Narration:
    """Tells one session."""

    def __init__(self, hotwords: HotwordsTold | None = None) -> None:
        """``hotwords``: segments tell what became of these."""
        self._hotwords = hotwords or HotwordsTold(LiveOptions())
        self._segments: list[Message] = []
        self._last = ""
        """The text that the stop ended."""
        self._language: str | None = None
        self._chunks = 0

    def tell(self, event: LiveEvent) -> Iterator[Message]:
        """The messages to send for one of the session's events, none for some."""
        match event:
            case Partial():
                yield self._result(event)
            case SentenceFinal() if event.text:
                yield from self._segment(event)
            case Finished():
                yield self._final()

    def _result(self, event: Partial) -> Message:
        self._chunks += 1
        index = len(self._segments)
        result = {
            "text": "\n".join((*self._texts, event.text)),
            "current_segment_text": event.text,
            "stable_length": event.stable,
            "language": _name(event.language),
            "chunk_id": self._chunks,
            "is_partial": True,
            "segment_index": index,
        }
        return {
            "type": "result",
            "results": [result],
            "segment_index": index,
            "confirmed_segments_count": index,
        }

    def _segment(self, event: SentenceFinal) -> Iterator[Message]:
        index, reason = len(self._segments), _REASONS[event.cause]
        self._language = _name(event.language) or self._language
        hotwords = hotword_fields(self._hotwords.sentence(event))
        language, words = _name(event.language), {"words": _words(event.words)}
        times = {"begin_time": _ms(event.begin), "end_time": _ms(event.end)}
        segment: Message = {"index": index, "text": event.text, "language": language, "reason": reason}
        segment |= times
        self._segments.append(segment)
        if event.cause == "end":
            # There is no segment_end that could tell them.
            segment |= words
            self._last = event.text
            return
        result = {"text": "\n".join(self._texts), "segment_text": event.text, "language": language}
        yield {
            "type": "segment_end",
            "segment_index": index,
            "reason": reason,
            "result": {**result, **times, **words, **hotwords},
            "confirmed_texts": self._texts,
        }
        yield {"type": "segment_start", "segment_index": index + 1}

    def _final(self) -> Message:
        result = {
            "text": self._last,
            "full_text": "\n".join(self._texts),
            "language": self._language,
            "total_chunks": self._chunks,
            "total_segments": len(self._segments),
            "segments": self._segments,
            **hotword_fields(self._hotwords.overall),
        }
        return {"type": "final", "result": result}

    @property
    def _texts(self) -> list[str]:
        return [segment["text"] for segment in self._segments]


def _name(code: str | None) -> str | None:
    """A language as the model calls it, which is how this protocol does."""
    return None if code is None else LANGUAGES.get(code, code)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _words(words: Sequence[TimedWord]) -> list[Message]:
    return [
        {
            "text": word.text,
            "punctuation": word.mark,
            "begin_time": _ms(word.begin),
            "end_time": _ms(word.end),
        }
        for word in words
    ]

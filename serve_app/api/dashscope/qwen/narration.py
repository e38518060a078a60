"""The events of live sessions, told as items of a conversation.

Times are whole milliseconds on the clock of all audio of the connection.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

from serve_app.api.dashscope.qwen.wire import event, new_id, problem
from serve_app.api.hotwords import HotwordsTold, hotword_fields
from serve_app.errors import AsrError
from serve_app.pipeline.hotwords_report import HotwordReport
from serve_app.pipeline.live.events import LiveEvent, Partial, SentenceFinal, SpeechStarted
from serve_app.pipeline.text import join_words, language_of
from serve_app.pipeline.types import TimedWord
from serve_app.rendering.tones import LiveTones, Tone, live_tone

_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Items:
    """The items of a conversation, each of which knows the one before it."""

    def __init__(self) -> None:
        self._previous: str | None = None

    def committed(self, item_id: str) -> Iterator[str]:
        """What tells that the audio of a new item is complete."""
        previous, self._previous = self._previous, item_id
        yield event("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "in_progress",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        yield event("conversation.item.created", previous_item_id=previous, item=item)


class Narration(Protocol):
    """Tells one turn."""

    @property
    def open_item(self) -> str | None:
        """The item that was begun and not completed."""
        ...

    def tell(self, event: LiveEvent) -> Iterator[str]:
        """The messages to send for one of the session's events, none for some."""
        ...


class SentenceNarration:
    """Each sentence is an item; pauses end them."""

    def __init__(self, items: Items, language: str | None, offset: float, hotwords: HotwordsTold) -> None:
        """``offset``: seconds of audio before this turn."""
        self._hotwords = hotwords
        self._items = items
        self._language = language
        self._offset = offset
        self.open_item: str | None = None

    def tell(self, event: LiveEvent) -> Iterator[str]:
        match event:
            case SpeechStarted():
                self.open_item = new_id("item")
                yield self._detected("started", self.open_item, audio_start_ms=self._ms(event.begin))
            case Partial() if self.open_item is not None:
                language = self._language or event.language
                yield heard(self.open_item, event.text, event.stable, language, event.words)
            case SentenceFinal() if self.open_item is not None:
                item, self.open_item = self.open_item, None
                yield self._detected("stopped", item, audio_end_ms=self._ms(event.end))
                yield from self._items.committed(item)
                language = self._language or event.language
                report = self._hotwords.sentence(event)
                seconds = event.end - event.begin
                yield completed(item, language, event.words, seconds, report, live_tone(event))

    def _detected(self, what: str, item_id: str, **times: int) -> str:
        return event(f"input_audio_buffer.speech_{what}", **times, item_id=item_id)

    def _ms(self, seconds: float) -> int:
        return round((self._offset + seconds) * 1000)


class ManualNarration:
    """All that is said up to a commit is one item; nothing is told of it before."""

    def __init__(self, items: Items, language: str | None, hotwords: HotwordsTold) -> None:
        self._hotwords = hotwords
        self._items = items
        self._language = language
        self._words: tuple[TimedWord, ...] = ()
        self._heard: str | None = None
        self._tones = LiveTones()
        self.open_item: str | None = None

    def commit(self) -> Iterator[str]:
        """The client says that this was all."""
        self.open_item = new_id("item")
        yield from self._items.committed(self.open_item)

    def tell(self, event: LiveEvent) -> Iterator[str]:
        match event:
            case Partial() if self.open_item is not None:
                words = (*self._words, *event.words)
                text = _text(words)
                stable = len(text) - (len(event.text) - event.stable)
                yield heard(self.open_item, text, stable, self._language or event.language, words)
            case SentenceFinal():
                self._words += event.words
                self._hotwords.sentence(event)
                self._tones.add(event)
                self._heard = event.language or self._heard

    def complete(self, seconds: float) -> Iterator[str]:
        """The end of the item, of ``seconds`` of audio; only after :meth:`commit`."""
        if self.open_item is not None:
            language, report = self._language or self._heard, self._hotwords.overall
            yield completed(self.open_item, language, self._words, seconds, report, self._tones.fields)
            self.open_item = None


def heard(item_id: str, text: str, stable: int, language: str | None, words: tuple[TimedWord, ...]) -> str:
    """A text so far, of which the first ``stable`` characters stay."""
    fields = {"text": text[:stable], "stash": text[stable:]}
    return _of_item("text", item_id, **_manner(language, words), **fields)


def completed(
    item_id: str,
    language: str | None,
    words: tuple[TimedWord, ...],
    seconds: float,
    hotwords: HotwordReport | None,
    tone: Tone,
) -> str:
    """``tone``: how it was said, if that is known."""
    manner = _manner(language, words)
    manner |= {name: value for name, value in tone.items() if name != "language"}
    told = {"transcript": _text(words), "usage": {"duration": math.ceil(seconds)}, **hotword_fields(hotwords)}
    return _of_item("completed", item_id, **manner, **told)


def failed(item_id: str, error: AsrError) -> str:
    return _of_item("failed", item_id, error=problem(error))


def _manner(language: str | None, words: tuple[TimedWord, ...]) -> dict[str, Any]:
    # Clients know the field; of texts that are not finished, nobody here tells a mood.
    return {"language": language or language_of(word.text for word in words), "emotion": None}


def _of_item(what: str, item_id: str, **fields: Any) -> str:
    return event(f"{_TRANSCRIPTION}.{what}", item_id=item_id, content_index=0, **fields)


def _text(words: tuple[TimedWord, ...]) -> str:
    return join_words((word.text, word.mark) for word in words)

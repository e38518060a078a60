"""What is told of a live session: with detection by the server, and with commits by the client."""

from collections.abc import Iterator
from typing import Literal, Protocol

from serve_app.api.realtime import events
from serve_app.api.realtime.events import Event, new_id
from serve_app.api.realtime.items import Conversation, ItemText
from serve_app.errors import AsrError
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    Partial,
    Quiet,
    SentenceFinal,
    SpeakersMerged,
    SpeechEnded,
    SpeechStarted,
)

Ending = Literal["commit", "clear", "other"]
"""Why a session ends: the client committed or cleared the buffer, or it goes on in another way."""


class Narration(Protocol):
    """Makes server events of the events of one live session."""

    committed_until: float
    """How much of the session's audio belongs to an item, in seconds."""

    def end(self, ending: Ending) -> Iterator[Event]:
        """The session is about to end."""
        ...

    def tell(self, event: LiveEvent) -> Iterator[Event]:
        """What to send for an event."""
        ...

    def fail(self, error: AsrError) -> Iterator[Event]:
        """What to send when the session broke."""
        ...


class DetectedItems:
    """Each sentence is an item."""

    def __init__(self, conversation: Conversation, offset: float, uncut_seconds: float) -> None:
        """``offset``: how much audio there was before this session, in seconds."""
        self.committed_until = 0.0
        self._conversation = conversation
        self._offset = offset
        self._uncut = uncut_seconds
        self._ending: Ending = "other"
        self._item: ItemText | None = None
        self._is_committed = self._has_committed_end = False

    def end(self, ending: Ending) -> Iterator[Event]:
        self._ending = ending
        yield from ()

    def tell(self, event: LiveEvent) -> Iterator[Event]:
        match event:
            case SpeechStarted():
                self._item = ItemText(self._conversation, new_id("item"), self._offset, self._uncut)
                self._is_committed = False
                yield events.speech_started(self._item.id, self._offset + event.begin)
            case Quiet():
                yield from self._quiet(event)
            case SpeakersMerged():
                self._conversation.speakers.merged(event)
            case Finished():
                yield from self._finished(event)
            case _ if self._item is not None:
                yield from self._sentence(self._item, event)

    def fail(self, error: AsrError) -> Iterator[Event]:
        if self._item is not None and self._is_committed:
            yield events.failed(self._item.id, error)
        else:
            yield events.error_event(error)

    def _sentence(self, item: ItemText, event: LiveEvent) -> Iterator[Event]:
        match event:
            case Partial():
                yield from item.partial(event)
            case SpeechEnded() if event.cause == "end" and self._ending == "clear":
                self._item = None
            case SpeechEnded():
                yield from self._ended(item, event)
            case SentenceFinal():
                yield from item.final(event)
                yield item.completed(event.end - event.begin)
                self._item = None

    def _ended(self, item: ItemText, event: SpeechEnded) -> Iterator[Event]:
        by_client = event.cause == "end" and self._ending == "commit"
        if not by_client:
            yield events.speech_stopped(item.id, self._offset + event.end)
        self._has_committed_end = by_client
        self._is_committed = True
        self.committed_until = event.end
        yield from self._conversation.commit(item.id)

    def _quiet(self, event: Quiet) -> Iterator[Event]:
        item_id = new_id("item")
        yield events.timeout_triggered(item_id, self._offset + event.begin, self._offset + event.end)
        self.committed_until = event.end
        yield from self._conversation.empty_item(item_id, event.end - event.begin)

    def _finished(self, event: Finished) -> Iterator[Event]:
        if self._ending == "commit" and not self._has_committed_end:
            seconds = event.duration - self.committed_until
            yield from self._conversation.empty_item(new_id("item"), seconds)


class CommittedItems:
    """All that is said between two commits is an item.

    It is told when it is committed, since it may be cleared before; only what the client wants as it is
    spoken is told at once.
    """

    def __init__(self, conversation: Conversation, offset: float, uncut_seconds: float) -> None:
        """``offset``: how much audio there was before this session, in seconds."""
        self.committed_until = 0.0
        self._conversation = conversation
        self._at_once = conversation.config.as_heard
        self._item = ItemText(conversation, new_id("item"), offset, uncut_seconds)
        self._is_committed = False
        self._waiting: list[SentenceFinal] = []
        self._fault: AsrError | None = None

    def end(self, ending: Ending) -> Iterator[Event]:
        self._is_committed = True
        yield from self._conversation.commit(self._item.id)
        if self._fault is not None:
            yield events.failed(self._item.id, self._fault)
            return
        for sentence in self._waiting:
            yield from self._item.final(sentence)
        self._waiting.clear()

    def tell(self, event: LiveEvent) -> Iterator[Event]:
        match event:
            case Partial():
                yield from self._item.partial(event)
            case SentenceFinal() if self._at_once or self._is_committed:
                yield from self._item.final(event)
            case SentenceFinal():
                self._waiting.append(event)
            case SpeakersMerged():
                self._conversation.speakers.merged(event)
            case Finished():
                yield self._item.completed(event.duration)

    def fail(self, error: AsrError) -> Iterator[Event]:
        if self._is_committed:
            yield events.failed(self._item.id, error)
        else:
            # The item fails, too, once it is one: whoever commits waits for that.
            self._fault = error
            yield events.error_event(error)

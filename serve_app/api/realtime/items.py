"""The items of a conversation: which follows which, and what is told of the text of one."""

from collections.abc import Iterator

from serve_app.api.hotwords import HotwordsTold
from serve_app.api.live_speakers import SpeakerChanges
from serve_app.api.realtime import events
from serve_app.api.realtime.config import LOGPROBS, Config
from serve_app.api.realtime.events import Event
from serve_app.api.realtime.speakers import spelled
from serve_app.pipeline.live.events import LiveOptions, Partial, SentenceFinal
from serve_app.pipeline.text import join_words, language_of
from serve_app.pipeline.types import TimedWord
from serve_app.rendering.openai import LogProbItem, log_probs
from serve_app.rendering.tones import LiveTones, live_tone


class Conversation:
    """What holds for all items of a connection."""

    def __init__(self, config: Config, *, beta: bool) -> None:
        self.config = config
        self.beta = beta
        self.speakers = SpeakerChanges(spelled)
        self.options = LiveOptions()
        """How the next audio is listened to."""
        self._previous: str | None = None

    def commit(self, item_id: str) -> list[Event]:
        """Tell that audio became an item, which follows the one before it."""
        told = events.committed(item_id, self._previous, beta=self.beta)
        self._previous = item_id
        return told

    def empty_item(self, item_id: str, seconds: float) -> list[Event]:
        """All that is told of an item in which nobody speaks."""
        return [*self.commit(item_id), ItemText(self, item_id).completed(seconds)]


class ItemText:
    """The text of an item, of one or more sentences. All deltas of it, joined, are its transcript.

    ``offset``: how much audio there was before the session that it is heard in, in seconds.
    ``uncut_seconds``: a sentence is not told of before its final from that length on, since it may be cut,
    and words behind the cut would come again.
    """

    def __init__(
        self, conversation: Conversation, item_id: str, offset: float = 0, uncut_seconds: float = 0
    ) -> None:
        self.id = item_id
        self._conversation = conversation
        self._offset = offset
        self._uncut = uncut_seconds
        self._before = ""
        self._told = ""
        self._words: list[TimedWord] = []
        self._heard: list[str] = []
        self._tones = LiveTones()
        self._hotwords = HotwordsTold(conversation.options)

    def partial(self, event: Partial) -> Iterator[Event]:
        """Tell those words of a sentence that stay."""
        if event.end - event.begin > self._uncut:
            return
        text = self._continued(event.text[: event.stable])
        if len(text) > len(self._told):
            yield events.delta(self.id, text[len(self._told) :], None)
            self._told = text

    def final(self, event: SentenceFinal) -> Iterator[Event]:
        """Tell the rest of a sentence."""
        self._hotwords.sentence(event)
        self._tones.add(event)
        text = self._continued(event.text)
        rest = text[len(self._told) :]
        if rest:
            is_whole = self._told == self._before
            yield events.delta(self.id, rest, self._log_probs(event.words) if is_whole else None)
        self._told += rest
        self._before = self._told
        self._words += event.words
        if event.language is not None and event.text and event.language not in self._heard:
            self._heard.append(event.language)
        if event.text and self._conversation.config.diarizes:
            yield self._segment(event)

    def completed(self, seconds: float) -> Event:
        """The end of an item that is ``seconds`` long."""
        completed = events.completed(
            self.id,
            self._told,
            seconds,
            self._log_probs(self._words, whole=True),
            self._languages(),
            self._hotwords.overall,
        )
        return completed | self._tones.fields

    def _segment(self, event: SentenceFinal) -> Event:
        speakers = self._conversation.speakers
        speaker = speakers.current(event.speaker)
        name = "unknown" if speaker is None else spelled(speaker)
        extra = speakers.fields(speaker)
        if speaker is not None:
            extra["speaker_confidence"] = round(speaker.confidence, 3)
        extra |= live_tone(event)
        begin, end = self._offset + event.begin, self._offset + event.end
        return events.segment(self.id, event.text, begin, end, name, **extra)

    def _continued(self, sentence: str) -> str:
        return join_words(((self._before, ""), (sentence, "")))

    def _log_probs(
        self, words: tuple[TimedWord, ...] | list[TimedWord], *, whole: bool = False
    ) -> list[LogProbItem] | None:
        if LOGPROBS not in self._conversation.config.include:
            return None
        return log_probs(words, self._words[-1] if self._words and not whole else None)

    def _languages(self) -> list[str] | None:
        """For those only who said which there may be."""
        asked = self._conversation.config.transcription.languages
        if not asked:
            return None
        if self._heard:
            return self._heard
        return [language_of(word.text for word in self._words)] if self._words else []

"""Finished sentences: recognized at once, each on its own; punctuated and handed on in their order."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from deployments.messages import SAMPLE_RATE, AudioPiece, AudioSlice, Pcm, Priority, Recognition, Word
from serve_app.pipeline.finishing import Finisher
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.buffer import Bell
from serve_app.pipeline.live.events import LiveOptions, SentenceFinal, SpeakersMerged
from serve_app.pipeline.live.partials import timed_words, words_of
from serve_app.pipeline.live.sentence import LiveSentence
from serve_app.pipeline.live.voices import SentenceVoices, Voices
from serve_app.pipeline.text import SENTENCE_FINAL, join_words
from serve_app.pipeline.types import Sentence, TimedWord
from serve_app.stages import Stage, stage

_IN_FLIGHT = 4
"""Sentences that may wait for their final before detection has to wait for them."""


_PATIENCE_SECONDS = 2.0
"""How long a final that is known waits for the last partials before it. That is for their sake who compare
partials: in time, they are there before the final."""


@dataclass(frozen=True, slots=True)
class _Closed:
    sentence: LiveSentence
    recognition: asyncio.Task[Recognition] | None
    voices: Voices | None
    stage: Stage


class Finals:
    """Turns closed sentences into :class:`SentenceFinal` events.

    With ``two_pass`` the words are the offline model's, which hears the audio of the sentence as a file job
    would; without it, they are what the sentence holds when the model of the partials is through. With
    ``voices``, who spoke is found out beside that; two speakers that turn out to be one by a sentence are
    told before it.
    """

    def __init__(
        self,
        graph: LiveGraph,
        options: LiveOptions,
        finisher: Finisher,
        voices: SentenceVoices | None,
        emit: Callable[[SentenceFinal | SpeakersMerged], None],
        progress: Bell,
    ) -> None:
        self._graph = graph
        self._options = options
        self._finisher = finisher
        self._voices = voices
        self._emit = emit
        self._progress = progress
        self._closed: deque[_Closed] = deque()
        self._context: tuple[str, ...] = ()
        self._ended = False
        self._bell = Bell()

    @property
    def keeps_up(self) -> bool:
        return len(self._closed) < _IN_FLIGHT

    def add(self, sentence: LiveSentence, samples: Pcm, tasks: asyncio.TaskGroup) -> None:
        """Take a closed sentence with its audio; recognition starts now, as one of ``tasks``."""
        recognition = voices = None
        from_end = stage("sentence", index=sentence.index, audio_seconds=len(samples) / SAMPLE_RATE)
        if len(samples) and (self._options.two_pass or self._voices is not None):
            with from_end.holding():
                audio = tasks.create_task(self._graph.store(samples))
                if self._options.two_pass:
                    recognition = tasks.create_task(self._recognize(audio))
                if self._voices is not None:
                    voices = self._voices.listen(audio, len(samples), tasks)
        self._closed.append(_Closed(sentence, recognition, voices, from_end))
        self._bell.ring()

    def end(self) -> None:
        """No sentence follows."""
        self._ended = True
        self._bell.ring()

    async def run(self) -> None:
        """Work until :meth:`end` was called and all finals are out.

        Raises:
            AsrError: what a model raised.
        """
        while True:
            await self._bell.until(lambda: bool(self._closed) or self._ended)
            if not self._closed:
                return
            closed = self._closed[0]
            with closed.stage.holding():
                self._emit(await self._complete(closed))
            closed.sentence.told = True
            closed.stage.end()
            self._closed.popleft()
            self._progress.ring()

    async def _complete(self, closed: _Closed) -> SentenceFinal:
        sentence = closed.sentence
        recognition = await self._recognition(closed)
        words = timed_words(recognition.words, sentence.begin)
        final = await self._final(sentence, words, recognition)
        if self._voices is None or closed.voices is None:
            return final
        speaker, merges = await self._voices.speaker(sentence, closed.voices, words)
        for merged in merges:
            self._emit(merged)
        return replace(final, speaker=speaker)

    async def _recognition(self, closed: _Closed) -> Recognition:
        sentence = closed.sentence
        if not self._options.two_pass:
            await sentence.streamed.wait()
            if self._options.redecoding is not None:
                return sentence.recognition
            return Recognition(_online_words(sentence))
        recognition = await closed.recognition if closed.recognition is not None else Recognition()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await sentence.streamed.wait()
        return recognition

    async def _recognize(self, audio: Awaitable[AudioPiece]) -> Recognition:
        options = replace(self._options.recognition, itn=self._options.text.itn)
        return await self._graph.transcribe(
            AudioSlice((await audio,)), priority=Priority.LIVE, options=options
        )

    async def _final(
        self, sentence: LiveSentence, words: tuple[TimedWord, ...], recognition: Recognition
    ) -> SentenceFinal:
        options, spoken = self._options.text.suited(recognition.language), words
        if words and options.punctuation:
            if not recognition.punctuated:
                words = await self._punctuated(words)
            if sentence.cause == "end" and not (recognition.punctuated and words[-1].mark):
                words = _ended(words)
        if words:
            await self._finisher.prepare(options)
            # One final tells one sentence, whatever its length: parts follow each other in it.
            parts = self._finisher.finish(Sentence(words), options)
            words = tuple(word for part in parts for word in part.words)
        text = join_words((word.text, word.mark) for word in words)
        end = sentence.begin if sentence.end is None else sentence.end
        times = sentence.begin / SAMPLE_RATE, end / SAMPLE_RATE
        return SentenceFinal(
            sentence.index,
            text,
            *times,
            words,
            sentence.cause,
            spoken,
            language=recognition.language,
            emotion=recognition.emotion,
            events=recognition.events,
            applied=recognition.applied,
            raw=recognition.raw,
        )

    async def _punctuated(self, words: tuple[TimedWord, ...]) -> tuple[TimedWord, ...]:
        block = await self._graph.punctuate_live([word.text for word in words], self._context)
        self._context = block.context
        return tuple(replace(word, mark=mark) for word, mark in zip(words, block.marks, strict=True))


def _online_words(sentence: LiveSentence) -> tuple[Word, ...]:
    """What the streaming model heard; where the sentence was cut, without what belongs to the next one."""
    tokens = sentence.hearing.tokens
    if sentence.cause == "cut" and sentence.end is not None:
        length_ms = (sentence.end - sentence.begin) * 1000 // SAMPLE_RATE
        tokens = tuple(token for token in tokens if token.begin_ms < length_ms)
    return words_of(tokens)


def _ended(words: tuple[TimedWord, ...]) -> tuple[TimedWord, ...]:
    """Nothing follows, which a model that sets marks cannot know."""
    last = words[-1]
    return words if last.mark in SENTENCE_FINAL else (*words[:-1], replace(last, mark="。"))

"""A live graph in which levels stand for characters, with a model that writes them token by token."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from deployments.engines.generative import WINDOW_SAMPLES
from deployments.messages import AudioSlice, Hypothesis, Pcm, Priority, Recognition, RecognitionOptions, Word
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from tests.live_graph import ToneGraph, samples_of

HEAD = (1, 2, 3)
"""``language Chinese<asr_text>``."""

NONE = (1, 4, 3)
"""``language None<asr_text>``."""


@dataclass(frozen=True)
class Decoding:
    """What one decoding was asked for; ``lengths`` are those of the stored pieces, in samples."""

    session_id: str
    lengths: tuple[int, ...]
    tail: int
    prefix: tuple[int, ...]
    max_tokens: int
    options: RecognitionOptions

    @property
    def samples(self) -> int:
        return sum(self.lengths) + self.tail


class WritingGraph(ToneGraph):
    """Each tone is one token, whose id is that of its character; a pause of 300 ms to 600 ms is a comma.

    The text goes on from the prefix, whatever that says. With ``doubt``, a tone that ends less than that many
    samples before the end of the audio is heard as 疑, as a model hears the begin of a word. ``rewrites`` is
    applied to what the model wrote; ``decodings`` are all that there were.
    """

    def __init__(self, pause: Callable[[], Awaitable[None]] | None = None, *, doubt: int = 0) -> None:
        super().__init__(pause)
        self.doubt = doubt
        self.decodings: list[Decoding] = []
        self.finals: list[RecognitionOptions] = []
        self.rewrites: Callable[[Decoding, list[int]], list[int]] = lambda _, tokens: tokens

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.finals.append(options)
        async with self._call("transcribe"):
            samples = samples_of(audio)
            tones = [*self._tones(samples), len(samples)]
            words = [
                Word(*self._tone(samples, at), -0.1, self._mark(samples, at, after))
                for at, after in pairwise(tones)
            ]
            if words:
                words[-1] = replace(words[-1], mark="。")
            return Recognition(tuple(words), "zh" if words else None, punctuated=True)

    async def decode(
        self,
        audio: AudioSlice,
        tail: Pcm,
        options: RecognitionOptions,
        *,
        prefix: Sequence[int],
        max_tokens: int,
        session_id: str,
    ) -> Hypothesis:
        lengths = tuple(piece.end - piece.begin for piece in audio.pieces)
        asked = Decoding(session_id, lengths, len(tail), tuple(prefix), max_tokens, options)
        self.decodings.append(asked)
        async with self._call("decode"):
            assert all(length == WINDOW_SAMPLES for length in lengths)
            assert 0 <= len(tail) < WINDOW_SAMPLES
            assert asked.samples > 0
            samples = np.concatenate([samples_of(audio), tail]) if lengths else tail
            head, written = self._write(samples, asked)
            answer = self.rewrites(asked, written)
            said = len(prefix) - (0 if options.language else len(HEAD)) if prefix else 0
            cap = max(0, said) + max_tokens
            return self._hypothesis(
                head, answer[:cap], finished=len(answer) <= cap, language=options.language
            )

    def _write(self, samples: Pcm, asked: Decoding) -> tuple[tuple[int, ...], list[int]]:
        tones = [*self._tones(samples), len(samples)]
        tokens: list[int] = []
        for at, after in pairwise(tones):
            char, _, _ = self._tone(samples, at)
            tokens.append(ord("疑" if len(samples) - at <= self.doubt else char))
            if after < len(samples) and self._mark(samples, at, after):
                tokens.append(ord("，"))
        head: tuple[int, ...] = () if asked.options.language else HEAD if tokens else NONE
        if asked.prefix:
            kept = asked.prefix if asked.options.language else asked.prefix[len(HEAD) :]
            head = () if asked.options.language else asked.prefix[: len(HEAD)]
            tokens = [*kept, *tokens[len(kept) :]]
        return head, tokens

    def _mark(self, samples: Pcm, at: int, after: int) -> str:
        silent = int(np.count_nonzero(samples[at:after] == 0))
        return "，" if 4800 <= silent <= 9600 else ""

    def _hypothesis(
        self, head: tuple[int, ...], tokens: list[int], finished: bool, language: str | None
    ) -> Hypothesis:
        pieces = tuple(map(chr, tokens))
        ids = (*head, *tokens)
        known = "Chinese" if language or pieces else None
        log_probs = (-0.1,) * len(ids)
        return Hypothesis(ids, log_probs, "".join(pieces), known, finished, pieces, len(head))

"""What the pipelines need of the models, as one protocol.

:class:`serve_app.handles.ServeGraph` implements it over Serve handles; tests and the direct benchmark
put engines behind it without Ray.
"""

from collections.abc import Sequence
from typing import Protocol

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Embeddings,
    Hypothesis,
    Pcm,
    Priority,
    PunctuatedBlock,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)

DEFAULT_RECOGNITION = RecognitionOptions()


class Graph(Protocol):
    """Every call is pure: the same arguments give the same result, so it may be repeated after a fault.

    All methods raise :class:`serve_app.errors.UpstreamLost` when no replica could answer.
    """

    async def store(self, samples: Pcm) -> AudioPiece:
        """Put one block of audio where every deployment can read it."""
        ...

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        """Find speech in the next block of a recording."""
        ...

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        """Recognize one segment, after all that wait with a lower value of ``priority``.

        Word times are milliseconds from its begin.
        """
        ...

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        """The voice in each window of a stretch of audio: begin and end in samples from its begin."""
        ...

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        ...


class StreamLost(Exception):
    """The streaming model no longer holds a stream; begin a new one with the audio that was kept."""


class LiveGraph(Graph, Protocol):
    """What live sessions need besides."""

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        """Find speech in the next audio of a session, in blocks of ``block`` samples: a result for each.

        Pure, as all of :class:`Graph`. No samples and ``final`` give one result.
        """
        ...

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        """Recognize the next audio of a stream; not pure, and repeated by nobody but its caller.

        Raises:
            StreamLost: the stream is gone, or the replica died and it is not known how far it came.
        """
        ...

    async def drop_stream(self, stream_id: str) -> None:
        """Forget a stream that will not be ended by a final step. Never raises."""
        ...

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
        """What a generative model hears in ``audio`` and the samples after it, going on from ``prefix``.

        Pure. Calls with one ``session_id`` go to the same replica where that can be, which saves it work.
        """
        ...

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        """Marks for words that follow ``context``, the session's words before them."""
        ...

"""What the pipelines need of the models, as one protocol.

:class:`serve_app.handles.ServeGraph` implements it over Serve handles; tests and the direct benchmark
put engines behind it without Ray.
"""

from collections.abc import Sequence
from typing import Protocol

from deployments.messages import AudioPiece, AudioSlice, Pcm, Recognition, VadOptions, VadResult, VadState


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

    async def transcribe(self, audio: AudioSlice) -> Recognition:
        """Recognize one segment. Word times are milliseconds from its begin."""
        ...

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        ...

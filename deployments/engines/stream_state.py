"""What is remembered of one live stream between two steps, by the part of the network that needs it."""

from dataclasses import dataclass, field

import numpy as np

from deployments.engines.base import Pcm, StreamOptions, StreamState
from deployments.engines.frontend_online import CARRIED_SAMPLES, FRAME_SAMPLES
from deployments.engines.row_pool import Indices, Lease

_NONE: Indices = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class EncoderCache:
    """The inputs that the next chunk sees again, and keys and values of earlier chunks.

    ``key_rows`` are the rows of ``leases`` that are still looked back to, oldest first.
    """

    overlap: Lease | None = None
    key_rows: Indices = field(default_factory=lambda: _NONE)
    leases: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class CifCarry:
    """The token that is not complete yet: the sum of its weights so far, and of its weighted frames."""

    weight: float = 0.0
    frames: Lease | None = None


@dataclass(frozen=True, slots=True)
class DecoderCache:
    """Encoder rows of earlier chunks, and the last inputs of each memory block; only tokens change it."""

    encoded: Lease | None = None
    history: Lease | None = None


@dataclass(frozen=True, slots=True)
class State(StreamState):
    """A stream between two steps.

    ``samples``: those that no chunk has taken yet, after the :data:`CARRIED_SAMPLES` before them;
    ``position``: encoder frames so far; ``spoken_ms``: where the last token ended.
    """

    owner: object
    options: StreamOptions
    samples: Pcm = field(default_factory=lambda: np.zeros(CARRIED_SAMPLES, np.int16))
    position: int = 0
    encoder: EncoderCache = EncoderCache()
    cif: CifCarry = CifCarry()
    decoder: DecoderCache = DecoderCache()
    spoken_ms: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One chunk of one stream on its way through the network.

    ``window``: its samples, after the carried ones; ``None`` if there are none and only frames that were
    heard before are left to recognize. ``rows``: new feature rows.
    """

    state: State
    window: Pcm | None
    rows: int
    final: bool

    @property
    def overlap(self) -> int:
        """Rows that are seen again."""
        left, _, right = self.state.options.chunk_size
        return left + right

    @property
    def length(self) -> int:
        """Rows in all."""
        return self.overlap + self.rows

    @property
    def begin(self) -> int:
        """Where the counted rows begin, in frames from the begin of the stream; less than zero at first."""
        return self.state.position - self.state.options.chunk_size[2]

    @property
    def counted(self) -> range:
        """The rows whose weights count: neither those counted before nor those that come again."""
        left, center, _ = self.state.options.chunk_size
        return range(left, self.length if self.final else left + center)


def next_turn_samples(state: State, *, final: bool) -> tuple[Pcm | None, Pcm, bool] | None:
    """The next chunk's window, what remains after it, and whether it is the last; ``None`` to wait for more.

    At the end, less than one frame of samples is not heard at all, as in FunASR.
    """
    waiting = len(state.samples) - CARRIED_SAMPLES
    stride = state.options.chunk_size[1] * FRAME_SAMPLES
    if waiting >= stride:
        return state.samples[: CARRIED_SAMPLES + stride], state.samples[stride:], False
    if not final:
        return None
    return (state.samples if waiting >= FRAME_SAMPLES else None), state.samples[:0], True

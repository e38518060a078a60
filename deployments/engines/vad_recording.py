"""What voice-activity detection remembers of one recording between two blocks, and its bytes."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.engines.base import Pcm, VadState
from deployments.engines.vad_endpoint import NO_NOISE_DB, Endpointer

_MAGIC = b"FVA1"
_HEADER = struct.Struct("<4sIId")

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Recording:
    """Where one recording stands.

    ``samples`` begin with those of the next frame. ``columns``, of shape ``(rows, frames)``, are the frames
    that outputs still to come look back at. ``memory`` is the network's, ``noise_db`` the noise level.
    """

    samples: Pcm
    columns: Floats
    memory: Floats
    noise_db: float
    endpointer: Endpointer


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes that a model gives the state: values in a column, and the network's memory."""

    rows: int
    memory_shape: tuple[int, int, int]

    def begin(self) -> Recording:
        """A recording of which nothing was heard yet."""
        columns, memory = np.zeros((self.rows, 0), np.float32), np.zeros(self.memory_shape, np.float32)
        return Recording(np.zeros(0, np.int16), columns, memory, NO_NOISE_DB, Endpointer())

    def write(self, recording: Recording) -> VadState:
        """All of ``recording``, in the byte order of the machine: 40 kB for a model of the usual size."""
        counts = (len(recording.samples), recording.columns.shape[1])
        header = _HEADER.pack(_MAGIC, *counts, recording.noise_db)
        arrays = (recording.samples, recording.columns, recording.memory)
        return VadState(b"".join([header, recording.endpointer.to_bytes(), *(a.tobytes() for a in arrays)]))

    def read(self, state: VadState) -> Recording:
        """What :meth:`write` wrote.

        Raises:
            ValueError: the state was written by another engine or for another model.
        """
        data, head = state.payload, _HEADER.size + Endpointer.SIZE
        if len(data) < head or data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("this is not the state of an FSMN voice-activity detector")
        _, pending, frames, noise_db = _HEADER.unpack_from(data)
        memory = int(np.prod(self.memory_shape))
        if len(data) != head + 2 * pending + 4 * (self.rows * frames + memory):
            raise ValueError("this state of a voice-activity detector belongs to another model")
        floats = np.frombuffer(data, np.float32, offset=head + 2 * pending)
        return Recording(
            np.frombuffer(data, np.int16, pending, head),
            floats[: self.rows * frames].reshape(self.rows, frames),
            floats[self.rows * frames :].reshape(self.memory_shape),
            noise_db,
            Endpointer.from_bytes(data[_HEADER.size : head]),
        )

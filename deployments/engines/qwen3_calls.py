"""One call on its way through the model: what is left to read of its prompt, and what was written."""

import asyncio
import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deployments.engines.base import Pcm
from deployments.engines.generative import WINDOW_SAMPLES, SpeechPrompt
from deployments.engines.qwen3_prompt import AUDIO_PAD, prompt_text
from deployments.engines.qwen3_ragged import KeyValues
from deployments.engines.qwen3_windows import embeddings_of, windows_of

PIECE_TOKENS = 128
"""A prompt is read in pieces of so many tokens at most (a window has 104)."""

_REMEMBERED_WINDOWS = 10
"""Of prompts with more windows nothing is remembered: no live sentence is that long, and files come once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a prompt: text tokens, or a window of audio.

    Attributes:
        tokens: ids; none for audio.
        window: samples; none for text.
        window_key: names the samples of the window, if it is a whole one.
        key: names all of the prompt up to the end of this piece, if it ends with a whole window.
    """

    tokens: tuple[int, ...] = ()
    window: Pcm | None = None
    window_key: bytes | None = None
    key: bytes | None = None

    @property
    def length(self) -> int:
        return len(self.tokens) if self.window is None else embeddings_of(len(self.window))


class Call:
    """Belongs to the model's thread, but for what says otherwise."""

    def __init__(self, prompt: SpeechPrompt, loop: asyncio.AbstractEventLoop, *, streams: bool) -> None:
        """``streams``: whether the caller wants to know about each token."""
        self.prompt, self.streams = prompt, streams
        self.canceled = False
        """Set by the caller, at any time: the result is wanted no more."""
        self.pieces: deque[Piece] = deque()
        self.read = 0
        """Tokens of the prompt that have been read."""
        self.remembered = 0
        """Those of them that other prompts may begin with, too."""
        self.reserved = 0
        """Tokens that there is memory for."""
        self.memory: KeyValues | None = None
        self.tokens: list[int] = list(prompt.prefix)
        self.log_probs: list[float] = [0.0] * len(prompt.prefix)
        self.finished = False
        self.done = False
        """Read by the caller, once ``progress`` has been set, as are ``error`` and a :meth:`snapshot`."""
        self.error: BaseException | None = None
        self.progress = asyncio.Event()
        """Set, on the caller's loop, when there is something new to read."""
        self._loop = loop
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Tokens that the model may have to remember for this call."""
        return sum(piece.length for piece in self.pieces) + self.prompt.max_tokens

    @property
    def written(self) -> int:
        """Tokens of the answer, without the prefix."""
        return len(self.tokens) - len(self.prompt.prefix)

    def prepare(self, tokenizer: Any) -> None:
        """Split the prompt into pieces.

        Raises:
            ValueError: it cannot be decoded.
        """
        windows = windows_of(self.prompt.samples)
        text = prompt_text(1, self.prompt.language, self.prompt.context)
        head, tail = (_ids(tokenizer, part) for part in text.split(AUDIO_PAD))
        self.pieces.extend(_audio_pieces(head, windows))
        self.pieces.extend(_text_pieces([*tail, *self.prompt.prefix]))

    def read_piece(self) -> Piece:
        """Take the next piece off the prompt."""
        piece = self.pieces.popleft()
        self.read += piece.length
        return piece

    def write(self, token: int, log_prob: float) -> None:
        with self._lock:
            self.tokens.append(token)
            self.log_probs.append(log_prob)

    def snapshot(self) -> tuple[list[int], list[float]]:
        """Tokens so far and their log-probabilities. For any thread."""
        with self._lock:
            return list(self.tokens), list(self.log_probs)

    def end(self, error: BaseException | None = None, *, finished: bool = False) -> None:
        """Tell the caller that nothing more will come."""
        self.error, self.finished, self.done = error, finished, True
        self.memory, self.reserved = None, 0
        self.tell()

    def tell(self) -> None:
        """Wake the caller."""
        try:
            self._loop.call_soon_threadsafe(self.progress.set)
        except RuntimeError:  # the caller's loop has been closed, so nobody waits
            self.canceled = True


class TensorCache:
    """Tensors by name, the least recently used of which go when they are too large together."""

    def __init__(self, max_bytes: int) -> None:
        self._tensors: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes, self._max_bytes = 0, max_bytes

    def get(self, key: bytes) -> Tensor | None:
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
        return tensor

    def __contains__(self, key: bytes) -> bool:
        return key in self._tensors

    def put(self, key: bytes, tensor: Tensor) -> None:
        if key in self._tensors or tensor.nbytes > self._max_bytes:
            return
        self._tensors[key] = tensor
        self._bytes += tensor.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._tensors.popitem(last=False)[1].nbytes


def _audio_pieces(head: Sequence[int], windows: Sequence[Pcm]) -> Iterator[Piece]:
    yield from _text_pieces(head)
    key: bytes | None = hashlib.blake2b(repr(head).encode(), digest_size=16).digest()
    for window in windows:
        whole = hashlib.blake2b(window.tobytes(), digest_size=16).digest()
        if len(window) < WINDOW_SAMPLES or len(windows) > _REMEMBERED_WINDOWS:
            key = None
        key = key and hashlib.blake2b(key + whole, digest_size=16).digest()
        yield Piece(window=window, window_key=whole if len(window) == WINDOW_SAMPLES else None, key=key)


def _text_pieces(tokens: Sequence[int]) -> Iterator[Piece]:
    for begin in range(0, len(tokens), PIECE_TOKENS):
        yield Piece(tuple(tokens[begin : begin + PIECE_TOKENS]))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids

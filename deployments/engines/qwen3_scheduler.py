"""Continuous batching for Qwen3-ASR: which rows read and which ones write in the next step of the model."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deployments.engines.qwen3_calls import PIECE_TOKENS, Call, Piece, TensorCache
from deployments.engines.qwen3_output import is_looping
from deployments.engines.qwen3_ragged import KeyValues, Part, RaggedModel

MAX_ROWS = 32
"""Calls that may be in the model at once."""

_READ_TOKENS = 512
"""Tokens of prompts that are read in one step while nobody writes; beside writers it is one piece."""

_ENCODED_BYTES = 64 * 2**20
"""For embeddings of windows; those of a minute are 1.6 MB at full size."""


class _Turn:
    """What a call does in one step: read pieces of its prompt, or else go on from its last token."""

    __slots__ = ("call", "embeddings", "memory", "pieces")

    def __init__(self, call: Call, memory: KeyValues) -> None:
        self.call, self.memory = call, memory
        self.pieces: list[Piece] = []
        self.embeddings: list[Tensor] = []


class Scheduler:
    """Takes calls through the model, step by step. Belongs to the model's thread.

    A call first reads its prompt, piece by piece, and then writes one token a step; in a step, some calls
    read and all others write. What was computed for the whole windows at the begin of a prompt is remembered,
    and put in where another prompt begins the same way, as those of a live sentence do.
    """

    def __init__(
        self, model: RaggedModel, tokenizer: Any, end_tokens: frozenset[int], memory_bytes: int
    ) -> None:
        """``memory_bytes``: for what attention remembers; a quarter of it is for prompts that have gone."""
        self._model, self._tokenizer, self._end_tokens = model, tokenizer, end_tokens
        self._free_tokens = memory_bytes * 3 // 4 // model.shape.token_bytes
        self._known = TensorCache(memory_bytes // 4)
        self._encoded = TensorCache(_ENCODED_BYTES)
        self._waiting: deque[Call] = deque()
        self._reading: deque[Call] = deque()
        self._writing: list[Call] = []

    @property
    def calls(self) -> list[Call]:
        return [*self._waiting, *self._reading, *self._writing]

    def add(self, call: Call) -> None:
        """Take in a call; one that cannot be decoded ends with the error."""
        if call.canceled:
            call.end(asyncio.CancelledError())
            return
        try:
            call.prepare(self._tokenizer)
            self._check(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            call.end(error)
        else:
            self._waiting.append(call)

    @torch.inference_mode()
    def step(self) -> None:
        """Drop calls that nobody waits for, let in those that there is place for, and advance all inside."""
        for call in [call for call in self.calls if call.canceled]:
            self._leave(call, asyncio.CancelledError())
        while self._waiting and self._has_place_for(self._waiting[0]):
            self._let_in(self._waiting.popleft())
        turns = [_Turn(call, call.memory) for call in self._writing if call.memory]
        turns += self._readers(PIECE_TOKENS if turns else _READ_TOKENS)
        if turns:
            self._take(turns)

    def end(self, error: Exception) -> None:
        """End all calls with an error."""
        for call in self.calls:
            self._leave(call, error)

    def _check(self, call: Call) -> None:
        if call.prompt.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {call.prompt.max_tokens}")
        if any(not 0 <= token < self._model.vocabulary_size for token in call.prompt.prefix):
            raise ValueError("prefix holds tokens that are not in the model's vocabulary")
        if call.capacity > self._model.max_positions:
            problem = f"the prompt and its answer may need {call.capacity} tokens"
            raise ValueError(f"{problem}; the model can take {self._model.max_positions}")

    def _has_place_for(self, call: Call) -> bool:
        rows = len(self._reading) + len(self._writing)
        return not rows or (rows < MAX_ROWS and call.capacity <= self._free_tokens)

    def _let_in(self, call: Call) -> None:
        call.reserved = call.capacity
        self._free_tokens -= call.reserved
        call.memory = memory = KeyValues(self._model.shape, call.reserved)
        keys = []
        for key in [piece.key for piece in call.pieces if piece.key]:
            known = self._known.get(key)
            if known is None:
                break
            memory.restore(known)
            keys.append(key)
            while call.read_piece().key != key:
                pass
        # A later window is of no use without those before it, so it has to be forgotten first.
        for key in reversed(keys):
            self._known.get(key)
        call.remembered = memory.length
        self._reading.append(call)

    def _leave(self, call: Call, error: BaseException | None = None, *, finished: bool = False) -> None:
        for queue in (self._waiting, self._reading, self._writing):
            if call in queue:
                queue.remove(call)
        self._free_tokens += call.reserved
        call.end(error, finished=finished)

    def _readers(self, budget: int) -> list[_Turn]:
        """Turns of the calls whose turn it is to read, with their pieces."""
        turns = []
        for call in self._reading:
            if budget <= 0 or call.memory is None:
                break
            turn = _Turn(call, call.memory)
            for piece in call.pieces:
                if budget <= 0:
                    break
                turn.pieces.append(piece)
                budget -= piece.length
            turns.append(turn)
        self._reading.rotate(-1)
        return turns

    def _take(self, turns: Sequence[_Turn]) -> None:
        """Advance calls together; if that fails, each alone, so that only the one whose fault it is fails."""
        try:
            self._embed(turns)
            parts = [Part(torch.cat(turn.embeddings), turn.memory) for turn in turns]
            tokens, log_probs = self._model.forward(parts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            if len(turns) == 1:
                self._leave(turns[0].call, error)
                return
            for turn in turns:
                self._take([turn])
            return
        for turn, token, log_prob in zip(turns, tokens, log_probs, strict=True):
            self._advance(turn, token, log_prob)

    def _embed(self, turns: Sequence[_Turn]) -> None:
        """Find or compute the embeddings of all pieces; those of whole windows are remembered."""
        pieces = [piece for turn in turns for piece in turn.pieces]
        embeddings = {
            id(piece): known
            for piece in pieces
            if piece.window_key and (known := self._encoded.get(piece.window_key)) is not None
        }
        missing = [
            (piece, piece.window)
            for piece in pieces
            if piece.window is not None and id(piece) not in embeddings
        ]
        computed = self._model.encode([window for _, window in missing])
        for (piece, _), tensor in zip(missing, computed, strict=True):
            embeddings[id(piece)] = tensor
            if piece.window_key:
                self._encoded.put(piece.window_key, tensor)
        for turn in turns:
            turn.embeddings = [
                embeddings[id(piece)] if piece.window is not None else self._model.embed(piece.tokens)
                for piece in turn.pieces
            ] or [self._model.embed(turn.call.tokens[-1:])]

    def _advance(self, turn: _Turn, token: int, log_prob: float) -> None:
        call = turn.call
        for piece in turn.pieces:
            call.read_piece()
            if piece.key is not None:
                self._known.put(piece.key, turn.memory.copied(call.remembered, call.read))
                call.remembered = call.read
        if call.pieces:
            return
        if turn.pieces:
            self._reading.remove(call)
            self._writing.append(call)
        if token in self._end_tokens:
            self._leave(call, finished=True)
            return
        call.write(token, log_prob)
        if call.written >= call.prompt.max_tokens or is_looping(call.tokens):
            self._leave(call)
        elif call.streams:
            call.tell()

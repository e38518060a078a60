"""Paraformer for live streams: chunks of many streams in, their tokens with times out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.base import SAMPLE_RATE, StreamChunk, StreamResult, Token
from deployments.engines.cif import PeakTimes
from deployments.engines.cif_stream import ChunkCif, FiredTokens
from deployments.engines.frontend_online import CARRIED_SAMPLES, FRAME_SAMPLES, OnlineFrontend
from deployments.engines.model_files import ModelFiles, ModelFilesError, read_model_files
from deployments.engines.model_frontend import frontend_of
from deployments.engines.paraformer_stream_decoder import ChunkDecoder
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.sanm import Placement, Rows
from deployments.engines.sanm_chunk import ChunkEncoder
from deployments.engines.stream_state import DecoderCache, EncoderCache, State, Turn, next_turn_samples

_KIND = {
    "model": "ParaformerStreaming",
    "encoder": "SANMEncoderChunkOpt",
    "decoder": "ParaformerSANMDecoder",
    "predictor": "CifPredictorV2",
    "frontend": "WavFrontendOnline",
}
_PASS_ROWS = 2048
"""Encoder rows (of 60 ms, those that are seen again included) of one pass."""


class StreamNetwork(Protocol):
    """The network of a Paraformer for live streams, and what streams remember of it."""

    def hear(
        self, features: Tensor, turns: Sequence[Turn]
    ) -> tuple[Tensor, Rows, list[EncoderCache], FiredTokens]:
        """Encode the new ``features`` of all turns, fp32 ``(rows, features)``, one below the other.

        Returns what is encoded, fp32 ``(rows, size)``, where each turn's rows lie, what the streams remember
        of that from now on, and the tokens that are complete.
        """
        ...

    def say(
        self, embeddings: Tensor, counts: Sequence[int], encoded: Sequence[Tensor], turns: Sequence[Turn]
    ) -> tuple[Tensor, list[DecoderCache]]:
        """Log-probabilities, fp32 ``(tokens, vocabulary)``, and what the streams remember from now on.

        ``embeddings``: fp32 ``(tokens, size)``, ``counts`` of them for each turn, at least one; ``encoded``:
        each turn's encoder rows.
        """
        ...


class TorchStreamNetwork:
    """A :class:`StreamNetwork` in PyTorch."""

    def __init__(self, files: ModelFiles, at: Placement) -> None:
        """Raises :class:`ModelFilesError` if parameters are missing or mis-shaped."""
        source, size = files.parameters, frontend_of(files, OnlineFrontend).size
        self._encoder = ChunkEncoder(source, "encoder.", size, files.section("encoder_conf"), at)
        self._cif = ChunkCif(source, "predictor.", files.section("predictor_conf"), at)
        self._decoder = ChunkDecoder(
            source, "decoder.", self._encoder.size, len(files.tokens), files.section("decoder_conf"), at
        )

    def hear(
        self, features: Tensor, turns: Sequence[Turn]
    ) -> tuple[Tensor, Rows, list[EncoderCache], FiredTokens]:
        encoded, rows, caches = self._encoder(features, turns)
        return encoded, rows, caches, self._cif.step(encoded, rows, turns)

    def say(
        self, embeddings: Tensor, counts: Sequence[int], encoded: Sequence[Tensor], turns: Sequence[Turn]
    ) -> tuple[Tensor, list[DecoderCache]]:
        return self._decoder.step(embeddings, counts, encoded, turns)


class StreamingParaformer:
    """A :class:`StreamingAsrEngine` around the network of FunASR's ``ParaformerStreaming``.

    One step at a time; states may be dropped on any thread.
    """

    def __init__(self, files: ModelFiles, network: StreamNetwork, threads: int, device: torch.device) -> None:
        """``threads``: how many threads PyTorch uses for this engine's calls (a setting of the process)."""
        self._threads, self._device = threads, device
        self._network = network
        self._frontend = frontend_of(files, OnlineFrontend)
        self._tokens = files.tokens
        conf = files.section("model_conf")
        self._unspoken = {int(conf.get(name, at)) for at, name in enumerate(("blank_id", "sos", "eos"))}
        self._times = PeakTimes()

    @torch.inference_mode()
    def step(self, chunks: Sequence[StreamChunk]) -> list[StreamResult]:
        """The tokens that each chunk completes; see :class:`StreamingAsrEngine`."""
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        streams = [_Stream(self._continued(chunk), chunk.final) for chunk in chunks]
        while ready := [(stream, turn) for stream in streams if (turn := self._turn(stream))]:
            self._advance(ready)
        return [
            StreamResult(tuple(stream.tokens), None if stream.final else stream.state) for stream in streams
        ]

    def _continued(self, chunk: StreamChunk) -> State:
        """The stream's state with the chunk's samples added."""
        chunk.options.check()
        if chunk.samples.ndim != 1 or chunk.samples.dtype != np.int16:
            raise ValueError(
                f"samples must be one row of int16, not {chunk.samples.shape} of {chunk.samples.dtype}"
            )
        state = State(self, chunk.options) if chunk.state is None else chunk.state
        if not isinstance(state, State) or state.owner is not self:
            raise ValueError("the state is not one of this engine's")
        if state.options != chunk.options:
            raise ValueError(f"a stream that began with {state.options} cannot go on with {chunk.options}")
        return replace(state, samples=np.concatenate([state.samples, chunk.samples]))

    def _turn(self, stream: "_Stream") -> Turn | None:
        """The next chunk to compute of a stream, whose samples it takes."""
        if stream.ended:
            return None
        found = next_turn_samples(stream.state, final=stream.final)
        if found is None:
            return None
        window, samples, stream.ended = found
        turn = Turn(
            stream.state, window, 0 if window is None else self._frontend.rows(len(window)), stream.ended
        )
        stream.state = replace(stream.state, samples=samples)
        return turn

    def _advance(self, ready: Sequence[tuple["_Stream", Turn]]) -> None:
        """Compute one chunk of each stream, in passes of ``_PASS_ROWS`` rows or of one chunk."""
        first = total = 0
        for last, (_, turn) in enumerate(ready):
            if last > first and total + turn.length > _PASS_ROWS:
                self._recognize(ready[first:last])
                first, total = last, 0
            total += turn.length
        self._recognize(ready[first:])

    def _recognize(self, ready: Sequence[tuple["_Stream", Turn]]) -> None:
        turns = [turn for _, turn in ready]
        encoded, rows, encoders, fired = self._network.hear(self._features(turns), turns)
        ids, log_probs, decoders = self._decoded(encoded, rows, fired, turns)
        first = 0
        for index, (stream, turn) in enumerate(ready):
            new = slice(first, first + fired.counts[index])
            first = new.stop
            spoken = [at for at in range(new.start, new.stop) if ids[at] not in self._unspoken]
            steps = np.inf if turn.final else len(turn.counted)
            spans = self._times.live_spans(fired.instants[spoken], steps, turn.begin, self._frontend.frame_ms)
            before = turn.state.spoken_ms if not stream.tokens else stream.tokens[-1].end_ms
            for at, (begin, end) in zip(spoken, _limited(spans, before, turn), strict=True):
                stream.tokens.append(Token(self._tokens[ids[at]], begin, end, log_probs[at]))
            stream.state = replace(
                stream.state,
                position=turn.state.position + turn.rows,
                encoder=encoders[index],
                cif=fired.carries[index],
                decoder=decoders[index],
                spoken_ms=stream.tokens[-1].end_ms if stream.tokens else before,
            )

    def _features(self, turns: Sequence[Turn]) -> Tensor:
        heard = [(turn.window, turn.state.position) for turn in turns if turn.window is not None]
        if not heard:
            return torch.zeros(0, self._frontend.size, device=self._device)
        windows, positions = zip(*heard, strict=True)
        return self._frontend(windows, positions).to(self._device)

    def _decoded(
        self, encoded: Tensor, rows: Rows, fired: FiredTokens, turns: Sequence[Turn]
    ) -> tuple[list[int], list[float], list[DecoderCache]]:
        """The likeliest token of each fire, its log-probability, and what the streams' decoders remember."""
        caches = [turn.state.decoder for turn in turns]
        speaking = [index for index, count in enumerate(fired.counts) if count]
        if not speaking:
            return [], [], caches
        parts = encoded.split(rows.lengths)
        log_probs, changed = self._network.say(
            fired.embeddings,
            [fired.counts[index] for index in speaking],
            [parts[index] for index in speaking],
            [turns[index] for index in speaking],
        )
        for index, cache in zip(speaking, changed, strict=True):
            caches[index] = cache
        best = log_probs.max(dim=-1)
        return best.indices.tolist(), best.values.tolist(), caches


class ParaformerStreamingEngine(StreamingParaformer):
    """A :class:`StreamingParaformer` in PyTorch.

    Each stream's tokens are those that FunASR's ``generate`` gives that stream alone. Streams at different
    positions and with different options share all products with weights.
    """

    def __init__(
        self, model_dir: Path, *, threads: int, device: str = "cpu", precision: Precision = "auto"
    ) -> None:
        """Load a model directory in ModelScope's layout.

        ``threads``: how many threads PyTorch uses for this engine's calls (a setting of the process).

        Raises:
            ModelFilesError: the directory is incomplete, its files do not fit each other, or it holds
                another kind of model.
            ValueError: ``precision`` is unknown, or ``threads`` is less than one.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        place = torch.device(device)
        self.dtype = resolve_precision(precision, place)
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        check_kind(files)
        super().__init__(files, TorchStreamNetwork(files, Placement(self.dtype, place)), threads, place)


@dataclass(slots=True)
class _Stream:
    """A stream within one step: ``final`` if its last samples are here, ``ended`` once they are taken."""

    state: State
    final: bool
    ended: bool = False
    tokens: list[Token] = field(default_factory=list)


def _limited(spans: npt.NDArray[np.float64], before: int, turn: Turn) -> list[tuple[int, int]]:
    """Whole milliseconds within the samples so far, none before ``before``."""
    heard = turn.state.position * FRAME_SAMPLES + len(turn.state.samples) - CARRIED_SAMPLES
    limits = np.clip(spans, before, max(before, 1000 * heard // SAMPLE_RATE)).round().astype(int)
    return [(int(begin), int(end)) for begin, end in limits]


def check_kind(files: ModelFiles) -> None:
    """Raise :class:`ModelFilesError` unless the model is a ``ParaformerStreaming`` with a vocabulary."""
    config = files.directory / "config.yaml"
    for key, value in _KIND.items():
        if files.config.get(key) != value:
            problem = f"{key}: {files.config.get(key)} is not supported, only {value}"
            raise ModelFilesError(config, problem, "point this engine at a ParaformerStreaming's directory")
    if not files.tokens:
        raise ModelFilesError(config, "names no tokenizer", "use the model's own config.yaml")

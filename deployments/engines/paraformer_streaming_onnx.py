"""Paraformer for live streams in ONNX Runtime: what FunASR exports, or ``asr-serve models export``.

``model.onnx`` takes a chunk of features to encoder rows and their weights, ``decoder.onnx`` takes tokens'
embeddings to scores. FunASR's graph of the encoder sees nothing but the chunk, whatever the look-back is set
to; that of ``asr-serve models export`` takes the keys of earlier chunks.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deployments.engines.cif_stream import FiredTokens, Floats, IncompleteTokens, counted_rows
from deployments.engines.frontend_online import OnlineFrontend
from deployments.engines.model_files import COPY_AGAIN, SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.model_frontend import frontend_of
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.paraformer_stream_decoder import EncodedRows
from deployments.engines.paraformer_streaming import StreamingParaformer, check_kind
from deployments.engines.row_pool import Indices, RowPool
from deployments.engines.sanm import Placement, Rows
from deployments.engines.sanm_chunk import ChunkInputs, kept_and_not, looked_back_to
from deployments.engines.stream_state import DecoderCache, EncoderCache, Turn

_KEYS, _NEW_KEYS = "in_keys", "out_keys"
_ENCODER_INPUTS, _ENCODER_OUTPUTS = ("speech", "speech_lengths"), ("enc", "alphas")
_DECODER_INPUTS = ("enc", "enc_len", "acoustic_embeds", "acoustic_embeds_len", "in_cache_0")
_CPU = Placement(torch.float32, torch.device("cpu"))

logger = logging.getLogger(__name__)


class ParaformerStreamingOnnxEngine(StreamingParaformer):
    """A :class:`StreamingParaformer` over ``model_quant.onnx`` or ``model.onnx``, and a decoder like it.

    Streams whose chunks are alike in length share a run of the graph.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """Load a model directory in ModelScope's layout.

        ``threads``: how many compute one call.

        Raises:
            ModelFilesError: the directory is incomplete, its files do not fit each other, or it holds
                another kind of model.
            ValueError: ``threads`` is less than one.
        """
        files = read_onnx_directory(model_dir, needs_cmvn=True, needs_tokens=True)
        check_kind(files)
        encoder, decoder = (_session(files, stem, threads, device) for stem in ("model", "decoder"))
        network = OnnxStreamNetwork(files, encoder, decoder)
        super().__init__(files, network, threads, _CPU.device)


class OnnxStreamNetwork:
    """A :class:`~deployments.engines.paraformer_streaming.StreamNetwork` of two graphs."""

    def __init__(self, files: ModelFiles, encoder: OnnxSession, decoder: OnnxSession) -> None:
        """Raises :class:`ModelFilesError` if a graph has other inputs or outputs than expected."""
        encoder.require(_ENCODER_INPUTS, _ENCODER_OUTPUTS)
        decoder.require(_DECODER_INPUTS, ("logits", "out_cache_0"))
        self._encoder, self._decoder = encoder, decoder
        size = int(files.section("encoder_conf")["output_size"])
        predictor = files.section("predictor_conf")
        self._size = size
        self._inputs = ChunkInputs(size, frontend_of(files, OnlineFrontend).size, _CPU.device)
        self._tokens = IncompleteTokens(size, float(predictor.get("tail_threshold", 0)), _CPU.device)
        layers = encoder.inputs[_KEYS][0] if _KEYS in encoder.inputs else 0
        if layers is None:
            problem = f"{_KEYS} has the shape {encoder.inputs[_KEYS]}"
            raise ModelFilesError(encoder.path, problem, SAME_MODEL)
        self._keys = RowPool(layers, 2 * size, _CPU) if layers else None
        if not layers:
            logger.warning(
                "%s sees each chunk alone: encoder_chunk_look_back has no effect. "
                "`asr-serve models export` makes a graph that looks back.",
                encoder.path,
            )
        self._encoded = EncodedRows(size, _CPU)
        self._memories = [name for name in decoder.inputs if name.startswith("in_cache_")]
        self._new_memories = [name.replace("in_", "out_", 1) for name in self._memories]
        span = decoder.inputs["in_cache_0"][-1]
        self._span = int(files.section("decoder_conf").get("kernel_size", 21)) - 1 if span is None else span
        self._history = RowPool(len(self._memories), size, _CPU)

    def hear(
        self, features: Tensor, turns: Sequence[Turn]
    ) -> tuple[Tensor, Rows, list[EncoderCache], FiredTokens]:
        """See :class:`~deployments.engines.paraformer_streaming.StreamNetwork`."""
        x, rows, overlaps = self._inputs(features, turns)
        encoded, alphas = torch.zeros(len(x), self._size), np.zeros(len(x), np.float32)
        kept = [kept_and_not(turn)[0] if self._keys else 0 for turn in turns]
        leases = self._keys.lease(kept) if self._keys else []
        places = np.split(np.arange(len(x)), np.cumsum(rows.lengths)[:-1])
        alike = _alike((turn.length, len(turn.state.encoder.key_rows)) for turn in turns)
        for (length, _), members in alike.items():
            if not length:  # streams without context that end between two chunks
                continue
            at = np.concatenate([places[index] for index in members])
            known = [turns[index].state.encoder.key_rows for index in members]
            found, weights, keys = self._encode(x[torch.from_numpy(at)], len(members), known)
            encoded[torch.from_numpy(at)], alphas[at] = found, weights
            if self._keys:
                parts = [keys[:, row, : kept[index]] for row, index in enumerate(members)]
                self._keys.write([leases[index].rows for index in members], torch.cat(parts, dim=1))
        counted = counted_rows(rows, turns)
        fired = self._tokens.go_on(encoded, counted, alphas[counted], turns)
        if not self._keys:
            return encoded, rows, [EncoderCache(overlap) for overlap in overlaps], fired
        caches = [
            EncoderCache(overlap, *looked_back_to(turn, lease))
            for turn, overlap, lease in zip(turns, overlaps, leases, strict=True)
        ]
        return encoded, rows, caches, fired

    def _encode(self, x: Tensor, count: int, known: Sequence[Indices]) -> tuple[Tensor, Floats, Tensor]:
        """Chunks of one length, ``known`` rows of keys before each: encoder rows, weights, new keys."""
        speech = x.view(count, -1, x.shape[1]).numpy()
        feeds = {"speech": speech, "speech_lengths": np.full(count, speech.shape[1])}
        if self._keys is None:
            found, weights = self._encoder.run(feeds, _ENCODER_OUTPUTS)
            return torch.from_numpy(found).flatten(0, 1), weights.ravel(), x
        earlier = self._keys.read(known)
        feeds[_KEYS] = earlier.view(len(earlier), count, -1, 2 * self._size).numpy()
        found, weights, keys = self._encoder.run(feeds, (*_ENCODER_OUTPUTS, _NEW_KEYS))
        return torch.from_numpy(found).flatten(0, 1), weights.ravel(), torch.from_numpy(keys)

    def say(
        self, embeddings: Tensor, counts: Sequence[int], encoded: Sequence[Tensor], turns: Sequence[Turn]
    ) -> tuple[Tensor, list[DecoderCache]]:
        """See :class:`~deployments.engines.paraformer_streaming.StreamNetwork`."""
        rows, keys, encoded_leases = self._encoded(encoded, turns)
        leases = self._history.lease([self._span] * len(turns))
        tokens = embeddings.split(list(counts))
        log_probs: list[Tensor] = [embeddings] * len(turns)
        for members in _alike(zip(counts, map(len, keys), strict=True)).values():
            heard = torch.stack([rows[torch.from_numpy(keys[index])] for index in members])
            before = [_rows_of(turns[index], self._span) for index in members]
            scores, memories = self._decode(heard, torch.stack([tokens[index] for index in members]), before)
            self._history.write([leases[index].rows for index in members], memories)
            for index, found in zip(members, torch.log_softmax(scores, -1), strict=True):
                log_probs[index] = found
        caches = map(DecoderCache, encoded_leases, leases)
        return torch.cat(log_probs), list(caches)

    def _decode(self, heard: Tensor, tokens: Tensor, before: Sequence[Indices]) -> tuple[Tensor, Tensor]:
        """Scores of ``tokens``, ``(batch, tokens, size)``, and what memories hold from now on."""
        count = len(tokens)
        memories = self._history.read(before).view(-1, count, self._span, self._size).transpose(2, 3)
        feeds = {
            "enc": heard.numpy(),
            "enc_len": np.full(count, heard.shape[1]),
            "acoustic_embeds": tokens.numpy(),
            "acoustic_embeds_len": np.full(count, tokens.shape[1]),
            **dict(zip(self._memories, memories.numpy(), strict=True)),
        }
        scores, *kept = self._decoder.run(feeds, ("logits", *self._new_memories))
        # Older graphs give all that they have seen, newer ones the last of it.
        last = np.stack([memory[:, :, -self._span :] for memory in kept])
        return torch.from_numpy(scores), torch.from_numpy(last).transpose(2, 3).flatten(1, 2)


def _alike(kinds: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Which ones are of each kind."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        found[kind].append(index)
    return found


def _rows_of(turn: Turn, span: int) -> Indices:
    """The rows with what memories hold; row 0 is zero."""
    history = turn.state.decoder.history
    return np.zeros(span, np.int64) if history is None else history.rows


def _session(files: ModelFiles, stem: str, threads: int, device: str) -> OnnxSession:
    path = onnx_file(files.directory, stem)
    if path is None:
        missing = files.directory / f"{stem}_quant.onnx"
        raise ModelFilesError(missing, "the file with the ONNX graph is missing", COPY_AGAIN)
    # Of an encoder and a decoder.
    return OnnxSession(path, threads=threads, device=device, part=0.5)

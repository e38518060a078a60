"""SenseVoiceSmall in PyTorch: whole segments in; words, their language, emotion and audio events out.

The computation is that of FunASR's ``SenseVoiceSmall`` (An et al., "FunAudioLLM", arXiv:2407.04051) on the
same parameters: four queries before the features of a segment, a SAN-M encoder in two parts, and a CTC head.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.base import NO_HINTS, Hints, Pcm, Precision, Recognition
from deployments.engines.features import Frontend
from deployments.engines.model_files import ModelFilesError, Parameters, read_model_files
from deployments.engines.model_frontend import frontend_of
from deployments.engines.precision import resolve_precision
from deployments.engines.sanm import (
    EncoderBlock,
    Norm,
    Placement,
    Rows,
    position_encoding,
    require,
)
from deployments.engines.segment_passes import passes
from deployments.engines.sensevoice_files import check_kind, read_vocabulary
from deployments.engines.sensevoice_text import (
    EVENT_AND_EMOTION,
    QUERIES,
    QUERY_ROWS,
    heard_tokens,
    query_numbers,
    recognition_of,
)

_EPSILON = 1e-5
_HEAD_ROWS = 256
"""Rows that go through the head at a time: each gives as many numbers as there are tokens."""


class SenseVoiceTorchEngine:
    """An :class:`AsrEngine` for FunASR's ``SenseVoiceSmall``.

    Segments may be of any length, also empty; shorter than 25 ms they hold no words. Segments of very
    different lengths may share a call: nothing is padded. The same samples always give the same result.
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
        self._threads = threads
        self._device = torch.device(device)
        self.dtype = resolve_precision(precision, self._device)
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        check_kind(files.directory / "config.yaml", files.config)
        if int(files.section("model_conf").get("blank_id", 0)) != 0:
            problem = "model_conf.blank_id is not 0"
            raise ModelFilesError(files.directory / "config.yaml", problem, "use the model's own config.yaml")
        at = Placement(self.dtype, self._device)
        source = files.parameters
        self._vocabulary = read_vocabulary(files.directory)
        self._frontend = frontend_of(files, Frontend)
        self._queries = source.take("embed.weight", QUERY_ROWS, self._frontend.size).to(self._device)
        self._encoder = _Encoder(source, self._frontend.size, files.section("encoder_conf"), at)
        size = self._encoder.size, len(self._vocabulary)
        self._head = source.take("ctc.ctc_lo.weight", size[1], size[0]).to(self._device)
        self._head_bias = source.take("ctc.ctc_lo.bias", size[1]).to(self._device)

    @torch.inference_mode()
    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        """What was said in each segment; see :class:`AsrEngine`. Of the hints, hotwords are of no use."""
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        given = [NO_HINTS] * len(segments) if hints is None else hints
        results = [Recognition()] * len(segments)
        frames = [self._frontend.frames(len(samples)) for samples in segments]
        for indices in passes([count and count + QUERIES for count in frames]):
            batch = [(segments[index], given[index]) for index in indices]
            for index, recognition in zip(indices, self._recognize(batch), strict=True):
                results[index] = recognition
        return results

    def _recognize(self, batch: Sequence[tuple[Pcm, Hints]]) -> Iterator[Recognition]:
        inputs = [self._with_queries(self._frontend(samples), hints) for samples, hints in batch]
        lengths = [len(rows) for rows in inputs]
        encoded = self._encoder(torch.cat(inputs), Rows(lengths, self._device))
        ids, log_probs = self._likeliest(encoded)
        for (_, hints), length, tokens, values in zip(
            batch, lengths, ids.split(lengths), log_probs.split(lengths), strict=True
        ):
            heard = heard_tokens(tokens.tolist(), values.tolist())
            frames = length - QUERIES
            yield recognition_of(heard, self._vocabulary, frames, self._frontend.frame_ms, hints)

    def _with_queries(self, features: Tensor, hints: Hints) -> Tensor:
        language, spelling = query_numbers(hints)
        queries = self._queries[[language, *EVENT_AND_EMOTION, spelling]]
        return torch.cat((queries, features.to(self._device)))

    def _likeliest(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token of each row, and its log-probability."""
        ids, log_probs = [], []
        for rows in encoded.split(_HEAD_ROWS):
            scores = F.linear(rows, self._head, self._head_bias)
            best = scores.max(dim=-1)
            ids.append(best.indices)
            log_probs.append(best.values - scores.logsumexp(dim=-1))
        return torch.cat(ids), torch.cat(log_probs)


class _Encoder:
    """A stack of blocks, normalized, and another one ("tp"), normalized."""

    def __init__(self, source: Parameters, input_size: int, conf: dict[str, Any], at: Placement) -> None:
        require(source, conf, "normalize_before", True)
        self.size = int(conf["output_size"])

        def block(name: str, width: int) -> EncoderBlock:
            return EncoderBlock(source, f"encoder.{name}", width, conf, at, _EPSILON)

        first = [block("encoders0.0", input_size)]
        first += [block(f"encoders.{index}", self.size) for index in range(int(conf["num_blocks"]) - 1)]
        second = [block(f"tp_encoders.{index}", self.size) for index in range(int(conf.get("tp_blocks", 0)))]
        self._stages: list[tuple[list[EncoderBlock], Norm]] = [
            (blocks, Norm.load(source, f"encoder.{name}", self.size, at, _EPSILON))
            for blocks, name in ((first, "after_norm"), (second, "tp_norm"))
        ]

    def __call__(self, features: Tensor, rows: Rows) -> Tensor:
        """Encode segments given one below the other: fp32 ``(rows, features)`` to fp32 ``(rows, size)``."""
        positions = position_encoding(max(rows.lengths), features.shape[1], features.device)
        x: Tensor = features * self.size**0.5 + torch.cat([positions[:length] for length in rows.lengths])
        for blocks, norm in self._stages:
            for block in blocks:
                x = block(x, rows)
            x = norm(x)
        return x

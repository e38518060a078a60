"""Qwen3-ForcedAligner: when known words were said, for all of them in one pass of the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import AlignmentItem, Times
from deployments.engines.model_files import SAME_MODEL, ModelFilesError
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.qwen3_aligner_networks import load_aligner_network
from deployments.engines.qwen3_alignment import TIMESTAMP, Segmenter, times_of, units_of
from deployments.engines.qwen3_languages import ALIGNED, LANGUAGES
from deployments.engines.qwen3_loading import read_config
from deployments.engines.qwen3_windows import padded

MAX_SECONDS = 180
"""What the model was made for (``MAX_FORCE_ALIGN_INPUT_SECONDS`` of the qwen-asr package)."""

_PASS_TOKENS = 8192
"""Positions of one pass, padding included; 180 s of speech has some 5000."""

_AUDIO_BEGIN, _AUDIO_END = "<|audio_start|>", "<|audio_end|>"


@dataclass(frozen=True, slots=True)
class _Row:
    """An item as the network is given it: ``positions`` are those of the timestamps."""

    index: int
    units: list[str]
    embeddings: Tensor
    positions: Tensor


class Qwen3AlignerEngine:
    """An :class:`AlignerEngine` for a Qwen3-ForcedAligner in the hub's layout.

    The audio of an item is encoded alone, and no position of the network sees those behind it, so the padding
    behind shorter items changes nothing.
    """

    def __init__(
        self, model_dir: Path, *, threads: int, device: str = "cpu", precision: Precision = "auto"
    ) -> None:
        """Load the model; takes seconds.

        ``threads``: how many threads PyTorch uses for this engine's calls (a setting of the process).

        Raises:
            ImportError: neither the qwen-asr package nor a transformers that knows the model is installed.
            ModelFilesError: the directory is incomplete, or holds another kind of model.
            ValueError: ``precision`` is unknown, or ``threads`` is less than one.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._threads = threads
        self._device = torch.device(device)
        self.dtype = resolve_precision(precision, self._device)
        config = read_config(model_dir, aligner=True)
        self._network = load_aligner_network(model_dir, config, self.dtype, self._device)
        self._step_ms = int(config["timestamp_segment_time"])
        self._timestamp = int(config["timestamp_token_id"])
        self._segmenter = Segmenter()
        from transformers import AutoTokenizer, WhisperFeatureExtractor

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)
            self._extractor: Any = WhisperFeatureExtractor.from_pretrained(
                str(model_dir), local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ModelFilesError(model_dir, f"cannot be loaded: {error}", SAME_MODEL) from error

    @torch.inference_mode()
    def align(self, items: Sequence[AlignmentItem]) -> list[Times]:
        """The times of the words of each item; see :class:`AlignerEngine`.

        Raises:
            ValueError: an item has no samples, lasts longer than 180 s, or is in a language that the model
            was not
                made for.
        """
        for item in items:
            _check(item)
        torch.set_num_threads(self._threads)
        results: list[Times] = [((0, 0),) * len(item.words) for item in items]
        for rows in self._passes(items):
            for row, timestamps in zip(rows, self._timestamps(rows), strict=True):
                item = items[row.index]
                duration_ms = 1000 * len(item.samples) // SAMPLE_RATE
                results[row.index] = times_of(item.words, row.units, timestamps, duration_ms)
        return results

    def _passes(self, items: Sequence[AlignmentItem]) -> Iterator[list[_Row]]:
        """Items that hold words, by length, in groups of ``_PASS_TOKENS`` positions or of one item."""
        group: list[_Row] = []
        for index in sorted(range(len(items)), key=lambda index: len(items[index].samples)):
            item = items[index]
            units = units_of(item.words, item.language, self._segmenter)
            if not units:
                continue
            row = self._row(index, item.samples, units)
            longest = max(len(other.embeddings) for other in (row, *group))
            if group and longest * (len(group) + 1) > _PASS_TOKENS:
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _row(self, index: int, samples: Pcm, units: list[str]) -> _Row:
        features = self._extractor(
            padded(samples).astype(np.float32) / 32768,
            sampling_rate=SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_tensors="pt",
        )["input_features"][0]
        audio = self._network.encode(features.to(self._device, self.dtype))
        begin = self._ids(_AUDIO_BEGIN)
        after = self._ids(_AUDIO_END + "".join(f"{unit}{TIMESTAMP}{TIMESTAMP}" for unit in units))
        embeddings = torch.cat([self._network.embed(begin), audio, self._network.embed(after)])
        positions = (after == self._timestamp).nonzero()[:, 0] + len(begin) + len(audio)
        return _Row(index, units, embeddings, positions)

    def _timestamps(self, rows: Sequence[_Row]) -> Iterator[list[int]]:
        """Milliseconds at each timestamp of each row."""
        hidden = self._network.decode(pad_sequence([row.embeddings for row in rows], batch_first=True))
        for row, states in zip(rows, hidden, strict=True):
            classes = self._network.classify(states[row.positions]).argmax(dim=-1)
            yield [self._step_ms * step for step in classes.tolist()]

    def _ids(self, text: str) -> Tensor:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self._device)


def _check(item: AlignmentItem) -> None:
    seconds = len(item.samples) / SAMPLE_RATE
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"audio to align must last more than 0 and at most {MAX_SECONDS} s, not {seconds:g}")
    known = [LANGUAGES[code] for code in LANGUAGES if code in ALIGNED]
    if item.language not in known:
        raise ValueError(f"the aligner knows no {item.language!r}, only {', '.join(known)}")

"""Paraformer in PyTorch: whole segments in, words with times and log-probabilities out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.base import NO_HINTS, SAMPLE_RATE, Hints, Hotword, Pcm, Recognition, Word
from deployments.engines.cif import CifPredictor, PeakTimes
from deployments.engines.features import Frontend
from deployments.engines.model_files import ModelFiles, ModelFilesError, read_model_files
from deployments.engines.model_frontend import frontend_of
from deployments.engines.paraformer_contextual import ContextualDecoding
from deployments.engines.paraformer_decoder import ParaformerDecoder
from deployments.engines.paraformer_seaco import SeacoDecoding
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.sanm import Placement, Rows, SanmEncoder
from deployments.engines.segment_passes import passes
from deployments.engines.words import join_tokens

_DECODERS = {
    "Paraformer": "ParaformerSANMDecoder",
    "BiCifParaformer": "ParaformerSANMDecoder",
    "SeacoParaformer": "ParaformerSANMDecoder",
    "ContextualParaformer": "ContextualParaformerDecoder",
}
"""One network: the second adds a head for times, the third a decoder for hotwords, and the fourth looks for
hotwords in its own decoder."""


class TokenDecoding(Protocol):
    """What becomes of the acoustic embeddings of segments, each of which may have hotwords."""

    def applied(self, hotwords: Sequence[Hotword]) -> tuple[str, ...]:
        """The texts of those that it can listen for."""
        ...

    def __call__(
        self,
        embeddings: Tensor,
        rows: Rows,
        encoded: Tensor,
        encoded_rows: Rows,
        hotwords: Sequence[Sequence[Hotword]],
    ) -> Tensor:
        """fp32 ``(tokens, size)`` to fp32 log-probabilities ``(tokens, vocabulary)``.

        ``rows``: the tokens of each segment; ``encoded``: what they attend to; ``hotwords``: of each segment.
        """
        ...


class PlainDecoding:
    """A :class:`TokenDecoding` of models that know nothing of hotwords."""

    def __init__(self, files: ModelFiles, size: int, at: Placement) -> None:
        """As :class:`ParaformerDecoder`; ``size`` is the encoder's."""
        conf = files.section("decoder_conf")
        self._decoder = ParaformerDecoder(files.parameters, "decoder.", size, len(files.tokens), conf, at)

    def applied(self, hotwords: Sequence[Hotword]) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        embeddings: Tensor,
        rows: Rows,
        encoded: Tensor,
        encoded_rows: Rows,
        hotwords: Sequence[Sequence[Hotword]],
    ) -> Tensor:
        return self._decoder(embeddings, rows, encoded, encoded_rows)


class ParaformerTorchEngine:
    """An :class:`AsrEngine` for FunASR's ``Paraformer`` and its kinds (:data:`_DECODERS`).

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
        _check_kind(files)
        at = Placement(self.dtype, self._device)
        source, encoder_conf = files.parameters, files.section("encoder_conf")
        self._frontend = frontend_of(files, Frontend)
        self._encoder = SanmEncoder(source, "encoder.", self._frontend.size, encoder_conf, at)
        self._predictor = CifPredictor(
            source, "predictor.", str(files.config["predictor"]), files.section("predictor_conf"), at
        )
        self._decode = _decoding(files, self._encoder.size, at)
        self._tokens = files.tokens
        conf = files.section("model_conf")
        self._unspoken = {int(conf.get(name, at)) for at, name in enumerate(("blank_id", "sos", "eos"))}
        self._times = PeakTimes()

    @torch.inference_mode()
    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        """The words of each segment; see :class:`AsrEngine`. Of the hints it uses hotwords, if it can.

        Raises:
            ValueError: there are hints, but not one for each segment.
        """
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        given = [NO_HINTS] * len(segments) if hints is None else hints
        hotwords = [hint.hotwords for _, hint in zip(segments, given, strict=True)]
        results = [Recognition(applied=self._decode.applied(listed)) for listed in hotwords]
        for indices in passes([self._frontend.frames(len(samples)) for samples in segments]):
            batch = [segments[index] for index in indices]
            spoken = self._recognize(batch, [hotwords[index] for index in indices])
            for index, words in zip(indices, spoken, strict=True):
                results[index] = replace(results[index], words=words)
        return results

    def _recognize(
        self, segments: Sequence[Pcm], hotwords: Sequence[Sequence[Hotword]]
    ) -> Iterator[tuple[Word, ...]]:
        features = [self._frontend(samples) for samples in segments]
        rows = Rows([len(feature) for feature in features], self._device)
        encoded = self._encoder(torch.cat(features).to(self._device), rows)
        fired = self._predictor(encoded, rows, self._frontend.frame_ms)
        if not any(fired.counts):
            return iter([()] * len(segments))
        tokens = Rows(fired.counts, self._device)
        log_probs = self._decode(fired.embeddings, tokens, encoded, rows, hotwords)
        best = log_probs.max(dim=-1)
        ids, values = best.indices.split(fired.counts), best.values.split(fired.counts)
        return map(partial(self._words, fired.step_ms), segments, fired.weights, ids, values)

    def _words(
        self,
        step_ms: float,
        samples: Pcm,
        weights: npt.NDArray[np.float64],
        ids: Tensor,
        log_probs: Tensor,
    ) -> tuple[Word, ...]:
        """What one segment's tokens, the likeliest ones, amount to."""
        likeliest: list[tuple[int, float]] = list(zip(ids.tolist(), log_probs.tolist(), strict=True))
        spoken = [(token, log_prob) for token, log_prob in likeliest if token not in self._unspoken]
        total_ms = 1000 * len(samples) / SAMPLE_RATE
        spans = self._times.spans(weights, len(spoken), step_ms, total_ms)
        return join_tokens(
            Word(self._tokens[token], begin, end, log_prob)
            for (token, log_prob), (begin, end) in zip(spoken, spans, strict=True)
        )


def _decoding(files: ModelFiles, size: int, at: Placement) -> TokenDecoding:
    model = files.config["model"]
    if model == "ContextualParaformer":
        return ContextualDecoding(files, size, at)
    if model == "SeacoParaformer" and files.config.get("seaco_decoder"):
        return SeacoDecoding(files, size, at)
    return PlainDecoding(files, size, at)


def _check_kind(files: ModelFiles) -> None:
    config, model = files.directory / "config.yaml", files.config["model"]
    if model not in _DECODERS:
        problem = f"model: {model} is not one of {', '.join(_DECODERS)}"
        raise ModelFilesError(config, problem, "point this engine at a Paraformer's directory")
    expected = {"encoder": "SANMEncoder", "decoder": _DECODERS[model], "frontend": "WavFrontend"}
    if files.config.get("seaco_decoder"):
        expected["seaco_decoder"] = "ParaformerSANMDecoder"
    for key, value in expected.items():
        if files.config.get(key) != value:
            problem = f"{key}: {files.config.get(key)} is not supported, only {value}"
            raise ModelFilesError(config, problem, "use a Paraformer with a SAN-M encoder and decoder")
    if not files.tokens:
        raise ModelFilesError(config, "names no tokenizer", "use the model's own config.yaml")

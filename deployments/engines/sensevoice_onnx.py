"""SenseVoiceSmall in ONNX Runtime, over the graph that FunASR exports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deployments.engines.base import NO_HINTS, Hints, Pcm, Recognition
from deployments.engines.features import Frontend
from deployments.engines.model_files import COPY_AGAIN, SAME_MODEL, ModelFilesError
from deployments.engines.model_frontend import frontend_of
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.sensevoice_files import check_kind, read_vocabulary
from deployments.engines.sensevoice_text import QUERIES, heard_tokens, query_numbers, recognition_of

INPUTS = ("speech", "speech_lengths", "language", "textnorm")
OUTPUTS = ("ctc_logits", "encoder_out_lens")


class SenseVoiceOnnxEngine:
    """An :class:`AsrEngine` for a directory with ``model_quant.onnx`` or ``model.onnx``.

    Segments go through the graph one by one: an int8 graph scales what is in a call by the largest value in
    it, so the result of a segment would depend on its neighbors.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """Load a model directory in ModelScope's layout.

        Raises:
            ModelFilesError: the directory is incomplete, its files do not fit each other, or it holds
                another kind of model.
            ValueError: ``threads`` is less than one.
        """
        files = read_onnx_directory(model_dir, needs_cmvn=True)
        check_kind(files.directory / "config.yaml", files.config)
        graph = onnx_file(files.directory)
        if graph is None:
            problem = "the file with the ONNX graph is missing"
            raise ModelFilesError(files.directory / "model_quant.onnx", problem, COPY_AGAIN)
        self._frontend = frontend_of(files, Frontend)
        self._vocabulary = read_vocabulary(files.directory)
        self._session = OnnxSession(graph, threads=threads, device=device)
        self._session.require(INPUTS, OUTPUTS)
        width = self._session.inputs["speech"][-1]
        if width not in (None, self._frontend.size):
            problem = f"takes {width} features, config.yaml asks for {self._frontend.size}"
            raise ModelFilesError(graph, problem, SAME_MODEL)

    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        """What was said in each segment; see :class:`AsrEngine`. Of the hints, hotwords are of no use."""
        given = [NO_HINTS] * len(segments) if hints is None else hints
        return [self._recognize(samples, hint) for samples, hint in zip(segments, given, strict=True)]

    def _recognize(self, samples: Pcm, hints: Hints) -> Recognition:
        features = self._frontend(samples).numpy()
        frames = len(features)
        if frames == 0:
            return Recognition()
        language, spelling = query_numbers(hints)
        feeds = {
            "speech": features[None],
            "speech_lengths": np.array([frames]),
            "language": np.array([language]),
            "textnorm": np.array([spelling]),
        }
        scores = self._session.run(feeds, OUTPUTS)[0][0, : frames + QUERIES].astype(np.float32)
        if scores.shape[1] != len(self._vocabulary):
            problem = f"tells of {scores.shape[1]} tokens, the vocabulary of {len(self._vocabulary)}"
            raise ModelFilesError(self._session.path, problem, SAME_MODEL)
        ids = scores.argmax(-1)
        highest = scores.max(-1, keepdims=True)
        log_probs = -np.log(np.exp(scores - highest).sum(-1))
        heard = heard_tokens(ids.tolist(), log_probs.tolist())
        return recognition_of(heard, self._vocabulary, frames, self._frontend.frame_ms, hints)

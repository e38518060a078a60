"""Paraformer in ONNX Runtime, over the graphs that FunASR exports: whole segments in, words out."""

import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deployments.engines.base import SAMPLE_RATE, AsrEngine, EngineOptions, Hints, Pcm, Recognition, Word
from deployments.engines.cif import PeakTimes
from deployments.engines.features import Frontend
from deployments.engines.model_files import COPY_AGAIN, SAME_MODEL, ModelFilesError
from deployments.engines.model_frontend import frontend_of
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.words import join_tokens

INPUTS = ("speech", "speech_lengths")
OUTPUTS = ("logits", "token_num")
_WEIGHTS = ("us_alphas", "alphas")
"""Outputs that times are read from, best first: the weights of steps, one or several for each frame."""

Floats = npt.NDArray[np.float32]
_NO_TOKENS = "Invalid input shape: {0}"
"""How FunASR's own graphs fail where nobody spoke: a convolution of their decoder gets no token at all."""
logger = logging.getLogger(__name__)


def load(directory: Path, options: EngineOptions) -> AsrEngine:
    """As :class:`ParaformerOnnxEngine`."""
    return ParaformerOnnxEngine(directory, threads=options.threads, device=options.device)


class ParaformerOnnxEngine:
    """An :class:`AsrEngine` for a directory with ``model_quant.onnx`` or ``model.onnx``.

    That is an export of a ``Paraformer`` or a ``BiCifParaformer``. Graphs without ``alphas`` or ``us_alphas``
    (FunASR's own export of a plain ``Paraformer``) tell no times: words are then spread evenly over their
    segment.

    Each segment goes through the graph alone: an int8 graph scales all that is in a call by the largest value
    in it, so a segment's result would depend on its neighbors, and on a processor a batch is hardly faster.
    Several segments go through at the same time, one on each thread.
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
        graph = onnx_file(files.directory)
        if graph is None:
            problem = "the file with the ONNX graph is missing"
            raise ModelFilesError(files.directory / "model_quant.onnx", problem, COPY_AGAIN)
        self._session = OnnxSession(graph, threads=threads, device=device)
        self._session.require(INPUTS, OUTPUTS)
        self._frontend = frontend_of(files, Frontend)
        self._tokens = files.tokens
        if extra := self._session.inputs.keys() - set(INPUTS):
            problem = (
                f"takes {', '.join(sorted(extra))}: a model for hotwords, which need PyTorch's parameters"
            )
            raise ModelFilesError(graph, problem, "`asr-serve models pull` the PyTorch model")
        self._weights = next((name for name in _WEIGHTS if name in self._session.outputs), None)
        if self._weights is None:
            logger.warning(
                "%s tells no times: words are spread evenly over their segment. "
                "`asr-serve models export` makes a graph that does.",
                graph,
            )
        conf = files.section("model_conf")
        self._unspoken = {int(conf.get(name, at)) for at, name in enumerate(("blank_id", "sos", "eos"))}
        self._times = PeakTimes()
        self._threads = threads
        # OpenMP keeps the number for each calling thread; here it counts for the features alone.
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        """The words of each segment; see :class:`AsrEngine`. It has no use for hints."""
        if len(segments) < 2:
            torch.set_num_threads(self._threads)
            return [self._recognize(samples) for samples in segments]
        # The longest first, so that no thread is left alone with it at the end.
        order = sorted(range(len(segments)), key=lambda index: -len(segments[index]))
        found = {index: self._pool.submit(self._recognize, segments[index]) for index in order}
        return [found[index].result() for index in range(len(segments))]

    def _recognize(self, samples: Pcm) -> Recognition:
        features = self._frontend(samples).numpy()
        if not len(features):
            return Recognition()
        feeds = {"speech": features[None], "speech_lengths": np.array([len(features)])}
        outputs = OUTPUTS if self._weights is None else (*OUTPUTS, self._weights)
        try:
            logits, counts, *weights = self._session.run(feeds, outputs)
        except Exception as error:  # ONNX Runtime's errors have no base class but Exception
            if _NO_TOKENS not in str(error):
                raise
            return Recognition()
        scores = logits[0, : int(counts[0])]
        if scores.shape[1] != len(self._tokens):
            problem = f"tells of {scores.shape[1]} tokens, the vocabulary of {len(self._tokens)}"
            raise ModelFilesError(self._session.path, problem, SAME_MODEL)
        spoken = [pair for pair in _likeliest(scores) if pair[0] not in self._unspoken]
        total_ms = 1000 * len(samples) / SAMPLE_RATE
        spans = self._spans(len(spoken), total_ms, len(features), *weights)
        words = join_tokens(
            Word(self._tokens[token], begin, end, log_prob)
            for (token, log_prob), (begin, end) in zip(spoken, spans, strict=True)
        )
        return Recognition(words)

    def _spans(
        self, tokens: int, total_ms: float, frames: int, weights: Floats | None = None
    ) -> list[tuple[int, int]]:
        """Begin and end of each token, in milliseconds."""
        if weights is None:
            edges = np.linspace(0, total_ms, tokens + 1).astype(int).tolist()
            return list(itertools.pairwise(edges))
        steps = weights[0].astype(np.float64)
        return self._times.spans(steps, tokens, self._frontend.frame_ms / (len(steps) // frames), total_ms)


def _likeliest(scores: Floats) -> list[tuple[int, float]]:
    """The best token of each row and its log-probability; older graphs give scores that are none yet."""
    if not len(scores):
        return []
    best = scores.max(-1, keepdims=True)
    log_probs = -np.log(np.exp(scores - best).sum(-1))
    return list(zip(scores.argmax(-1).tolist(), log_probs.tolist(), strict=True))

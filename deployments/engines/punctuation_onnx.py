"""Punctuation by FunASR's CT-Transformer in ONNX Runtime: the marks of many texts of any length, batched."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deployments.engines.model_files import SAME_MODEL, ModelFilesError
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.punctuation_marker import CtPunctuator

_TOKENS, _LENGTHS, _SCORES = "inputs", "text_lengths", "logits"

_MOST_PADDING = 1.15
"""What is computed, by what there is to compute."""

Ids = npt.NDArray[np.int32]


class CtPunctuationOnnxEngine(CtPunctuator):
    """A :class:`~deployments.engines.base.PunctuationEngine` over a directory of FunASR's ``-onnx`` kind.

    That is ``model_quant.onnx`` or ``model.onnx`` (see :func:`~deployments.engines.onnx_session.onnx_file`),
    ``config.yaml`` and ``tokens.json``, or the ``punc.yaml`` of older ones.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """``threads``: how many compute one call.

        Raises:
            ModelFilesError: the directory does not hold such a model.
        """
        files = read_onnx_directory(model_dir, needs_tokens=True)
        path = onnx_file(files.directory)
        if path is None:
            raise ModelFilesError(files.directory, "holds no model.onnx or model_quant.onnx", SAME_MODEL)
        # A replica has a model for whole texts and one for live ones.
        session = OnnxSession(path, threads=threads, device=device, part=0.5)
        session.require([_TOKENS, _LENGTHS], [_SCORES])
        if len(session.inputs) != 2:
            problem = f"takes {', '.join(session.inputs)}: it is not a model for whole texts"
            raise ModelFilesError(session.path, problem, SAME_MODEL)
        super().__init__(files, _Network(session))


class _Network:
    """Windows of about one length go through the graph together; it hides the padding."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self._batched = session.inputs[_TOKENS][0] is None

    def predict(self, windows: Sequence[Sequence[int]]) -> list[list[int]]:
        """See :class:`~deployments.engines.punctuation_marker.MarkNetwork`."""
        found: list[list[int]] = [[] for _ in windows]
        for batch in batches([len(window) for window in windows], several=self._batched):
            ids, lengths = padded([windows[index] for index in batch])
            (scores,) = self._session.run({_TOKENS: ids, _LENGTHS: lengths}, [_SCORES])
            for index, row in zip(batch, scores.argmax(axis=2), strict=True):
                found[index] = row[: len(windows[index])].tolist()
        return found


def batches(lengths: Sequence[int], *, several: bool) -> list[list[int]]:
    """Which windows go through a graph together, by their indices: those of about one length, if it takes
    ``several``. Otherwise, of texts of all lengths, a third of all that is computed would be padding.
    """
    found: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length, count = lengths[index], len(found[-1]) if found else 0
        if several and count and (count + 1) * length <= _MOST_PADDING * (tokens + length):
            found[-1].append(index)
        else:
            found.append([index])
            tokens = 0
        tokens += length
    return found


def padded(windows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Token numbers of shape ``(windows, longest)``, 0 behind the end of a window, and the lengths."""
    lengths = np.array([len(window) for window in windows], np.int32)
    ids = np.zeros((len(windows), lengths.max()), np.int32)
    for row, window in zip(ids, windows, strict=True):
        row[: len(window)] = window
    return ids, lengths

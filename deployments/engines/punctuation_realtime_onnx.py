"""Punctuation of live text by FunASR's streaming CT-Transformer in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deployments.engines.model_files import SAME_MODEL, ModelFilesError
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.punctuation_live_marker import CtRealtimePunctuator
from deployments.engines.punctuation_onnx import Ids, batches, padded

_TOKENS, _LENGTHS, _AROUND, _PAST, _SCORES = "inputs", "text_lengths", "vad_masks", "sub_masks", "logits"

Mask = npt.NDArray[np.float32]


class CtRealtimePunctuationOnnxEngine(CtRealtimePunctuator):
    """A :class:`~deployments.engines.base.RealtimePunctuationEngine` over a ``-onnx`` directory of FunASR's.

    The files are those of :class:`~deployments.engines.punctuation_onnx.CtPunctuationOnnxEngine`. The marks
    are those of the PyTorch engine, and of FunASR in PyTorch: FunASR's own runtime for ONNX shows the first
    layers what follows a word, which the model was not trained for.
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
        session.require([_TOKENS, _LENGTHS, _AROUND, _PAST], [_SCORES])
        super().__init__(files, _Network(session))


class _Network:
    """Windows of about one length go through the graph together; the masks hide the padding."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self._batched = session.inputs[_TOKENS][0] is None

    def predict(self, windows: Sequence[Sequence[int]], begins: Sequence[int]) -> list[list[int]]:
        """See :class:`~deployments.engines.punctuation_live_marker.LiveMarkNetwork`."""
        found: list[list[int]] = [[] for _ in windows]
        for batch in batches([len(window) for window in windows], several=self._batched):
            ids, lengths = padded([windows[index] for index in batch])
            around = _around(lengths, [begins[index] for index in batch])
            feeds = {_TOKENS: ids, _LENGTHS: lengths, _AROUND: around, _PAST: np.tril(np.ones_like(around))}
            (scores,) = self._session.run(feeds, [_SCORES])
            for index, row in zip(batch, scores.argmax(axis=2), strict=True):
                found[index] = row[: len(windows[index])].tolist()
        return found


def _around(lengths: Ids, begins: Sequence[int]) -> Mask:
    """``(windows, 1, longest, longest)``: 1 where a token, in a row, sees another one.

    All of a window see each other, but that those well before the newest block do not see that.
    """
    longest = lengths.max()
    masks = np.zeros((len(lengths), 1, longest, longest), np.float32)
    for (mask,), length, begin in zip(masks, lengths, begins, strict=True):
        mask[:, :length] = 1
        if 0 < begin < length:
            mask[: begin - 1, begin:] = 0
    return masks

"""Voice-activity detection by FunASR's FSMN-VAD in ONNX Runtime, block by block.

Two kinds of graphs are around. FunASR exports one that takes and returns the inputs of its memory filters
(``in_cache0`` ..., ``out_cache0`` ...), so that a recording can go on where it stopped. Others made one for
whole recordings, without these; since the network is causal, and hears nothing older than its filters reach
together, it gives the same for a part of a recording if the frames before that part, as many as they reach,
go through it once more.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.onnx_directory import read_onnx_directory
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.vad_detector import FsmnDetector, Posteriors, SilenceNetwork, Stretch
from deployments.engines.vad_recording import Floats

_SPEECH, _SCORES = "speech", "logits"


class FsmnVadOnnxEngine(FsmnDetector):
    """A :class:`~deployments.engines.base.VadEngine` over a directory of FunASR's ``-onnx`` kind.

    That is ``model_quant.onnx`` or ``model.onnx`` (see :func:`~deployments.engines.onnx_session.onnx_file`),
    ``config.yaml`` and ``am.mvn``. The spans are those of
    :class:`~deployments.engines.vad_fsmn.FsmnVadEngine` over the same weights, and a state that one of them
    wrote the other can read, if the graph has caches.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """``threads``: how many compute one call.

        Raises:
            ModelFilesError: the directory does not hold such a model.
        """
        torch.set_num_threads(threads)
        files = read_onnx_directory(model_dir, needs_cmvn=True)
        path = onnx_file(files.directory)
        if path is None:
            raise ModelFilesError(files.directory, "holds no model.onnx or model_quant.onnx", SAME_MODEL)
        session = OnnxSession(path, threads=threads, device=device)
        session.require([_SPEECH], [_SCORES])
        cached = any(name != _SPEECH for name in session.inputs)
        network: SilenceNetwork = _Cached(session, files) if cached else _Whole(session, files)
        super().__init__(files, network, threads=threads)


class _Network:
    """What both kinds of graphs have in common."""

    def __init__(self, session: OnnxSession, files: ModelFiles) -> None:
        self._session = session
        shape = session.inputs[_SPEECH]
        size = 0 if files.cmvn is None else files.cmvn.shape[1]
        fits = len(shape) == 3 and shape[0] in (None, 1) and shape[1] is None and shape[2] in (None, size)
        if files.cmvn is None or not fits:
            problem = f"{_SPEECH} has the shape {shape}, am.mvn {size} values"
            raise ModelFilesError(session.path, problem, SAME_MODEL)
        self._shift, self._scale = files.cmvn[0][:, None], files.cmvn[1][:, None]
        self._batched = shape[0] is None
        conf = files.section("model_conf")
        self._silence = [int(output) for output in conf.get("sil_pdf_ids", [0])]
        encoder = files.section("encoder_conf")
        self._history = (int(encoder.get("lorder", 20)) - 1) * int(encoder.get("lstride", 1))
        self._layers = int(encoder.get("fsmn_layers", 4))

    def _normalized(self, stretch: Stretch) -> Floats:
        features: Floats = (stretch.features + self._shift) * self._scale
        return features

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of what goes through the graph together: stretches of one length, if it takes several."""
        if not self._batched:
            return [[index] for index in range(len(lengths))]
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(lengths):
            by_length[length].append(index)
        return list(by_length.values())

    def _silent(self, scores: Floats) -> Posteriors:
        """``(frames, outputs)`` to ``(frames,)``."""
        silence: Posteriors = scores[:, self._silence].astype(np.float64).sum(axis=1)
        return silence


class _Cached(_Network):
    """A graph with caches: the memory is theirs, ``(layers, projection, history)``."""

    def __init__(self, session: OnnxSession, files: ModelFiles) -> None:
        super().__init__(session, files)
        self._inputs = [f"in_cache{index}" for index in range(len(session.inputs) - 1)]
        self._outputs = [_SCORES, *(f"out_cache{index}" for index in range(len(self._inputs)))]
        session.require(self._inputs, self._outputs)
        shape = session.inputs[self._inputs[0]]
        if len(shape) != 4 or shape[1] is None:
            raise ModelFilesError(session.path, f"{self._inputs[0]} has the shape {shape}", SAME_MODEL)
        self.memory_shape = (len(self._inputs), shape[1], shape[2] or self._history)

    def score(self, stretches: Sequence[Stretch]) -> list[tuple[Posteriors, Floats]]:
        """See :class:`~deployments.engines.vad_detector.SilenceNetwork`."""
        found: dict[int, tuple[Posteriors, Floats]] = {}
        for batch in self._batches([stretch.features.shape[1] for stretch in stretches]):
            speech = np.stack([self._normalized(stretches[index]).T for index in batch])
            memory = np.stack([stretches[index].memory for index in batch])[..., None]
            caches = {name: memory[:, layer] for layer, name in enumerate(self._inputs)}
            scores, *kept = self._session.run({_SPEECH: speech, **caches}, self._outputs)
            memories = np.stack([cache[..., 0] for cache in kept], axis=1)
            for row, index in enumerate(batch):
                found[index] = self._silent(scores[row]), memories[row]
        return [found[index] for index in range(len(stretches))]


class _Whole(_Network):
    """A graph without caches: the memory is the frames that its filters reach, ``(1, features, frames)``.

    120 kB of state for a model of the usual size, three times that of a graph with caches.
    """

    def __init__(self, session: OnnxSession, files: ModelFiles) -> None:
        super().__init__(session, files)
        self._reach = self._layers * self._history
        self.memory_shape = (1, len(self._shift), self._reach)

    def score(self, stretches: Sequence[Stretch]) -> list[tuple[Posteriors, Floats]]:
        """See :class:`~deployments.engines.vad_detector.SilenceNetwork`."""
        joined: list[Floats] = []
        # Nothing stands in for frames before the begin: there the graph fills in its own zeros.
        before = [min(stretch.seen, self._reach) for stretch in stretches]
        for stretch, count in zip(stretches, before, strict=True):
            past = stretch.memory[0][:, self._reach - count :]
            joined.append(np.concatenate([past, self._normalized(stretch)], axis=1))
        found: dict[int, tuple[Posteriors, Floats]] = {}
        for batch in self._batches([features.shape[1] for features in joined]):
            speech = np.stack([joined[index].T for index in batch])
            (scores,) = self._session.run({_SPEECH: speech}, [_SCORES])
            for row, index in enumerate(batch):
                found[index] = self._silent(scores[row][before[index] :]), self._last(joined[index])
        return [found[index] for index in range(len(stretches))]

    def _last(self, features: Floats) -> Floats:
        """The newest frames, behind zeros where there are too few."""
        memory = np.zeros(self.memory_shape, np.float32)
        newest = features[:, -self._reach :]
        memory[0, :, self._reach - newest.shape[1] :] = newest
        return memory

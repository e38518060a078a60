"""Punctuation by FunASR's CT-Transformer in PyTorch: the marks of many texts of any length, batched."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import torch

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_model_files
from deployments.engines.punctuation_marker import CtPunctuator
from deployments.engines.sanm import Linear, Placement, Rows, SanmEncoder


class CtPunctuationEngine(CtPunctuator):
    """A :class:`~deployments.engines.base.PunctuationEngine` over the directory of a ``CTTransformer``."""

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """``threads`` is how many torch uses in this process from now on.

        Raises:
            ModelFilesError: the directory does not hold such a model.
        """
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        if files.config["model"] != "CTTransformer" or "<unk>" not in files.tokens:
            problem = "is not a CTTransformer with <unk> in its vocabulary"
            raise ModelFilesError(files.directory, problem, SAME_MODEL)
        super().__init__(files, _Network(files, torch.device(device), threads))


class _Network:
    """All windows of a call below each other, without any padding."""

    def __init__(self, files: ModelFiles, device: torch.device, threads: int) -> None:
        self._device, self._threads = device, threads
        model, encoder, source = files.section("model_conf"), files.section("encoder_conf"), files.parameters
        width, at = int(model.get("embed_unit", 128)), Placement(torch.float32, device)
        self._embedding = source.take("embed.weight", len(files.tokens), width).to(device)
        self._encoder = SanmEncoder(source, "encoder.", width, encoder, at)
        self._decoder = Linear.load(source, "decoder", (len(model["punc_list"]), self._encoder.size), at)

    @torch.inference_mode()
    def predict(self, windows: Sequence[Sequence[int]]) -> list[list[int]]:
        """See :class:`~deployments.engines.punctuation_marker.MarkNetwork`."""
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        lengths = [len(window) for window in windows]
        ids = torch.tensor(list(chain.from_iterable(windows)), device=self._device)
        encoded = self._encoder(self._embedding[ids], Rows(lengths, self._device))
        best: list[int] = self._decoder(encoded).argmax(dim=1).tolist()
        marks = iter(best)
        return [list(islice(marks, length)) for length in lengths]

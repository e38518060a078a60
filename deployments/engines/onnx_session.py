"""One graph in ONNX Runtime: how its session is set up, and what is wrong with a file that is none.

ONNX Runtime itself is loaded with the first session, not with this module.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.engines.gpu_limit import memory_limit
from deployments.engines.model_errors import COPY_AGAIN, SAME_MODEL, ModelFilesError
from deployments.engines.onnx_files import has_torch, onnx_file

__all__ = ["OnnxSession", "has_torch", "onnx_file"]

Array = npt.NDArray[Any]

_ERRORS_ONLY = 3
_ELEMENTS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxSession:
    """A graph that is ready to run; may be called from several threads at once.

    Attributes:
        path: the file.
        device: ``cpu`` or ``cuda``: where it runs.
        inputs: name and shape of each input; an axis of any length is ``None``.
        outputs: the names of the outputs, in the graph's order.
    """

    def __init__(self, path: Path, *, threads: int, device: str = "cpu", part: float = 1.0) -> None:
        """Load ``path`` (a file of weights beside it, as large models have, is found by its own name).

        ``threads`` is how many compute one call. ``device``: ``cuda`` takes the GPU if this build of ONNX
        Runtime can, and the CPU if not. ``part``: which part of the GPU's memory that this process may take
        (see :mod:`deployments.engines.gpu_limit`) is this graph's.

        Raises:
            ModelFilesError: the file is missing or is not a graph that ONNX Runtime can run.
            ValueError: ``threads`` is less than one.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        import onnxruntime

        if not path.is_file():
            raise ModelFilesError(path, "the file with the ONNX graph is missing", COPY_AGAIN)
        self.path = path
        on_gpu = (
            device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        )
        self.device = "cuda" if on_gpu else "cpu"
        providers = [_on_gpu(part)] * on_gpu + ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(path), _options(threads), providers=providers)
        except Exception as error:  # its errors have no base class but Exception
            problem = f"cannot be read as an ONNX graph ({_first_line(error)})"
            raise ModelFilesError(path, problem, COPY_AGAIN) from error
        self.inputs = {value.name: _shape(value.shape) for value in self._session.get_inputs()}
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self._elements = {value.name: _ELEMENTS.get(value.type) for value in self._session.get_inputs()}

    def require(self, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
        """Refuse a graph of another kind of model.

        Raises:
            ModelFilesError: it lacks an input or an output of these names.
        """
        for kind, wanted, there in (("input", inputs, tuple(self.inputs)), ("output", outputs, self.outputs)):
            if missing := [name for name in wanted if name not in there]:
                problem = f"lacks the {kind} {', '.join(missing)}; it has {', '.join(there) or 'none'}"
                raise ModelFilesError(self.path, problem, SAME_MODEL)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Compute the ``outputs`` (all of them, in the graph's order, if ``None``) from inputs by name.

        Inputs get the element type that the graph declares for them.

        Raises:
            ValueError: an input is missing, unknown, or of a shape that the graph does not take.
        """
        if feeds.keys() != self.inputs.keys():
            raise ValueError(f"{self.path.name} takes {', '.join(self.inputs)}, not {', '.join(feeds)}")
        typed = {name: np.asarray(value, self._elements[name]) for name, value in feeds.items()}
        for name, value in typed.items():
            _check_shape(f"{self.path.name}: {name}", self.inputs[name], value.shape)
        found: list[Array] = self._session.run(None if outputs is None else list(outputs), typed)
        return found


def _on_gpu(part: float) -> str | tuple[str, dict[str, Any]]:
    limit = memory_limit()
    if limit is None:
        return "CUDAExecutionProvider"
    # Its arena else grows in powers of two, past what is needed and then past the limit.
    options = {"gpu_mem_limit": int(part * limit), "arena_extend_strategy": "kSameAsRequested"}
    return "CUDAExecutionProvider", options


def _options(threads: int) -> Any:
    """The options of a session whose inputs change their shape with every call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin while they wait would take the cores of other replicas.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It keeps a plan for every shape that was ever seen, and no two batches of speech are of one shape: so
    # memory would grow without end. The arena stops at what the largest batch takes, and saves a fifth of the
    # time.
    options.enable_mem_pattern = False
    options.log_severity_level = _ERRORS_ONLY
    return options


def _shape(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _check_shape(what: str, declared: tuple[int | None, ...], given: tuple[int, ...]) -> None:
    fits = len(declared) == len(given) and all(
        size is None or size == actual for size, actual in zip(declared, given, strict=False)
    )
    if declared and not fits:
        raise ValueError(f"{what} has the shape {given}; the graph takes {declared}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]

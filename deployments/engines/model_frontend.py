"""The frontend that a model directory asks for."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


AnyFrontend = TypeVar("AnyFrontend", bound=_Sized)


def frontend_of(
    files: ModelFiles, kind: Callable[[dict[str, Any], npt.NDArray[np.float32] | None], AnyFrontend]
) -> AnyFrontend:
    """What makes features as ``frontend_conf`` of a model directory says.

    Raises:
        ModelFilesError: it asks for what ``kind`` cannot do, or ``am.mvn`` has another number of features.
    """
    try:
        frontend = kind(files.section("frontend_conf"), files.cmvn)
    except ValueError as error:
        raise ModelFilesError(files.directory / "config.yaml", str(error), SAME_MODEL) from error
    if files.cmvn is not None and files.cmvn.shape[1] != frontend.size:
        problem = f"has {files.cmvn.shape[1]} values, the frontend {frontend.size} features"
        raise ModelFilesError(files.directory / "am.mvn", problem, SAME_MODEL)
    return frontend

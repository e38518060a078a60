"""What the GPUs are that a process may use, found out without loading CUDA into it."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger("ray.serve")

_MIB = 2**20
_SECONDS = 20
_AMPERE = 8.0
_DEVICE_NODE = Path("/dev/nvidiactl")

_BY_TORCH = """
import torch
for at in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(at).total_memory // 2**20)
"""


def visible_gpus() -> list[int]:
    """Bytes of memory of each NVIDIA GPU that this process may use.

    ``CUDA_VISIBLE_DEVICES`` counts as it does for CUDA: an empty one, or -1, hides all.
    """
    chosen = _chosen()
    if chosen is not None and not chosen:
        return []
    return [int(size) * _MIB for size in _ask_driver("memory.total", chosen) or _ask_torch()]


def lacks_bf16() -> bool:
    """Whether one is known not to multiply bf16 in hardware: one older than Ampere, as T4 and V100."""
    chosen = _chosen()
    if chosen is not None and not chosen:
        return False
    return any(capability < _AMPERE for capability in _ask_driver("compute_cap", chosen))


def _chosen() -> list[str] | None:
    """Those that ``CUDA_VISIBLE_DEVICES`` names; ``None``: all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    named = [item.strip() for item in visible.split(",") if item.strip()]
    return [] if named and named[0] == "-1" else named


def _ask_driver(what: str, chosen: Sequence[str] | None) -> list[float]:
    """What ``nvidia-smi`` says; nothing where it is not installed or has no answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    which = [] if chosen is None else [f"--id={','.join(chosen)}"]
    return _numbers([command, f"--query-gpu={what}", "--format=csv,noheader,nounits", *which])


def _ask_torch() -> list[float]:
    """MiB, of PyTorch in a process of its own, since one that has begun with CUDA cannot leave it."""
    return _numbers([sys.executable, "-c", _BY_TORCH]) if _DEVICE_NODE.exists() else []


def _numbers(command: Sequence[str]) -> list[float]:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        return [float(line) for line in answer.split()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("%s does not tell what the GPUs are: %r", command[0], error)
        return []

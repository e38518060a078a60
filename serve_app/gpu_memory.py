"""How much memory the largest GPU of this machine has, found out without loading CUDA into this process."""

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
_DEVICE_NODE = Path("/dev/nvidiactl")

_BY_TORCH = """
import torch
for at in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(at).total_memory // 2**20)
"""


def largest_gpu() -> int | None:
    """Bytes of memory of the largest NVIDIA GPU that this process may use; ``None``: there is none.

    ``CUDA_VISIBLE_DEVICES`` counts as it does for CUDA: an empty one, or -1, hides all.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else [item.strip() for item in visible.split(",") if item.strip()]
    if chosen is not None and (not chosen or chosen[0] == "-1"):
        return None
    sizes = _ask_driver(chosen) or _ask_torch()
    return max(sizes) * _MIB if sizes else None


def _ask_driver(chosen: Sequence[str] | None) -> list[int]:
    """What ``nvidia-smi`` says, in MiB; nothing where it is not installed or has no answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    which = [] if chosen is None else [f"--id={','.join(chosen)}"]
    return _numbers([command, "--query-gpu=memory.total", "--format=csv,noheader,nounits", *which])


def _ask_torch() -> list[int]:
    """The same of PyTorch in a process of its own, since one that has begun with CUDA cannot leave it."""
    return _numbers([sys.executable, "-c", _BY_TORCH]) if _DEVICE_NODE.exists() else []


def _numbers(command: Sequence[str]) -> list[int]:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        return [int(line) for line in answer.split()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("%s does not tell how much memory the GPUs have: %r", command[0], error)
        return []

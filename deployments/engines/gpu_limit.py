"""Keeps a process to its share of a GPU's memory, which nobody else does: Ray only counts the shares."""

import logging

logger = logging.getLogger("ray.serve")

CONTEXT_BYTES = 2**29
"""What CUDA takes for each process that uses a GPU, outside of what PyTorch and ONNX Runtime can limit: its
context, and code. Estimated: 0.3 to 0.5 GB."""


def limit_memory(share: float) -> None:
    """PyTorch takes no more of the process's GPU from now on than ``share`` of it, less
    :data:`CONTEXT_BYTES`.

    What asks for more gets ``torch.OutOfMemoryError``, in place of a neighbor. Begins with CUDA in this
    process. A whole GPU, or none, is not limited.

    Raises:
        ValueError: the share leaves nothing; the message has the arithmetic.
    """
    if not 0 < share < 1:
        return
    import torch

    if not torch.cuda.is_available():
        logger.warning(
            "PyTorch sees no GPU here, so that its memory cannot be limited to a share of %g.", share
        )
        return
    total = torch.cuda.get_device_properties(0).total_memory
    rest = share * total - CONTEXT_BYTES
    if rest <= 0:
        raise ValueError(
            f"num_gpus of {share:g} is {share * total / 2**30:.2f} GB of this GPU, and CUDA alone takes "
            f"{CONTEXT_BYTES / 2**30:g} GB: give it {2 * CONTEXT_BYTES / total:.2f} or more."
        )
    torch.cuda.set_per_process_memory_fraction(rest / total, 0)


def memory_limit() -> int | None:
    """The bytes to which :func:`limit_memory` has limited this process; ``None``: to nothing less than the
    GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    fraction = torch.cuda.get_per_process_memory_fraction(0)
    return int(fraction * torch.cuda.get_device_properties(0).total_memory) if fraction < 1 else None

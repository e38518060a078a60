"""How much memory the GPUs of this machine have, found out without loading CUDA into this process."""

from deployments.visible_gpus import lacks_bf16, visible_gpus

__all__ = ["lacks_bf16", "largest_gpu", "smallest_gpu"]


def largest_gpu() -> int | None:
    """Bytes of memory of the largest NVIDIA GPU that this process may use; ``None``: there is none.

    ``CUDA_VISIBLE_DEVICES`` counts as it does for CUDA: an empty one, or -1, hides all.
    """
    return max(visible_gpus(), default=None)


def smallest_gpu() -> int | None:
    """The same of the smallest one: Ray takes all GPUs of a machine for alike."""
    return min(visible_gpus(), default=None)

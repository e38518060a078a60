"""A process-wide limit that must be set before PyTorch is imported, so it imports nothing of it."""

import os


def bound_kernel_caches(kernels: int = 32) -> None:
    """Keep PyTorch from holding compiled CPU kernels for every batch size that it ever met.

    oneDNN compiles a kernel for each shape and keeps 1024 of them by default, in two caches; as no two
    batches of speech are of one length, a replica grew by 6 MB a batch, without end. With 32 its memory
    stays flat at the same speed; a model of many small layers, each of which is a kernel, is faster with more
    ``kernels``. Must be called before PyTorch is imported; a value that the environment already holds is
    kept.
    """
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(kernels))

"""In what precision a model's matrix products run."""

from typing import get_args

import torch

from deployments.engines.base import Precision

__all__ = ["Precision", "has_fast_bf16", "resolve_precision"]

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2")


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products for a configured ``precision`` on ``device``.

    ``auto`` is bf16 where the processor multiplies bf16 in hardware: an x86 CPU with AVX512-BF16, AMX or
    AVX10.2, or a CUDA GPU from Ampere on. Elsewhere it is fp32, because emulated bf16 is slower than fp32.
    Normalizations, the residual stream, CIF and the vocabulary are fp32 in either case.

    Raises:
        ValueError: ``precision`` is not one of the three.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _BF16_INSTRUCTIONS)

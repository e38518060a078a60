"""How much memory of a GPU programs can have."""

GIB = 2**30

_PROGRAMS_GIB = {
    8: 7.6,
    12: 11.6,
    16: 14.5,
    24: 22.0,
    32: 31.3,
    40: 39.3,
    48: 44.3,
    80: 79.0,
    96: 94.5,
    141: 139.5,
}
"""By the size that a card is sold with, what the poorest card of that size gives a program: PyTorch's
"total capacity" in public reports of out-of-memory errors (T4 14.6, V100 15.8; A10 and L4 22.1, RTX
4090 23.6; RTX 5090 31.4; A100 39.4 and 79.2, H100 79.1; L40S 44.4). ECC and the driver keep the rest."""

_PROGRAMS_SHARE = 0.91
"""The same for a size that is not in the table: the least of those that are."""

_DRIVER_BYTES = GIB // 2
"""What ``nvidia-smi`` counts of a card that no program gets: 22.5 GiB of an A10 are 22.1 to a program."""


def sold_as(size: float) -> int:
    """Bytes that programs have of a card sold with ``size`` bytes, where no driver can be asked."""
    gib = size / GIB
    known = _PROGRAMS_GIB.get(round(gib)) if abs(gib - round(gib)) < 0.01 else None
    return int((gib * _PROGRAMS_SHARE if known is None else known) * GIB)


def told_by_driver(size: int) -> int:
    """Bytes that programs have of a card of which ``nvidia-smi`` tells ``size`` bytes."""
    return max(0, size - _DRIVER_BYTES)


def gib(size: float) -> str:
    """``size`` bytes in the unit in which everybody counts GPU memory and calls GB: 2^30 bytes."""
    return f"{size / GIB:.2f}".rstrip("0").rstrip(".") if size < 0.95 * GIB else f"{size / GIB:.1f}"

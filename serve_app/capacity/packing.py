"""On which GPU Ray puts a replica, and whether each finds one."""

import random
from collections.abc import Sequence

_ROUNDING = 1e-6
_ORDERS = 200


def place(shares: Sequence[float], gpus: int) -> list[list[int]] | None:
    """The replicas on each GPU, as indices of ``shares``, placed in the order in which they come.

    As Ray does (``NodeResourceInstanceSet::TryAllocate`` in its source): a share below 1 goes to the GPU
    that has the least left and still enough; whole GPUs are free ones. ``None``: some replica would wait
    for ever.
    """
    left, held = [1.0] * gpus, [list[int]() for _ in range(gpus)]
    for index, share in enumerate(shares):
        whole = max(1, round(share))
        each = share / whole
        fit = sorted(
            (at for at in range(gpus) if left[at] >= each - _ROUNDING), key=lambda at: (left[at], at)
        )
        if share >= 1:
            fit = [at for at in fit if left[at] >= 1 - _ROUNDING]
        if len(fit) < whole:
            return None
        for at in fit[:whole]:
            left[at] -= each
            held[at].append(index)
    return held


def fits(shares: Sequence[float], gpus: int) -> bool:
    """Whether there is room if the largest come first."""
    return place(sorted(shares, reverse=True), gpus) is not None


def fits_in_any_order(shares: Sequence[float], gpus: int) -> bool:
    """Whether there is room in whatever order replicas start, which Serve does not promise.

    Tries the largest first, the smallest first, and 200 others.
    """
    if gpus <= 1:
        return fits(shares, gpus)
    orders = [sorted(shares), sorted(shares, reverse=True)]
    dice = random.Random(0)
    orders += [dice.sample(list(shares), len(shares)) for _ in range(_ORDERS)]
    return all(place(order, gpus) is not None for order in orders)

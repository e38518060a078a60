"""Hotwords that are written whole or not at all: another way to read SeACo's scores than FunASR's.

FunASR decides about each token by itself. So a hotword of which one token is unsure is written in part, in
two spellings at once, and its other tokens stand in the text as what they only sounded like. Here the tokens
of a hotword are judged together: it is written where, all in all, they are likelier than ``NO_BIAS``.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.engines.hotword_tokens import TokenizedHotword, log_factors


def find_whole(
    scores: Tensor, no_bias: int, hotwords: Sequence[TokenizedHotword], bonus: float = 0.0
) -> list[tuple[int, TokenizedHotword]]:
    """Where which hotword was spoken, in no order.

    ``scores``: log-probabilities of one segment, fp32 ``(tokens, vocabulary)``, of which ``no_bias`` is the
    class that says that there is no hotword.

    The sum, over a hotword's tokens, of their log-probability less that of ``no_bias`` says how much likelier
    the hotword is than its absence; ln(weight / 20) is added, and ``bonus`` for each token after the first. A
    place where the sum is positive is a candidate. Of candidates that overlap, the one with the greatest sum
    is taken.

    A bonus above 0 makes up for the sum's taking tokens for independent: doubt whether there is a hotword at
    all is the same doubt at each of them, but counts each time.
    """
    by_length: dict[int, list[TokenizedHotword]] = defaultdict(list)
    for hotword in hotwords:
        by_length[len(hotword.ids)].append(hotword)
    gains = scores - scores[:, no_bias, None]
    candidates: list[tuple[float, int, TokenizedHotword]] = []
    for length, alike in by_length.items():
        places = len(scores) - length + 1
        if places < 1:
            continue
        ids = torch.tensor([hotword.ids for hotword in alike], device=scores.device)
        sums = (log_factors(alike, scores.device) + bonus * (length - 1)).expand(places, -1)
        for step in range(length):
            sums = sums + gains[step : step + places, ids[:, step]]
        for place, number in (sums > 0).nonzero().tolist():
            candidates.append((float(sums[place, number]), place, alike[number]))
    return _without_overlaps(candidates)


def write_whole(
    log_probs: Tensor,
    scores: Tensor,
    no_bias: int,
    hotwords: Sequence[TokenizedHotword],
    bonus: float = 0.0,
) -> Tensor:
    """``log_probs`` of the recognizer with the rows changed where :func:`find_whole` finds a hotword.

    Both they and ``scores`` are fp32 ``(tokens, vocabulary)``, of one segment. A changed row leaves one token
    possible.
    """
    result = log_probs.clone()
    for place, hotword in find_whole(scores, no_bias, hotwords, bonus):
        rows = torch.arange(place, place + len(hotword.ids), device=scores.device)
        ids = torch.tensor(hotword.ids, device=scores.device)
        result[rows] = -torch.inf
        result[rows, ids] = scores[rows, ids]
    return result


def _without_overlaps(
    candidates: list[tuple[float, int, TokenizedHotword]],
) -> list[tuple[int, TokenizedHotword]]:
    taken: set[int] = set()
    chosen = []
    for _, place, hotword in sorted(candidates, key=lambda candidate: -candidate[0]):
        span = set(range(place, place + len(hotword.ids)))
        if not span & taken:
            taken |= span
            chosen.append((place, hotword))
    return chosen

"""How far the words that one form of a recognizer found are from those of another form."""

from collections.abc import Sequence
from difflib import SequenceMatcher

from deployments.engines.onnx_export import Difference


def compare_words(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Difference:
    """Which share of the words is not the same; both have one entry for each recording."""
    words = same = 0
    for one, other in zip(expected, found, strict=True):
        words += max(len(one), len(other))
        blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
        same += sum(block.size for block in blocks)
    share = (words - same) / words if words else 0.0
    return Difference(share, f"{100 * share:.2f} % of {words} words")

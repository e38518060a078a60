"""What Qwen3-ASR's tokens say: the language, the text, and whether the model goes round in circles.

An answer is ``language Chinese<asr_text>text``, ``language None<asr_text>`` where nobody spoke, and only text
where the prompt named the language. Source: ``parse_asr_output`` of the qwen-asr package.
"""

import codecs
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from deployments.engines.generative import Hypothesis
from deployments.engines.qwen3_prompt import ASR_TEXT

END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""Either one ends an answer."""

_REPEATS = 20
"""So often in a row nobody says the same (the threshold of the qwen-asr package)."""

_PATTERN = 20
"""Characters or tokens of the longest pattern that is looked for."""

_LOOP = re.compile(rf"(.{{1,{_PATTERN}}}?)\1{{{_REPEATS - 1},}}", re.DOTALL)
_HEADER = re.compile(r"\s*language\s+(\S.*?)\s*", re.IGNORECASE | re.DOTALL)
_HEADER_BEGIN = "language "


class TokenReader:
    """Reads tokens of a byte-level BPE tokenizer, as Qwen's is, one by one.

    Decoding a list of tokens as a whole would not tell which characters are whose.
    """

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer``: of transformers, of any version."""
        self._names: Callable[[list[int]], list[str]] = tokenizer.convert_ids_to_tokens
        self._added = {int(token): str(name) for name, token in tokenizer.get_added_vocab().items()}
        self._bytes = {letter: byte for byte, letter in enumerate(_byte_letters())}
        self.end_tokens = frozenset(token for token, name in self._added.items() if name in END_TOKENS)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each token: a character belongs to the token that brings the last of its bytes.

        Control tokens have no text, but for ``<asr_text>``.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces = []
        for token in map(int, token_ids):
            if token in self._added:
                decoder.reset()
                pieces.append(ASR_TEXT if self._added[token] == ASR_TEXT else "")
                continue
            letters = self._names([token])[0] or ""
            known = bytes(self._bytes[letter] for letter in letters if letter in self._bytes)
            pieces.append(decoder.decode(known).replace("\ufffd", ""))
        return pieces

    def read(
        self, token_ids: Sequence[int], log_probs: Sequence[float], language: str | None, *, finished: bool
    ) -> Hypothesis:
        """A hypothesis of all tokens of an answer, without the end token; see :func:`read_output`."""
        return read_output(token_ids, log_probs, self.pieces(token_ids), language, finished=finished)


def read_output(
    token_ids: Sequence[int],
    log_probs: Sequence[float],
    pieces: Sequence[str],
    language: str | None,
    *,
    finished: bool,
) -> Hypothesis:
    """Tell language and text of an answer, which may still be growing.

    ``pieces`` is the text of each token, and ``language`` what the prompt named, if it did. Repetitions that
    only a loop explains are told once.
    """
    first, heard = (0, language) if language else _header(pieces, finished=finished)
    spoken = ["" if piece == ASR_TEXT else piece for piece in pieces[first:]]
    kept = _without_loops(_stripped(spoken))
    return Hypothesis(
        tuple(map(int, token_ids)), tuple(log_probs), "".join(kept), heard, finished, tuple(kept), first
    )


def is_looping(token_ids: Sequence[int]) -> bool:
    """Whether the last tokens are one pattern, of 20 tokens at most, 20 times in a row."""
    tokens = list(token_ids[-_PATTERN * _REPEATS :])
    for size in range(1, min(_PATTERN, len(tokens) // _REPEATS) + 1):
        tail = tokens[-size * _REPEATS :]
        if tail[size:] == tail[:-size]:
            return True
    return False


def without_loops(text: str) -> str:
    """The text with each pattern that stands 20 times or more in a row told once."""
    return _LOOP.sub(r"\1", text)


def _header(pieces: Sequence[str], *, finished: bool) -> tuple[int, str | None]:
    """Where the text begins, and the language before it; as many as there are pieces: not yet."""
    try:
        end = list(pieces).index(ASR_TEXT)
    except ValueError:
        raw = "".join(pieces).lstrip()
        unsure = raw.startswith(_HEADER_BEGIN) or (not finished and _HEADER_BEGIN.startswith(raw))
        return (len(pieces), None) if unsure and "\n" not in raw else (0, None)
    found = _HEADER.fullmatch("".join(pieces[:end]))
    name = found[1].splitlines()[0].strip().capitalize() if found else ""
    return end + 1, None if name in ("", "None") else name


def _stripped(pieces: Sequence[str]) -> list[str]:
    """Without white space before the first word and after the last."""
    stripped = list(pieces)
    for order, strip in ((range(len(stripped)), str.lstrip), (range(len(stripped))[::-1], str.rstrip)):
        for at in order:
            stripped[at] = strip(stripped[at])
            if stripped[at]:
                break
    return stripped


def _without_loops(pieces: list[str]) -> list[str]:
    """Take out of the pieces what :func:`without_loops` takes out of their text, and loops of tokens."""
    text = "".join(pieces)
    dropped = [(found.start() + len(found[1]), found.end()) for found in _LOOP.finditer(text)]
    if dropped:
        pieces = _cut(pieces, dropped)
    if is_looping([hash(piece.strip()) for piece in pieces if piece]):
        pieces = _unrolled(pieces)
    return pieces


def _cut(pieces: Sequence[str], dropped: Sequence[tuple[int, int]]) -> list[str]:
    ends = list(accumulate(map(len, pieces)))
    kept = []
    for piece, end in zip(pieces, ends, strict=True):
        begin = end - len(piece)
        kept.append(
            "".join(
                char
                for at, char in enumerate(piece, begin)
                if not any(first <= at < last for first, last in dropped)
            )
        )
    return kept


def _unrolled(pieces: list[str]) -> list[str]:
    """Without the loop of tokens at the end, but for its first round: its pattern may be longer than those of
    characters that are looked for."""
    spoken = [at for at, piece in enumerate(pieces) if piece]
    texts = [pieces[at].strip() for at in spoken]
    for size in range(1, _PATTERN + 1):
        if texts[-size * (_REPEATS - 1) :] == texts[-size * _REPEATS : -size]:
            break
    begin = len(texts) - size
    while begin > 0 and texts[begin - 1] == texts[begin - 1 + size]:
        begin -= 1
    emptied = set(spoken[begin + size :])
    return ["" if at in emptied else piece for at, piece in enumerate(pieces)]


def _byte_letters() -> str:
    """The letter by which byte-level BPE writes each byte: itself where it prints, else from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + index) for index in range(256))
    return "".join(chr(byte) if byte in printable else next(others) for byte in range(256))

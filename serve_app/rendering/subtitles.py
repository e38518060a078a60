"""SubRip and WebVTT.

Cues follow common subtitling practice: at most two lines of about 20 Chinese or 42 Latin characters, on
screen for at most seven seconds, cut where a reader would pause. Where speakers are told apart, each sentence
begins with its speaker's label in brackets. WebVTT: https://www.w3.org/TR/webvtt1/
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.pipeline.text import is_cjk, join_words
from serve_app.pipeline.types import Sentence, Speaker, TimedWord, Transcript

LINE_COLUMNS = 42
"""Widest line; a CJK character takes two columns."""

MAX_CUE_MS = 7_000
"""Longest time that a cue stays on screen, in milliseconds."""

MIN_CUE_MS = 800
"""A shorter cue stays on screen this long, in milliseconds, unless the next one begins sooner."""

LABEL_COLUMNS = 28
"""Widest label of a speaker, so that words have room beside it; a longer one is cut."""

_PAUSE_SEC = 0.3


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on screen from ``begin_ms`` to ``end_ms`` (milliseconds of the recording): one or two lines."""

    begin_ms: int
    end_ms: int
    lines: tuple[str, ...]


def srt(transcript: Transcript) -> str:
    """The transcript as SubRip; an empty string if nobody spoke."""
    blocks = (
        f"{number}\n{_clock(cue.begin_ms, ',')} --> {_clock(cue.end_ms, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """The transcript as WebVTT; only the header if nobody spoke."""
    blocks = (
        f"{_clock(cue.begin_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + "\n".join(_escape(line) for line in cue.lines)
        + "\n"
        for cue in cues(transcript)
    )
    return "\n".join(("WEBVTT\n", *blocks))


def cues(transcript: Transcript) -> list[Cue]:
    """Cues in order, at least one per sentence. None overlaps another, each lasts at least 1 ms."""
    found = [cue for sentence in transcript.sentences for cue in _sentence_cues(sentence)]
    for index in range(1, len(found)):
        begin = max(found[index].begin_ms, found[index - 1].begin_ms + 1)
        found[index] = replace(found[index], begin_ms=begin)
    limits = [cue.begin_ms for cue in found[1:]]
    if found:
        limits.append(max(round(transcript.duration * 1000), found[-1].begin_ms + 1))
    return [
        replace(cue, end_ms=min(max(cue.end_ms, cue.begin_ms + MIN_CUE_MS), cue.begin_ms + MAX_CUE_MS, limit))
        for cue, limit in zip(found, limits, strict=True)
    ]


def _sentence_cues(sentence: Sentence) -> list[Cue]:
    head = _head(sentence.speaker)
    cues_of_sentence = []
    for piece in _joined(_pieces(sentence.words, head), head):
        begin_ms, end_ms = round(piece[0].begin * 1000), round(piece[-1].end * 1000)
        lines = _lines(piece, head) or (head + _text(piece),)
        cues_of_sentence.append(Cue(begin_ms, end_ms, lines))
        head = ""
    return cues_of_sentence


def _head(speaker: Speaker | None) -> str:
    """What stands before the words of a sentence."""
    if speaker is None:
        return ""
    # A line break in a name, which a client may send, would end the cue.
    label = " ".join(speaker.label.split())
    if _columns(label) > LABEL_COLUMNS:
        while _columns(label) >= LABEL_COLUMNS:
            label = label[:-1]
        label = label.rstrip() + "…"
    return f"[{label}] "


def _pieces(words: Sequence[TimedWord], head: str) -> list[Sequence[TimedWord]]:
    """Halve the words at the best place until each piece, the first one after ``head``, fits into a cue."""
    if len(words) == 1 or _fits(words, head):
        return [words]
    cut = _best_cut(words)
    return _pieces(words[:cut], head) + _pieces(words[cut:], "")


def _joined(pieces: Sequence[Sequence[TimedWord]], head: str) -> list[Sequence[TimedWord]]:
    """Undo cuts between neighbors that fit into one cue together."""
    joined: list[Sequence[TimedWord]] = []
    for piece in pieces:
        if joined and _fits([*joined[-1], *piece], head if len(joined) == 1 else ""):
            joined[-1] = [*joined[-1], *piece]
        else:
            joined.append(piece)
    return joined


def _best_cut(words: Sequence[TimedWord]) -> int:
    """Index of the word before which to cut: after a mark, else at a pause, else in the middle."""
    middle = len(words) / 2
    central = [cut for cut in range(1, len(words)) if 0.2 * len(words) <= cut <= 0.8 * len(words)]
    central = central or list(range(1, len(words)))
    marked = [cut for cut in central if words[cut - 1].mark]
    if marked:
        return min(marked, key=lambda cut: abs(cut - middle))
    pauses = {cut: words[cut].begin - words[cut - 1].end for cut in central}
    longest = max(central, key=lambda cut: pauses[cut])
    return longest if pauses[longest] >= _PAUSE_SEC else min(central, key=lambda cut: abs(cut - middle))


def _fits(words: Sequence[TimedWord], head: str) -> bool:
    return (words[-1].end - words[0].begin) * 1000 <= MAX_CUE_MS and _lines(words, head) is not None


def _lines(words: Sequence[TimedWord], head: str) -> tuple[str, ...] | None:
    """Head and words on one line or on two of about the same width; ``None`` if they need more."""
    whole = head + _text(words)
    total = _columns(whole)
    if total <= LINE_COLUMNS:
        return (whole,)
    if total > 2 * LINE_COLUMNS + 1:  # a space at the line break takes no column
        return None
    best: tuple[float, tuple[str, str]] | None = None
    for cut in range(0 if head else 1, len(words)):
        first, second = (head + _text(words[:cut])).rstrip(), _text(words[cut:])
        widths = _columns(first), _columns(second)
        if max(widths) <= LINE_COLUMNS:
            marked = cut > 0 and words[cut - 1].mark
            cost = abs(widths[0] - widths[1]) - (LINE_COLUMNS / 3 if marked else 0)
            if best is None or cost < best[0]:
                best = cost, (first, second)
    return best[1] if best else None


def _text(words: Sequence[TimedWord]) -> str:
    return join_words((word.text, word.mark) for word in words)


def _columns(text: str) -> int:
    return sum(2 if is_cjk(char) else 1 for char in text)


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _escape(line: str) -> str:
    """WebVTT cue text takes ``&`` and ``<`` as markup, and ``-->`` may not occur in it."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

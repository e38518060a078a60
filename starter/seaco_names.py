"""Rare names and the sentences that hold them: what the hotword model learns from and is measured with.

A name is any string of two to five characters of the recognizer's vocabulary. It is spoken as one syllable
after the other, so every other spelling with the same syllables is as right: only a hotword tells which one
is meant. Names belong to the training or the test part by a hash of their syllables, so no test name was ever
heard in training, in any spelling.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from random import Random

from pypinyin import Style, lazy_pinyin

from starter.text import CHARACTERS, MARKS, Split, TextGenerator, split_of, to_pinyin_input

PLACE = "＃"
"""Where a name stands in a sentence that is not complete yet."""

_NAMED_SLOTS = ("person", "given", "city", "place", "venue", "project")
_UNSUITABLE = frozenset("了的地得着还都行长重乐只发为觉降间空好少中应便差种么们吗吧呢嗯子儿喂切折")
"""Particles, and characters with several common readings."""
_SHORT = (
    "我叫＃。 我是＃。 他叫＃。 请找＃。 ＃在吗？ ＃，你好。 ＃来了。 我见到了＃。 这是＃的电话。 "
    "请＃接电话。 我要找＃。 打电话给＃。 ＃和＃都来了。 我们去＃。 ＃怎么走？ ＃在哪里？ 听＃的歌。 "
    "＃公司的报告。 我在＃等你。 联系＃。"
)
_SHORT_SENTENCES = tuple(_SHORT.split())
_LENGTHS, _LENGTH_WEIGHTS = (2, 3, 4, 5), (25, 50, 18, 7)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence: its characters without marks, a syllable for each ("zhang1"), what espeak-ng is given, and
    begin and end (exclusive) of each name among the characters.
    """

    text: str
    syllables: tuple[str, ...]
    pinyin: str
    names: tuple[tuple[int, int], ...]


@cache
def reading(character: str) -> str:
    """The usual syllable of a character, with its tone: "li4"."""
    return str(lazy_pinyin(character, style=Style.TONE3, neutral_tone_with_five=True)[0])


@cache
def spellings() -> dict[str, tuple[str, ...]]:
    """Syllable -> the characters that names may spell it with."""
    found: dict[str, list[str]] = defaultdict(list)
    for character in CHARACTERS:
        if character not in _UNSUITABLE:
            found[reading(character)].append(character)
    return {syllable: tuple(characters) for syllable, characters in found.items()}


@cache
def ambiguous() -> frozenset[str]:
    """The characters of names that can be spelled with another one that sounds the same."""
    return frozenset(
        character for spelled in spellings().values() if len(spelled) > 1 for character in spelled
    )


def part_of_name(syllables: tuple[str, ...]) -> Split:
    """The part a name belongs to: 85 % train, 5 % dev, 10 % test, by a hash of its syllables."""
    digest = hashlib.blake2b(" ".join(syllables).encode(), digest_size=4).digest()
    bucket = int.from_bytes(digest, "big") % 100
    return "test" if bucket < 10 else "dev" if bucket < 15 else "train"


class NameGenerator(TextGenerator):
    """An endless, seeded stream of names of one part and of sentences of that part that hold them."""

    def __init__(self, seed: int, part: Split) -> None:
        super().__init__(seed)
        self._part = part
        self._names = Random(seed + 1)
        self._pool = tuple(character for spelled in spellings().values() for character in spelled)
        self._confusable = tuple(sorted(ambiguous()))

    def name(self) -> str:
        """A name of at least two characters with homophones; no character occurs in it twice."""
        while True:
            length = self._names.choices(_LENGTHS, _LENGTH_WEIGHTS)[0]
            characters = self._names.sample(self._confusable, min(2, length))
            characters += self._names.sample(self._pool, length - len(characters))
            self._names.shuffle(characters)
            usable = len(set(characters)) == length
            if usable and part_of_name(tuple(map(reading, characters))) == self._part:
                return "".join(characters)

    def with_names(self) -> Spoken:
        """A sentence with one name or more; its other words belong to the part as a text of its own."""
        while True:
            if self._part == "train" and self._names.random() < 0.25:
                skeleton = self._names.choice(_SHORT_SENTENCES)
            else:
                skeleton = self.sentence()
                if split_of(skeleton) != self._part:
                    continue
            if PLACE in skeleton:
                return fill(skeleton, [self.name() for _ in range(skeleton.count(PLACE))])

    def plain(self) -> Spoken:
        """A sentence of the part whose slots hold the usual words."""
        texts = TextGenerator(self._names.getrandbits(40))
        while True:
            sentence = texts.sentence()
            if split_of(sentence) == self._part:
                return fill(sentence, [])

    def _word(self, slot: str) -> str:
        return PLACE if slot in _NAMED_SLOTS else super()._word(slot)


def fill(skeleton: str, names: list[str]) -> Spoken:
    """Put `names` where PLACE stands, in this order."""
    pieces = skeleton.split(PLACE)
    text, pinyin, spans = "", "", []
    for piece, name in zip(pieces, [*names, ""], strict=True):
        pinyin += f" {to_pinyin_input(piece)}" if piece.strip(MARKS) else _marks(piece)
        text += "".join(character for character in piece if character not in MARKS)
        if name:
            spans.append((len(text), len(text) + len(name)))
            text += name
            pinyin += " " + " ".join(map(reading, name))
    syllables = tuple(word.rstrip(",.?") for word in pinyin.split())
    if len(syllables) != len(text):
        raise ValueError(f"{skeleton!r} has {len(text)} characters, but {len(syllables)} syllables")
    return Spoken(text, syllables, pinyin.strip(), tuple(spans))


def _marks(piece: str) -> str:
    spoken = {"，": ",", "、": ",", "。": ".", "？": "?"}
    return "".join(spoken.get(mark, "") for mark in piece)

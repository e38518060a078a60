"""Generated Chinese sentences and talks that the starter models are trained and measured on.

Everything here is deterministic: a seed fixes the sentences, and a hash of the sentence fixes whether it
belongs to the training, development or test part, whoever generates it.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from random import Random
from typing import Literal

from pypinyin import Style, lazy_pinyin

from starter.text_numbers import NUMBER_CHARACTERS, NUMBER_SLOTS
from starter.text_topics import TOPICS
from starter.text_words import INTERJECTIONS, SHORT_COMMANDS, WORDS

Split = Literal["train", "dev", "test"]

MARKS = "，。？、"
MAX_CHARACTERS = 30
"""Longest sentence, marks not counted."""

_SLOT = re.compile(r"\{(\w+)\}")
_DROP_MARKS = str.maketrans("", "", MARKS)
_SPOKEN_MARKS = {"，": ",", "、": ",", "。": ".", "？": "?"}
_READINGS = {
    "重启": "chong2 qi3",
    "重庆": "chong2 qing4",
    "多长": "duo1 chang2",
    "长吗": "chang2 ma5",
    "还欠": "hai2 qian4",
    "发短信": "fa1 duan3 xin4",
    "丽华": "li4 hua2",
}
"""Words that pypinyin reads wrongly next to some of the words that the grammar can put beside them."""
_SPOKEN_RUN = re.compile(f"[{MARKS}]|{'|'.join(_READINGS)}|(?:(?!{'|'.join(_READINGS)})[^{MARKS}])+")
_ENUMERABLE_WORDS = "fruit food drink goods animal subject city color hobby family device"
_ENUMERABLE = tuple(_ENUMERABLE_WORDS.split())


def strip_punctuation(text: str) -> str:
    """The characters that are spoken: `text` without ，。？、."""
    return text.translate(_DROP_MARKS)


def split_of(sentence: str) -> Split:
    """The part (90 % train, 4 % dev, 6 % test) that a sentence belongs to, by a hash of its spoken
    characters.

    Utterances of one or two characters are a closed set of commands and always belong to the training part.
    """
    spoken = strip_punctuation(sentence)
    if len(spoken) <= 2:
        return "train"
    bucket = int.from_bytes(hashlib.blake2b(spoken.encode(), digest_size=4).digest(), "big") % 100
    return "test" if bucket < 6 else "dev" if bucket < 10 else "train"


def to_pinyin_input(text: str) -> str:
    """The text to hand to espeak-ng's voice `cmn-latn-pinyin`: one tone-numbered syllable for each character.

    "你好，几点了？" gives "ni3 hao3, ji3 dian3 le5?". Readings come from pypinyin's phrases, because
    espeak-ng knows only one reading of each character.
    """
    words: list[str] = []
    for run in _SPOKEN_RUN.findall(text):
        if run in _SPOKEN_MARKS:
            words[-1:] = [words[-1] + _SPOKEN_MARKS[run]] if words else []
        elif run in _READINGS:
            words.extend(_READINGS[run].split())
        else:
            words.extend(lazy_pinyin(run, style=Style.TONE3, neutral_tone_with_five=True))
    return " ".join(words)


class TextGenerator:
    """An endless, seeded stream of sentences: the same seed gives the same sentences in the same order."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)

    def sentence(self) -> str:
        """One sentence of 1 to 30 characters with its marks; it ends in 。 or ？."""
        draw = self._rng.random()
        if draw < 0.08:
            return self._rng.choice(SHORT_COMMANDS) + "。"
        if draw < 0.13:
            return self._enumeration()
        return self._from_topic(self._rng.choice(list(TOPICS)))

    def talk(self, n_sentences: int, topic: str | None = None) -> list[str]:
        """`n_sentences` full sentences, none of them twice in a row.

        They are about `topic` (a key of TOPICS; KeyError if there is none such) or mostly about a random one.
        """
        current = self._rng.choice(list(TOPICS)) if topic is None else topic
        sentences: list[str] = []
        while len(sentences) < n_sentences:
            if topic is None and self._rng.random() < 0.15:
                current = self._rng.choice(list(TOPICS))
            sentence = self._from_topic(current)
            if not sentences or sentence != sentences[-1]:
                sentences.append(sentence)
        return sentences

    def _from_topic(self, topic: str) -> str:
        while True:
            sentence = self._fill(self._rng.choice(TOPICS[topic]))
            if self._rng.random() < 0.08 and not sentence.startswith(INTERJECTIONS):
                sentence = f"{self._rng.choice(INTERJECTIONS)}，{sentence}"
            if len(strip_punctuation(sentence)) <= MAX_CHARACTERS:
                return sentence

    def _enumeration(self) -> str:
        slot = self._rng.choice(_ENUMERABLE)
        count = self._rng.randint(2, 5)
        words = self._rng.sample(WORDS[slot], count)
        return "、".join(words[:-1]) + "和" + words[-1] + "。"

    def _fill(self, template: str) -> str:
        """Fill every slot; a slot that occurs twice gets two different words."""
        used: set[str] = set()

        def one(match: re.Match[str]) -> str:
            name = match.group(1)
            for _ in range(20):
                text = self._word(name)
                if text not in used:
                    break
            used.add(text)
            return text

        return _SLOT.sub(one, template)

    def _word(self, slot: str) -> str:
        number = NUMBER_SLOTS.get(slot)
        if number is not None:
            return number(self._rng)
        return self._fill(self._rng.choice(WORDS[slot]))


@cache
def _inventory() -> tuple[str, ...]:
    texts = [*SHORT_COMMANDS, *INTERJECTIONS]
    texts += [word for words in WORDS.values() for word in words]
    texts += [template for templates in TOPICS.values() for template in templates]
    plain = strip_punctuation("".join(_SLOT.sub("", text) for text in texts))
    return tuple(sorted(set(plain) | NUMBER_CHARACTERS))


CHARACTERS: tuple[str, ...] = _inventory()
"""Every character that a sentence can hold, in code-point order (the order of the recognizer's tokens)."""

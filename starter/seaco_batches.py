"""Batches of the hotword model: which hotwords each clip is given, and what it should then write.

A clip's list holds hotwords that were spoken (a name, or any words of the clip), hotwords of other clips, and
near misses: spoken ones with a syllable changed. Half of the spoken ones are respelled with characters that
sound the same, and the label follows the list's spelling. So the model learns to write what the list says
where it sounds as the list says, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from starter.paraformer_data import encode
from starter.seaco_data import SYLLABLES, Rows
from starter.seaco_model import NO_BIAS, NO_HOTWORD
from starter.seaco_names import part_of_name, spellings
from starter.text import Split

CLIPS = 40
_GAP = 5
"""Empty rows between clips: half the window of the memory blocks."""
_SPOKEN_SHARE, _RESPELLED_SHARE, _NEAR_MISS_SHARE = 0.55, 0.5, 0.35
_UNPRONOUNCED = 0x2000

_SPELLED = tuple(tuple(int(token) for token in encode("".join(spellings()[name]))) for name in SYLLABLES)
_SYLLABLE_OF = {token: number for number, tokens in enumerate(_SPELLED) for token in tokens}
_bare = {name: index for index, name in enumerate(sorted({name.rstrip("12345") for name in SYLLABLES}))}
_TONELESS = tuple(_bare[name.rstrip("12345")] for name in SYLLABLES)


@dataclass(frozen=True, slots=True)
class Hotword:
    """ids: its tokens. sound: its syllables without tones, as characters of a string to search in."""

    ids: tuple[int, ...]
    sound: str


@dataclass(slots=True)
class Batch:
    """What `BiasNetwork` takes, and for each row its label and the hotword to look at (int64 [rows]), -1 for
    the rows that hold nothing.
    """

    acoustic: torch.Tensor
    hidden: torch.Tensor
    row_mask: torch.Tensor
    hotwords: list[torch.Tensor]
    heeded: torch.Tensor
    labels: torch.Tensor
    looked_at: torch.Tensor


@dataclass(slots=True)
class _Clip:
    rows: Rows
    sound: str
    labels: NDArray[np.int64]
    spoken: dict[Hotword, tuple[int, int]] = field(default_factory=dict)


def make_batch(clips: list[Rows], part: Split, rng: np.random.Generator) -> Batch:
    """A batch of some clips. No hotword that is spoken in them sounds like a name of another part."""
    prepared, pool = [], []
    for rows in clips:
        clip = _Clip(rows, _sound(rows.syllables[:-1], rows.ids[:-1]), np.full(len(rows.ids), NO_BIAS))
        prepared.append(clip)
        for begin, end in _spans(rows, rng):
            ids, syllables = rows.ids[begin:end], rows.syllables[begin:end]
            if not _allowed(syllables, part):
                continue
            spelled = _respelled(ids, syllables, rng) if rng.random() < _RESPELLED_SHARE else ids
            hotword = Hotword(tuple(map(int, spelled)), _sound(syllables, ids))
            pool.append(hotword)
            if rng.random() < _SPOKEN_SHARE:
                clip.spoken[hotword] = begin, end
                clip.labels[begin:end] = spelled
            if rng.random() < _NEAR_MISS_SHARE and (miss := _near_miss(hotword, rng)) is not None:
                pool.append(miss)
    return _tensors(prepared, list(dict.fromkeys(pool)), rng)


def random_hotwords(count: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Ids of names of two to five characters, any characters."""
    known = np.array(list(_SYLLABLE_OF))
    return [torch.from_numpy(rng.choice(known, length)) for length in rng.integers(2, 6, count)]


def _spans(rows: Rows, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Where hotwords are taken from: its names, or any two to six characters."""
    if rows.names and rng.random() < 0.75:
        return list(rows.names)
    characters = len(rows.ids) - 1
    if characters < 2:
        return []
    length = int(rng.integers(2, min(6, characters) + 1))
    begin = int(rng.integers(characters - length + 1))
    return [(begin, begin + length)]


def _allowed(syllables: NDArray[np.int64], part: Split) -> bool:
    if (syllables < 0).any():
        return True
    return part_of_name(tuple(SYLLABLES[number] for number in syllables)) == part


def _respelled(
    ids: NDArray[np.int64], syllables: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    spelled = [
        token if number < 0 else int(rng.choice(_SPELLED[number]))
        for token, number in zip(ids.tolist(), syllables.tolist(), strict=True)
    ]
    return np.array(spelled, np.int64)


def _near_miss(hotword: Hotword, rng: np.random.Generator) -> Hotword | None:
    """The hotword with one syllable changed, two for the longer ones now and then."""
    ids, sound = list(hotword.ids), list(hotword.sound)
    for _ in range(1 if len(ids) < 4 or rng.random() < 0.5 else 2):
        place, token = int(rng.integers(len(ids))), int(rng.choice(list(_SYLLABLE_OF)))
        ids[place], sound[place] = token, chr(_TONELESS[_SYLLABLE_OF[token]])
    return None if "".join(sound) == hotword.sound else Hotword(tuple(ids), "".join(sound))


def _sound(syllables: NDArray[np.int64], ids: NDArray[np.int64]) -> str:
    return "".join(
        chr(_UNPRONOUNCED + token if number < 0 else _TONELESS[number])
        for number, token in zip(syllables.tolist(), ids.tolist(), strict=True)
    )


def _tensors(clips: list[_Clip], pool: list[Hotword], rng: np.random.Generator) -> Batch:
    lengths = [len(clip.rows.ids) + _GAP for clip in clips]
    width = clips[0].rows.acoustic.shape[1]
    acoustic, hidden = np.zeros((2, sum(lengths), width), np.float32)
    heeded = np.zeros((sum(lengths), len(pool) + 1), np.int64)
    heeded[:, -1] = 1
    labels, looked_at = np.full((2, sum(lengths)), -1)
    numbers = {hotword: number for number, hotword in enumerate(pool)}
    begin = 0
    for clip, length in zip(clips, lengths, strict=True):
        end = begin + length - _GAP
        acoustic[begin:end], hidden[begin:end] = clip.rows.acoustic, clip.rows.hidden
        labels[begin:end] = clip.labels
        looked_at[begin:end] = len(pool)
        for hotword, (first, last) in clip.spoken.items():
            looked_at[begin + first : begin + last] = numbers[hotword]
        heeded[begin:end, :-1] = _list_of(clip, pool, rng)
        begin += length
    return Batch(
        torch.from_numpy(acoustic),
        torch.from_numpy(hidden),
        torch.from_numpy((labels >= 0).astype(np.float32)),
        [torch.tensor(hotword.ids) for hotword in pool] + [torch.tensor(NO_HOTWORD)],
        torch.from_numpy(heeded),
        torch.from_numpy(labels),
        torch.from_numpy(looked_at),
    )


def _list_of(clip: _Clip, pool: list[Hotword], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which hotwords of the pool the clip is given: those meant for it, and a share of those not in it."""
    share = rng.random() ** 2 if rng.random() < 0.7 else 1.0
    chosen = rng.random(len(pool)) < share
    for index, hotword in enumerate(pool):
        if hotword in clip.spoken:
            chosen[index] = True
        elif chosen[index] and hotword.sound in clip.sound:
            chosen[index] = False
    return chosen

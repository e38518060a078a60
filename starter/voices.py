"""The voices the starter models learn from, and the ones they are tested on but never hear in training.

A voice is an espeak-ng variant (a set of formant and source parameters laid over the Mandarin voice) at a
speaking rate, a pitch, a pitch range and a formant shift. Variants, not settings, separate training from
test: a variant of `UNSEEN_VOICES` appears nowhere in `SEEN_VOICES`, nor do its near copies (`steph2`,
`steph3`, `robosoft*`). `Annie`, `Demonic` and `rob` crash libespeak-ng 1.51 at some pitches and are not used
at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker of the synthesizer.

    name: unique label. variant: espeak-ng variant file name. rate_wpm: espeak words per minute (80 to 450),
    independent of the formant shift. pitch, pitch_range: espeak units 0 to 100 (50 is the variant's own).
    formant_shift: factor on all formants and on the pitch (1.1 sounds like a shorter vocal tract).
    """

    name: str
    variant: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    formant_shift: float

    def jitter(self, rng: np.random.Generator) -> Voice:
        """The same speaker on another occasion: rate +-15 %, pitch and range a few units, formants +-2 %."""
        return replace(
            self,
            rate_wpm=int(np.clip(self.rate_wpm * rng.uniform(0.85, 1.15), 120, 330)),
            pitch=int(np.clip(self.pitch + rng.integers(-8, 9), 0, 99)),
            pitch_range=int(np.clip(self.pitch_range + rng.integers(-12, 13), 10, 99)),
            formant_shift=float(self.formant_shift * rng.uniform(0.98, 1.02)),
        )


_SEEN_VARIANTS = (
    *(
        "Alex",
        "Andrea",
        "Andy",
        "AnxiousAndy",
        "Denis",
        "Diogo",
        "Gene",
        "Gene2",
        "Henrique",
        "Hugo",
        "Jacky",
    ),
    *("Lee", "Mike", "Mr serious", "Nguyen", "Storm", "Tweaky", "adam", "anika", "announcer", "antonio"),
    *("aunty", "belinda", "boris", "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f5"),
    *("grandma", "grandpa", "gustave", "iven2", "iven3", "john", "kaukovalta", "klatt2", "klatt3", "klatt4"),
    *("linda", "m1", "m2", "m3", "m4", "m6", "m7", "marcelo", "max", "michel", "miguel", "norbert", "paul"),
    *("pedro", "quincy", "robert", "sandro", "travis", "victor", "zac"),
)
_UNSEEN_VARIANTS = ("m5", "f4", "Marco", "Alicia", "m8", "Mario", "steph", "Michael", "pablo", "shelby")

# (rate_wpm, pitch, pitch_range, formant_shift). Every variant gets two of them, three apart in the list, so
# that each is heard once with a longer and once with a shorter vocal tract.
_SETTINGS = (
    (200, 42, 50, 0.93),
    (240, 58, 60, 0.97),
    (180, 35, 40, 0.88),
    (220, 55, 45, 1.05),
    (260, 66, 70, 1.10),
    (210, 48, 55, 1.00),
)


def _seen() -> tuple[Voice, ...]:
    return tuple(
        Voice(f"{variant}-{take}", variant, *_SETTINGS[(index + 3 * take) % len(_SETTINGS)])
        for index, variant in enumerate(_SEEN_VARIANTS)
        for take in range(2)
    )


SEEN_VOICES: tuple[Voice, ...] = _seen()
UNSEEN_VOICES: tuple[Voice, ...] = tuple(Voice(name, name, 215, 50, 50, 1.0) for name in _UNSEEN_VARIANTS)

"""Speech from espeak-ng, in this process, with the time of every character.

libespeak-ng is called through ctypes because the `espeak-ng` program gives no event times. The library keeps
one voice and one callback per process: use one `Synthesizer` per process and do not call it from several
threads. Its interface is documented in espeak-ng's `speak_lib.h`.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from starter.voices import Voice

SAMPLE_RATE = 16000

_LIBRARY = "libespeak-ng.so.1"
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 1
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_EVENT_LIST_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
# Several variants clip at the default volume of 100 because their own voicing gain is above it.
_UNCLIPPED_VOLUME = 20
_PEAK = 0.7
# The plain `cmn` voice of espeak-ng 1.51 spells many characters out as English letters; this one does not.
_BASE_VOICE = "cmn-latn-pinyin"
_UNIT = re.compile(r"[\u3400-\u9fff]|[a-zü:]+[1-5]?", re.IGNORECASE)


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """samples: float32 mono at 16 kHz, peak 0.7. char_times: (begin, end) in seconds, one per character."""

    samples: NDArray[np.float32]
    char_times: list[tuple[float, float]]

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / SAMPLE_RATE


class SynthesisError(RuntimeError):
    """libespeak-ng is missing, lacks a voice, or did not read the text character by character."""


def count_units(pinyin_input: str) -> int:
    """What `Synthesizer.speak` gives times to: the number of Chinese characters and pinyin syllables."""
    return len(_UNIT.findall(pinyin_input))


def load_library() -> ctypes.CDLL:
    """libespeak-ng. Raises SynthesisError where it is not installed."""
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise SynthesisError(
            f"{_LIBRARY} was not found (Debian and Ubuntu: apt install espeak-ng)"
        ) from error


class Synthesizer:
    """espeak-ng's Mandarin voice. Raises SynthesisError if libespeak-ng.so.1 or its data cannot be loaded.

    data_dir: a copy of espeak-ng's data with other variants in it (see `espeak_variants`); None is its own.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._library = load_library()
        self._rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS,
            0,
            None if data_dir is None else str(data_dir).encode(),
            _INITIALIZE_PHONEME_EVENTS,
        )
        if self._rate <= 0:
            raise SynthesisError("espeak-ng's data directory could not be loaded")
        self._chunks: list[NDArray[np.int16]] = []
        self._marks: list[tuple[int, int]] = []
        # ctypes does not keep callbacks alive; the library would call freed memory.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, pinyin_input: str, voice: Voice) -> Utterance:
        """Speech for Chinese characters, pinyin syllables ("yin2 hang2") and punctuation, mixed at will.

        A character's begin is espeak's WORD event; its end is the first pause or word-boundary phoneme after
        that, so a pause at a comma belongs to no character. In a fresh process the same calls give the same
        samples; later they differ a little, since espeak carries the state of its oscillators over. Raises
        SynthesisError on an unknown variant, or when espeak's words are not one to one with the characters.
        """
        self._select(voice)
        self._chunks.clear()
        self._marks.clear()
        text = pinyin_input.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        if not self._chunks:
            return Utterance(np.zeros(0, np.float32), [])
        # Playing the samples at another rate scales the formants; espeak was told to speak at another tempo.
        source_rate = self._rate * voice.formant_shift
        raw = np.concatenate(self._chunks).astype(np.float32) / 32768
        samples = soxr.resample(raw, source_rate, SAMPLE_RATE)
        samples = (samples * (_PEAK / max(float(np.abs(samples).max()), 1e-4))).astype(np.float32)
        times = self._char_times(source_rate, len(samples) / SAMPLE_RATE)
        if len(times) != count_units(pinyin_input):
            raise SynthesisError(
                f"espeak read {len(times)} units, not one per character, in {pinyin_input!r}"
            )
        return Utterance(samples, times)

    def _select(self, voice: Voice) -> None:
        name = f"{_BASE_VOICE}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise SynthesisError(f"espeak-ng has no voice {name!r}")
        settings = (
            (_RATE, round(voice.rate_wpm / voice.formant_shift)),
            (_VOLUME, _UNCLIPPED_VOLUME),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        )
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        """The library's callback: keeps the samples and the positions of word begins (1) and breaks (0)."""
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while (event := events[index]).type != _EVENT_LIST_END:
            # A short clause ends with one more word event, of length 0.
            if event.type == _EVENT_WORD and event.length > 0:
                self._marks.append((event.sample, 1))
            elif event.type == _EVENT_PHONEME and event.name.startswith(b"_"):
                self._marks.append((event.sample, 0))
            index += 1
        return 0

    def _char_times(self, source_rate: float, duration: float) -> list[tuple[float, float]]:
        """(begin, end) in seconds of every word event; `source_rate` turns samples into seconds."""
        times: list[tuple[float, float]] = []
        begin: int | None = None
        for sample, is_word in self._marks:
            if begin is not None:
                times.append((begin / source_rate, min(sample / source_rate, duration)))
            begin = sample if is_word else None
        if begin is not None:
            times.append((begin / source_rate, duration))
        return times

"""How long a recording may be, and the sentences that say it is not so. Durations are in seconds."""

from dataclasses import dataclass

from serve_app.errors import AudioTooLarge, InvalidAudio, UnsupportedFormat

_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MAX_CHANNELS = 32


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """The shortest and the longest recording, in seconds, that is decoded."""

    min_seconds: float = 0.1
    max_seconds: float = 4 * 3600.0


def spoken(seconds: float) -> str:
    """``seconds`` for a sentence: ``0.05 s``, ``12.3 s``, ``75 min``, ``10 h 30 min``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes <= 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def check_declared(seconds: float, limits: DecodeLimits) -> None:
    """Raises :class:`AudioTooLarge` where a header announces more than may be decoded."""
    if seconds > limits.max_seconds:
        raise AudioTooLarge(
            f"The audio lasts {spoken(seconds)} by its own header; "
            f"this server takes at most {spoken(limits.max_seconds)}."
        )


def too_long(limits: DecodeLimits) -> AudioTooLarge:
    return AudioTooLarge(
        f"The audio lasts more than {spoken(limits.max_seconds)}, which is the most that this server takes."
    )


def no_samples() -> InvalidAudio:
    return InvalidAudio("The audio is empty: the file holds a header but no samples.")


def truncated(name: str, seconds: float | None = None) -> InvalidAudio:
    """The error for a file that ends before its own structure does; ``seconds`` is what there is of it."""
    where = "" if seconds is None else f", after {spoken(seconds)} of audio"
    return InvalidAudio(
        f"The {name} file is truncated: it ends in the middle{where}. "
        "The upload or recording was probably cut off."
    )


def damaged(name: str, seconds: float | None = None) -> InvalidAudio:
    """The error for bytes that are not what the format has there; ``seconds`` is the time of the place."""
    where = "" if seconds is None else f", at about {spoken(seconds)}"
    return InvalidAudio(f"The {name} file is damaged{where}: the data there cannot be decoded.")


def check_layout(channels: int, rate: int) -> None:
    """Refuses channel counts and sample rates (Hz) that no recorder writes."""
    if not 1 <= channels <= _MAX_CHANNELS:
        raise UnsupportedFormat(
            f"Audio with {channels} channels is not supported (1 to {_MAX_CHANNELS} are)."
        )
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise UnsupportedFormat(
            f"A sample rate of {rate} Hz is not supported ({_MIN_RATE} to {_MAX_RATE} Hz are)."
        )

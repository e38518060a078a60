"""Audio files of every format for tests, made in memory: whole ones, and ones that are wrong in a known way.

``samples`` is always float32 in [-1, 1], mono of shape ``(samples,)`` or ``(samples, channels)``; ``rate``
is in Hz. Everything is deterministic.
"""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Samples = npt.NDArray[np.float32]
Writer = Callable[[Samples, int], bytes]


def tone(seconds: float, rate: int, hz: float = 440.0, level: float = 0.3) -> Samples:
    """A sine of peak ``level``; ``hz`` must be below half of ``rate`` to mean anything."""
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def murmur(seconds: float, rate: int, level: float = 0.2) -> Samples:
    """Noise below 3 kHz with a slow envelope: as hard to compress as speech, and unlike itself when moved."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(7).standard_normal(count))
    spectrum[np.fft.rfftfreq(count, 1 / rate) > 3000] = 0
    noise = np.fft.irfft(spectrum, count)
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(count) / rate)
    return cast("Samples", (level * envelope * noise / np.abs(noise).max()).astype(np.float32))


def stereo(samples: Samples) -> Samples:
    """Two channels whose mean is ``samples``."""
    return np.stack([samples * np.float32(1.5), samples * np.float32(0.5)], axis=1)


def _encode(
    samples: Samples,
    rate: int,
    container: str,
    codec: str,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    rates: tuple[int, ...] = (),
) -> bytes:
    """Encodes with FFmpeg; ``rates`` are the only ones the codec takes, the last for all others."""
    if rates and rate not in rates:
        samples, rate = soxr.resample(samples, rate, rates[-1]), rates[-1]
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=codec_options or {})
        assert isinstance(stream, AudioStream)
        stream.layout = "mono" if samples.ndim == 1 else "stereo"
        _write_audio(output, stream, samples, rate)
    return target.getvalue()


def _write_audio(
    output: OutputContainer, stream: AudioStream, samples: Samples, rate: int, delay: float = 0.0
) -> None:
    planes = np.ascontiguousarray(np.atleast_2d(samples.T))
    frame = AudioFrame.from_ndarray(planes, format="fltp", layout="mono" if samples.ndim == 1 else "stereo")
    frame.sample_rate, frame.pts, frame.time_base = rate, round(delay * rate), Fraction(1, rate)
    for step in (frame, None):
        for packet in stream.encode(step):
            output.mux(packet)


def _soundfile(samples: Samples, rate: int, container: str, subtype: str) -> bytes:
    target = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(target, "w", rate, channels, subtype, format=container) as output:
        # In pieces: libsndfile's Vorbis encoder takes what it is given on the stack.
        for begin in range(0, len(samples), 1 << 14):
            output.write(samples[begin : begin + (1 << 14)])
    return target.getvalue()


def wav(samples: Samples, rate: int, subtype: str = "PCM_16", *, extensible: bool = False) -> bytes:
    """``subtype``: PCM_U8, PCM_16, PCM_24, PCM_32, FLOAT, DOUBLE, ULAW, ALAW, IMA_ADPCM, MS_ADPCM, GSM610."""
    return _soundfile(samples, rate, "WAVEX" if extensible else "WAV", subtype)


def rf64(samples: Samples, rate: int) -> bytes:
    return _soundfile(samples, rate, "RF64", "PCM_16")


def aiff(samples: Samples, rate: int, subtype: str = "PCM_16") -> bytes:
    return _soundfile(samples, rate, "AIFF", subtype)


def caf(samples: Samples, rate: int) -> bytes:
    return _soundfile(samples, rate, "CAF", "PCM_16")


def au(samples: Samples, rate: int) -> bytes:
    return _soundfile(samples, rate, "AU", "PCM_16")


def flac(samples: Samples, rate: int) -> bytes:
    return _soundfile(samples, rate, "FLAC", "PCM_16")


def ogg_vorbis(samples: Samples, rate: int) -> bytes:
    return _soundfile(samples, rate, "OGG", "VORBIS")


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def ogg_opus(samples: Samples, rate: int) -> bytes:
    return _encode(samples, rate, "ogg", "libopus", rates=_OPUS_RATES)


def webm(samples: Samples, rate: int, *, live: bool = False) -> bytes:
    """``live`` has no durations and no sizes, as a browser's MediaRecorder writes it."""
    return _encode(samples, rate, "webm", "libopus", {"live": "1"} if live else {}, rates=_OPUS_RATES)


def mp3(samples: Samples, rate: int, *, kbits: int = 64, xing: bool = True) -> bytes:
    """``xing`` writes the header that holds the number of frames, and an ID3 tag."""
    plain = {} if xing else {"write_xing": "0", "id3v2_version": "0"}
    return _encode(samples, rate, "mp3", "libmp3lame", plain, {"b": f"{kbits}k"})


def adts(samples: Samples, rate: int) -> bytes:
    return _encode(samples, rate, "adts", "aac")


def m4a(samples: Samples, rate: int) -> bytes:
    """The index (moov) lies at the end, where reading needs seeking."""
    return _encode(samples, rate, "ipod", "aac")


def fragmented_mp4(samples: Samples, rate: int) -> bytes:
    movflags = "frag_keyframe+empty_moov+default_base_moof"
    return _encode(samples, rate, "mp4", "aac", {"movflags": movflags, "frag_duration": "500000"})


def alac(samples: Samples, rate: int) -> bytes:
    return _encode(samples, rate, "ipod", "alac")


def mov_pcm(samples: Samples, rate: int) -> bytes:
    return _encode(samples, rate, "mov", "pcm_s24le")


def mka(samples: Samples, rate: int) -> bytes:
    return _encode(samples, rate, "matroska", "aac")


def amr_nb(samples: Samples, rate: int) -> bytes:
    mono = samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)
    return _encode(mono, rate, "amr", "amr_nb", codec_options={"b": "12200"}, rates=(8000,))


def paused(samples: Samples, rate: int, at: float, pause: float) -> bytes:
    """A WebM whose recorder was paused: ``pause`` seconds lie between the time stamps around ``at``."""
    target = io.BytesIO()
    with av.open(target, "w", format="webm") as output:
        stream = output.add_stream("libopus", rate=rate)
        assert isinstance(stream, AudioStream)
        stream.layout = "mono"
        frame = AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            assert packet.pts is not None
            assert packet.dts is not None
            if packet.pts >= at * rate:
                packet.pts, packet.dts = packet.pts + round(pause * rate), packet.dts + round(pause * rate)
            output.mux(packet)
    return target.getvalue()


def video(samples: Samples | None, rate: int = 48000, container: str = "mp4", delay: float = 0.0) -> bytes:
    """A gray film of 3 s in ``mp4``, ``mov`` or ``matroska``; its sound begins ``delay`` seconds later."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        picture = output.add_stream("mpeg4", rate=10)
        assert isinstance(picture, VideoStream)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = None
        if samples is not None:
            sound = output.add_stream("aac", rate=rate)
            assert isinstance(sound, AudioStream)
            sound.layout = "mono" if samples.ndim == 1 else "stereo"
        for _ in range(30):
            gray = VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), format="rgb24")
            for packet in picture.encode(gray):
                output.mux(packet)
        for packet in picture.encode(None):
            output.mux(packet)
        if sound is not None and samples is not None:
            _write_audio(output, sound, samples, rate, delay)
    return target.getvalue()


WRITERS: dict[str, Writer] = {
    "wav": wav,
    "rf64": rf64,
    "aiff": aiff,
    "caf": caf,
    "flac": flac,
    "alac": alac,
    "ogg-vorbis": ogg_vorbis,
    "ogg-opus": ogg_opus,
    "webm": webm,
    "mp3": mp3,
    "adts": adts,
    "m4a": m4a,
    "fragmented-mp4": fragmented_mp4,
    "mov-pcm": mov_pcm,
    "mka": mka,
    "mp4": lambda samples, rate: video(samples, rate),
    "mov": lambda samples, rate: video(samples, rate, "mov"),
    "mkv": lambda samples, rate: video(samples, rate, "matroska"),
    "amr": amr_nb,
}
"""Every kind of file that the server decodes."""


# --- files that are wrong in a known way ---


def wav_header(data_size: int, rate: int = 16000, riff_size: int | None = None) -> bytes:
    """The 44 bytes before the samples of a 16-bit mono WAV, with whatever sizes are asked for."""
    riff = (data_size + 36) & 0xFFFF_FFFF if riff_size is None else riff_size
    fmt = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt \x10\0\0\0"
        + fmt
        + b"data"
        + struct.pack("<I", data_size)
    )


def pcm16(samples: Samples) -> bytes:
    """Headerless 16-bit little-endian PCM."""
    return np.rint(samples * 32767).astype("<i2").tobytes()


def streamed_wav(samples: Samples, rate: int, placeholder: int = 0xFFFF_FFFF) -> bytes:
    """What a program writes into a pipe: it never learns its length, so the header holds ``placeholder``."""
    return wav_header(placeholder, rate, riff_size=placeholder) + pcm16(samples)


def lying_wav(declared_seconds: float, real_seconds: float, rate: int = 16000) -> bytes:
    """Silence of ``real_seconds`` under a header that announces ``declared_seconds``."""
    return wav_header(round(declared_seconds * rate) * 2, rate) + bytes(round(real_seconds * rate) * 2)


def float_wav(samples: npt.NDArray[np.floating[Any]], rate: int = 16000) -> bytes:
    """32-bit floats as they are, NaN and infinity included."""
    data = samples.astype("<f4").tobytes()
    fmt = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    sizes = struct.pack("<I", len(data) + 36), struct.pack("<I", len(data))
    return b"RIFF" + sizes[0] + b"WAVEfmt \x10\0\0\0" + fmt + b"data" + sizes[1] + data


def silent_flac(seconds: float, rate: int = 8000) -> bytes:
    """Digital silence, which FLAC packs into next to nothing: a few hundred kilobytes for ten hours."""
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", rate, 1, "PCM_16", format="FLAC") as output:
        rest = round(seconds * rate)
        while rest > 0:
            output.write(np.zeros(min(rest, 1 << 20), np.int16))
            rest -= 1 << 20
    return target.getvalue()


def cut(data: bytes, keep: float = 0.6) -> bytes:
    """The first part of a file, as an upload that broke off leaves it."""
    return data[: int(len(data) * keep)]


def scarred(data: bytes, length: int, at: float = 0.5) -> bytes:
    """``data`` with ``length`` bytes of noise over it, from the place ``at`` (0 to 1)."""
    begin = int(len(data) * at)
    noise = np.random.default_rng(1).bytes(length)
    return (data[:begin] + noise + data[begin + length :])[: len(data)]


def patched(data: bytes, box: bytes, offset: int, *values: int) -> bytes:
    """``data`` with 32-bit ``values`` put ``offset`` bytes after the type of the first ``box`` of an MP4."""
    at = data.index(box) + 4 + offset
    new = struct.pack(f">{len(values)}I", *values)
    return data[:at] + new + data[at + len(new) :]


JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(range(256)) * 4
TEXT = b"This is not audio at all, whatever its name says.\n" * 40
NOISE = np.random.default_rng(2).bytes(200_000)

"""Compressed live audio to samples: what was recorded, however it was cut into packets."""

from functools import cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.engines.base import Pcm
from serve_app.audio.announced import AnnouncedDecoder, Format
from serve_app.errors import InvalidAudio, UnsupportedFormat
from tests import audio_files
from tests.conftest import SAMPLES

RATE = 16_000
SPEEX = Path(__file__).with_name("nls_home.spx")
"""``samples/home.wav`` by ``speexenc --wideband --quality 8``: FFmpeg has no encoder for it."""

FORMATS: dict[str, Format] = {
    "ogg-opus": "ogg",
    "speex": "ogg",
    "opu": "opu",
    "mp3": "mp3",
    "adts": "aac",
    "amr": "amr",
    "wav": "wav",
}


@cache
def home() -> npt.NDArray[np.float32]:
    samples, rate = soundfile.read(SAMPLES / "home.wav", dtype="float32")
    assert rate == RATE
    return np.asarray(samples, np.float32)


@cache
def encoded(name: str) -> bytes:
    if name == "speex":
        return SPEEX.read_bytes()
    return opu(home()) if name == "opu" else audio_files.WRITERS[name](home(), RATE)


def opu(samples: npt.NDArray[np.float32]) -> bytes:
    """Packets of 20 ms, each after a byte with its length."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = RATE, "mono", "s16", 27_800
    encoder.options = {"frame_duration": "20"}
    pcm = np.frombuffer(audio_files.pcm16(samples), "<i2")
    packets = []
    for begin in range(0, len(pcm) - 319, 320):
        frame = AudioFrame.from_ndarray(pcm[np.newaxis, begin : begin + 320], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, begin
        packets += encoder.encode(frame)
    return b"".join(bytes([packet.size]) + bytes(packet) for packet in [*packets, *encoder.encode(None)])


def decoded(announced: Format, data: bytes, sizes: list[int], rate: int = RATE) -> Pcm:
    decoder = AnnouncedDecoder(announced, rate)
    parts, begin = [], 0
    for size in [*sizes, len(data)]:
        parts.append(decoder.feed(data[begin : begin + size]))
        begin += size
    return np.concatenate([*parts, decoder.flush()])


def likeness(heard: Pcm, said: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Correlation of two recordings where they fit best, and by how many seconds the first is later."""
    size = 1 << 18
    left, right = np.fft.rfft(heard / 32768, size), np.fft.rfft(said, size)
    products = np.fft.irfft(left * np.conj(right), size)
    lag = int(products.argmax())
    norm = np.sqrt(np.square(heard / 32768.0).sum() * np.square(said).sum())
    return float(products.max() / norm), (lag - size if lag > size // 2 else lag) / RATE


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_recorded_is_heard(name: str) -> None:
    heard = decoded(FORMATS[name], encoded(name), [])
    # AMR has half of the band, and Speex draws some of it anew.
    least = 0.7 if name in ("amr", "speex") else 0.98
    similar, later = likeness(heard, home())
    assert similar > least
    assert abs(later) < 0.15
    assert len(home()) - RATE // 50 <= len(heard) <= len(home()) + RATE // 5


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(FORMATS)), st.lists(st.integers(0, 3000), max_size=60))
def test_the_packets_do_not_matter(name: str, sizes: list[int]) -> None:
    expected = decoded(FORMATS[name], encoded(name), [])
    np.testing.assert_array_equal(decoded(FORMATS[name], encoded(name), sizes), expected)


@pytest.mark.parametrize("name", ["ogg-opus", "speex", "amr", "wav"])
@pytest.mark.parametrize("announced", ["pcm", "mp3", "opu", "aac"])
def test_the_content_counts_more_than_what_was_announced(name: str, announced: Format) -> None:
    expected = decoded(FORMATS[name], encoded(name), [])
    np.testing.assert_array_equal(decoded(announced, encoded(name), [1000]), expected)


@pytest.mark.parametrize("name", ["mp3", "adts"])
def test_tags_and_a_begin_within_a_frame(name: str) -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x07\x68" + b"\xff\xfb" * 500
    body = encoded(name)[encoded(name).index(b"\xff") :]
    expected = decoded(FORMATS[name], body, [])
    np.testing.assert_array_equal(decoded(FORMATS[name], tag + body, [7, 100]), expected)
    begun = decoded(FORMATS[name], body[333:], [])
    assert likeness(begun, home())[0] > 0.95


def test_amr_without_its_magic() -> None:
    data = encoded("amr")
    np.testing.assert_array_equal(
        decoded("amr", data.removeprefix(b"#!AMR\n"), [100], rate=8000), decoded("amr", data, [])
    )


def test_recordings_that_are_joined() -> None:
    for name in ("ogg-opus", "speex"):
        one = decoded("ogg", encoded(name), [])
        assert abs(len(decoded("ogg", encoded(name) * 2, [])) - 2 * len(one)) < RATE // 50


@pytest.mark.parametrize("name", ["ogg-vorbis", "flac", "m4a", "webm", "caf", "aiff"])
def test_what_cannot_be_heard_live(name: str) -> None:
    with pytest.raises(UnsupportedFormat):
        decoded("ogg", audio_files.WRITERS[name](home(), RATE), [])


def test_an_end_before_any_audio() -> None:
    for announced in ("pcm", "wav", "mp3", "aac", "amr", "opu"):
        assert len(decoded(announced, b"", [])) == 0
    for name in ("ogg-opus", "speex", "mp3", "adts"):
        assert len(decoded(FORMATS[name], encoded(name)[:40], [])) == 0
    with pytest.raises(InvalidAudio):
        decoded("ogg", b"abc", [])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(FORMATS)),
    st.integers(0, 9000),
    st.binary(max_size=400),
    st.booleans(),
    st.lists(st.integers(1, 2000), max_size=8),
)
def test_damage_is_an_error_of_the_audio_or_heard_through(
    name: str, place: int, noise: bytes, inserts: bool, sizes: list[int]
) -> None:
    data = encoded(name)
    data = data[:place] + noise + data[place if inserts else place + len(noise) :]
    try:
        heard = decoded(FORMATS[name], data, sizes)
    except InvalidAudio:
        return
    assert len(heard) < 3 * len(home()) + 60 * len(noise) * RATE

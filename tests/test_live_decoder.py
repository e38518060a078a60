"""Live bytes to samples: any cut into packets, WAV headers, rates; the same result as for a file."""

import io
import struct
import wave
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.base import Pcm
from serve_app.audio.decode import decode_blocks
from serve_app.audio.limits import DecodeLimits
from serve_app.audio.live import LiveDecoder
from serve_app.errors import InvalidAudio, UnsupportedFormat

RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> Pcm:
    times = np.arange(int(seconds * rate)) / rate
    audio: Pcm = np.rint(12_000 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)
    return audio


def decoded(decoder: LiveDecoder, packets: Iterable[bytes]) -> Pcm:
    parts = [decoder.feed(packet) for packet in packets]
    return np.concatenate([*parts, decoder.flush()])


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    begin = 0
    for size in sizes:
        yield data[begin : begin + size]
        begin += size
    yield data[begin:]


def wav(samples: Pcm, rate: int = RATE, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


SIZES = st.lists(st.integers(0, 700), max_size=40)


@given(SIZES)
def test_raw_samples_pass_unchanged_whatever_the_packets(sizes: list[int]) -> None:
    audio = tone(0.3)
    np.testing.assert_array_equal(decoded(LiveDecoder(), cut(audio.tobytes(), sizes)), audio)


@settings(max_examples=40)
@given(SIZES, st.sampled_from([8000, 11_025, 24_000, 44_100, 48_000]))
def test_resampling_does_not_depend_on_the_packets(sizes: list[int], rate: int) -> None:
    data = tone(0.4, rate).tobytes()
    whole = decoded(LiveDecoder(rate), [data])
    assert abs(len(whole) - int(0.4 * RATE)) <= 1
    np.testing.assert_array_equal(decoded(LiveDecoder(rate), cut(data, sizes)), whole)


def test_resampled_audio_is_the_same_sound() -> None:
    audio = decoded(LiveDecoder(8000.0), [tone(1.0, 8000).tobytes()])
    np.testing.assert_allclose(audio[2000:-2000], tone(1.0)[2000:-2000], atol=10)


@settings(max_examples=40)
@given(SIZES, st.sampled_from([8000, 16_000, 44_100]), st.integers(1, 2))
def test_a_wav_header_is_taken_off_and_believed(sizes: list[int], rate: int, channels: int) -> None:
    mono = tone(0.3, rate)
    data = wav(np.repeat(mono, channels), rate, channels)
    expected = decoded(LiveDecoder(rate), [mono.tobytes()])
    np.testing.assert_array_equal(decoded(LiveDecoder(8000), cut(data, sizes)), expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_type_of_a_wav_decodes_as_in_a_file(subtype: str) -> None:
    buffer = io.BytesIO()
    stereo = np.stack([tone(0.5, 22_050), tone(0.5, 22_050, 600)], axis=1)
    soundfile.write(buffer, stereo, 22_050, subtype=subtype, format="WAV")
    data = buffer.getvalue()
    whole = np.concatenate(list(decode_blocks(io.BytesIO(data), block_samples=RATE, limits=DecodeLimits())))
    live = decoded(LiveDecoder(), [data[begin : begin + 101] for begin in range(0, len(data), 101)])
    np.testing.assert_array_equal(live, whole)


@pytest.mark.parametrize("size", [0, 10, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wrong_size_in_the_header_loses_no_audio(size: int) -> None:
    audio = tone(0.2)
    data = bytearray(wav(audio))
    data[40:44] = struct.pack("<I", size)
    np.testing.assert_array_equal(decoded(LiveDecoder(), [bytes(data)]), audio)


@given(SIZES)
def test_chunks_around_the_samples_are_no_audio(sizes: list[int]) -> None:
    audio = tone(0.2)
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    listing = chunk(b"LIST", b"INFOISFT" + b"x" * 501)
    body = listing + chunk(b"fmt ", fmt) + listing + chunk(b"data", audio.tobytes()) + listing
    data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body
    np.testing.assert_array_equal(decoded(LiveDecoder(), cut(data, sizes)), audio)


@pytest.mark.parametrize("begin", [b"R", b"RIF", b"RIFFxxxxWAV", b"RIFFxxxxMIDI", b"RIFE"])
def test_samples_that_begin_like_a_header_are_samples(begin: bytes) -> None:
    audio = decoded(LiveDecoder(), [bytes([byte]) for byte in begin])
    assert audio.tobytes() == begin[: len(begin) // 2 * 2]


def test_a_stream_that_ends_within_its_header_is_an_error() -> None:
    decoder = LiveDecoder()
    assert len(decoder.feed(wav(tone(0.1))[:40])) == 0
    with pytest.raises(InvalidAudio, match="cut off"):
        decoder.flush()


def test_compressed_wav_is_refused() -> None:
    fmt = struct.pack("<HHIIHH", 6, 1, 8000, 8000, 1, 8)
    with pytest.raises(UnsupportedFormat, match="PCM"):
        LiveDecoder().feed(b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", fmt) + chunk(b"data", b"\0" * 100))


@pytest.mark.parametrize("rate", [0, 100, -16_000, 1e9])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(UnsupportedFormat, match="sample rate"):
        LiveDecoder(rate)


def test_an_empty_stream_has_no_samples() -> None:
    assert len(decoded(LiveDecoder(), [])) == 0
    assert len(decoded(LiveDecoder(8000), [b""])) == 0

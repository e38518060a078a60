"""Decoding of uploads: every format comes out right; what is wrong is refused in a sentence."""

import contextlib
import gc
import io
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.audio.decode import DecodeLimits, RawPcm, decode_blocks
from serve_app.errors import AsrError, AudioTooLarge, InvalidAudio, InvalidParameter, UnsupportedFormat
from tests import audio_files as af

LIMITS = DecodeLimits(min_seconds=0.1, max_seconds=3600)
RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000)
SPEECH = af.murmur(1.5, 16000)


def decode(
    data: bytes, *, raw: RawPcm | None = None, block: int = 16000, limits: DecodeLimits = LIMITS
) -> npt.NDArray[np.int16]:
    return np.concatenate(list(decode_blocks(io.BytesIO(data), raw=raw, block_samples=block, limits=limits)))


def likeness(decoded: npt.NDArray[np.int16], samples: af.Samples, rate: int) -> tuple[float, float]:
    """Milliseconds by which ``decoded`` is late, and its correlation with ``samples`` when that is undone."""
    wanted = soxr.resample(samples, rate, 16000)
    count = min(len(decoded), len(wanted))
    got = decoded[:count].astype(np.float64)
    size = 2 * count
    crossed = np.fft.irfft(np.fft.rfft(got, size) * np.conj(np.fft.rfft(wanted[:count], size)), size)
    lag = int(crossed.argmax())
    lag = lag - size if lag > count else lag
    late, early = max(0, lag), max(0, -lag)
    pair = got[late : count - early], wanted[early : count - late]
    return lag / 16, float(np.corrcoef(*pair)[0, 1])


def level_db(samples: npt.NDArray[np.int16]) -> float:
    """Root mean square in decibels of full scale."""
    power = np.square(samples.astype(np.float64) / 32768).mean()
    return float(10 * np.log10(power + 1e-12))


# --- what is right ---


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", af.WRITERS)
def test_decodes_every_format_at_every_rate(name: str, rate: int, channels: int) -> None:
    samples = af.murmur(1.0, rate)
    decoded = decode(af.WRITERS[name](samples if channels == 1 else af.stereo(samples), rate))
    late, correlation = likeness(decoded, samples, rate)
    # Files without an edit list cannot say that an AAC encoder begins with a frame of nothing; AMR codes
    # 5 ms ahead, at a telephone's quality.
    priming = 1024 / rate * 1000 if name in ("adts", "fragmented-mp4") else 5.0 if name == "amr" else 0.0
    assert late == pytest.approx(priming, abs=0.2)
    assert correlation > (0.7 if name == "amr" else 0.9)
    assert 0.995 < len(decoded) / 16000 < 1.0 + (priming / 1000) + 2 * 1024 / rate


@pytest.mark.parametrize(
    "subtype",
    ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_decodes_every_kind_of_wav(subtype: str, channels: int) -> None:
    samples = af.murmur(1.0, 22050)
    decoded = decode(af.wav(samples if channels == 1 else af.stereo(samples), 22050, subtype))
    late, correlation = likeness(decoded, samples, 22050)
    assert late == 0
    assert correlation > 0.98
    assert level_db(decoded) == pytest.approx(level_db(np.rint(samples * 32768).astype(np.int16)), abs=0.3)


def test_decodes_wav_with_an_extensible_header_and_signed_8_bit_aiff() -> None:
    for data in (af.wav(SPEECH, 16000, "PCM_24", extensible=True), af.aiff(SPEECH, 16000, "PCM_S8")):
        late, correlation = likeness(decode(data), SPEECH, 16000)
        assert late == 0
        assert correlation > 0.99


def test_plain_pcm_passes_bit_by_bit() -> None:
    noise = np.random.default_rng(3).integers(-32768, 32767, 40_000, dtype=np.int16)
    data = af.wav_header(2 * len(noise)) + noise.tobytes()
    assert np.array_equal(decode(data), noise)
    assert np.array_equal(decode(noise.tobytes(), raw=RawPcm(16000)), noise)
    # The long way, through float and FLAC, ends at the same bits.
    assert np.array_equal(decode(af.flac((noise / 32768).astype(np.float32), 16000)), noise)


@pytest.mark.parametrize("name", ["wav", "mp3", "ogg-opus"])
def test_blocks_have_exactly_the_size_that_was_asked_for(name: str) -> None:
    data = af.WRITERS[name](af.murmur(1.3, 24000), 24000)
    whole = decode(data, block=1 << 20)
    for size in (160, 1000, 16000, len(whole), len(whole) + 1):
        blocks = list(decode_blocks(io.BytesIO(data), block_samples=size, limits=LIMITS))
        assert {len(block) for block in blocks[:-1]} <= {size}
        assert 0 < len(blocks[-1]) <= size
        assert all(block.dtype == np.int16 and block.ndim == 1 for block in blocks)
        assert np.array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("rate", [22050, 24000, 44100, 48000])
def test_resampling_lets_no_alias_through_and_keeps_speech(rate: int) -> None:
    for hz in (8300.0, 9000.0, rate / 2 - 300):
        assert level_db(decode(af.wav(af.tone(1.0, rate, hz, 0.5), rate, "FLOAT"))[1600:-1600]) < -80
    for hz in (100.0, 1000.0, 7000.0):
        heard = level_db(decode(af.wav(af.tone(1.0, rate, hz, 0.5), rate, "FLOAT"))[1600:-1600])
        assert heard == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.1)


def test_channels_are_averaged() -> None:
    left, right = af.tone(1.0, 16000, 300), af.tone(1.0, 16000, 1700)
    mixed = decode(af.wav(np.stack([left, right], axis=1), 16000, "FLOAT"))
    assert np.abs(mixed - 32768 * (left + right) / 2).max() <= 0.51
    opposite = decode(af.wav(np.stack([left, -left], axis=1), 16000, "FLOAT"))
    assert not opposite.any()


def test_floats_beyond_full_scale_are_clipped() -> None:
    loud = decode(af.float_wav(af.tone(1.0, 16000, 100, level=4.0)))
    assert (loud.max(), loud.min()) == (32767, -32768)
    assert decode(af.float_wav(np.full(16000, 1e30))).min() == 32767


@pytest.mark.parametrize("placeholder", [0, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFDB])
def test_streamed_wav_headers_are_read_to_the_end_of_the_file(placeholder: int) -> None:
    wanted = np.frombuffer(af.pcm16(SPEECH), "<i2")
    assert np.array_equal(decode(af.streamed_wav(SPEECH, 16000, placeholder)), wanted)


def test_wav_that_is_off_by_its_header_or_has_chunks_after_its_samples() -> None:
    samples = af.pcm16(SPEECH)
    assert len(decode(af.wav_header(len(samples) + 44) + samples)) == len(SPEECH)
    tagged = af.wav_header(len(samples)) + samples + b"LIST\x04\0\0\0INFO"
    assert len(decode(tagged)) == len(SPEECH)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_raw_pcm(rate: int) -> None:
    samples = af.murmur(1.0, rate)
    late, correlation = likeness(decode(af.pcm16(samples), raw=RawPcm(rate)), samples, rate)
    assert late == 0
    assert correlation > 0.999


def test_wav_that_was_declared_as_raw_pcm() -> None:
    data = af.wav(af.murmur(1.0, 8000), 8000)
    assert np.array_equal(decode(data, raw=RawPcm(16000)), decode(data))


def test_mp3_with_tags_padding_and_joined_parts() -> None:
    part = af.mp3(SPEECH, 16000, xing=False)
    alone = len(decode(part))
    id3v2 = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)
    assert len(decode(id3v2 + bytes(500) + part + b"TAG" + bytes(125))) == alone
    assert len(decode(part + id3v2 + part)) == pytest.approx(2 * alone, abs=1200)
    assert len(decode(part + af.mp3(af.murmur(1.5, 44100), 44100, xing=False))) == pytest.approx(
        2 * alone, abs=2400
    )
    apev2 = b"APETAGEX\xd0\x07\0\0\x40\0\0\0" + bytes(16) + bytes(64)
    assert len(decode(part + apev2)) == alone


def test_webm_as_a_browser_records_it() -> None:
    data = af.webm(af.murmur(1.5, 48000), 48000, live=True)
    assert likeness(decode(data), af.murmur(1.5, 48000), 48000)[1] > 0.9


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
def test_sound_that_begins_after_the_picture_keeps_its_time(container: str) -> None:
    decoded = decode(af.video(af.tone(2.0, 48000), container=container, delay=0.7))
    assert np.argmax(np.abs(decoded) > 1000) / 16000 == pytest.approx(0.7, abs=0.02)
    assert len(decoded) / 16000 == pytest.approx(2.7, abs=0.05)


def test_pause_of_a_recorder_becomes_silence() -> None:
    decoded = decode(af.paused(af.tone(2.0, 48000), 48000, at=1.0, pause=3.0))
    assert len(decoded) / 16000 == pytest.approx(5.0, abs=0.05)
    assert level_db(decoded[int(1.2 * 16000) : int(3.8 * 16000)]) < -80
    assert level_db(decoded[:16000]) == pytest.approx(level_db(decoded[-16000:]), abs=0.5)


def test_sources_are_read_from_their_begin_and_stay_open() -> None:
    with tempfile.SpooledTemporaryFile(max_size=10) as spooled:
        spooled.write(af.m4a(SPEECH, 16000))
        for _ in range(2):
            blocks = decode_blocks(cast("BinaryIO", spooled), block_samples=1000, limits=LIMITS)
            assert likeness(np.concatenate(list(blocks)), SPEECH, 16000)[1] > 0.9
        assert not spooled.closed


# --- what is wrong ---

EMPTY_FLAC = b"fLaC\x80\0\0\x22\x10\0\x10\0" + bytes(6) + b"\x03\xe8\0\xf0" + bytes(20)

INVALID: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no bytes were sent"),
    "one byte": (lambda: b"R", "not audio"),
    "text": (lambda: af.TEXT, "looks like text"),
    "chinese text": (lambda: "这不是音频文件。\n".encode() * 200, "looks like text"),
    "jpeg": (lambda: af.JPEG, "JPEG"),
    "random": (lambda: af.NOISE, "not audio"),
    "zeros": (lambda: bytes(100_000), "not audio"),
    "playlist": (lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n", "text"),
    "only tags": (lambda: b"ID3\x04\0\0\0\0\x02\x00" + bytes(256), "no samples"),
    "wav without samples": (lambda: af.wav_header(0), "no samples"),
    "wav without samples, streamed": (lambda: af.wav_header(0xFFFF_FFFF), "no samples"),
    "wav without samples, with tags": (
        lambda: af.wav_header(0, riff_size=48) + b"LIST\x04\0\0\0INFO",
        "no samples",
    ),
    "mp3 without samples": (lambda: af.mp3(SPEECH, 16000)[:333], "truncated"),
    "flac without samples": (lambda: EMPTY_FLAC, "FLAC|no samples"),
    "film without sound": (lambda: af.video(None), "no audio track"),
    "mkv without sound": (lambda: af.video(None, container="matroska"), "no audio track"),
    "wav cut": (lambda: af.cut(af.wav(SPEECH, 16000)), "announces 1.5 s .* only 0.90 s"),
    "wav cut in its header": (lambda: af.wav(SPEECH, 16000)[:30], "truncated"),
    "wav that lies": (lambda: af.lying_wav(60, 2), "announces 60.0 s .* only 2.0 s"),
    "wav without format": (lambda: b"RIFF\x10\0\0\0WAVEdata" + bytes(1000), "does not say"),
    "wav of empty chunks": (lambda: b"RIFF\x10\0\0\0WAVE" + b"junk\0\0\0\0" * 100_000, "damaged"),
    "nan": (lambda: af.float_wav(np.where(np.arange(16000) == 9000, np.nan, 0.1)), "NaN"),
    "infinity": (lambda: af.float_wav(np.where(np.arange(16000) == 9000, -np.inf, 0.1)), "NaN or inf"),
    "nan in 44.1 kHz": (lambda: af.float_wav(np.full(44100, np.nan), 44100), "NaN"),
    "short wav": (lambda: af.wav(af.tone(0.01, 16000), 16000), "too short: it lasts 0.01 s"),
    "short flac": (lambda: af.flac(af.tone(0.05, 48000), 48000), "too short: it lasts 0.05 s"),
    "m4a without index": (lambda: af.m4a(SPEECH, 16000)[:-800], "truncated|incomplete"),
    "mp3 with a hole": (lambda: af.scarred(af.mp3(SPEECH, 16000), 700), "damaged, at about"),
    "mp3 with zeros": (
        lambda: (part := af.mp3(SPEECH, 16000, xing=False))[:4000] + bytes(2000) + part[6000:],
        "damaged, at about 0",
    ),
    "mp3 that lost frames": (
        lambda: (whole := af.mp3(SPEECH, 16000))[:333] + whole[333 + 20 * 288 :],
        "truncated",
    ),
    "flac with a hole": (lambda: af.scarred(af.flac(SPEECH, 16000), 40), "damaged"),
    "opus with a flipped bit": (lambda: af.scarred(af.ogg_opus(SPEECH, 16000), 1), "damaged"),
    "opus without a page": (
        lambda: _without_ogg_page(af.ogg_opus(af.murmur(3.5, 16000), 16000), 3),
        "damaged",
    ),
    "webm with a hole": (lambda: af.scarred(af.webm(SPEECH, 16000), 2000), "damaged"),
    "m4a with a hole": (lambda: af.scarred(af.m4a(SPEECH, 16000), 2000), "damaged"),
    "amr with a hole": (lambda: af.scarred(af.amr_nb(SPEECH, 16000), 200), "damaged"),
}


def _without_ogg_page(data: bytes, number: int) -> bytes:
    begin = -1
    for _ in range(number + 1):
        begin = data.index(b"OggS", begin + 1)
    return data[:begin] + data[data.index(b"OggS", begin + 1) :]


@pytest.mark.parametrize("name", INVALID)
def test_refuses_what_is_wrong_in_a_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, pattern = INVALID[name]
    with pytest.raises(InvalidAudio, match=pattern) as caught:
        decode(make())
    assert caught.value.message.endswith(".")
    # FFmpeg's own complaints belong to nobody.
    assert capfd.readouterr() == ("", "")


CUT_ANYWHERE = sorted(set(af.WRITERS) - {"aiff", "rf64"})


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.995])
@pytest.mark.parametrize("name", CUT_ANYWHERE)
def test_refuses_a_file_that_was_cut_off(name: str, keep: float) -> None:
    data = af.WRITERS[name](SPEECH, 16000)
    with pytest.raises(InvalidAudio, match=r"truncated|incomplete|announces"):
        decode(af.cut(data, keep))


@pytest.mark.parametrize("name", ["mp3", "adts", "flac", "m4a", "ogg-opus", "ogg-vorbis", "webm", "amr"])
def test_refuses_a_file_that_lost_its_last_bytes(name: str) -> None:
    data = af.WRITERS[name](SPEECH, 16000)
    for lost in (1, 3, 5):
        with pytest.raises(InvalidAudio, match="truncated"):
            decode(data[:-lost])


def test_refuses_an_mp3_that_was_cut_between_frames_if_its_header_counts_them() -> None:
    data = af.mp3(SPEECH, 16000)
    assert (len(data) - 333) % 288 == 0, "every frame of this file has 288 bytes"
    with pytest.raises(InvalidAudio, match="truncated"):
        decode(data[: -288 * 10])


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (b"RIFF\xff\0\0\0AVI LIST" + bytes(500), "AVI"),
        (af.au(SPEECH, 16000), "AU"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(500), "WMA"),
        (b"\x02#!SILK_V3" + bytes(500), "SILK"),
        (af.wav_header(32000, rate=1) + bytes(32000), "1 Hz"),
        (af.wav_header(32000, rate=2_000_000_000) + bytes(32000), "2000000000 Hz"),
        (af.wav_header(32000)[:22] + b"\0\1" + af.wav_header(32000)[24:] + bytes(32000), "256 channels"),
    ],
)
def test_refuses_formats_that_it_does_not_decode(data: bytes, pattern: str) -> None:
    with pytest.raises(UnsupportedFormat, match=pattern):
        decode(data)


def test_refuses_raw_pcm_that_cannot_be() -> None:
    with pytest.raises(InvalidAudio, match="odd number"):
        decode(bytes(32001), raw=RawPcm(16000))
    with pytest.raises(InvalidParameter, match="sample rate") as caught:
        decode(bytes(32000), raw=RawPcm(0))
    assert caught.value.param == "sample_rate"
    with pytest.raises(InvalidAudio, match="no bytes"):
        decode(b"", raw=RawPcm(16000))


# --- limits ---


class Counting(io.BytesIO):
    """Counts the bytes that were read from it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.mark.parametrize("kind", ["flac", "wav", "raw", "lying wav"])
def test_refuses_ten_hours_by_the_header_alone(kind: str) -> None:
    hours = 10 * 3600.0
    raw = RawPcm(4000) if kind == "raw" else None
    data = {
        "flac": lambda: af.silent_flac(hours),
        "wav": lambda: af.lying_wav(hours, hours, 4000),
        "raw": lambda: bytes(round(2 * hours * 4000)),
        "lying wav": lambda: af.lying_wav(hours, 1),
    }[kind]()
    source = Counting(data)
    with pytest.raises(AudioTooLarge, match=r"lasts 10 h by its own header.* at most 60 min"):
        next(decode_blocks(source, raw=raw, block_samples=16000, limits=LIMITS))
    assert source.count < 600_000


@pytest.mark.parametrize("name", ["mp3", "ogg-opus", "webm", "m4a", "flac", "adts", "amr", "mkv", "caf"])
def test_refuses_what_is_over_the_limit_before_the_first_block(name: str) -> None:
    data = af.WRITERS[name](SPEECH, 16000)
    with pytest.raises(AudioTooLarge, match=r"0\.40 s"):
        next(decode_blocks(io.BytesIO(data), block_samples=1600, limits=DecodeLimits(0.1, 0.4)))


def test_stops_at_the_limit_where_nothing_announces_the_length() -> None:
    data = af.webm(af.murmur(20.0, 48000), 48000, live=True)
    blocks = decode_blocks(io.BytesIO(data), block_samples=1600, limits=DecodeLimits(0.1, 5))
    seen: list[int] = []
    with pytest.raises(AudioTooLarge, match=r"more than 5\.0 s"):
        seen.extend(len(block) for block in blocks)
    assert sum(seen) <= 5 * 16000


def test_refuses_a_pause_that_passes_the_limit() -> None:
    data = af.paused(af.tone(2.0, 48000), 48000, at=1.0, pause=3000.0)
    tracemalloc.start()
    try:
        with pytest.raises(AudioTooLarge):
            decode(data, limits=DecodeLimits(0.1, 60))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    two_hours = 2 * 3600 * 16000
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(af.wav_header(2 * two_hours))
        file.truncate(44 + 2 * two_hours)
    total = 0
    tracemalloc.start()
    try:
        with path.open("rb") as source:
            for block in decode_blocks(source, block_samples=480_000, limits=DecodeLimits(0.1, 9000)):
                total += len(block)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert total == two_hours


BOMBS = {
    "sizes": lambda: af.patched(af.patched(af.m4a(SPEECH, 16000), b"stsz", 4, 1, 10**9), b"stts", 8, 10**9),
    "times": lambda: af.patched(af.m4a(SPEECH, 16000), b"stts", 8, 10**9),
    "rows": lambda: af.patched(af.m4a(SPEECH, 16000), b"stts", 4, 10**9),
    "chunks": lambda: af.patched(af.m4a(SPEECH, 16000), b"stsc", 12, 10**9),
    "pcm chunks": lambda: af.patched(af.mov_pcm(SPEECH, 16000), b"stsc", 12, 4 * 10**9),
    "fragment": lambda: af.patched(af.fragmented_mp4(SPEECH, 16000), b"trun", 0, 1, 10**9),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refuses_an_mp4_whose_index_would_take_all_memory(name: str) -> None:
    with pytest.raises(InvalidAudio, match="damaged"):
        decode(BOMBS[name]())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_leaves_no_file_open_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    good = af.m4a(SPEECH, 16000)
    path = tmp_path / "upload"

    def attempt(data: bytes, *, give_up: bool) -> None:
        path.write_bytes(data)
        with path.open("rb") as source:
            blocks = decode_blocks(source, block_samples=1600, limits=LIMITS)
            try:
                next(blocks)
                if not give_up:
                    list(blocks)
            except AsrError:
                pass
            blocks.close()

    attempt(good, give_up=False)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        attempt(good, give_up=False)
        attempt(good, give_up=True)
        attempt(af.cut(good), give_up=False)
        attempt(af.TEXT, give_up=False)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == [path]


FUZZED = {name: writer(af.murmur(0.6, 16000), 16000) for name, writer in af.WRITERS.items()}


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(FUZZED)),
    place=st.floats(0, 1, exclude_max=True),
    patch=st.binary(min_size=1, max_size=12),
    in_header=st.booleans(),
)
def test_no_damage_leads_to_anything_but_samples_or_a_sentence(
    name: str, place: float, patch: bytes, in_header: bool
) -> None:
    data = bytearray(FUZZED[name])
    at = int(place * (min(len(data), 600) if in_header else len(data)))
    data[at : at + len(patch)] = patch
    with contextlib.suppress(InvalidAudio, AudioTooLarge):
        assert len(decode(bytes(data))) >= 1600

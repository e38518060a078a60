"""What the session machine does for those who ask: padding, ends of speech, silence; and G.711."""

import itertools
from typing import Any

import numpy as np
import pytest

from deployments.messages import Pcm
from serve_app.audio import g711
from serve_app.errors import InvalidParameter
from serve_app.pipeline.live.events import (
    LiveEvent,
    LiveOptions,
    Quiet,
    SentenceFinal,
    SpeechEnded,
    SpeechStarted,
)
from serve_app.pipeline.live.session import LiveSession
from tests.live_graph import ToneGraph
from tests.live_sessions import PAUSE, RATE, finals, hear, tones

ONE = tones([1, 2, 3])


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * RATE), np.int16)


def of(kind: type[LiveEvent], events: list[LiveEvent]) -> list[LiveEvent]:
    return [event for event in events if isinstance(event, kind)]


async def test_ends_are_told_before_finals() -> None:
    audio = tones([1, 2, 3, *PAUSE, 4, 5])
    events = [
        event
        for event in await raw(audio, LiveOptions(tell_ends=True, partials=False))
        if not isinstance(event, SpeechStarted)
    ]
    kinds = [type(event) for event in events[:-1]]
    assert kinds == [SpeechEnded, SentenceFinal, SpeechEnded, SentenceFinal]
    for ended, final in zip(events[0:4:2], events[1:4:2], strict=True):
        assert isinstance(ended, SpeechEnded)
        assert isinstance(final, SentenceFinal)
        assert (ended.index, ended.begin, ended.end, ended.cause) == (
            final.index,
            final.begin,
            final.end,
            final.cause,
        )


async def raw(audio: Pcm, options: LiveOptions) -> list[LiveEvent]:
    """A session's events, of kinds that the other helpers do not expect."""
    async with LiveSession(ToneGraph(), options, "s") as session:
        for begin in range(0, len(audio), RATE):
            await session.push(audio[begin : begin + RATE])
        await session.finish()
        return [event async for event in session.events()]


@pytest.mark.parametrize("sizes", [1, 7])
async def test_silence_is_told_wherever_there_is_enough_of_it(sizes: int) -> None:
    audio = np.concatenate((silence(5), ONE, silence(5 * sizes)))
    events = await raw(audio, LiveOptions(quiet_ms=2000))
    quiet = [(event.index, event.begin, event.end) for event in events if isinstance(event, Quiet)]
    (final,) = of(SentenceFinal, events)
    assert isinstance(final, SentenceFinal)
    before = [(0, 0.0, 2.0)]
    assert quiet[: len(before)] == before
    after = quiet[len(before) :]
    assert after
    assert after[0] == (1, final.end, final.end + 2)
    assert all(a[2] == b[1] for a, b in itertools.pairwise(after))
    # The last two seconds may still turn out to be the begin of something.
    assert len(after) == (5 * sizes - 2) // 2


async def test_no_silence_is_told_while_somebody_speaks() -> None:
    audio = tones([1 + number % 20 for number in range(40)])
    assert of(Quiet, await raw(audio, LiveOptions(quiet_ms=1000))) == []


@pytest.mark.parametrize("padding", [0, 700, 10_000])
async def test_padding_reaches_back_to_the_sentence_before_at_most(padding: int) -> None:
    audio = np.concatenate((silence(2), tones([1, 2, 3, *PAUSE, 4, 5, *PAUSE])))
    plain = finals(await hear(ToneGraph(), [audio]))
    padded = finals(await hear(ToneGraph(), [audio], LiveOptions(padding_ms=padding)))
    assert [final.text for final in padded] == [final.text for final in plain]
    assert padded[0].begin == pytest.approx(max(0, plain[0].begin - padding / 1000))
    assert padded[1].begin == pytest.approx(max(plain[0].end, plain[1].begin - padding / 1000))
    assert [final.end for final in padded] == [final.end for final in plain]


@pytest.mark.parametrize("options", [{"padding_ms": -1}, {"padding_ms": 10_001}, {"quiet_ms": 999}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        LiveOptions(**options)


def test_g711_tables_are_those_of_the_recommendation() -> None:
    # Values of ITU-T G.711, tables 1a and 2a, in 16 bits.
    for law, expected in (
        ("ulaw", {0xFF: 0, 0x7F: 0, 0x80: 32124, 0x00: -32124, 0xFE: 8, 0xEF: 132, 0x0F: -16764}),
        ("alaw", {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256, 0x80: 5504, 0xC5: 264}),
    ):
        values = g711.decode(bytes(expected), "ulaw" if law == "ulaw" else "alaw")
        assert values.tolist() == list(expected.values()), law


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
def test_g711_is_as_ffmpeg_has_it(law: g711.Law) -> None:
    av = pytest.importorskip("av")
    codes = bytes(range(256))
    context = av.CodecContext.create(f"pcm_{'mulaw' if law == 'ulaw' else 'alaw'}", "r")
    context.sample_rate, context.layout = 8000, "mono"
    (frame,) = context.decode(av.Packet(codes))
    assert frame.to_ndarray().ravel().tolist() == g711.decode(codes, law).tolist()

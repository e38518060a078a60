"""Speakers in live sessions over a scripted graph: beside recognition, in order, never in the way of text."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deployments.messages import AudioSlice, Embeddings, Pcm, Priority, Recognition, RecognitionOptions
from serve_app.errors import AsrError, Overloaded, UpstreamLost
from serve_app.live import LiveService
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.live import voices
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, SentenceFinal, SpeakersMerged
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.settings import Settings
from tests.live_graph import ToneGraph
from tests.live_sessions import BOTH, PAUSE, RATE, TWO_PASS, cut, finals, hear, settle, tones
from tests.live_voices import ANN, BOB, MERGING_TALK, TALK, Voiced, hoarse
from tests.voices import DIMENSIONS


def asked(options: LiveOptions, speakers: SpeakerOptions | None = None) -> LiveOptions:
    return replace(options, speakers=speakers or SpeakerOptions())


def numbers(events: Sequence[LiveEvent]) -> list[int | None]:
    return [event.speaker.number if event.speaker else None for event in finals(events)]


def without_speakers(events: Sequence[LiveEvent]) -> list[LiveEvent]:
    kept = [event for event in events if not isinstance(event, SpeakersMerged)]
    return [replace(event, speaker=None) if isinstance(event, SentenceFinal) else event for event in kept]


@BOTH
async def test_finals_carry_who_spoke_and_are_else_the_same(options: LiveOptions) -> None:
    audio = [tones(TALK)]
    events = await hear(ToneGraph(), audio, asked(options))
    assert numbers(events) == [1, 2, 2, 1]
    labels = [final.speaker.label for final in finals(events) if final.speaker]
    assert labels == ["说话人1", "说话人2", "说话人2", "说话人1"]
    assert without_speakers(events) == await hear(ToneGraph(), audio, options)


async def test_nobody_asks_who_speaks_unless_asked_to() -> None:
    graph = ToneGraph()
    events = await hear(graph, [tones(TALK)], TWO_PASS)
    assert numbers(events) == [None] * 4
    assert graph.most_running["embed"] == 0


@BOTH
async def test_packets_and_pace_change_no_speaker(options: LiveOptions) -> None:
    audio = tones(TALK)
    whole = await hear(ToneGraph(), [audio], asked(options))
    for paced in (False, True):
        events = await hear(
            ToneGraph(), cut(audio, [1111] * (len(audio) // 1111)), asked(options), paced=paced
        )
        assert finals(events) == finals(whole)


async def test_a_sentence_without_words_is_nobodys() -> None:
    whisper = np.full(2 * RATE, 300, np.int16)
    audio = [tones([*ANN, *PAUSE]), whisper, tones([*PAUSE, *ANN])]
    events = await hear(ToneGraph(), audio, asked(TWO_PASS))
    assert [final.text for final in finals(events)][1] == ""
    assert numbers(events) == [1, None, 1]


async def test_voices_are_taken_from_the_same_audio_before_anybody_else_gets_a_turn() -> None:
    graph = Voiced()
    await hear(graph, [tones([*ANN, *ANN, *PAUSE, *BOB])], asked(TWO_PASS))
    assert graph.stored == 2
    # 3 s and 1.5 s, with the margins of detection: windows of 1.5 s, one each 0.75 s.
    assert graph.asked == [(4, Priority.LIVE), (2, Priority.LIVE)]


@pytest.mark.parametrize("first", ["embed", "transcribe"])
async def test_a_sentence_is_recognized_while_its_voice_is_taken(first: str) -> None:
    class Meeting(Voiced):
        """Neither is through before both have begun."""

        async def transcribe(
            self,
            audio: AudioSlice,
            *,
            priority: Priority = Priority.REQUEST,
            options: RecognitionOptions = DEFAULT_RECOGNITION,
        ) -> Recognition:
            self.gate.set()
            if first == "embed":
                await self.was_asked.wait()
            return await super().transcribe(audio, priority=priority, options=options)

    graph = Meeting()
    graph.gate.clear()
    async with asyncio.timeout(20):
        events = await hear(graph, [tones(ANN)], asked(TWO_PASS))
    assert numbers(events) == [1]


FAULTS = [UpstreamLost("The model was lost."), Overloaded("The server is busy.", 5), ValueError("a bug")]


@BOTH
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_lost_speaker_model_costs_speakers_and_no_text(
    options: LiveOptions, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Voiced()
    graph.fault = fault
    with caplog.at_level(logging.WARNING):
        events = await hear(graph, [tones(TALK)], asked(options))
    assert numbers(events) == [None] * 4
    assert without_speakers(events) == await hear(ToneGraph(), [tones(TALK)], options)
    complaints = [record for record in caplog.records if "without speakers" in record.message]
    assert len(complaints) == 1
    assert isinstance(fault, AsrError) == all(record.exc_info is None for record in caplog.records)


async def test_speakers_are_told_again_when_the_model_is_back() -> None:
    graph = Voiced()
    async with LiveSession(graph, asked(TWO_PASS), "s") as session:
        told = (event async for event in session.events() if isinstance(event, SentenceFinal))
        found = []
        for fault in (None, UpstreamLost("gone"), None):
            graph.fault = fault
            await session.push(tones([*BOB, *PAUSE]))
            found.append((await anext(told)).speaker)
    first, lost, second = found
    assert first is not None
    assert second is not None
    assert (first.number, lost, second.number) == (1, None, 1)


async def test_a_speaker_model_that_hangs_holds_no_final_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(voices, "_PATIENCE_AFTER_LOSS_SECONDS", 0.0)
    graph = Voiced()
    graph.gate.clear()
    events = await hear(graph, [tones(TALK)], asked(TWO_PASS))
    assert numbers(events) == [None] * 4
    await settle()
    assert graph.running["embed"] == 0


async def test_after_a_loss_there_is_a_patience_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(voices, "_PATIENCE_AFTER_LOSS_SECONDS", 20.0)
    graph = Voiced()
    graph.gate.clear()
    async with LiveSession(graph, asked(TWO_PASS), "s") as session:
        told = (event async for event in session.events() if isinstance(event, SentenceFinal))
        await session.push(tones([*ANN, *PAUSE]))
        assert (await anext(told)).speaker is None
        await session.push(tones([*ANN, *PAUSE]))
        second = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0.1)
        graph.gate.set()
        assert (await second).speaker is not None


async def test_silence_around_what_was_said_has_no_voice() -> None:
    """A sentence that begins with seconds of nothing, as with a long padding, is who speaks in it."""

    def voice(samples: Pcm) -> Embeddings:
        heard = np.zeros(DIMENSIONS, np.float32)
        heard[int(samples[len(samples) // 2]) // 10_000 if samples[len(samples) // 2] else 20] = 1
        return heard

    options = asked(replace(TWO_PASS, padding_ms=6000))
    audio = tones([*ANN, *[0] * 70, *BOB, *[0] * 70, *ANN])
    events = await hear(Voiced(voice), [audio], options)
    assert all(final.end - final.begin > 6 for final in finals(events)[1:])
    assert numbers(events) == [1, 2, 1]


async def test_who_turns_out_to_be_one_is_told_before_the_sentence_that_shows_it() -> None:
    events = await hear_all(Voiced(hoarse), MERGING_TALK)
    (at,) = [at for at, event in enumerate(events) if isinstance(event, SpeakersMerged)]
    merged, told = events[at : at + 2]
    assert isinstance(merged, SpeakersMerged)
    assert isinstance(told, SentenceFinal)
    assert (merged.kept.number, merged.gone.number) == (1, 2)
    assert told.speaker is not None
    assert told.speaker.number == 1
    assert numbers(events[:at]) == [1, 2, *[1] * (len(finals(events[:at])) - 2)]
    assert set(numbers(events[at:])) == {1}


async def hear_all(graph: Voiced, levels: Sequence[int]) -> list[LiveEvent]:
    async with LiveSession(graph, asked(TWO_PASS), "s") as session:
        await session.push(tones(levels))
        await session.finish()
        return [event async for event in session.events()]


async def test_one_clients_speakers_keep_their_numbers_from_session_to_session() -> None:
    service = LiveService(ToneGraph(), Settings(asr_enable_nearfield_filter=False))
    talks = [[*ANN, *PAUSE, *BOB], [*BOB, *PAUSE, *ANN], BOB]
    with service.admit() as begin:
        assert [await told(begin(asked(service.defaults)), levels) for levels in talks] == [
            ["说话人1", "说话人2"],
            ["说话人2", "说话人1"],
            ["说话人2"],
        ]
        # Told apart in another way, they are counted anew; another client's are, too.
        limited = asked(service.defaults, SpeakerOptions(most=1))
        assert await told(begin(limited), talks[0]) == ["说话人1", "说话人1"]
    async with service.open(asked(service.defaults)) as session:
        assert await told(session, BOB) == ["说话人1"]


async def test_voices_are_compared_and_named_as_the_service_is_told() -> None:
    settings = Settings(asr_enable_nearfield_filter=False)
    audio = [*ANN, *PAUSE, *BOB]
    for tuning, labels in [
        (SpeakerTuning(0.3, "en"), ["Speaker 1", "Speaker 1"]),
        (SpeakerTuning(0.45, "zh"), ["说话人1", "说话人2"]),
    ]:
        service = LiveService(Voiced(hoarse), settings, tuning=tuning)
        async with service.open(asked(service.defaults)) as session:
            assert await told(session, audio) == labels


async def told(session: LiveSession, levels: Sequence[int]) -> list[str]:
    async with session:
        await session.push(tones(levels))
        await session.finish()
        events = [event async for event in session.events()]
    return [final.speaker.label for final in finals(events) if final.speaker]


@BOTH
async def test_a_session_that_is_left_leaves_nothing(options: LiveOptions) -> None:
    graph = Voiced()
    graph.gate.clear()
    async with LiveSession(graph, asked(options), "s") as session:
        await session.push(tones([*ANN, *PAUSE, *BOB]))
        await settle()
        assert graph.asked
    assert graph.streams == {}
    assert len(asyncio.all_tasks()) == 1

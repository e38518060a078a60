"""Aliyun's WebSocket protocol, message by message, over models that hear what the audio's levels spell."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deployments.messages import (
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.errors import Internal, UpstreamLost
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from tests.funasr_clients import connected, send_json, until_closed
from tests.live_graph import ToneGraph
from tests.live_sessions import PAUSE, tones
from tests.nls_clients import (
    NAMES,
    RECOGNIZER,
    SUCCESS,
    TRANSCRIBER,
    Nls,
    directive,
    named,
    names,
    nls,
    nls_server,
    status_of,
    text_of,
    whole_task,
)

SERVICES = [TRANSCRIBER, RECOGNIZER]
PATHS = ["/ws/v1", "/ws/v1/asr"]

ONE = tones([1, 2, 3])
TWO = tones([1, 2, 3, *PAUSE, 4, 5])


class HearingGraph(ToneGraph):
    """Hears tones with some doubt, and keeps what detection was asked for; ``fault`` is raised instead."""

    def __init__(self) -> None:
        super().__init__()
        self.vad_options: list[VadOptions] = []
        self.fault: Exception | None = None

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        self.vad_options.append(options)
        return await super().detect_live(samples, block, state, final, options)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        if self.fault is not None:
            raise self.fault
        heard = await super().transcribe(audio, priority=priority, options=options)
        return Recognition(tuple(replace(word, log_prob=-0.25) for word in heard.words))


@pytest.fixture
def graph() -> HearingGraph:
    return HearingGraph()


@pytest.fixture
async def url(graph: HearingGraph) -> AsyncIterator[str]:
    async with nls_server(graph) as address:
        yield address
        assert await sessions_of(address) == 0
        assert graph.streams == {}


async def sessions_of(url: str) -> int:
    """Live sessions that the server holds, once those that are going have gone."""
    async with httpx.AsyncClient(trust_env=False, base_url=url.replace("ws", "http", 1)) as client:
        for _ in range(50):
            if (count := (await client.get("/healthz")).json()["live_sessions"]) == 0:
                break
            await asyncio.sleep(0.1)
        return int(count)


async def test_every_field_of_every_event_of_a_transcriber(url: str) -> None:
    async with nls(url) as client:
        await client.start(
            enable_intermediate_result=True, enable_words=True, session_id="mine", sample_rate=16000
        )
        await client.say(TWO.tobytes())
        await client.stop()
        await client.until("TranscriptionCompleted")
    for event in client.events:
        header = event["header"]
        assert header["namespace"] == TRANSCRIBER
        assert header["status"] == SUCCESS
        assert (header["status_text"], header["status_message"]) == (
            "Gateway:SUCCESS:Success.",
            "GATEWAY|SUCCESS|Success.",
        )
        assert header["task_id"] == client.task_id
    ids = [event["header"]["message_id"] for event in client.events]
    assert len(set(ids)) == len(ids)
    assert all(len(value) == 32 and set(value) <= set("0123456789abcdef") for value in ids)
    order = [name for name in names(client.events) if name != "TranscriptionResultChanged"]
    assert order == [
        *("TranscriptionStarted", "SentenceBegin", "SentenceEnd"),
        *("SentenceBegin", "SentenceEnd", "TranscriptionCompleted"),
    ]
    assert named(client.events, "TranscriptionStarted") == [{"session_id": "mine"}]
    assert "payload" not in client.events[-1]
    first, second = named(client.events, "SentenceEnd")
    begins = named(client.events, "SentenceBegin")
    assert [begin["index"] for begin in begins] == [1, 2] == [first["index"], second["index"]]
    assert [begin["time"] for begin in begins] == [0, 2000] == [first["begin_time"], second["begin_time"]]
    assert (first["time"], second["time"]) == (1000, 2700)
    assert first["result"] == "".join(chr(0x4E00 + level) for level in (1, 2, 3))
    assert second["result"] == "".join(chr(0x4E00 + level) for level in (4, 5))
    assert first["confidence"] == pytest.approx(0.779)
    assert [word["text"] for word in first["words"]] == list(first["result"])
    assert [word["startTime"] for word in first["words"]] == [0, 300, 600]
    assert [word["endTime"] for word in first["words"]] == [100, 400, 700]
    assert first["status"] == 0
    assert first["stash_result"] == {
        "sentenceId": 2,
        "beginTime": 1000,
        "text": "",
        "currentTime": 1000,
        "fixedText": "",
        "unfixedText": "",
        "words": [],
    }
    assert first["sentence_id"] != second["sentence_id"]
    assert {"gender", "gender_score", "fixed_result", "unfixed_result", "audio_extra_info"} <= set(first)
    changed = named(client.events, "TranscriptionResultChanged")
    assert changed
    for payload in changed:
        sentence = (first, second)[payload["index"] - 1]
        assert sentence["result"].startswith(payload["result"])
        assert sentence["begin_time"] <= payload["time"] <= sentence["time"]
        assert (payload["status"], [word["text"] for word in payload["words"]]) == (
            0,
            list(payload["result"]),
        )


async def test_every_field_of_every_event_of_a_recognizer(url: str) -> None:
    audio = np.concatenate((TWO, np.zeros(1600, np.int16)))
    events = await whole_task(
        url, audio.tobytes(), service=RECOGNIZER, enable_intermediate_result=True, enable_words=True
    )
    assert {event["header"]["namespace"] for event in events} == {RECOGNIZER}
    assert names(events)[0] == "RecognitionStarted"
    assert names(events)[-1] == "RecognitionCompleted"
    assert set(names(events)[1:-1]) == {"RecognitionResultChanged"}
    (completed,) = named(events, "RecognitionCompleted")
    spoken = "".join(chr(0x4E00 + level) for level in range(1, 6))
    assert completed["result"] == spoken
    assert completed["duration"] == len(audio) // 16
    assert [word["text"] for word in completed["words"]] == list(spoken)
    results = [payload["result"] for payload in named(events, "RecognitionResultChanged")]
    assert all(spoken.startswith(result) for result in results)
    assert results == sorted(results, key=len)


@pytest.mark.parametrize("service", SERVICES)
async def test_silence_is_an_empty_result(url: str, service: str) -> None:
    for audio in (b"", bytes(32_000)):
        events = await whole_task(url, audio, service=service)
        assert names(events) == [NAMES[service] + "Started", NAMES[service] + "Completed"]
        assert text_of(events) == ""


@pytest.mark.parametrize(("path", "lavish"), [("/ws/v1", False), ("/ws/v1/asr", True)])
async def test_defaults_are_those_of_the_address(url: str, path: str, lavish: bool) -> None:
    events = await whole_task(url, ONE.tobytes(), path=path)
    (end,) = named(events, "SentenceEnd")
    assert end["result"].endswith("。") == lavish
    assert bool(named(events, "TranscriptionResultChanged")) == lavish
    assert end["words"] == []
    assert ("7" in text_of(await whole_task(url, tones([3, 7]).tobytes(), path=path))) == lavish
    asked: dict[str, Any] = {
        "enable_punctuation_predition": not lavish,  # as the Node SDK's examples spell it
        "enable_intermediate_result": "false" if lavish else "true",
    }
    events = await whole_task(url, ONE.tobytes(), path=path, **asked)
    assert text_of(events).endswith("。") != lavish
    assert bool(named(events, "TranscriptionResultChanged")) != lavish


@pytest.mark.parametrize(
    ("payload", "silence"),
    [
        ({}, 800),
        ({"max_sentence_silence": None}, 800),
        ({"max_sentence_silence": 400}, 400),
        ({"max_sentence_silence": "2000"}, 2000),
        ({"max_sentence_silence": 6000.0}, 6000),
    ],
)
async def test_max_sentence_silence_counts_audio(
    url: str, graph: HearingGraph, payload: dict[str, Any], silence: int
) -> None:
    """All of the audio comes at once, so nothing but its own clock can end a sentence."""
    pause = np.zeros(int(1.5 * 16000), np.int16)
    events = await whole_task(url, np.concatenate((ONE, pause, ONE)).tobytes(), size=1 << 20, **payload)
    assert {options.max_end_silence_ms for options in graph.vad_options} == {silence}
    assert len(named(events, "SentenceEnd")) == (2 if silence < 1500 else 1)


async def test_parameters_reach_recognition(url: str, graph: HearingGraph) -> None:
    spoken = "".join(chr(0x4E00 + level) for level in (1, 2, 3))
    events = await whole_task(
        url,
        ONE.tobytes(),
        speech_noise_threshold=0.5,
        vocabulary_id=f"{spoken[1]}=>零",
        special_word_filter={"filter_with_signed": {"word_list": [spoken[2]]}},
        customization_id="any",
        enable_semantic_sentence_detection=True,
        enable_ignore_sentence_timeout=True,
        nobody_knows_this={"a": [1]},
        enable_words="1",
    )
    (end,) = named(events, "SentenceEnd")
    assert end["result"] == f"{spoken[0]}零*"
    assert [word["text"] for word in end["words"]] == list(spoken), "the words as they were spoken"
    assert {options.speech_noise_threshold for options in graph.vad_options} == {0.5}


async def test_numbers_and_fillers(url: str) -> None:
    """Level 3 is 七, 7 is 万."""
    audio = tones([3, 7]).tobytes()
    assert text_of(await whole_task(url, audio)) == "七万"
    events = await whole_task(url, audio, enable_inverse_text_normalization=True, enable_words=True)
    assert "7" in text_of(events)
    (end,) = named(events, "SentenceEnd")
    assert [word["text"] for word in end["words"]] == ["七", "万"]


BAD_STARTS: list[tuple[dict[str, Any], int]] = [
    ({"sample_rate": 44100}, 41010101),
    ({"sample_rate": "fast"}, 40000003),
    ({"format": "midi"}, 40270001),
    ({"format": 7}, 40000003),
    ({"max_sentence_silence": 100}, 40000003),
    ({"max_sentence_silence": 6001}, 40000003),
    ({"max_sentence_silence": "long"}, 40000003),
    ({"enable_words": "perhaps"}, 40000003),
    ({"speech_noise_threshold": 1.5}, 40000003),
    ({"vocabulary_id": ["a"]}, 40000003),
    ({"vocabulary_id": "=>b"}, 40000003),
    ({"session_id": "x" * 300}, 40000003),
]


@pytest.mark.parametrize("service", SERVICES)
async def test_bad_parameters(url: str, service: str) -> None:
    for payload, status in BAD_STARTS:
        async with nls(url, service=service) as client:
            failed = await client.start(**payload)
            assert status_of(failed) == status, payload
            assert failed["header"]["task_id"] == client.task_id
            assert "payload" not in failed
            assert next(iter(payload)).partition("_")[0] in failed["header"]["status_text"]
            assert await client.closed() == ([], 1000)


BAD_MESSAGES = [
    ("no JSON", 40000002),
    ("[]", 40000002),
    ("{}", 40000002),
    ("[" * 50_000, 40000002),
    ('{"header": []}', 40000002),
    ('{"header": {"namespace": "SpeechTranscriber"}}', 40000002),
    ('{"header": {"namespace": "SpeechTranscriber", "name": 5}}', 40000002),
    ('{"header": {"namespace": "SpeechSynthesizer", "name": "StartSynthesis"}}', 40010001),
    ('{"header": {"name": "StartTranscription"}}', 40010001),
    ('{"header": {"namespace": "SpeechTranscriber", "name": "StartRecognition"}}', 40010003),
    ('{"header": {"namespace": "SpeechRecognizer", "name": "PauseRecognition"}}', 40010003),
    (
        '{"header": {"namespace": "SpeechTranscriber", "name": "StartTranscription"}, "payload": 1}',
        40000002,
    ),
    (
        json.dumps({"header": {"namespace": TRANSCRIBER, "name": "StopTranscription", "task_id": "x" * 999}}),
        40000002,
    ),
]


async def test_bad_messages_disturb_nothing(url: str) -> None:
    for message, status in BAD_MESSAGES:
        async with nls(url) as client:
            await client.socket.send(message)
            assert status_of(await client.event()) == status, message[:80]
            assert (await client.start())["header"]["name"] == "TranscriptionStarted"
            await client.socket.send(message)
            assert status_of(await client.event()) == status, message[:80]
            await client.say(ONE.tobytes())
            await client.stop()
            await client.until("TranscriptionCompleted")
        assert len(text_of(client.events)) == 3


@pytest.mark.parametrize("service", SERVICES)
async def test_directives_out_of_place(url: str, service: str) -> None:
    async with nls(url, service=service) as client:
        await client.stop()
        assert status_of(await client.event()) == 40000002
        await client.socket.send(directive(service, "Stop", None))
        assert status_of(await client.event()) == 40000002
        await client.say(bytes(6400), 640)
        assert status_of(await client.event()) == 40000002, "told once, not for each frame"
        await client.start()
        again = await client.start()
        assert status_of(again) == 40000002
        await client.stop("f" * 32)
        other = await client.event()
        assert (status_of(other), other["header"]["task_id"]) == (40000002, "f" * 32)
        await client.say(ONE.tobytes())
        await client.stop()
        events = await client.until(NAMES[service] + "Completed")
        assert len(text_of(events)) == 3
        await client.say(bytes(640))
        await client.stop()
        await client.stop("f" * 32)
        assert status_of(await client.event()) == 40000002, "late audio and a second stop are no mistake"


async def send_all(client: Nls, messages: Sequence[str]) -> None:
    for message in messages:
        await client.socket.send(message)


@pytest.mark.parametrize("service", SERVICES)
async def test_control_is_never_fatal(url: str, service: str) -> None:
    controls = [
        json.dumps({"header": {"namespace": service, "name": name}, "payload": {"ex": {"a": 1}}})
        for name in ("ControlTranscriber", "ControlTranscription", "ControlRecognizer")
    ]
    async with nls(url, service=service) as client:
        await send_all(client, controls)
        await client.start()
        await send_all(client, controls)
        await client.say(ONE.tobytes())
        await send_all(client, controls)
        await client.stop()
        await send_all(client, controls)
        await client.until(NAMES[service] + "Completed")
        assert "TaskFailed" not in names(client.events)


async def test_tasks_follow_each_other_on_one_connection(url: str) -> None:
    async with nls(url) as client:
        for number, service in enumerate([TRANSCRIBER, RECOGNIZER, TRANSCRIBER]):
            client.service, client.task_id = service, f"{number}" * 32
            await client.start()
            begin = len(client.events) - 1
            await client.say(tones([number + 1, number + 2]).tobytes())
            await client.stop()
            await client.until(NAMES[service] + "Completed")
            events = client.events[begin:]
            assert text_of(events) == chr(0x4E01 + number) + chr(0x4E02 + number)
            assert {event["header"]["task_id"] for event in events} == {client.task_id}
            if service == TRANSCRIBER:
                assert named(events, "SentenceEnd")[0]["index"] == 1
                assert named(events, "SentenceBegin")[0]["time"] == 0


async def test_a_task_without_an_id_gets_one(url: str) -> None:
    async with nls(url) as client:
        await client.socket.send(directive(TRANSCRIBER, "Start", None))
        started = await client.event()
        task_id = started["header"]["task_id"]
        assert len(task_id) == 32
        assert started["payload"]["session_id"] == f"session_{task_id}"
        await client.socket.send(directive(TRANSCRIBER, "Stop", None))
        completed = (await client.event())["header"]
        assert (completed["name"], completed["task_id"]) == ("TranscriptionCompleted", task_id)


async def test_ids_of_any_type_are_echoed(url: str) -> None:
    async with nls(url) as client:
        header = {"namespace": TRANSCRIBER, "name": "StartTranscription", "task_id": "\ud800x"}
        await client.socket.send(json.dumps({"header": header, "payload": {"session_id": "\udfff"}}))
        assert (await client.event())["header"]["name"] == "TranscriptionStarted"


async def test_pending_speech_is_told_after_the_stop(url: str) -> None:
    """No pause ends the sentence: the stop does."""
    async with nls(url) as client:
        await client.start()
        await client.say(ONE.tobytes())
        await client.stop()
        events = await client.until("TranscriptionCompleted")
    assert names(events) == ["SentenceBegin", "SentenceEnd", "TranscriptionCompleted"]


async def test_voice_detection_ends_a_recognizer_with_its_sentence(url: str, graph: HearingGraph) -> None:
    async with nls(url, service=RECOGNIZER) as client:
        await client.start(enable_voice_detection=True, max_end_silence=500, max_sentence_silence=2000)
        await client.say(TWO.tobytes())
        (completed,) = named(await client.until("RecognitionCompleted"), "RecognitionCompleted")
        assert completed["result"] == "".join(chr(0x4E00 + level) for level in (1, 2, 3))
        assert completed["duration"] == 1000
        assert {options.max_end_silence_ms for options in graph.vad_options} == {500}
        await client.say(TWO.tobytes())
        await client.stop()
        client.task_id = "2" * 32
        assert names([await client.start()]) == ["RecognitionStarted"], "audio and stop came late"


async def test_voice_detection_gives_up_when_nobody_speaks(url: str) -> None:
    async with nls(url, service=RECOGNIZER) as client:
        await client.start(enable_voice_detection=True, max_start_silence=1000)
        for _ in range(40):
            with contextlib.suppress(ConnectionClosed):
                await client.say(bytes(3200))
        (failed,), code = await client.closed()
        assert (status_of(failed), code) == (40270002, 1000)


async def test_voice_detection_waits_for_who_speaks_in_time(url: str) -> None:
    audio = np.concatenate((np.zeros(16_000, np.int16), ONE, np.zeros(32_000, np.int16)))
    async with nls(url, service=RECOGNIZER) as client:
        await client.start(enable_voice_detection=True, max_start_silence=1200, max_end_silence=300)
        await client.say(audio.tobytes())
        events = await client.until("RecognitionCompleted")
    assert len(text_of(events)) == 3


async def test_speech_that_goes_on_is_not_ended_by_voice_detection(graph: HearingGraph) -> None:
    """It is cut, as endless speech is, but the person has not stopped."""
    levels = [1 + index % 9 for index in range(24)]
    audio = np.concatenate((tones(levels), np.zeros(16_000, np.int16)))
    async with nls_server(graph, live_max_sentence_sec=5) as url, nls(url, service=RECOGNIZER) as client:
        await client.start(enable_voice_detection=True, max_end_silence=500)
        await client.say(audio.tobytes())
        (completed,) = named(await client.until("RecognitionCompleted"), "RecognitionCompleted")
    assert len(completed["result"]) >= len(levels)
    assert completed["duration"] > 7000


async def test_voice_detection_is_not_for_transcribers(url: str) -> None:
    async with nls(url) as client:
        await client.start(enable_voice_detection=True, max_start_silence=200)
        await client.say(bytes(64_000))
        await client.say(TWO.tobytes())
        await client.stop()
        events = await client.until("TranscriptionCompleted", "TaskFailed")
    assert len(named(events, "SentenceEnd")) == 2


@pytest.mark.parametrize("service", SERVICES)
async def test_idle_clients_are_told_and_closed(graph: HearingGraph, service: str) -> None:
    async with nls_server(graph, nls_idle_timeout_sec=0.3) as url:
        async with nls(url, service=service) as client:
            (failed,), code = await client.closed()
            assert (status_of(failed), code) == (40000004, 1000)
            assert failed["header"]["status_text"].startswith(
                "Gateway:IDLE_TIMEOUT:Websocket session is idle"
            )
        async with nls(url, service=service) as client:
            await client.start()
            await client.say(ONE.tobytes())
            events, code = await client.closed()
            assert (status_of(events[-1]), code) == (40000004, 1000)
            if service == TRANSCRIBER:
                assert len(text_of(events)) == 3, "what was said is told before"
            else:
                assert names(events) == ["TaskFailed"]
        async with nls(url, service=service) as client:
            await client.start()
            await client.stop()
            await client.event()
            assert await client.closed() == ([], 1000), "nothing failed"
        assert await sessions_of(url) == 0


async def test_connections_have_a_lifetime(graph: HearingGraph) -> None:
    async with nls_server(graph, live_max_connection_sec=0.5) as url, nls(url) as client:
        await client.start()

        async def speak() -> None:
            while True:
                await client.say(ONE.tobytes())
                await asyncio.sleep(0.05)

        speaker = asyncio.create_task(speak())
        events, code = await client.closed()
        speaker.cancel()
        assert (status_of(events[-1]), code) == (40000004, 1000)
        assert text_of(events)


async def test_the_lifetime_is_that_of_all_live_connections(graph: HearingGraph) -> None:
    """FunASR's clients are told in its own way."""
    async with nls_server(graph, live_max_connection_sec=2) as url, connected(url + "/") as socket:
        await send_json(socket, mode="2pass", is_speaking=True)
        await socket.send(ONE.tobytes())
        messages, code = await until_closed(socket)
        assert (messages[-1]["is_final"], code) == (True, 1001)
        assert "as long as this server" in messages[-1]["error"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [(UpstreamLost("The model is gone."), 50000001), (Internal("It broke."), 50000000)],
)
@pytest.mark.parametrize("service", SERVICES)
async def test_a_lost_model(
    url: str, graph: HearingGraph, service: str, fault: Exception, status: int
) -> None:
    async with nls(url, service=service) as client:
        await client.start()
        graph.fault = fault
        await client.say(TWO.tobytes())
        events, code = await client.closed()
        assert (status_of(events[-1]), code) == (status, 1011)
        assert str(fault) in events[-1]["header"]["status_text"]
        assert NAMES[service] + "Completed" not in names(events)


async def test_a_fault_of_the_server_is_no_secret_spilled(url: str, graph: HearingGraph) -> None:
    async with nls(url) as client:
        await client.start()
        graph.fault = ValueError("secret")
        await client.say(TWO.tobytes())
        events, code = await client.closed()
        assert (status_of(events[-1]), code) == (50000000, 1011)
        assert "secret" not in json.dumps(events)


async def test_more_sessions_than_there_may_be(graph: HearingGraph) -> None:
    async with nls_server(graph, max_live_sessions=1) as url, nls(url) as first:
        await first.start()
        async with nls(url, "/ws/v1/asr") as second:
            failed = await second.start()
            assert status_of(failed) == 40000005
            assert await second.closed() == ([], 1013)
        await first.say(ONE.tobytes())
        await first.stop()
        assert len(text_of(await first.until("TranscriptionCompleted"))) == 3


class SlowGraph(HearingGraph):
    """Detection never comes to an end."""

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_audio_that_comes_too_fast(graph: HearingGraph) -> None:
    async with nls_server(SlowGraph(), max_audio_size="1MB") as url, nls(url) as client:
        await client.start()
        with contextlib.suppress(ConnectionClosed):
            await client.say(bytes(3 << 20), 1 << 16)
        (failed,), code = await client.closed()
        assert (status_of(failed), code) == (41040201, 1009)
        assert await sessions_of(url) == 0


NO_AUDIO = [
    (b"RIFF\x00\x00\x00\x00WAVEdata\x10\x00\x00\x00" + bytes(100), "wav", 40000009),
    (b"fLaC" + bytes(100), "pcm", 40270001),
    (b"\x00\x00\x00\x18ftypM4A " + bytes(100), "aac", 40270001),
    (bytes(range(256)) * 4, "opus", 40270003),
    (b"OggS\0" + bytes(22) + b"nonsense" * 40, "opus", 40270003),
    (b"\x55" * 200_000, "mp3", 40270003),
    (b"\xff" * 5000, "amr", 40270003),
]


@pytest.mark.parametrize("service", SERVICES)
async def test_audio_that_is_none(url: str, service: str) -> None:
    for audio, announced, status in NO_AUDIO:
        async with nls(url, service=service) as client:
            await client.start(format=announced)
            with contextlib.suppress(ConnectionClosed):
                await client.say(audio)
                await client.stop()
            events, code = await client.closed()
            assert (status_of(events[-1]), code) == (status, 1000), audio[:12]
            assert NAMES[service] + "Completed" not in names(events)


async def test_pcm_and_wav_whatever_was_announced(url: str) -> None:
    header = (
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\xff"
    )
    audio = tones([1, 2], 0.1).tobytes()
    for data in (audio, header + audio, audio + b"\0"):
        for announced in ("pcm", "PCM", "wav", None):
            for size in (7, 3200, 1 << 20):
                assert len(text_of(await whole_task(url, data, size=size, format=announced))) == 2


async def test_narrowband_audio(url: str) -> None:
    audio = ONE[::2].tobytes()
    events = await whole_task(url, audio, service=RECOGNIZER, sample_rate=8000)
    assert named(events, "RecognitionCompleted")[0]["duration"] == pytest.approx(900, abs=5)


KEYS = {"api_key": "first-key, second-key"}


@pytest.mark.parametrize("token", [None, "wrong-key"])
async def test_a_bad_token_on_aliyuns_path_gets_no_connection(graph: HearingGraph, token: str | None) -> None:
    async with nls_server(graph, **KEYS) as url:
        with pytest.raises(InvalidStatus) as refusal:
            async with nls(url, token=token):
                pass
        assert refusal.value.response.status_code == 403


@pytest.mark.parametrize("token", [None, "wrong-key"])
async def test_a_bad_token_on_the_peers_path_is_told(graph: HearingGraph, token: str | None) -> None:
    async with nls_server(graph, **KEYS) as url, nls(url, "/ws/v1/asr", token=token) as client:
        (failed,), code = await client.closed()
        assert (status_of(failed), code) == (40000001, 1008)
        assert failed["header"]["status_text"] == (
            f"Gateway:ACCESS_DENIED:The token '{token or ''}' is invalid!"
        )


@pytest.mark.parametrize("path", PATHS)
async def test_tokens_wherever_clients_put_them(graph: HearingGraph, path: str) -> None:
    async with nls_server(graph, **KEYS) as url:
        for query in ("?token=first-key", "?x_nls_token=second-key", "?X-NLS-Token=first-key"):
            async with nls(url, path + query) as client:
                assert (await client.start())["header"]["status"] == SUCCESS
        async with nls(url, path, token="second-key") as client:
            assert (await client.start())["header"]["status"] == SUCCESS


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_with_all_its_places_taken(graph: HearingGraph, path: str) -> None:
    async with nls_server(graph, max_concurrent_per_key=1) as url, nls(url) as first:
        await first.start()
        async with nls(url, path) as second:
            (failed,), code = await second.closed()
            assert (status_of(failed), code) == (40000005, 1013)


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006])
async def test_clients_that_go_in_the_middle(url: str, code: int) -> None:
    for audio, service in itertools.product((b"", ONE.tobytes(), TWO.tobytes()), SERVICES):
        async with nls(url, service=service) as client:
            await client.start(enable_intermediate_result=True)
            await client.say(audio)
            if code == 1006:
                client.socket.transport.abort()
            elif code == 1005:
                client.socket.protocol.send_close()
                client.socket.send_data()
            else:
                await client.socket.close(code)
    assert await sessions_of(url) == 0


class StallingGraph(HearingGraph):
    """The offline model answers when ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        await self.gate.wait()
        return await super().transcribe(audio, priority=priority, options=options)

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        return await super().stream(step)


async def test_what_comes_after_the_stop_waits_for_the_end_of_the_task() -> None:
    graph = StallingGraph()
    async with nls_server(graph) as url, nls(url) as client:
        await client.start()
        await client.say(ONE.tobytes())
        await client.stop()
        await client.socket.send(directive(TRANSCRIBER, "Start", "2" * 32))
        await client.until("SentenceBegin")
        graph.gate.set()
        events: Sequence[Any] = await client.until("TranscriptionStarted")
        assert names(events) == ["SentenceEnd", "TranscriptionCompleted", "TranscriptionStarted"]

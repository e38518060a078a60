"""Speakers in live sessions over the whole server: the voices of the samples, one after the other."""

import base64
from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

import pytest
from openai import AsyncOpenAI
from openai.types.realtime import ConversationItemInputAudioTranscriptionCompletedEvent as Completed
from openai.types.realtime import ConversationItemInputAudioTranscriptionSegment as Segment

from benchmarks.live_server import LiveServer
from deployments.messages import Pcm
from tests.conftest import SAMPLES
from tests.funasr_clients import connected, receive, send_json
from tests.live_speech import converse, recording, spoken, websocket_url

pytestmark = pytest.mark.server

ORDER = ["travel", "meeting", "travel", "home", "meeting"]
SPEAKERS = [1, 2, 1, 3, 2]
"""Each sample is a voice of its own."""


@pytest.fixture(scope="module")
def talk() -> Pcm:
    return recording([SAMPLES / f"{name}.wav" for name in ORDER])


def in_turn(speakers: Sequence[Any]) -> list[Any]:
    """Who speaks, one after the other."""
    return [speaker for speaker, _ in groupby(speakers)]


@pytest.mark.parametrize("mode", ["2pass", "online"])
async def test_live_sentences_are_told_by_voice(server: LiveServer, talk: Pcm, mode: str) -> None:
    url = websocket_url(server.url)
    plain = await converse(url, spoken(talk, speed=0), mode)
    heard = await converse(url, spoken(talk, speed=0), mode, enable_speaker_diarization=True)
    assert heard.text == plain.text
    assert in_turn(heard.speakers) == [f"说话人{number}" for number in SPEAKERS]
    assert plain.speakers == []


async def test_a_whole_recording_is_told_by_voice(server: LiveServer, talk: Pcm) -> None:
    async with connected(websocket_url(server.url)) as socket:
        await send_json(socket, mode="offline", enable_speaker_diarization=True)
        await socket.send(talk.tobytes())
        await send_json(socket, is_speaking=False)
        result = await receive(socket)
    assert in_turn([info["spk"] for info in result["sentence_info"]]) == [number - 1 for number in SPEAKERS]
    assert result["spk_name"] == "说话人2"


async def test_the_sdk_reads_segments(server: LiveServer, talk: Pcm) -> None:
    audio_format = {"type": "audio/pcm", "rate": 16_000}
    model = {"model": "gpt-4o-transcribe-diarize"}
    fields = {"format": audio_format, "transcription": model, "turn_detection": None}
    told = []
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client,
        client.realtime.connect(
            extra_query={"intent": "transcription"}, websocket_connection_options=cast("Any", {"proxy": None})
        ) as connection,
    ):
        await connection.session.update(
            session=cast("Any", {"type": "transcription", "audio": {"input": fields}})
        )
        await connection.input_audio_buffer.append(audio=base64.b64encode(talk.tobytes()).decode())
        await connection.input_audio_buffer.commit()
        async for event in connection:
            assert event.type != "error", event
            if isinstance(event, Segment):
                told.append(event)
            if isinstance(event, Completed):
                transcript = event.transcript
                break
    assert in_turn([segment.speaker for segment in told]) == [" ABC"[number] for number in SPEAKERS]
    assert "".join(segment.text for segment in told) == transcript
    times = [time for segment in told for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= len(talk) / 16_000

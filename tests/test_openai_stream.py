"""``stream=true`` over a scripted graph: order and text of the events, faults, clients that go away."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.audio import (
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
)

from serve_app.api.sse import event_response
from serve_app.errors import AsrError, InvalidAudio, UpstreamLost
from tests.openai_world import SENTENCES, TEXT, ScriptedGraph, app_of, recording, serving
from tests.test_uploads import open_files

PATH = "/v1/audio/transcriptions"


async def stream_of(url: str, **options: Any) -> list[TranscriptionStreamEvent]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        stream = await client.audio.transcriptions.create(model="x", file=recording(), stream=True, **options)
        return [event async for event in stream]


def data_of(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]


async def post(url: str, audio: bytes | None = None, **fields: Any) -> httpx.Response:
    file = recording() if audio is None else audio
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(url + PATH, files={"file": file}, data=fields)


async def post_once_free(url: str) -> httpx.Response:
    """The answer to a request, once there is a place for it."""
    for _ in range(1000):
        if (response := await post(url)).status_code != 429:
            break
        await asyncio.sleep(0.01)
    return response


async def test_deltas_add_up_to_the_plain_text() -> None:
    async with serving(app_of(ScriptedGraph())) as url:
        *deltas, done = await stream_of(url)
        plain = (await post(url)).json()
    assert all(isinstance(event, TranscriptionTextDeltaEvent) for event in deltas)
    assert [event.delta.strip() for event in deltas if event.type == "transcript.text.delta"] == SENTENCES
    assert "".join(e.delta for e in deltas if e.type == "transcript.text.delta") == TEXT
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == plain["text"] == TEXT
    assert done.to_dict()["usage"] == plain["usage"] == {"type": "duration", "seconds": 9}
    assert done.logprobs is None
    assert done.languages is None


async def test_the_first_delta_comes_while_the_second_segment_is_being_recognized() -> None:
    graph = ScriptedGraph()
    graph.gates[1] = asyncio.Event()
    async with serving(app_of(graph)) as url, asyncio.timeout(60):
        client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
        stream = await client.audio.transcriptions.create(model="x", file=recording(), stream=True)
        seen = [await anext(stream)]
        # Nothing recognizes the second segment before this line: the first delta did not wait for it.
        graph.gates[1].set()
        seen += [event async for event in stream]
        await client.close()
    assert seen[0].type == "transcript.text.delta"
    assert seen[0].delta == SENTENCES[0]
    assert seen[-1].type == "transcript.text.done"
    assert seen[-1].text == TEXT


async def test_the_wire_format() -> None:
    async with serving(app_of(ScriptedGraph())) as url:
        response = await post(url, stream="true")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-request-id"]
    assert response.text.endswith("\n\ndata: [DONE]\n\n")
    assert [json.loads(item)["type"] for item in data_of(response.text)[:-1]] == [
        *["transcript.text.delta"] * 4,
        "transcript.text.done",
    ]


async def test_segments_of_diarized_json_without_a_speaker_model() -> None:
    async with serving(app_of(ScriptedGraph(), speaker_model="none")) as url:
        events = await stream_of(url, response_format="diarized_json")
        plain = (await post(url, response_format="diarized_json")).json()
    segments = [event for event in events if isinstance(event, TranscriptionTextSegmentEvent)]
    assert [segment.to_dict() for segment in segments] == plain["segments"]
    deltas = [event for event in events if isinstance(event, TranscriptionTextDeltaEvent)]
    assert [delta.segment_id for delta in deltas] == [segment.id for segment in segments]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["transcript.text.delta", "transcript.text.segment"]
    assert kinds[-1] == "transcript.text.done"


async def test_segments_of_verbose_json_hold_their_words() -> None:
    async with serving(app_of(ScriptedGraph())) as url:
        fields: dict[str, Any] = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
        events = [json.loads(item) for item in data_of((await post(url, stream="1", **fields)).text)[:-1]]
        plain = (await post(url, **fields)).json()
    segments = [event for event in events if event["type"] == "transcript.text.segment"]
    assert [word for segment in segments for word in segment["words"]] == plain["words"]


async def test_log_probabilities_and_languages_are_those_of_the_plain_answer() -> None:
    async with serving(app_of(ScriptedGraph())) as url:
        *deltas, done = await stream_of(url, include=["logprobs"], languages=["zh", "en"])
        plain = (await post(url, include="logprobs", languages=["zh", "en"])).json()
    assert done.type == "transcript.text.done"
    assert [item.to_dict() for item in done.logprobs or ()] == plain["logprobs"]
    for delta in deltas:
        assert delta.type == "transcript.text.delta"
        assert "".join(item.token or "" for item in delta.logprobs or ()) == delta.delta
    assert [item for d in deltas for item in d.to_dict()["logprobs"]] == plain["logprobs"]  # type: ignore[attr-defined]
    assert [language.code for language in done.languages or ()] == ["zh"]


async def test_silence_streams_an_empty_text() -> None:
    async with serving(app_of(ScriptedGraph())) as url:
        events = data_of((await post(url, recording(0), stream="true")).text)
    assert [json.loads(item)["text"] for item in events[:-1]] == [""]


async def test_what_fails_before_the_first_event_has_its_status() -> None:
    graph = ScriptedGraph()
    async with serving(app_of(graph, max_concurrent_files=1)) as url:
        assert (await post(url, b"nonsense", stream="true")).json()["error"]["code"] == "invalid_audio"
        graph.faults[0] = UpstreamLost("The model was lost.")
        response = await post(url, stream="true")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
        for format_ in ("srt", "vtt"):
            refused = await post(url, stream="true", response_format=format_)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")
        del graph.faults[0]
        assert (await post(url)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (UpstreamLost("The model was lost."), "model_unavailable", "The model was lost."),
        (RuntimeError("secret detail"), "internal_error", "The server met an unexpected fault"),
    ],
)
async def test_a_fault_in_mid_stream_is_an_event_that_the_sdk_raises(
    fault: Exception, code: str, message: str
) -> None:
    graph = ScriptedGraph()
    graph.faults[1] = fault
    async with serving(app_of(graph, max_concurrent_files=1)) as url:
        with pytest.raises(openai.APIError, match=message) as caught:
            await stream_of(url)
        assert (caught.value.code, caught.value.type) == (code, "server_error")
        events = data_of((await post(url, stream="true")).text)
        assert json.loads(events[0])["delta"] == SENTENCES[0]
        assert set(json.loads(events[-1])["error"]) == {"message", "type", "param", "code"}
        assert "secret" not in events[-1]
        graph.faults.clear()
        assert (await post(url)).json()["text"] == TEXT


async def test_a_client_that_goes_away_stops_the_work_and_frees_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    graph = ScriptedGraph()
    graph.gates[1] = asyncio.Event()
    on_disk = recording(pause=20.0)
    async with (
        serving(app_of(graph, max_concurrent_files=1)) as url,
        httpx.AsyncClient() as client,
        asyncio.timeout(60),
    ):
        request = client.stream("POST", url + PATH, files={"file": on_disk}, data={"stream": "true"})
        async with request as response:
            assert SENTENCES[0] in await anext(response.aiter_text())
            assert (await post(url)).status_code == 429
            assert open_files(tmp_path) == 1
        await graph.cancelled.wait()
        graph.gates.clear()
        assert (await post_once_free(url)).json()["text"] == TEXT
    assert open_files(tmp_path) == 0


class Resource:
    """Something that must be let go of, and events that use it."""

    def __init__(self) -> None:
        self.open = True
        self.finished = False
        self.stack = AsyncExitStack()
        self.stack.callback(self._close)

    def _close(self) -> None:
        assert self.finished, "closed before the events that use it"
        self.open = False

    async def events(self, count: int = 100, fault: Exception | None = None) -> AsyncIterator[bytes]:
        try:
            for number in range(count):
                await asyncio.sleep(0)
                yield b"data: %d\n\n" % number
            if fault:
                raise fault
        finally:
            await asyncio.sleep(0)
            self.finished = True


async def receive_nothing() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def receive_disconnect() -> dict[str, Any]:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize("sent", [0, 1, 3])
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_connection_that_breaks_at_any_point_frees_what_is_held(sent: int, spec_version: str) -> None:
    resource = Resource()
    response = await event_response(resource.events(), held=resource.stack)
    messages: list[Any] = []

    async def send(message: Any) -> None:
        if len(messages) == sent:
            raise OSError("gone")
        messages.append(message)

    scope = {"type": "http", "asgi": {"spec_version": spec_version}}
    with pytest.raises(BaseException):  # noqa: B017, PT011 - which one is up to the framework
        await response(scope, receive_nothing, send)
    assert not resource.open


async def test_a_client_that_is_gone_before_the_headers_frees_what_is_held() -> None:
    resource = Resource()

    async def send(message: Any) -> None:
        await asyncio.sleep(0.01)

    response = await event_response(resource.events(1_000_000), held=resource.stack)
    await response({"type": "http"}, receive_disconnect, send)
    assert not resource.open


async def test_cancelled_while_the_first_event_is_awaited_frees_what_is_held() -> None:
    resource = Resource()
    entered = asyncio.Event()

    async def blocked() -> AsyncIterator[bytes]:
        try:
            entered.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            resource.finished = True

    answer = asyncio.create_task(event_response(blocked(), held=resource.stack))
    await entered.wait()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert not resource.open


async def test_an_error_after_the_answer_began_without_an_event_is_told_as_one() -> None:
    resource = Resource()
    gate = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        await gate.wait()
        async for event in resource.events(0, InvalidAudio("Nothing to hear.")):
            yield event

    def told(error: AsrError) -> bytes:
        return f"data: {error.message}\n\n".encode()

    response = await event_response(late(), on_error=told, held=resource.stack, wait=0)
    gate.set()
    assert [chunk async for chunk in response.body_iterator] == [b"data: Nothing to hear.\n\n"]


async def test_an_idle_answer_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.PING_SECONDS", 0.01)
    gate = asyncio.Event()

    async def idle() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"data: 1\n\n"

    response = await event_response(idle(), wait=0)
    seen = []
    async for chunk in response.body_iterator:
        seen.append(chunk)
        if len(seen) == 2:
            gate.set()
    assert seen[:2] == [b": ping\n\n"] * 2
    assert seen[-1] == b"data: 1\n\n"

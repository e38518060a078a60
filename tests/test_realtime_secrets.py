"""Client secrets: who gets one, what it opens, when it stops to, and that every replica knows it."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.realtime_world import HearingGraph, realtime, realtime_server

KEY = {"authorization": "Bearer one"}
CREATE, LEGACY = "/v1/realtime/client_secrets", "/v1/realtime/transcription_sessions"
SESSION = {
    "type": "transcription",
    "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "zh"}}},
}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with realtime_server(HearingGraph(), api_key="one,two") as address:
        yield address


@asynccontextmanager
async def http(url: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, **options) as client:
        yield client


async def secret_of(url: str, body: Any = None, path: str = CREATE) -> dict[str, Any]:
    async with http(url, headers=KEY) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def status_of(url: str, key: str | None) -> int:
    """Of the handshake: 101, or why it was refused."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with connect(
            f"{url.replace('http', 'ws')}/v1/realtime", proxy=None, additional_headers=headers
        ) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"
        return 101
    except InvalidStatus as error:
        response = error.response
    assert json.loads(response.body or b"{}")["error"]["code"] == "invalid_api_key"
    return response.status_code


async def test_a_secret_opens_the_session_that_it_was_made_for(url: str) -> None:
    secret = await secret_of(url, {"session": SESSION, "expires_after": {"seconds": 30}})
    assert secret["value"].startswith("ek_")
    assert 25 < secret["expires_at"] - time.time() <= 30
    assert secret["session"]["object"] == "realtime.transcription_session"
    protocols = ["realtime", f"openai-insecure-api-key.{secret['value']}"]
    async with realtime(url, "", rate=None, subprotocols=protocols) as client:
        assert client.socket.subprotocol == "realtime"
        shown = client.events[0]["session"]
    assert shown["audio"] == secret["session"]["audio"]
    assert shown["audio"]["input"]["transcription"]["language"] == "zh"


async def test_the_beta_gets_its_secret_inside_of_its_session(url: str) -> None:
    session = await secret_of(url, {"input_audio_format": "g711_ulaw", "turn_detection": None}, LEGACY)
    secret = session.pop("client_secret")
    assert 55 < secret["expires_at"] - time.time() <= 60
    assert (session["input_audio_format"], session["turn_detection"]) == ("g711_ulaw", None)
    headers = {"Authorization": f"Bearer {secret['value']}", "OpenAI-Beta": "realtime=v1"}
    async with realtime(url, rate=None, additional_headers=headers) as client:
        shown = client.events[0]["session"]
    assert {**shown, "id": ""} == {**session, "id": ""}


@pytest.mark.parametrize("path", [CREATE, LEGACY])
@pytest.mark.parametrize("body", [None, {}])
async def test_all_of_a_request_may_be_left_out(url: str, path: str, body: Any) -> None:
    assert await secret_of(url, body, path)


async def test_keys_and_secrets_open_sockets_and_nothing_else_does(url: str) -> None:
    secret = (await secret_of(url))["value"]
    packed = base64.urlsafe_b64decode(secret[3:] + "=" * (-len(secret[3:]) % 4))
    tampered = "ek_" + base64.urlsafe_b64encode(packed[:-1] + b"?").decode().rstrip("=")
    found = {key: await status_of(url, key) for key in (None, "one", "two", secret)}
    assert found == {None: 401, "one": 101, "two": 101, secret: 101}
    for wrong in ("three", "ek_", "ek_***", "ek_" + "A" * 40, tampered, secret + "A" * 5000):
        assert await status_of(url, wrong) == 401


async def test_a_secret_opens_nothing_but_sockets(url: str) -> None:
    secret = (await secret_of(url))["value"]
    async with http(url, headers={"authorization": f"Bearer {secret}"}) as client:
        for path in ("/v1/models", "/v1/jobs"):
            assert (await client.get(path)).status_code == 401
        for path in (CREATE, LEGACY, "/v1/audio/transcriptions"):
            assert (await client.post(path)).status_code == 401


async def test_a_secret_expires(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (await secret_of(url, {"expires_after": {"seconds": 10}}))["value"]
    assert await status_of(url, secret) == 101
    later = time.time() + 11
    monkeypatch.setattr("serve_app.api.realtime.secrets.time.time", lambda: later)
    assert await status_of(url, secret) == 401


async def test_all_replicas_know_a_secret_until_its_key_is_gone(url: str) -> None:
    secret = (await secret_of(url))["value"]
    for keys, status in (("two,one", 101), ("one", 101), ("two", 401), ("three", 401)):
        async with realtime_server(HearingGraph(), api_key=keys) as other:
            assert await status_of(other, secret) == status


async def test_a_secret_counts_to_the_share_of_its_client() -> None:
    async with realtime_server(HearingGraph(), api_key="one", max_concurrent_per_key=1) as url:
        secret = (await secret_of(url))["value"]
        async with realtime(url, rate=None, additional_headers={"Authorization": "Bearer one"}):
            headers = {"Authorization": f"Bearer {secret}"}
            address = f"{url.replace('http', 'ws')}/v1/realtime"
            async with connect(address, proxy=None, additional_headers=headers) as second:
                error = json.loads(await second.recv())["error"]
    assert error["code"] == "rate_limit_exceeded"


async def test_without_keys_secrets_are_given_and_work_too() -> None:
    async with realtime_server(HearingGraph()) as url:
        secret = (await secret_of(url, {"session": SESSION}))["value"]
        for key in (secret, "ek_unknown", None):
            assert await status_of(url, key) == 101
        headers = {"Authorization": f"Bearer {secret}"}
        async with realtime(url, rate=None, additional_headers=headers) as client:
            shown = client.events[0]["session"]["audio"]["input"]["transcription"]
    assert shown == {"model": "gpt-4o-transcribe", "language": "zh"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CREATE, {"session": {"type": "realtime", "model": "gpt-realtime"}}, "session.type"),
        (CREATE, {"session": {"audio": {"input": {"voice": 1}}}}, "session.audio.input.voice"),
        (CREATE, {"session": {"include": [1]}}, "session.include[0]"),
        (CREATE, {"expires_after": {"seconds": 5}}, "expires_after.seconds"),
        (CREATE, {"expires_after": {"anchor": "x"}}, "expires_after.anchor"),
        (CREATE, {"session": {"audio": {"input": {"transcription": {"prompt": "长" * 9000}}}}}, None),
        (LEGACY, {"input_audio_format": "mp3"}, "session.input_audio_format"),
        (LEGACY, [], None),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(url: str, path: str, body: Any, param: str | None) -> None:
    async with http(url, headers=KEY) as client:
        answer = await client.post(path, json=body)
    if param is None and isinstance(body, dict):
        # So much of one character takes little room.
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


async def test_a_session_that_does_not_fit_is_told_so(url: str) -> None:
    prose = " ".join(f"{number * 7919:x}" for number in range(3000))
    session = {"audio": {"input": {"transcription": {"prompt": prose}}}}
    async with http(url, headers=KEY) as client:
        answer = await client.post(CREATE, json={"session": session})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "session"

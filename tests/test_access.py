"""Who gets in, and how much each may take: keys, rates, requests at once, addresses behind proxies, CORS."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from limits.aio.storage import MemoryStorage
from pydantic import ValidationError
from starlette.requests import Request
from websockets.asyncio.client import connect

from serve_app.api.access import ANYBODY, Access, Peers
from serve_app.api.openai.errors import add_error_handlers
from serve_app.errors import RateLimited, Unauthenticated
from serve_app.settings import Settings
from serve_app.shares import Shares
from tests.funasr_world import World, funasr_server
from tests.test_http_app import SilentGraph, client_of, transcribe


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def request_from(address: str, *, path: str = "/", headers: dict[str, str] | None = None) -> Request:
    encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "headers": encoded, "query_string": b"", "client": (address, 1), "path": path}
    return Request(scope)


def test_each_key_is_a_client_of_its_own() -> None:
    access = Access(Settings(api_key="first-key, second-key,,"))
    ids = {access.identify(request_from("", headers=bearer(key))).id for key in ("first-key", "second-key")}
    assert ids == {hashlib.sha256(key.encode()).hexdigest()[:16] for key in ("first-key", "second-key")}
    for wrong in ("first-key,second-key", "first-key, second-key", "first", ",", "first-key second-key"):
        with pytest.raises(Unauthenticated):
            access.identify(request_from("", headers=bearer(wrong)))
    with pytest.raises(Unauthenticated):
        access.identify(request_from(""))


@pytest.mark.parametrize("nothing", [",", " , ", "  "])
def test_keys_that_got_lost_open_nothing(nothing: str) -> None:
    with pytest.raises(ValidationError, match="holds no key"):
        Settings(api_key=nothing)


def test_without_keys_all_are_one_owner() -> None:
    access = Access(Settings())
    assert access.identify(request_from("1.2.3.4")) is access.identify(request_from("5.6.7.8")) is ANYBODY


async def test_a_rate_is_kept_by_key() -> None:
    async with client_of(SilentGraph(), api_key="a,b", rate_limit="2/hour") as client:
        for _ in range(2):
            assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 200
        refused = await client.get("/v1/models", headers=bearer("a"))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 3590 < int(refused.headers["retry-after"]) <= 3600
        assert (await client.get("/v1/models", headers=bearer("b"))).status_code == 200
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/ws/v1/asr/test"):
            assert (await client.get(path)).status_code == 200


async def test_the_shortest_of_several_rates_is_told() -> None:
    shares = Shares("1000/day; 1/second", None, None)
    await shares.count("a")
    with pytest.raises(RateLimited) as caught:
        await shares.count("a")
    assert caught.value.retry_after == 1


async def test_trying_keys_is_limited_too_and_by_address() -> None:
    async with client_of(SilentGraph(), api_key="right", rate_limit="2/hour") as client:
        answers = [(await client.get("/v1/models", headers=bearer(f"{n}"))).status_code for n in range(3)]
        assert answers == [401, 401, 429]
        assert (await client.get("/v1/models", headers=bearer("right"))).status_code == 200


async def test_a_counter_that_cannot_be_reached_limits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*args: object, **kwargs: object) -> bool:
        raise ValueError("down")

    monkeypatch.setattr(MemoryStorage, "acquire_entry", down)
    async with client_of(SilentGraph(), rate_limit="1/hour") as client:
        for _ in range(3):
            assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    "values",
    [
        {"rate_limit": "lots"},
        {"rate_limit": "60/fortnight"},
        {"rate_limit": "-1/minute"},
        {"rate_limit_storage": "nowhere://user:secret@host"},
        {"rate_limit_storage": "/tmp/counts"},
        {"max_concurrent_per_key": 0},
        {"trusted_proxies": "10.0.0.0/99"},
    ],
)
def test_limits_that_make_no_sense_are_refused_at_the_start(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValidationError, match=name) as caught:
        Settings(**values)
    assert "secret" not in str(caught.value)


async def test_requests_at_once_are_limited_by_key_and_places_come_back() -> None:
    graph = SilentGraph()
    graph.gate.clear()
    async with client_of(graph, api_key="a,b", max_concurrent_per_key=1) as client:
        first = transcribe(client, **bearer("a"))
        await graph.entered.wait()
        async with asyncio.timeout(20):
            refused = await transcribe(client, **bearer("a"))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/v1/models", headers=bearer("b"))).status_code == 200
        graph.gate.set()
        assert (await first).status_code == 200
        graph.fault = RuntimeError("broken")
        assert (await transcribe(client, **bearer("a"))).status_code == 500
        assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 200


@asynccontextmanager
async def streaming_app() -> AsyncIterator[tuple[FastAPI, asyncio.Event]]:
    """An answer that goes on until the event is set."""
    app, end = FastAPI(), asyncio.Event()
    add_error_handlers(app)
    access = Access(Settings(max_concurrent_per_key=1))

    async def body() -> AsyncIterator[bytes]:
        yield b"begin"
        await end.wait()
        yield b"end"

    @app.get("/", dependencies=[Depends(access.admit)])
    async def stream() -> StreamingResponse:
        return StreamingResponse(body())

    yield app, end


async def test_a_streamed_answer_holds_its_place_to_its_end() -> None:
    async with streaming_app() as (app, end):
        began = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                began.set()

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {**request_from("127.0.0.1").scope, "method": "GET", "http_version": "1.1", "raw_path": b"/"}
        streaming = asyncio.create_task(app(scope, receive, send))
        await began.wait()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.get("/")).status_code == 429
            end.set()
            await streaming
            assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("settings", [{"max_concurrent_per_key": 1}, {"rate_limit": "1/hour"}])
async def test_live_connections_count_and_are_refused_in_their_own_words(settings: dict[str, Any]) -> None:
    async with funasr_server(World(), **settings) as (url, _), connect(url) as first:
        async with connect(url) as second:
            assert "This client has" in json.loads(await second.recv())["error"]
            await second.wait_closed()
            assert second.close_code == 1013
        await first.close()
        async with connect(url) as third:
            if "rate_limit" in settings:
                await third.wait_closed()
                assert third.close_code == 1013
            else:
                await third.send(json.dumps({"is_speaking": False}))
                assert "error" not in json.loads(await third.recv())


@pytest.mark.parametrize(
    ("trusted", "address", "forwarded", "seen"),
    [
        (None, "198.51.100.7", "1.2.3.4", "198.51.100.7"),
        ("10.0.0.0/8", "198.51.100.7", "1.2.3.4", "198.51.100.7"),
        ("10.0.0.0/8", "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.0/8", "10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", "unknown", "unknown"),
        (None, "2606:4700:1:2:3:4:5:6", "", "2606:4700:1:2::/64"),
        (None, "::ffff:1.2.3.4", "", "1.2.3.4"),
    ],
)
def test_the_address_behind_trusted_proxies(
    trusted: str | None, address: str, forwarded: str, seen: str
) -> None:
    request = request_from(address, headers={"x-forwarded-for": forwarded})
    assert Peers(trusted).of(request) == seen


async def test_clients_without_a_key_have_a_share_by_address() -> None:
    access = Access(Settings(rate_limit="1/hour"))
    for address in ("1.2.3.4", "5.6.7.8"):
        async with access.serve(request_from(address)) as client:
            assert client is ANYBODY
    with pytest.raises(RateLimited):
        async with access.serve(request_from("1.2.3.4", headers={"x-forwarded-for": "9.9.9.9"})):
            pass


async def cors(origins: str | None, origin: str, **request: Any) -> httpx.Response:
    settings: dict[str, Any] = {} if origins is None else {"cors_origins": origins}
    async with client_of(SilentGraph(), api_key="right", **settings) as client:
        return await client.request(
            request.pop("method", "GET"),
            "/v1/models",
            headers={"origin": origin, **bearer("right"), **request},
        )


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, "https://a.test", "*"),
        ("https://a.test, https://b.test/", "https://b.test", "https://b.test"),
        ("https://a.test", "https://evil.test", None),
        ("https://a.test", "https://a.test.evil.test", None),
        ("none", "https://a.test", None),
        ("", "https://a.test", None),
    ],
)
async def test_web_pages_of_listed_origins_may_read(
    origins: str | None, origin: str, allowed: str | None
) -> None:
    response = await cors(origins, origin)
    assert response.status_code == 200
    assert response.headers.get("access-control-allow-origin") == allowed
    assert "access-control-allow-credentials" not in response.headers


async def test_a_page_may_send_its_key() -> None:
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    response = await cors(None, "https://a.test", method="OPTIONS", **ask)
    assert response.status_code == 200
    assert "authorization" in response.headers["access-control-allow-headers"]

"""What the edge does to requests: HAProxy itself, between real clients and a small node."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve_app.edge.settings import Address
from tests.edge_world import (
    HOST,
    LARGEST_FRAME,
    PATIENCE,
    Front,
    Node,
    accept_hash,
    eventually,
    raw,
    read,
    running_edge,
    running_node,
    trusting,
)

FIRST_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SECOND_KEY = "x3JJHMbDL1EzLkh9GBhXDw=="
ENVELOPE = {"error", "error_code", "message", "task_id", "timestamp", "details"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as running:
        yield running


@pytest.fixture(scope="module")
def front(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    from serve_app.cli.ports import free_port

    with running_edge(tmp_path_factory.mktemp("data"), node, https_port=free_port(HOST)) as running:
        yield running


def twice_keyed(port: int) -> bytes:
    """The handshake of Aliyun's Python SDK: two headers twice, and the first key is the one it checks."""
    lines = [
        "GET /ws/v1?token=default HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {FIRST_KEY}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {SECOND_KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_handshake_with_two_keys_gets_the_hash_of_the_first(front: Front, node: Node) -> None:
    refused = raw(node.address.port, twice_keyed(node.address.port), until=b"\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 400"), "the node takes it by itself: this test shows nothing"
    for port in (front.edge.settings.port, front.funasr_port):
        answer = raw(port, twice_keyed(port), until=b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101")
        hashes = re.findall(rb"(?i)sec-websocket-accept: (.*)\r\n", answer)
        assert hashes == [accept_hash(FIRST_KEY).encode()]


@pytest.mark.parametrize("subprotocol", [None, "binary"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_one_port_takes_tls_and_plain(front: Front, scheme: str, subprotocol: str | None) -> None:
    async with connect(
        f"{scheme}://{HOST}:{front.funasr_port}/any/path?token=k",
        ssl=trusting() if scheme == "wss" else None,
        subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
        proxy=None,
    ) as socket_:
        told = json.loads(await socket_.recv())
        assert told["target"] == "/ws/v1/asr/funasr?token=k"
        assert told["headers"]["x-forwarded-proto"] == ["https" if scheme == "wss" else "http"]
        assert socket_.subprotocol == subprotocol
        await socket_.send("你好")
        assert await socket_.recv() == "你好"


async def test_paths_of_the_common_port_stay(front: Front) -> None:
    async with connect(f"{front.ws}/ws/v1?a=1", proxy=None) as socket_:
        assert json.loads(await socket_.recv())["target"] == "/ws/v1?a=1"


def test_pages_are_served_with_tls(front: Front) -> None:
    for port in (front.funasr_port, front.edge.settings.https_port):
        answer = httpx.get(f"https://{HOST}:{port}/page", verify=trusting(), trust_env=False).json()
        assert answer["target"] == "/page?"
        assert answer["headers"]["x-forwarded-proto"] == ["https"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(front: Front) -> None:
    old = trusting()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((HOST, front.funasr_port), PATIENCE) as plain,
    ):
        old.wrap_socket(plain)


async def test_a_client_that_sends_byte_by_byte_is_understood(front: Front) -> None:
    reader, writer = await asyncio.open_connection(HOST, front.funasr_port)
    for byte in f"GET /slowly HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode():
        writer.write(bytes([byte]))
        await writer.drain()
    answer = await reader.read()
    writer.close()
    assert b"200 OK" in answer
    assert b"/slowly" in answer


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_frames_of_64_mib_pass(front: Front, scheme: str) -> None:
    url = f"{scheme}://{HOST}:{front.funasr_port}/"
    tls = trusting() if scheme == "wss" else None
    async with connect(url, ssl=tls, proxy=None, max_size=None, compression=None) as socket_:
        await socket_.recv()
        await socket_.send(bytes(64 << 20))
        assert await socket_.recv() == str(64 << 20)


async def test_a_frame_above_the_limit_of_the_node_is_closed_cleanly(front: Front) -> None:
    async with connect(f"{front.ws}/", proxy=None, compression=None) as socket_:
        await socket_.recv()
        with contextlib.suppress(ConnectionClosed):
            await socket_.send(bytes(LARGEST_FRAME + 1))
        await socket_.wait_closed()
        assert socket_.close_code == 1009


def test_uploads_pass_whole(front: Front) -> None:
    assert front.post(content=bytes(30 << 20)).json()["size"] == 30 << 20


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_whole_url_as_target_is_taken(front: Front, scheme: str) -> None:
    port = front.edge.settings.port
    request = (
        f"POST {scheme}://{HOST}:{port}/stream/v1/asr?appkey=x&format=pcm HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        "Content-Length: 2\r\nConnection: close\r\n\r\nab"
    )
    told = json.loads(raw(port, request.encode()).partition(b"\r\n\r\n")[2])
    assert told["target"] == "/stream/v1/asr?appkey=x&format=pcm"
    assert told["size"] == 2


def test_a_request_id_is_kept_or_made(front: Front) -> None:
    kept = front.get(headers={"x-request-id": "abc-1.2:3_X"})
    assert kept.headers.get_list("x-request-id") == ["abc-1.2:3_X"]
    assert kept.json()["headers"]["x-request-id"] == ["abc-1.2:3_X"]
    made = [
        front.get(headers=headers) for headers in ({}, {"x-request-id": "a b"}, {"x-request-id": "x" * 129})
    ]
    ids = [answer.headers["x-request-id"] for answer in made]
    assert [answer.json()["headers"]["x-request-id"] for answer in made] == [[id_] for id_ in ids]
    assert all(re.fullmatch("[0-9a-f-]{36}", id_) for id_ in ids)
    assert len(set(ids)) == len(ids)


async def test_a_websocket_has_a_request_id(front: Front) -> None:
    async with connect(front.ws, proxy=None) as socket_:
        told = json.loads(await socket_.recv())
        assert socket_.response is not None
        assert told["headers"]["x-request-id"] == [socket_.response.headers["x-request-id"]]


CLAIMS = {
    "x-forwarded-for": "9.9.9.9",
    "x-forwarded-proto": "gopher",
    "x-forwarded-host": "evil.test",
    "forwarded": "for=9.9.9.9",
    "x-real-ip": "9.9.9.9",
}


def test_claims_about_the_client_are_dropped(front: Front) -> None:
    headers = front.get(headers=CLAIMS).json()["headers"]
    assert headers["x-forwarded-for"] == [HOST]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers.keys() & CLAIMS.keys() == {"x-forwarded-for", "x-forwarded-proto"}


@pytest.mark.parametrize(("trusted", "believed"), [("10.0.0.0/8, 127.0.0.1", True), ("10.0.0.0/8", False)])
def test_a_trusted_proxy_is_believed(node: Node, tmp_path: Path, trusted: str, believed: bool) -> None:
    with running_edge(tmp_path, node, trusted_proxies=trusted) as front:
        headers = front.get(headers=CLAIMS).json()["headers"]
        several = [("x-forwarded-for", "9.9.9.9, 8.8.8.8"), ("x-forwarded-for", "7.7.7.7")]
        chain = front.get(headers=several).json()["headers"]["x-forwarded-for"]
    assert headers["x-forwarded-for"] == [f"9.9.9.9, {HOST}" if believed else HOST]
    assert chain == [f"9.9.9.9, 8.8.8.8, 7.7.7.7, {HOST}" if believed else HOST]
    assert headers["x-forwarded-proto"] == ["gopher" if believed else "http"]


async def test_too_many_connections_get_503(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node, max_connections=3) as front:
        urls = [front.ws, front.ws, f"ws://{HOST}:{front.funasr_port}"]
        held = [await connect(url, proxy=None) for url in urls]
        await refused_websocket(f"ws://{HOST}:{front.funasr_port}", 503, "too_many_connections")
        refused = await asyncio.to_thread(front.get)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        await held[0].close()
        assert await asyncio.to_thread(eventually, lambda: front.get().status_code == 200)
        for socket_ in held:
            await socket_.close()


async def test_too_many_connections_of_one_address_get_429(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node, max_connections_per_source=2) as front:
        held = [await connect(front.ws, proxy=None), await connect(front.ws, proxy=None)]
        await refused_websocket(front.ws, 429, "too_many_connections")
        await refused_websocket(f"ws://{HOST}:{front.funasr_port}", 429, "too_many_connections")
        other = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(transport=other, trust_env=False) as elsewhere:
            assert (await elsewhere.get(front.http)).status_code == 200
        await held[0].close()
        assert await asyncio.to_thread(eventually, lambda: front.get().status_code == 200)
        await held[1].close()


async def refused_websocket(url: str, status: int, code: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, proxy=None)
    response = refusal.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["error"]["code"] == code


@pytest.mark.slow
def test_without_a_node_there_is_a_clear_answer_and_later_a_node(tmp_path: Path) -> None:
    with running_node() as node, running_edge(tmp_path, node) as front:
        assert eventually(lambda: front.get().status_code == 200)
        node.healthy = False
        assert eventually(lambda: front.get().status_code == 503)
        answer = front.get(headers={"x-request-id": "mine"})
        body = answer.json()
        assert body.keys() == ENVELOPE
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "service_unavailable")
        assert (body["task_id"], answer.headers["x-request-id"]) == ("mine", "mine")
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["retry-after"]) > 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
        node.healthy = True
        assert eventually(lambda: front.get().status_code == 200)
        assert any("DOWN" in report for report in front.reports)


def test_requests_go_to_all_nodes_and_a_lost_one_is_not_noticed(tmp_path: Path) -> None:
    with (
        running_node("a") as first,
        running_node("b") as second,
        running_edge(tmp_path, first, second) as front,
    ):
        assert {front.get().json()["node"] for _ in range(8)} == {"a", "b"}
        first.stop()
        assert {front.get().json()["node"] for _ in range(20)} == {"b"}


class Breaker:
    """A node that takes requests and breaks the connection before it answers; it says that it is healthy."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> Address:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return Address(*self._server.sockets[0].getsockname()[:2])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "/-/healthz" in head:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
        else:
            self.requests.append(head.split()[0])
        writer.close()


async def test_only_safe_requests_are_sent_again(tmp_path: Path) -> None:
    breaker = Breaker()
    address = await breaker.start()
    with running_node() as node, running_edge(tmp_path, address, node) as front:
        port = front.edge.settings.port
        posted = [await asyncio.to_thread(raw, port, whole_request("POST")) for _ in range(4)]
        assert breaker.requests == ["POST"] * len(breaker.requests)
        broken = [answer for answer in posted if answer.startswith(b"HTTP/1.1 502")]
        assert len(broken) == len(breaker.requests) > 0
        assert all(b'"code": "bad_gateway"' in answer for answer in broken)
        assert len(node.requests) + len(broken) == len(posted)
        got = [await asyncio.to_thread(raw, port, whole_request("GET")) for _ in range(4)]
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in got)
        assert "GET" in breaker.requests
    await breaker.stop()


def whole_request(method: str) -> bytes:
    """One that is sent at once, so that it could be sent again."""
    return f"{method} /once HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def test_without_an_access_log_only_failures_are_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_node() as node, running_edge(tmp_path, node) as front:
        assert front.get("/fine").status_code == 200
        node.healthy = False
        assert eventually(lambda: front.get("/failed?token=sesame").status_code == 503)
        logged = capfd.readouterr().out
        assert "GET /failed 503" in logged
        assert "/fine" not in logged
        assert "sesame" not in logged


def test_who_does_not_finish_a_request_is_told(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node, request_timeout_sec=1) as front:
        for port in (front.edge.settings.port, front.funasr_port):
            answer = raw(port, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            assert answer.startswith(b"HTTP/1.1 408")
        with socket.create_connection((HOST, front.funasr_port), PATIENCE) as silent:
            assert read(silent) == b""


def test_what_is_not_http_is_refused(front: Front) -> None:
    for port in (front.edge.settings.port, front.funasr_port):
        assert raw(port, b"HELO there\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_an_answer_may_take_longer_than_a_pause_of_the_client(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node, client_timeout_sec=1) as front:
        assert front.get("/slow?seconds=2.5").json() == "done"
        head = b"POST /stuck HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab"
        answer = raw(front.edge.settings.port, head)
        assert answer.startswith(b"HTTP/1.1 400")
        assert "did not arrive" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.slow
async def test_a_quiet_websocket_outlives_the_timeouts_of_requests(node: Node, tmp_path: Path) -> None:
    with running_edge(
        tmp_path, node, client_timeout_sec=1, response_timeout_sec=1, request_timeout_sec=1
    ) as front:
        for url in (front.ws, f"ws://{HOST}:{front.funasr_port}"):
            async with connect(url, proxy=None) as socket_:
                await socket_.recv()
                await asyncio.sleep(2.5)
                await socket_.send("still here")
                assert await socket_.recv() == "still here"


async def test_a_websocket_that_is_dead_on_both_sides_ends(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node, tunnel_timeout_sec=1) as front:
        async with connect(front.ws, proxy=None, ping_interval=None) as socket_:
            await socket_.recv()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket_.recv(), PATIENCE)


async def test_the_node_learns_that_a_client_left(front: Front, node: Node) -> None:
    node.abandoned.clear()
    _, writer = await asyncio.open_connection(HOST, front.edge.settings.port)
    writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.3)
    writer.close()
    assert await asyncio.to_thread(node.abandoned.wait, PATIENCE)


def test_metrics_are_only_where_they_belong(front: Front) -> None:
    shown = httpx.get(f"{front.metrics}/metrics", trust_env=False).text
    assert 'haproxy_frontend_current_sessions{proxy="clients"}' in shown
    assert 'haproxy_server_status{proxy="nodes",server="node1",state="UP"} 1' in shown
    assert httpx.get(f"{front.metrics}/v1/models", trust_env=False).status_code == 404
    assert front.get("/metrics").json()["target"] == "/metrics?"


def test_one_port_may_do_for_everything(node: Node, tmp_path: Path) -> None:
    from serve_app.cli.ports import free_port

    port = free_port(HOST)
    with running_edge(tmp_path, node, port=port, funasr_port=port) as front:
        assert front.get("/v1/models").json()["target"] == "/v1/models?"
        secure = httpx.get(f"https://{HOST}:{port}/ws/v1", verify=trusting(), trust_env=False)
        assert secure.json()["target"] == "/ws/v1?"
        assert accept_hash(FIRST_KEY).encode() in raw(port, twice_keyed(port), until=b"\r\n\r\n")

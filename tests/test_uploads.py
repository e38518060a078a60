"""Uploads: forms and bodies stream in, are refused early, and leave no file behind, however they end."""

import asyncio
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serve_app.api.uploads import read_form, spool_body
from serve_app.errors import AsrError, AudioTooLarge

MAX_BYTES = 3 << 20
BIG = bytes(range(256)) * (2 << 12)
"""2 MiB: more than is kept in memory."""


async def _form(request: Request) -> JSONResponse:
    max_bytes = int(request.query_params.get("max_bytes", MAX_BYTES))
    async with read_form(request, max_bytes=max_bytes) as form:
        data = form.file("file", "audio").read()
        if "fail" in form.fields():
            raise RuntimeError("the handler failed")
        return JSONResponse({"size": len(data), "sum": sum(data), "fields": form.fields(lists={"tags"})})


async def _body(request: Request) -> JSONResponse:
    async with spool_body(request, max_bytes=MAX_BYTES) as file:
        data = file.read()
        return JSONResponse({"size": len(data), "sum": sum(data)})


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AsrError)
    status = 413 if isinstance(error, AudioTooLarge) else 400
    return JSONResponse({"error": error.message, "param": getattr(error, "param", None)}, status)


APP = Starlette(
    routes=[Route("/form", _form, methods=["POST"]), Route("/body", _body, methods=["POST"])],
    exception_handlers={AsrError: _refuse},
)


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own, that nothing may be left in, nor open in, at its end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert open_files(tmp_path) == 0


def open_files(directory: Path) -> int:
    """Files in ``directory`` that this process holds open, those without a name included."""
    if sys.platform != "linux":
        return 0
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith(str(directory))
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(APP, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
        yield session


async def test_reads_fields_and_file(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/form",
        files={"file": ("会议.wav", BIG, "audio/wav")},
        data={"model": "whisper-1", "prompt": "你好 & 再见"},
    )
    assert answer.json() == {
        "size": len(BIG),
        "sum": sum(BIG),
        "fields": {"model": "whisper-1", "prompt": "你好 & 再见"},
    }


async def test_repeated_keys_with_and_without_brackets(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/form",
        files={"audio": ("a", b"x")},
        data={"tags[]": ["word", "segment"], "tags": "line", "language[]": "zh", "model": ["a", "b"]},
    )
    assert answer.json()["fields"] == {"tags": ["word", "segment", "line"], "language": "zh", "model": "b"}


async def test_raw_body(client: httpx.AsyncClient) -> None:
    for data in (b"", b"abc", BIG):
        assert (await client.post("/body", content=data)).json() == {"size": len(data), "sum": sum(data)}


def multipart(*parts: bytes, end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
TEXT = b'Content-Disposition: form-data; name="file"\r\n\r\nabc'


@pytest.mark.parametrize(
    ("kind", "body", "pattern", "param"),
    [
        ("application/json", b"{}", "must be multipart/form-data; this request has 'application/json'", None),
        (None, b"abc", "must be multipart/form-data; this request has none", None),
        ("multipart/form-data", multipart(FILE + b"x"), "boundary", None),
        ("multipart/form-data; boundary=B", b"this is no form", "cannot be read", None),
        ("multipart/form-data; boundary=B", b"", "incomplete", None),
        ("multipart/form-data; boundary=B", multipart(FILE + BIG, end=b""), "incomplete", None),
        ("multipart/form-data; boundary=B", multipart(FILE + BIG)[: len(BIG)], "incomplete", None),
        ("multipart/form-data; boundary=B", multipart(FILE + BIG, b"no header"), "cannot be read", None),
        ("multipart/form-data; boundary=B", multipart(b"X-Y: z\r\n\r\nabc"), '"name" must be provided', None),
        ("multipart/form-data; boundary=B", multipart(*[FILE] * 9), "Too many files", None),
        ("multipart/form-data; boundary=B", multipart(FILE, *[TEXT] * 300), "Too many fields", None),
        ("multipart/form-data; boundary=B", multipart(TEXT), "'file' was sent as text", "file"),
        ("multipart/form-data; boundary=B", multipart(), "'file' with the audio file is missing", "file"),
    ],
)
async def test_refuses_forms_that_are_wrong(
    client: httpx.AsyncClient, kind: str | None, body: bytes, pattern: str, param: str | None
) -> None:
    answer = await client.post("/form", content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 400
    assert pattern in answer.json()["error"]
    assert answer.json()["error"].endswith(".")
    assert answer.json()["param"] == param


@pytest.mark.parametrize(
    ("fields", "told"),
    [([4 << 20], "Part exceeded maximum size"), ([3 << 20] * 7, "fields without files exceed 20 MB")],
)
async def test_text_is_bounded_too(client: httpx.AsyncClient, fields: list[int], told: str) -> None:
    body = multipart(FILE + b"x", *[TEXT + bytes(size) for size in fields])
    answer = await client.post(
        f"/form?max_bytes={1 << 30}",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=B"},
    )
    assert answer.status_code == 400
    assert told in answer.json()["error"]


async def test_a_recording_in_a_field_has_room(client: httpx.AsyncClient) -> None:
    """Ten seconds of stereo at 48 kHz, as base64."""
    recording = "A" * (10 * 48_000 * 4 * 4 // 3)
    answer = await client.post("/form", files={"file": ("a", b"x")}, data={"reference": recording})
    assert answer.json()["fields"] == {"reference": recording}


async def test_closes_files_when_the_handler_fails(client: httpx.AsyncClient) -> None:
    answer = await client.post("/form", files={"file": ("a", BIG)}, data={"fail": "1"})
    assert answer.status_code == 500


async def test_the_limit_is_exact(client: httpx.AsyncClient) -> None:
    for path in ("/form", "/body"):
        for size, status in ((MAX_BYTES, 200), (MAX_BYTES + 1, 413)):
            data = bytes(size)
            sent: dict[str, Any] = {"files": {"file": ("a", data)}} if path == "/form" else {"content": data}
            answer = await client.post(path, **sent)
            assert answer.status_code == status
    assert (
        answer.json()["error"] == "The upload is larger than 3 MB, which is the most that this server takes."
    )


class Sender:
    """An ASGI client that counts how often it was asked for more, and goes away after the last part unless
    that is the end of a ``whole`` body."""

    def __init__(self, *parts: bytes, length: int | None = None, whole: bool = False) -> None:
        self._parts = list(parts)
        self._whole = whole
        self.asked = 0
        self.under_way = asyncio.Event()
        headers = [(b"content-type", b"multipart/form-data; boundary=B")]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        self.request = Request(scope, self._receive)

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked > 10:
            self.under_way.set()
        await asyncio.sleep(0)
        if not self._parts:
            return {"type": "http.disconnect"}
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts) or not self._whole}


Reader = Callable[[Sender], AbstractAsyncContextManager[object]]


def as_form(sender: Sender) -> AbstractAsyncContextManager[object]:
    return read_form(sender.request, max_bytes=MAX_BYTES)


def as_body(sender: Sender) -> AbstractAsyncContextManager[object]:
    return spool_body(sender.request, max_bytes=MAX_BYTES)


async def enter(reading: AbstractAsyncContextManager[object]) -> None:
    async with reading:
        pass


@pytest.mark.parametrize("reader", [as_form, as_body])
class TestUploadsThatEndEarly:
    async def test_announced_length_is_refused_before_anything_is_read(self, reader: Reader) -> None:
        sender = Sender(b"x", length=10 << 30)
        with pytest.raises(AudioTooLarge, match="larger than 3 MB"):
            await enter(reader(sender))
        assert sender.asked == 0

    async def test_counted_length_is_refused_while_it_comes_in(self, reader: Reader) -> None:
        sender = Sender(b"--B\r\n" + FILE, *[bytes(1 << 20)] * 100)
        with pytest.raises(AudioTooLarge):
            await enter(reader(sender))
        assert sender.asked <= 6

    async def test_client_that_goes_away(self, reader: Reader, temp: Path) -> None:
        sender = Sender(b"--B\r\n" + FILE, BIG)
        with pytest.raises(ClientDisconnect):
            await enter(reader(sender))
        assert open_files(temp) == 0

    async def test_request_that_is_canceled(self, reader: Reader, temp: Path) -> None:
        sender = Sender(b"--B\r\n" + FILE, BIG, *[b"x"] * 100_000)
        task = asyncio.create_task(enter(reader(sender)))
        await sender.under_way.wait()
        assert open_files(temp) == (sys.platform == "linux")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_files(temp) == 0


async def test_files_are_open_within_the_form_and_closed_after_it() -> None:
    sender = Sender(multipart(FILE + BIG), whole=True)
    async with read_form(sender.request, max_bytes=MAX_BYTES) as form:
        kept: BinaryIO = form.file("file")
        assert kept.read() == BIG
    assert kept.closed


@pytest.fixture
def server() -> Iterator[int]:
    """The application behind a real HTTP server, on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(APP, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    running.should_exit = True
    thread.join(timeout=10)
    listener.close()


@pytest.mark.parametrize(("path", "limit"), [("/form", MAX_BYTES + (1 << 20)), ("/body", MAX_BYTES)])
def test_answers_before_the_client_has_sent_everything(server: int, path: str, limit: int) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    with socket.create_connection(("127.0.0.1", server), timeout=10) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        start = b"--B\r\n" + FILE
        # Up to the limit and one byte over it, with the body still open. Nothing more is on its way then, so
        # that the answer cannot be lost to a reset.
        for part in (start, bytes(limit - len(start)), b"x"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", server), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {10 << 30}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_next_request_works_after_a_refusal_and_after_a_lost_client(server: int, temp: Path) -> None:
    url = f"http://127.0.0.1:{server}/form"
    with socket.create_connection(("127.0.0.1", server), timeout=10) as connection:
        head = "POST /form HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        connection.sendall(
            f"{head}Content-Length: {len(BIG) + 1000}\r\n\r\n".encode() + b"--B\r\n" + FILE + BIG
        )
    for _ in range(3):
        assert httpx.post(url, content=b"nonsense").status_code == 400
        assert httpx.post(url, files={"file": ("a", BIG)}).json()["sum"] == sum(BIG)

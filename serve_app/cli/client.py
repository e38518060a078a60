"""The client side of HTTP: uploads streamed from disk, bounded retries, errors as sentences."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import httpx

ANY_MODEL = "default"
"""The server maps every name that is not an id of its own to its default model."""

_RETRIES = 5
_TIMEOUT = httpx.Timeout(connect=10, write=60, pool=None, read=None)
_RETRY_AFTER_SEC = 2.0


class ServerUnreachable(Exception):
    """Nobody answers at the URL; nothing else can be tried either."""


class RequestRefused(Exception):
    """The server refused this one request; the message is its own.

    ``status`` is that of its answer; ``code`` is the word for programs of an OpenAI error envelope, empty
    where there was none, as in the answers of a proxy.
    """

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """Fields of ``POST /v1/audio/transcriptions`` beside the file."""

    response_format: str
    language: str | None = None
    speakers: bool | None = None
    num_speakers: int | None = None
    model: str | None = None
    hotwords: str | None = None

    def form(self) -> dict[str, str]:
        """As they are sent; what is ``None`` is left to the server."""
        fields = {"model": self.model or ANY_MODEL, "response_format": self.response_format}
        if self.language:
            fields["language"] = self.language
        if self.speakers is not None:
            fields["enable_speaker_diarization"] = str(self.speakers).lower()
        if self.num_speakers is not None:
            fields["num_speakers"] = str(self.num_speakers)
        if self.hotwords:
            fields["hotwords"] = self.hotwords
        return fields


class AsrClient:
    """Talks to one server over a few kept connections."""

    def __init__(self, url: str, api_key: str | None = None, connections: int = 1) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self.ignored_hotwords = 0
        """Most hotwords of one request that were not listened for."""
        self._http = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT, limits=limits)

    async def __aenter__(self) -> "AsrClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def transcribe(
        self, name: str, open_file: Callable[[], BinaryIO], options: TranscriptionOptions
    ) -> str:
        """The response body, in the format that ``options`` asks for.

        ``open_file`` is called once per attempt: a refused upload is sent again from its begin.

        Raises:
            ServerUnreachable: no connection, or it broke.
            RequestRefused: any other answer than 200; 429 and 503 only after retries.
        """
        form = options.form()
        for attempt in range(_RETRIES + 1):
            with open_file() as file:
                upload = {"file": (name, file)}
                response = await self._send("POST", "/v1/audio/transcriptions", data=form, files=upload)
            if response.status_code not in (429, 503) or attempt == _RETRIES:
                break
            await asyncio.sleep(_retry_after(response))
        ignored = int(response.headers.get("x-hotwords-ignored", 0))
        self.ignored_hotwords = max(self.ignored_hotwords, ignored)
        return _accepted(response).text

    async def models(self) -> list[dict[str, Any]]:
        """The ``data`` of ``GET /v1/models``. Raises as :meth:`transcribe` does."""
        body: dict[str, list[dict[str, Any]]] = _accepted(await self._send("GET", "/v1/models")).json()
        return body["data"]

    async def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send one request, with the arguments of httpx, and return a successful answer.

        Raises:
            ServerUnreachable: no connection, or it broke.
            RequestRefused: the answer is an error.
        """
        return _accepted(await self._send(method, path, **content))

    async def send_again(
        self, method: str, path: str, content: Callable[[], Mapping[str, Any]]
    ) -> httpx.Response:
        """As :meth:`request`, for one that may come twice: sent again if the server is full, or is lost.

        ``content`` gives httpx's arguments, once per attempt.
        """
        for attempt in range(_RETRIES + 1):
            try:
                response = await self._send(method, path, **content())
            except ServerUnreachable as error:
                if attempt == _RETRIES or isinstance(error.__cause__, httpx.ConnectError | httpx.InvalidURL):
                    raise
                await asyncio.sleep(_RETRY_AFTER_SEC)
                continue
            if response.status_code not in (429, 503) or attempt == _RETRIES:
                break
            await asyncio.sleep(_retry_after(response))
        return _accepted(response)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **content: Any) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of an answer as they come in. Arguments and errors as those of :meth:`request`."""
        with self._told():
            async with self._http.stream(method, path, **content) as response:
                if not response.is_success:
                    await response.aread()
                yield _accepted(response).aiter_lines()

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        with self._told():
            return await self._http.request(method, path, **content)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what goes wrong with a connection into a sentence."""
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerUnreachable(
                f"No server answers at {self._url}. Start one with `make serve`, or name another with --url."
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ServerUnreachable(f"The connection to {self._url} failed: {reason}") from error


def _accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    raise RequestRefused(
        f"{_message(response)} (HTTP {response.status_code})", response.status_code, _code(response)
    )


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["code"] or "")
    except (ValueError, KeyError, TypeError):
        return ""


def _message(response: httpx.Response) -> str:
    """The message of an OpenAI error envelope, else the begin of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()[:200] or "The server gave no reason"


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(60.0, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):
        return _RETRY_AFTER_SEC

"""An internet of one's own: names and public addresses that lead to servers in this process."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import httpcore

from serve_app.fetching import Fetcher, SystemResolver
from serve_app.settings import Settings

PUBLIC = "93.184.215.14"
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request, given its path."""


class Internet(httpcore.AsyncNetworkBackend):
    """Names with addresses (a list of lists: one answer after another), and what was connected to.

    Names that are none of its own are looked up by the operating system, which knows the numeric ones. All
    connections lead to ``port`` on this machine, whatever address they are for.
    """

    def __init__(self, names: dict[str, list[list[str]]] | None = None) -> None:
        self.names = names or {}
        self.port = 0
        self.down: set[str] = set()
        self.asked: list[str] = []
        self.connected: list[str] = []
        self._system = SystemResolver()
        self._network = httpcore.AnyIOBackend()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.endswith(".test"):
            answers = self.names.get(host)
            if not answers:
                raise OSError("no such name")
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return await self._system(host, port)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the name is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        if host in self.down:
            raise httpcore.ConnectError
        return await self._network.connect_tcp("127.0.0.1", self.port, timeout)

    def fetcher(self, **settings: object) -> Fetcher:
        return Fetcher(Settings.model_validate(settings), self.resolve, self)


@asynccontextmanager
async def site(
    internet: Internet, answer: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[str]]:
    """A web server that all of ``internet`` leads to; gives the heads of the requests that it got.

    Leaving fails if a connection is still open then: whoever fetched has left it behind.
    """
    heads: list[str] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads.append(head)
        tasks = [asyncio.ensure_future(answer(head.split()[1], writer)), asyncio.ensure_future(reader.read())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done() and not tasks[0].exception():
            await writer.drain()
            writer.close()
        else:
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def watched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            running.discard(task)

    server = await asyncio.start_server(watched, "127.0.0.1", 0, ssl=tls)
    internet.port = server.sockets[0].getsockname()[1]
    try:
        yield heads
        async with asyncio.timeout(5):
            await asyncio.gather(*running)
    finally:
        server.close()
        for task in running:
            task.cancel()


def reply(body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """An answer; ``length`` is what it announces, if that is not the truth."""
    fields = {"content-length": str(len(body) if length is None else length), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body

"""The client side of ``/v1/jobs``: submitting, following and fetching, through restarts of the server."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from serve_app.cli.client import AsrClient, RequestRefused, ServerUnreachable

FINAL = frozenset({"completed", "failed", "canceled"})

_EVENT_TIMEOUT = httpx.Timeout(connect=10, write=10, pool=None, read=45)
"""Seconds; the server sends something at least every 15."""

_ASK_TIMEOUT = httpx.Timeout(60, connect=10)

_POLL_SECONDS = 2.0
_RESTART_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as the server tells it; ``body`` is the whole object."""

    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def status(self) -> str:
        return str(self.body["status"])

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def seconds_done(self) -> float:
        return float(self.body["progress"]["seconds_done"])

    @property
    def seconds_total(self) -> float | None:
        total = self.body["progress"]["seconds_total"]
        return None if total is None else float(total)

    @property
    def failure(self) -> str:
        """Why it failed; empty if it did not."""
        return str((self.body.get("error") or {}).get("message", ""))


@dataclass(frozen=True, slots=True)
class Submission:
    """Fields of ``POST /v1/jobs`` beside the recording; those that are ``None`` are not sent."""

    fields: Mapping[str, str | None] = field(default_factory=dict)
    idempotency_key: str | None = None


class JobClient:
    """Jobs of one server. All methods raise :class:`ServerUnreachable` and :class:`RequestRefused`."""

    def __init__(
        self,
        client: AsrClient,
        *,
        restart_seconds: float = _RESTART_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        """``restart_seconds``: how long :meth:`watch` tries to reach a server that is gone."""
        self._client = client
        self._restart_seconds = restart_seconds
        self._poll_seconds = poll_seconds

    async def submit(
        self, source: str | tuple[str, Callable[[], BinaryIO]], submission: Submission
    ) -> JobState:
        """Hand in a URL, or a file by its name and how to open it (once for each attempt).

        It always has a key, so that it may be sent again after a broken connection and is still one job.
        """
        form = {name: value for name, value in submission.fields.items() if value is not None}
        headers = {"idempotency-key": submission.idempotency_key or uuid.uuid4().hex}
        if isinstance(source, str):
            content = {"data": {**form, "url": source}, "headers": headers}
            return _job(await self._client.send_again("POST", "/v1/jobs", lambda: content))
        name, open_file = source
        with _Reopened(open_file) as file:
            return _job(
                await self._client.send_again(
                    "POST",
                    "/v1/jobs",
                    lambda: {"data": form, "files": {"file": (name, file.open())}, "headers": headers},
                )
            )

    async def get(self, job_id: str) -> JobState:
        return _job(await self._ask("GET", _path(job_id)))

    async def cancel(self, job_id: str) -> JobState:
        return _job(await self._ask("POST", _path(job_id, "/cancel")))

    async def delete(self, job_id: str) -> None:
        await self._ask("DELETE", _path(job_id))

    async def list(self, limit: int, status: str | None) -> list[JobState]:
        """The newest ``limit`` jobs, a page at a time."""
        found: list[JobState] = []
        while len(found) < limit:
            query: dict[str, str | int] = {"limit": min(100, limit - len(found))}
            if status is not None:
                query["status"] = status
            if found:
                query["after"] = found[-1].id
            page = (await self._ask("GET", "/v1/jobs", params=query)).json()
            found += [JobState(body) for body in page["data"]]
            if not page["has_more"]:
                break
        return found

    async def result(self, job_id: str, response_format: str | None, partial: bool = False) -> str:
        query = {"response_format": response_format, "partial": "true" if partial else None}
        given = {name: value for name, value in query.items() if value is not None}
        return (await self._ask("GET", _path(job_id, "/result"), params=given)).text

    async def watch(self, job_id: str) -> AsyncGenerator[JobState, None]:
        """Yield the job as it goes on, up to and including its end.

        By events, as long as they come; when they break off, by asking. A server that is gone is waited for.
        """
        stream, lost_at = _EventStream(), None
        while True:
            async with aclosing(self._by_events(job_id, stream)) as jobs:
                async for job in jobs:
                    yield job
                    if job.is_final:
                        return
            try:
                job = await self.get(job_id)
            except (ServerUnreachable, RequestRefused) as error:
                lost_at = lost_at or time.monotonic()
                if not is_passing(error) or time.monotonic() - lost_at > self._restart_seconds:
                    raise
                stream.works = True
            else:
                lost_at = None
                yield job
                if job.is_final:
                    return
            await asyncio.sleep(self._poll_seconds)

    async def persistently(self, ask: Callable[[], Awaitable[str]]) -> str:
        """What ``ask`` gives, tried again while the server restarts."""
        begin = time.monotonic()
        while True:
            try:
                return await ask()
            except (ServerUnreachable, RequestRefused) as error:
                if not is_passing(error) or time.monotonic() - begin > self._restart_seconds:
                    raise
            await asyncio.sleep(self._poll_seconds)

    async def _by_events(self, job_id: str, stream: "_EventStream") -> AsyncGenerator[JobState, None]:
        """What the events tell until they break off; nothing once they came to nothing."""
        if not stream.works:
            return
        stream.works = False
        try:
            async with aclosing(self._events(job_id, stream.last_id)) as events:
                async for event_id, job in events:
                    stream.works, stream.last_id = True, event_id
                    yield job
        except (ServerUnreachable, RequestRefused):
            return  # asking for the job itself tells whether it is for good

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        return await self._client.request(method, path, timeout=_ASK_TIMEOUT, **content)

    async def _events(self, job_id: str, seen: str) -> AsyncGenerator[tuple[str, JobState], None]:
        headers = {"accept": "text/event-stream", **({"last-event-id": seen} if seen else {})}
        async with self._client.stream(
            "GET", _path(job_id, "/events"), headers=headers, timeout=_EVENT_TIMEOUT
        ) as lines:
            event: dict[str, str] = {}
            async for line in lines:
                if line:
                    name, _, value = line.partition(":")
                    event[name] = value.removeprefix(" ")
                    continue
                if event.get("event") in {"progress", *FINAL}:
                    seen = event.get("id", seen)
                    yield seen, JobState(json.loads(event["data"]))
                event = {}


def is_passing(error: ServerUnreachable | RequestRefused) -> bool:
    """Whether it may be over soon: a server that restarts, or a proxy without one behind it."""
    if isinstance(error, ServerUnreachable):
        return True
    return error.status >= 500 or error.status in (408, 429) or (error.status == 404 and not error.code)


@dataclass(slots=True)
class _EventStream:
    """What is known of the events of a job: where they were, and whether any came at the last try."""

    last_id: str = ""
    works: bool = True


class _Reopened:
    """A file that is opened anew for each attempt to send it; only the last one is open."""

    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        self._open_file = open_file
        self._file: BinaryIO | None = None

    def __enter__(self) -> "_Reopened":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def open(self) -> BinaryIO:
        self.__exit__()
        self._file = self._open_file()
        return self._file


def _job(response: httpx.Response) -> JobState:
    return JobState(response.json())


def _path(job_id: str, rest: str = "") -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}{rest}"

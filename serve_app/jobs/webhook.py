"""Tells the end of a job to the URL that its owner named.

Signed as https://github.com/standard-webhooks/standard-webhooks has it, so that its libraries verify it. A
delivery may come more than once (its id stays the same), and the notices of several jobs in any order.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import uniform
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import Overloaded
from serve_app.jobs.outbox import Delivery, Outbox
from serve_app.jobs.types import Job, Webhook

logger = logging.getLogger("ray.serve")

PAUSES = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)
"""Seconds between the attempts: ten of them in 16 hours."""

Body = Callable[[Job], Any]
"""What is sent of a job that has ended, as JSON. Called on a thread."""

ClientFactory = Callable[[], httpx.AsyncClient]
"""Makes a client for the URLs of strangers, that follows no redirect; one for each delivery."""

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 15.0
_HOLD_SECONDS = 60.0
_AT_ONCE = 16
_SPREAD = 0.2
_SECRET_PREFIX = "whsec_"


def event_body(job_object: Callable[[Job], Any]) -> Body:
    """The body of a notice, as Standard Webhooks advises; ``job_object`` gives its ``data``."""

    def body(job: Job) -> dict[str, Any]:
        ended = job.finished_at or datetime.now(UTC)
        return {
            "type": f"job.{job.status.value}",
            "timestamp": ended.isoformat().replace("+00:00", "Z"),
            "data": job_object(job),
        }

    return body


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over id, time stamp and body. What follows ``whsec_`` is base64 of the key."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    if secret.startswith(_SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode("utf-8", "surrogatepass")


class WebhookSender:
    """Sends what is due. Several, on several machines, may work on one database."""

    def __init__(
        self,
        outbox: Outbox,
        client: ClientFactory,
        secret: str | None,
        bodies: Mapping[str | None, Body],
        pauses: tuple[float, ...] = PAUSES,
        poll: float = _POLL_SECONDS,
        told: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """
        Args:
            secret: signs for the jobs that bring none; ``None``: theirs go unsigned.
            bodies: by the ``callback`` of a job's ``spec.extra``; that of ``None`` is for all others.
            pauses: seconds after each attempt that failed; the one after the last of them is the last.
            poll: seconds between two looks at the database.
            told: gets what became of each attempt: ``delivered``, ``postponed`` or ``given_up``.
        """
        self._told = told
        self._outbox = outbox
        self._client = client
        self._secret = secret
        self._bodies = bodies
        self._pauses = pauses
        self._poll = poll

    async def run(self) -> None:
        """Send until cancelled."""
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                # A receiver that is slow holds up one place, and nobody else.
                for delivery in await self._due(_AT_ONCE - len(sending)):
                    task = asyncio.create_task(self._deliver(delivery))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                await asyncio.sleep(self._poll)
        finally:
            tasks = [*sending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _due(self, places: int) -> list[Delivery]:
        if not places:
            return []
        try:
            return await asyncio.to_thread(self._outbox.claim, places, _HOLD_SECONDS)
        except (SQLAlchemyError, Overloaded, OSError) as error:
            logger.warning("webhooks: the database cannot be used for now: %r", error)
            return []

    async def _deliver(self, delivery: Delivery) -> None:
        webhook = delivery.job.spec.webhook
        if webhook is None:
            return
        try:
            answer, is_over = await self._post(delivery, webhook)
        except Exception:
            logger.exception("webhook of job %s, attempt %d", delivery.job.id, delivery.attempt)
            answer, is_over = "fault", False
        pause = None if is_over else self._pause(delivery.attempt)
        is_taken = is_over and answer.startswith("2")
        self._told("delivered" if is_taken else "given_up" if pause is None else "postponed")
        try:
            await asyncio.to_thread(self._outbox.settle, delivery, answer, pause)
        except (SQLAlchemyError, Overloaded) as error:
            # It is then sent once more.
            logger.warning("webhook of job %s could not be noted: %r", delivery.job.id, error)

    async def _post(self, delivery: Delivery, webhook: Webhook) -> tuple[str, bool]:
        """Send once: what came back, and whether that was the last word."""
        job = delivery.job
        make = self._bodies.get(job.spec.extra.get("callback"), self._bodies[None])
        content = json.dumps(await asyncio.to_thread(make, job), ensure_ascii=False).encode()
        headers = self._headers(job, webhook, content)
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                self._client() as client,
                # The body of the answer is nobody's business, and may be endless.
                client.stream("POST", webhook.url, content=content, headers=headers) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            logger.info("webhook of job %s, attempt %d: %r", job.id, delivery.attempt, error)
            return type(error).__name__, False
        logger.info("webhook of job %s, attempt %d: status %d", job.id, delivery.attempt, status)
        return str(status), 200 <= status < 300 or status == httpx.codes.GONE

    def _headers(self, job: Job, webhook: Webhook, content: bytes) -> dict[str, str]:
        message_id, timestamp = f"msg_{job.id}", int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
        }
        secret = webhook.secret or self._secret
        if secret:
            headers["webhook-signature"] = signature(secret, message_id, timestamp, content)
        return headers

    def _pause(self, attempt: int) -> float | None:
        if attempt > len(self._pauses):
            return None
        return self._pauses[attempt - 1] * uniform(1 - _SPREAD, 1 + _SPREAD)

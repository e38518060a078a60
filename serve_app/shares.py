"""What one client may take of the server: requests in a time, and requests at once."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from limits import parse_many
from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from serve_app.errors import RateLimited

logger = logging.getLogger("ray.serve")

_BUSY_RETRY_SECONDS = 1
_IN_MEMORY = "memory://"


def open_storage(url: str | None) -> Storage:
    """Where requests are counted; nothing is connected to yet.

    Raises:
        ValueError: with a sentence (without ``url``, which may hold a password), if it cannot be used.
    """
    url = (url or _IN_MEMORY).removeprefix("async+")
    options = {"implementation": "redispy"} if url.startswith("redis") else {}
    try:
        storage = storage_from_string(f"async+{url}", **options)
    except ConfigurationError as error:
        raise ValueError(
            "this storage cannot be used: it must be a URL such as redis://host:6379, and the Python package "
            "of its client (redis, valkey or motor) must be installed"
        ) from error
    if not isinstance(storage, Storage) or not isinstance(storage, MovingWindowSupport):
        raise ValueError("this storage cannot count over a moving window; redis, valkey and mongodb can")
    return storage


class Shares:
    """Counts by *share*, a name for whoever has it."""

    def __init__(self, rate_limit: str | None, storage: str | None, max_concurrent: int | None) -> None:
        """Args as the settings ``rate_limit``, ``rate_limit_storage`` and ``max_concurrent_per_key``."""
        self._rates = sorted(parse_many(rate_limit)) if rate_limit else []
        self._storage = open_storage(storage) if self._rates else None
        self._max_concurrent = max_concurrent
        self._active: Counter[str] = Counter()

    async def count(self, share: str) -> None:
        """Count one request.

        Raises:
            RateLimited: that is more than there may be.
        """
        if self._storage is None:
            return
        limiter = MovingWindowRateLimiter(self._storage)
        for rate in self._rates:
            try:
                if await limiter.hit(rate, share):
                    continue
                reset = (await limiter.get_window_stats(rate, share)).reset_time
            except self._storage.base_exceptions as error:
                # Recognition goes on without the limit: an outage of the counter must not be one of all.
                logger.warning("requests are not counted now: %s", type(error).__name__)
                return
            raise RateLimited(
                f"This client has sent as many requests as it may ({rate}); please try again later.",
                max(1, math.ceil(reset - time.time())),
            )

    @contextmanager
    def hold(self, share: str) -> Iterator[None]:
        """Hold a place for as long as a request, or a connection, is served.

        Raises:
            RateLimited: the client has all of its places taken.
        """
        if self._max_concurrent is None:
            yield
            return
        if self._active[share] >= self._max_concurrent:
            raise RateLimited(
                f"This client has {self._max_concurrent} requests under way, its limit; "
                "please wait until one has ended.",
                _BUSY_RETRY_SECONDS,
            )
        self._active[share] += 1
        try:
            yield
        finally:
            self._active[share] -= 1
            if not self._active[share]:
                del self._active[share]

"""Ingress replicas of several machines count a client's requests together, in a real Redis."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.database_servers import redis_server
from tests.test_http_app import SilentGraph, client_of

KEY = {"authorization": "Bearer a"}


async def status(client: httpx.AsyncClient) -> int:
    return (await client.get("/v1/models", headers=KEY)).status_code


async def test_replicas_count_together_and_go_on_without_the_counter(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    with redis_server(tmp_path) as address:
        limited: dict[str, Any] = {
            "api_key": "a,b",
            "rate_limit": "4/hour",
            "rate_limit_storage": f"redis://{address}",
        }
        async with client_of(SilentGraph(), **limited) as one, client_of(SilentGraph(), **limited) as two:
            assert [await status(each) for each in (one, two, one, two)] == [200] * 4
            assert [await status(each) for each in (one, two)] == [429] * 2
            other = await two.get("/v1/models", headers={"authorization": "Bearer b"})
            assert other.status_code == 200
        async with client_of(SilentGraph(), **limited) as late:
            assert await status(late) == 429
    # Nobody is refused because Redis is away.
    async with client_of(SilentGraph(), **limited) as without:
        assert await status(without) == 200

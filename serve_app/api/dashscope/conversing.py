"""Both directions of a live session at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_app.pipeline.live.session import LiveSession

Result = TypeVar("Result")


async def converse(
    session: LiveSession, hear: Coroutine[Any, Any, Result], tell: Coroutine[Any, Any, None]
) -> Result:
    """Run ``hear``, which feeds the session up to its end, beside ``tell``, which reads all of its events.

    Where hearing fails, what was said up to then is still told before its error is raised. Leaves no task.

    Returns:
        What ``hear`` returned.
    """
    hearing, telling = asyncio.create_task(hear), asyncio.create_task(tell)
    try:
        await asyncio.wait({hearing, telling}, return_when=asyncio.FIRST_COMPLETED)
        if hearing.done() and hearing.exception() is not None:
            await session.finish()
        await telling
        return await hearing
    finally:
        hearing.cancel()
        telling.cancel()
        await asyncio.gather(hearing, telling, return_exceptions=True)

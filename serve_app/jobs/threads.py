"""Blocking work off the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_whole(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """``asyncio.to_thread``, but a caller that is cancelled meanwhile waits for the thread's end.

    A thread cannot be stopped; so whoever lets go of what it works with knows that it has ended.
    """
    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        if not work.cancelled():
            # Asked for, so that it does not count as never looked at.
            work.exception()
        raise

"""A sentence on its way through a session: what its parts tell each other about it."""

import asyncio
from dataclasses import dataclass, field

from serve_app.pipeline.live.events import Cause
from serve_app.pipeline.live.partials import Hearing


@dataclass(slots=True)
class LiveSentence:
    """Positions are samples of the session.

    ``due`` is how far the streaming model may listen, always a whole number of strides after ``begin``, and
    ``heard`` how far it has listened.
    ``end`` and ``cause`` are known once the sentence is closed. ``streamed`` is set when the streaming
    model is through with it, ``told`` when its final is out.
    """

    index: int
    begin: int
    due: int
    heard: int
    end: int | None = None
    cause: Cause = "silence"
    hearing: Hearing = field(default_factory=Hearing)
    streamed: asyncio.Event = field(default_factory=asyncio.Event)
    told: bool = False

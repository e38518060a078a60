"""A sentence on its way through a session: what its parts tell each other about it."""

import asyncio
from dataclasses import dataclass, field

from deployments.messages import Recognition
from serve_app.pipeline.live.events import Cause
from serve_app.pipeline.live.partials import Hearing


@dataclass(slots=True)
class LiveSentence:
    """Positions are samples of the session.

    ``due`` is how far the streaming model may listen, a whole number of strides after ``begin`` where it has
    strides, and ``heard`` how far it has listened.
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
    recognition: Recognition = field(default_factory=Recognition)
    """What a generative model heard in all of it, where that has the last word."""
    streamed: asyncio.Event = field(default_factory=asyncio.Event)
    told: bool = False

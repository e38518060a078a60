"""Speakers in the live protocols: what clients ask for, and what they have to be told anew."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serve_app.pipeline.live.events import SpeakersMerged
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Speaker
from serve_app.speakers.service import SpeakerService


@dataclass(frozen=True, slots=True)
class SpeakersAsked:
    """A client asks for speakers by the parameter ``param``; what it knows of how many there are."""

    param: str
    count: int | None = None
    least: int | None = None
    most: int | None = None

    async def options(self, service: SpeakerService, owner: str) -> SpeakerOptions | None:
        """How they are told apart, for the client with the id ``owner``.

        Raises:
            InvalidParameter: numbers that do not fit, or there is no speaker model.
        """
        return await service.options(
            owner,
            wanted=True,
            shown=True,
            count=self.count,
            least=self.least,
            most=self.most,
            param=self.param,
        )


class SpeakerChanges:
    """Follows what one client was told. ``spelled`` is how its protocol calls a speaker.

    No protocol has a message for a speaker who is somebody else by now, or has got a name. So it goes with
    the next sentence, in a field ``speaker_changes`` that is not there otherwise: clients that do not know
    the field pass over it.
    """

    def __init__(self, spelled: Callable[[Speaker], str | int]) -> None:
        self._spelled = spelled
        self._told: dict[int, str | int] = {}
        self._merged: dict[int, Speaker] = {}
        self._changes: list[dict[str, str | int]] = []

    def merged(self, event: SpeakersMerged) -> None:
        """Two speakers turned out to be one."""
        self._merged[event.gone.number] = event.kept
        told = self._told.pop(event.gone.number, None)
        if told is not None:
            self._change(told, self._spelled(event.kept))

    def current(self, speaker: Speaker | None) -> Speaker | None:
        """Who that is by now, of a sentence that was heard before it is told."""
        while speaker is not None and (kept := self._merged.get(speaker.number)) is not None:
            speaker = replace(kept, confidence=speaker.confidence)
        return speaker

    def fields(self, speaker: Speaker | None) -> dict[str, Any]:
        """What goes with a sentence of this speaker: what it changes, and all that waits to be told."""
        if speaker is not None:
            now = self._spelled(speaker)
            told = self._told.setdefault(speaker.number, now)
            if told != now:
                self._told[speaker.number] = now
                self._change(told, now)
        changes, self._changes = self._changes, []
        return {"speaker_changes": changes} if changes else {}

    def _change(self, told: str | int, now: str | int) -> None:
        self._changes.append({"from": told, "to": now})

"""Speakers as the protocols see them: what a request may ask of telling them apart, and who is known."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import BinaryIO

from sqlalchemy.exc import SQLAlchemyError

from deployments.messages import VadOptions
from serve_app.errors import InvalidAudio, InvalidParameter, Unsupported
from serve_app.jobs.database import Database, WrongSchema, answering, database_url
from serve_app.jobs.threads import in_whole
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning, Voiceprint
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model
from serve_app.speakers.names import requested_name, speaker_name
from serve_app.speakers.references import reference_voices
from serve_app.speakers.store import NewVoice, SpeakerStore
from serve_app.speakers.types import EnrolledSpeaker
from serve_app.speakers.voiceprinter import Voice, Voiceprinter, middle, together

logger = logging.getLogger("ray.serve")

_SLACK = 0.1
"""Another microphone makes the same person sound a little different."""

_NO_LIMIT_MS = 24 * 3600 * 1000

_AWAY_SECONDS = 10
"""How long a database that could not be reached is not asked for names."""


class SpeakerService:
    """``owner`` is a client's id (:class:`serve_app.api.access.Client`): nobody meets the voices of another.

    Opens nothing before it is used.
    """

    def __init__(self, settings: Settings, graph: Graph, tuning: SpeakerTuning | None = None) -> None:
        """``tuning``: what the loaded speaker model says; not given: defaults, and the model's name."""
        tuning = tuning or SpeakerTuning()
        self._is_loaded = has_speaker_model(settings)
        self._is_default = settings.enable_speaker_diarization
        self._most_per_owner = settings.max_speakers_per_key
        self._similarity = tuning.similarity
        self._store = SpeakerStore(Database(database_url(settings)), tuning.model or settings.speaker_model)
        vad = VadOptions(max_end_silence_ms=settings.vad_end_silence_ms, max_span_ms=_NO_LIMIT_MS)
        self._voiceprinter = Voiceprinter(graph, tuning, vad)
        self._away_until = -float("inf")

    async def options(
        self,
        owner: str,
        *,
        wanted: bool | None,
        shown: bool,
        count: int | None = None,
        least: int | None = None,
        most: int | None = None,
        references: Sequence[tuple[str, str]] = (),
        by_channel: bool = False,
        param: str = "enable_speaker_diarization",
    ) -> SpeakerOptions | None:
        """How the speakers of a request's recording are told apart; ``None``: not at all.

        The voices to look for are those of the request, and those that the owner has enrolled.

        Args:
            wanted: what the request says; ``None``: nothing.
            shown: whether its answer has a place for speakers.
            count: how many there are; ``least`` and ``most`` bound it.
            references: name and recording (a ``data:`` URL) of each known speaker that comes with it.
            by_channel: each channel is a speaker, which takes no model.
            param: what asks for speakers is called on the wire.

        Raises:
            InvalidParameter: numbers that do not fit, a reference that cannot be used, or speakers are asked
                for (also by a number or a reference) and no speaker model is loaded.
            UpstreamLost: see :class:`serve_app.pipeline.graph.Graph`.
        """
        bounds = _bounds(count, least, most)
        if wanted is False:
            return None
        if by_channel:
            return SpeakerOptions(by_channel=True)
        if not wanted and not shown:
            return None
        hint = next((name for name, given in _hints(bounds, references) if given), None)
        if not (wanted or hint or (self._is_default and self._is_loaded)):
            return None
        if not self._is_loaded:
            raise InvalidParameter(
                "This server has no speaker model, so it cannot tell speakers apart.",
                param if wanted else hint,
            )
        brought = await reference_voices(self._voiceprinter, references) if references else ()
        options = SpeakerOptions(count, least, most, brought)
        return options.also_knowing(await self.voiceprints(owner))

    async def voiceprints(self, owner: str) -> tuple[Voiceprint, ...]:
        """The voices that an owner has enrolled, as far as they can be used.

        Never raises for the database: a transcript without names is better than none, and the log says why.
        """
        if not self._is_loaded or time.monotonic() < self._away_until:
            return ()
        try:
            return await asyncio.to_thread(self._store.voiceprints, owner)
        except (SQLAlchemyError, OSError, WrongSchema):
            # Each look at a machine that is gone takes seconds, and a thread: not every request shall try.
            self._away_until = time.monotonic() + _AWAY_SECONDS
            logger.exception("enrolled speakers could not be read; transcripts go without their names")
            return ()

    async def enroll(
        self, owner: str, name: str, recordings: Sequence[BinaryIO]
    ) -> tuple[EnrolledSpeaker, bool]:
        """Keep the voice in ``recordings`` as that of ``name``, with what is known of it already.

        Returns:
            The speaker, and whether it is a new one.

        Raises:
            Unsupported: no speaker model is loaded.
            InvalidParameter: naming ``name`` or ``file``; the message says which of several recordings.
            InvalidAudio: a recording cannot be decoded.
            Conflict: too many speakers, or the name is known as that of another voice.
            Overloaded, UpstreamLost: the disk is full; a model was lost.
        """
        if not self._is_loaded:
            raise Unsupported("This server has no speaker model, so it cannot learn voices.")
        name = speaker_name(name, "name")
        if not recordings:
            raise InvalidParameter(
                "The form field 'file' with a recording of the speaker is missing.", "file"
            )
        voices = await together(
            self._voice(recording, number if len(recordings) > 1 else None)
            for number, recording in enumerate(recordings, start=1)
        )
        self._check_alike(voices)
        voice = middle(voices)
        with answering():
            return await in_whole(
                self._store.add,
                owner,
                name,
                NewVoice(voice.embedding, voice.seconds, len(voices)),
                most=self._most_per_owner,
                least_similarity=self._least_similarity,
            )

    async def get(self, owner: str, speaker_id: str) -> EnrolledSpeaker:
        """Raises ``NotFound``."""
        with answering():
            return await asyncio.to_thread(self._store.get, owner, speaker_id)

    async def list(
        self, owner: str, *, limit: int = 20, after: str | None = None, name: str | None = None
    ) -> list[EnrolledSpeaker]:
        """See :meth:`serve_app.speakers.store.SpeakerStore.list`; raises ``InvalidParameter`` for no name."""
        if name is not None:
            name = requested_name(name, "name")
        with answering():
            return await asyncio.to_thread(self._store.list, owner, limit, after, name)

    async def delete(self, owner: str, speaker_id: str) -> None:
        """Forget a speaker. Raises ``NotFound``."""
        with answering():
            await in_whole(self._store.delete, owner, speaker_id)

    def _check_alike(self, voices: Sequence[Voice]) -> None:
        for index, voice in enumerate(voices):
            others = [*voices[:index], *voices[index + 1 :]]
            if others and float(voice.embedding @ middle(others).embedding) < self._least_similarity:
                raise InvalidParameter(
                    f"Recording {index + 1} does not sound like the same person as "
                    f"{'the other one' if len(others) == 1 else 'the others'}.",
                    "file",
                )

    @property
    def _least_similarity(self) -> float:
        return max(0.0, self._similarity - _SLACK)

    async def _voice(self, recording: BinaryIO, number: int | None) -> Voice:
        try:
            return await self._voiceprinter.voice(recording, param="file")
        except (InvalidParameter, InvalidAudio) as error:
            if number is None:
                raise
            raise InvalidParameter(f"Recording {number}: {error.message}", "file") from error


def _bounds(count: int | None, least: int | None, most: int | None) -> dict[str, int | None]:
    """The numbers of speakers by their names on the wire, if they fit."""
    _check("num_speakers", count=count)
    _check("min_speakers", least=least)
    _check("max_speakers", most=most)
    _check("min_speakers", least=least, most=most)
    return {"num_speakers": count, "min_speakers": least, "max_speakers": most}


def _check(param: str, count: int | None = None, least: int | None = None, most: int | None = None) -> None:
    try:
        SpeakerOptions(count, least, most)
    except ValueError as error:
        raise InvalidParameter(str(error), param) from error


def _hints(bounds: dict[str, int | None], references: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
    return [
        *((name, value is not None) for name, value in bounds.items()),
        ("known_speaker_references", bool(references)),
    ]

"""Enrolled speakers in the database. Everything here blocks: call it on a thread."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from deployments.messages import Embeddings
from serve_app.errors import Conflict, NotFound
from serve_app.jobs.database import Database
from serve_app.jobs.schema import speakers
from serve_app.pipeline.speakers.types import Voiceprint, mean_voice
from serve_app.speakers.types import EnrolledSpeaker

Clock = Callable[[], float]
"""Seconds of the Unix epoch."""

_ATTEMPTS = 20

_STORED = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class NewVoice:
    """What is to be known of a speaker: a voice of length 1, from ``seconds`` of speech in ``recordings``."""

    voice: Embeddings
    seconds: float
    recordings: int = 1


class _Raced(Exception):
    """Somebody else changed the same speaker meanwhile."""


class SpeakerStore:
    """Speakers of all owners, whose voices are of ``model`` or else not usable."""

    def __init__(self, database: Database, model: str, clock: Clock = time.time) -> None:
        self._database = database
        self._model = model
        self._clock = clock

    def add(
        self, owner: str, name: str, new: NewVoice, *, most: int, least_similarity: float
    ) -> tuple[EnrolledSpeaker, bool]:
        """Take a voice in. One of a name that is known already is averaged with what is known, by seconds.

        What another model made is replaced.

        Args:
            most: speakers that an owner may have.
            least_similarity: cosine with the known voice of this name, below which it is another person's.

        Returns:
            The speaker, and whether it is a new one.

        Raises:
            Conflict: the owner has as many speakers as may be, or the voice is another one.
            Overloaded: the disk is full.
        """
        for _ in range(_ATTEMPTS):
            try:
                with self._database.write() as connection:
                    known = connection.execute(select(speakers).where(*_named(owner, name))).one_or_none()
                    if known is None:
                        return self._insert(connection, owner, name, new, most), True
                    return self._extend(connection, known, new, least_similarity), False
            except (IntegrityError, _Raced):
                # The same name came twice at once, to a database that does not make its writers wait.
                continue
        raise Conflict(f"The speaker {name!r} is being changed by somebody else; please try again.")

    def _insert(
        self, connection: Connection, owner: str, name: str, new: NewVoice, most: int
    ) -> EnrolledSpeaker:
        count = select(func.count()).select_from(speakers).where(speakers.c.owner == owner)
        if (connection.scalar(count) or 0) >= most:
            raise Conflict(f"There are {most} speakers, the limit of this server; delete one first.")
        speaker_id = f"spk_{uuid.uuid4().hex}"
        connection.execute(
            insert(speakers).values(
                id=speaker_id,
                owner=owner,
                name=name,
                model=self._model,
                voice=_packed(new.voice),
                seconds=new.seconds,
                recordings=new.recordings,
                created_at=self._clock(),
            )
        )
        return self._read(connection, owner, speaker_id)

    def _extend(
        self, connection: Connection, known: Row[Any], new: NewVoice, least_similarity: float
    ) -> EnrolledSpeaker:
        voice, seconds, recordings = new.voice, new.seconds, new.recordings
        if known.model == self._model:
            before = _unpacked(known.voice)
            if float(before @ new.voice) < least_similarity:
                raise Conflict(
                    f"This does not sound like the voice that is known as {known.name!r}. Give another name, "
                    "or delete that speaker first."
                )
            voice = mean_voice(np.stack([before, new.voice]), [known.seconds, new.seconds])
            seconds, recordings = known.seconds + new.seconds, known.recordings + new.recordings
        changed = connection.execute(
            update(speakers)
            .where(
                speakers.c.id == known.id,
                speakers.c.recordings == known.recordings,
                speakers.c.model == known.model,
            )
            .values(model=self._model, voice=_packed(voice), seconds=seconds, recordings=recordings)
        )
        if not changed.rowcount:
            raise _Raced
        return self._read(connection, known.owner, known.id)

    def get(self, owner: str, speaker_id: str) -> EnrolledSpeaker:
        """Raises ``NotFound``, also for the speaker of another owner."""
        with self._database.read() as connection:
            return self._read(connection, owner, speaker_id)

    def list(
        self, owner: str, limit: int, after: str | None = None, name: str | None = None
    ) -> list[EnrolledSpeaker]:
        """Speakers from the newest to the oldest, of those that came before the speaker ``after``.

        ``name``: only the one of that name. An ``after`` that is not there gives none.
        """
        query = select(speakers).where(speakers.c.owner == owner)
        if name is not None:
            query = query.where(speakers.c.name == name)
        with self._database.read() as connection:
            if after is not None:
                last = connection.execute(select(speakers).where(*_owned(owner, after))).one_or_none()
                if last is None:
                    return []
                same_time = and_(speakers.c.created_at == last.created_at, speakers.c.id < last.id)
                query = query.where(or_(speakers.c.created_at < last.created_at, same_time))
            query = query.order_by(speakers.c.created_at.desc(), speakers.c.id.desc()).limit(limit)
            return [self._speaker(row) for row in connection.execute(query)]

    def delete(self, owner: str, speaker_id: str) -> None:
        """Forget a speaker. Raises ``NotFound``."""
        with self._database.write() as connection:
            if not connection.execute(delete(speakers).where(*_owned(owner, speaker_id))).rowcount:
                raise _missing(speaker_id)

    def voiceprints(self, owner: str) -> tuple[Voiceprint, ...]:
        """All usable voices of an owner, from the oldest to the newest."""
        if not self._database.is_begun:
            return ()
        query = (
            select(speakers.c.name, speakers.c.voice)
            .where(speakers.c.owner == owner, speakers.c.model == self._model)
            .order_by(speakers.c.created_at, speakers.c.id)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return tuple(
            Voiceprint(row.name, tuple(_unpacked(row.voice).tolist()), enrolled=True) for row in rows
        )

    def _read(self, connection: Connection, owner: str, speaker_id: str) -> EnrolledSpeaker:
        row = connection.execute(select(speakers).where(*_owned(owner, speaker_id))).one_or_none()
        if row is None:
            raise _missing(speaker_id)
        return self._speaker(row)

    def _speaker(self, row: Row[Any]) -> EnrolledSpeaker:
        return EnrolledSpeaker(
            id=row.id,
            owner=row.owner,
            name=row.name,
            seconds=row.seconds,
            recordings=row.recordings,
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            model=row.model,
            usable=row.model == self._model,
            voice=_unpacked(row.voice),
        )


def _packed(voice: Embeddings) -> bytes:
    return voice.astype(_STORED).tobytes()


def _unpacked(stored: bytes) -> Embeddings:
    return np.frombuffer(stored, _STORED).astype(np.float32)


def _owned(owner: str, speaker_id: str) -> tuple[Any, Any]:
    return speakers.c.owner == owner, speakers.c.id == speaker_id


def _named(owner: str, name: str) -> tuple[Any, Any]:
    return speakers.c.owner == owner, speakers.c.name == name


def _missing(speaker_id: str) -> NotFound:
    return NotFound(f"There is no speaker {speaker_id!r:.80}.")

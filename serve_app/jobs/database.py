"""The database: SQLite in a file that several processes share, or any server that SQLAlchemy speaks to."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, make_url, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from serve_app.errors import Overloaded
from serve_app.jobs import schema
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")

_BUSY_SECONDS = 20
_BUSY_PAUSE = 0.02
_DISK_RETRY_SECONDS = 60
_LOST_RETRY_SECONDS = 10
_ATTEMPTS = 3
_POSTGRES_DISK_FULL = "53100"
_LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""All in seconds, but for the last one's milliseconds and a count. By themselves, they come to minutes for a
machine that is gone without a word, and requests that look voices up would wait as long."""


class WrongSchema(Exception):
    """The tables are those of another version of this program."""


def data_dir(settings: Settings) -> Path:
    """Where jobs are kept, as an absolute path; it need not be there yet."""
    return settings.data_dir.expanduser().absolute()


def database_url(settings: Settings) -> str:
    """The configured database, or the file of its own."""
    if settings.jobs_database_url is not None:
        return settings.jobs_database_url.get_secret_value()
    return f"sqlite:///{data_dir(settings) / 'jobs.sqlite3'}"


class Database:
    """Transactions, made from any thread. Connects, and creates the tables, when it is first used.

    Anything but SQLite must isolate transactions at "read committed" at least, as all do by default.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    @property
    def is_begun(self) -> bool:
        """Whether anybody may have written to it yet: a file of SQLite's is made by whoever is the first."""
        return not (self._sqlite and self._url.database) or Path(self._url.database).exists()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self._connected().connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block is left, and is undone by an exception.

        Raises:
            Overloaded: the disk is full.
        """
        engine = self._connected().execution_options(asr_writes=True)
        try:
            with engine.begin() as connection:
                yield connection
        except OperationalError as error:
            if _is_full(error):
                raise disk_full() from error
            raise

    def close(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _connected(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _open(self) -> Engine:
        # Parameters, which hold transcripts and signed addresses, are none of what an error tells the log.
        if self._sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            waiting = {"timeout": _BUSY_SECONDS}
            engine = create_engine(self._url, connect_args=waiting, hide_parameters=True)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            waiting = _libpq_waits(self._url)
            engine = create_engine(self._url, connect_args=waiting, pool_pre_ping=True, hide_parameters=True)
        try:
            _create_tables(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine


@contextmanager
def answering() -> Iterator[None]:
    """For what a client waits for.

    Raises:
        Overloaded: the database cannot be reached, in place of SQLAlchemy's ``OperationalError``.
    """
    try:
        yield
    except OperationalError as error:
        logger.error("the database cannot be reached: %s", error.orig)
        raise Overloaded(
            "The server cannot reach its database; please try again later.", _LOST_RETRY_SECONDS
        ) from error


def disk_full() -> Overloaded:
    return Overloaded(
        "The disk on which the server keeps its jobs is full; please try again later.", _DISK_RETRY_SECONDS
    )


def _libpq_waits(url: URL) -> dict[str, Any]:
    """How long PostgreSQL's own client waits, where the URL does not say."""
    if url.get_backend_name() != "postgresql" or not url.get_driver_name().startswith("psycopg"):
        return {}
    return {name: value for name, value in _LIBPQ.items() if name not in url.query}


def _is_full(error: OperationalError) -> bool:
    # SQLite has words for it, PostgreSQL a number.
    return "disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == _POSTGRES_DISK_FULL


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver's own idea of when a transaction begins is off: `_begin_sqlite` says when.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:
    """The change needs the file for itself, and SQLite does not wait for that as it does for other locks."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail, without any wait, if another process wrote
    # in between: the lock is taken at its begin.
    writes = connection.get_execution_options().get("asr_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_tables(engine: Engine) -> None:
    """Create what is missing, and see that what is there is ours. Several processes may do so at once."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.execution_options(asr_writes=True).begin() as connection:
                schema.metadata.create_all(connection)
                if not connection.scalar(select(func.count()).select_from(schema.versions)):
                    connection.execute(insert(schema.versions).values(id=1, version=schema.SCHEMA_VERSION))
                found = connection.scalar(select(schema.versions.c.version))
            break
        except (IntegrityError, ProgrammingError):
            # Another process was faster.
            if attempt == _ATTEMPTS:
                raise
    if found != schema.SCHEMA_VERSION:
        raise WrongSchema(
            f"The database of jobs has version {found} of its tables and this program needs "
            f"{schema.SCHEMA_VERSION}: point DATA_DIR or JOBS_DATABASE_URL to another one."
        )

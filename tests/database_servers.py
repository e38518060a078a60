"""Servers that clusters need, started for a test: PostgreSQL and Redis, where they are installed."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from serve_app.cli.ports import free_port

_START_SECONDS = 60
_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(slots=True)
class Postgres:
    """A running server. ``port`` is on ``host``; everybody may do everything."""

    programs: Path
    directory: Path
    host: str
    port: int

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+psycopg://asr@{self.host}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; its address."""
        engine = create_engine(make_url(self.url()), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{database}"'))
        engine.dispose()
        return self.url(database)

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        options = f"-p {self.port} -k {self.directory} -c listen_addresses={self.host} -c fsync=off"
        self._control("start", "-w", "-o", options, "-l", str(self.directory / "log"))
        engine = create_engine(make_url(self.url()))
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                engine.connect().close()
                break
            except OperationalError:
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.1)
        engine.dispose()

    def stop(self) -> None:
        """End it at once, and whatever is connected to it."""
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        command = [str(self.programs / "pg_ctl"), "-D", str(self.directory / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_nobody_special())


@contextmanager
def postgres_server(directory: Path, host: str = "127.0.0.1") -> Iterator[Postgres]:
    """A PostgreSQL of one's own in ``directory``; skips the test where it is not installed."""
    found = shutil.which("initdb")
    programs = [Path(found).resolve().parent] if found else sorted(_DEBIAN.glob("*/bin"))
    if not programs or not (programs[-1] / "initdb").is_file():
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    directory.mkdir(parents=True, exist_ok=True)
    if "user" in as_nobody_special():
        shutil.chown(directory, "postgres")
    server = Postgres(programs[-1], directory, host, free_port(host))
    subprocess.run(
        [str(programs[-1] / "initdb"), "-D", str(directory / "data"), "-U", "asr", "-A", "trust", "-N"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        **as_nobody_special(),
    )
    with (directory / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\n")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def redis_server(directory: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The ``host:port`` of a Redis of one's own; skips the test where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed")
    port = free_port(host)
    directory.mkdir(parents=True, exist_ok=True)
    command = [program, "--bind", host, "--port", str(port), "--save", "", "--protected-mode", "no"]
    with (directory / "redis.log").open("wb") as log:
        server = subprocess.Popen([*command, "--dir", str(directory)], stdout=log, stderr=log)
    try:
        yield f"{host}:{port}"
    finally:
        server.terminate()
        server.wait(10)


def as_nobody_special() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; its package brings a user."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}

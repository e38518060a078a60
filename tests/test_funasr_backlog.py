"""The queue between a socket and its session: order, bounds in memory and on disk, nothing left behind."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.backlog import Backlog, Message
from serve_app.errors import AudioTooLarge

CAPACITY = 4000


def joined(messages: list[Message]) -> list[Message]:
    """Binary messages that follow each other as one; empty ones dropped."""
    whole: list[Message] = []
    for message in messages:
        last = whole[-1] if whole else None
        if isinstance(message, bytes) and isinstance(last, bytes):
            whole[-1] = last + message
        elif message != b"":
            whole.append(message)
    return whole


messages = st.one_of(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=100))


@given(st.lists(st.one_of(messages, st.integers(1, 20)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_comes_out_is_what_went_in(steps: list[Message | int]) -> None:
    """Numbers are how many messages to take out; the file is a ring and goes round several times."""

    async def run() -> None:
        backlog = Backlog(CAPACITY, in_memory=300)
        sent: list[Message] = []
        taken: list[Message] = []
        inside = 0

        async def take() -> None:
            nonlocal inside
            async with asyncio.timeout(5):
                message = await backlog.get()
            taken.append(message)
            inside -= len(message.encode() if isinstance(message, str) else message)

        for step in steps:
            if not isinstance(step, int):
                size = len(step.encode() if isinstance(step, str) else step)
                while inside + size > CAPACITY:
                    await take()
                await backlog.put(step)
                sent.append(step)
                inside += size
                continue
            for _ in range(step):
                if inside:
                    await take()
        while joined(taken) != joined(sent):
            await take()
        backlog.close()

    asyncio.run(run())


async def test_it_waits_for_what_is_not_there_yet() -> None:
    backlog = Backlog(CAPACITY)
    getting = asyncio.create_task(backlog.get())
    await asyncio.sleep(0)
    assert not getting.done()
    await backlog.put("a")
    assert await getting == "a"
    backlog.close()


async def test_more_than_the_limit_is_refused() -> None:
    backlog = Backlog(CAPACITY, in_memory=100)
    await backlog.put(bytes(CAPACITY))
    with pytest.raises(AudioTooLarge):
        await backlog.put(b"1")
    backlog.close()


async def test_long_frames_are_handed_out_in_pieces() -> None:
    backlog = Backlog(1 << 24)
    data = os.urandom(1 << 22)
    await backlog.put(data)
    pieces = [await backlog.get() for _ in range(64)]
    assert {len(piece) for piece in pieces} == {1 << 16}
    assert joined(pieces) == [data]
    backlog.close()


async def test_the_file_is_there_only_while_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_files(tmp_path)
    backlog = Backlog(1 << 24, in_memory=1 << 16)
    for _ in range(3):
        for _ in range(100):
            await backlog.put(bytes(10_000))
        assert sum(size for _, size in open_files(tmp_path)) >= 900_000
        left = 1_000_000
        while left:
            left -= len(await backlog.get())
        assert sum(size for _, size in open_files(tmp_path)) == 0
    await backlog.put(bytes(1 << 20))
    backlog.close()
    assert open_files(tmp_path) == before


def open_files(directory: Path) -> list[tuple[str, int]]:
    """Files of ``directory`` that this process holds open, deleted ones too, with their sizes in bytes."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
            if target.startswith(str(directory)):
                found.append((target, entry.stat().st_size))
        except FileNotFoundError:
            continue
    return found


async def test_closing_while_bytes_are_written_harms_no_other_file(tmp_path: Path) -> None:
    backlog = Backlog(1 << 26, in_memory=0)
    writing = asyncio.create_task(backlog.put(bytes(1 << 24)))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    backlog.close()
    with (tmp_path / "other").open("w+b") as other:
        await asyncio.sleep(0.1)
        assert other.read() == b""

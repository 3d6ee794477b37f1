"""The road must do what it is told, or a run over it shows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.machine.disk import FILLER, SmallDisk
from tests.machine.road import Road
from tests.support.waiting import eventually

BROKEN = (ConnectionError, asyncio.IncompleteReadError)
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Travelled:
    road: Road
    port: int
    ends: list[Ends] = field(default_factory=list)

    async def connect(self) -> Ends:
        ends = await asyncio.open_connection("127.0.0.1", self.port)
        self.ends.append(ends)
        return ends


@pytest_asyncio.fixture
async def way() -> AsyncIterator[Travelled]:
    """To a server that says back what it hears."""

    speaking: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaking.add(writer)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        await ended(writer)
        speaking.discard(writer)

    there = await asyncio.start_server(echo, "127.0.0.1", 0)
    road = Road("127.0.0.1", there.sockets[0].getsockname()[1])
    door = await road.serve()

    async def quiet() -> bool:
        return not speaking and not road.busy

    travelled = Travelled(road, door.sockets[0].getsockname()[1])
    yield travelled
    for _, writer in travelled.ends:
        await ended(writer)
    door.close()
    there.close()
    await eventually(quiet)


async def ended(writer: asyncio.StreamWriter) -> None:
    """Nothing of it is left for a later test to find."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def said(ends: Ends, line: bytes) -> bytes:
    reader, writer = ends
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), 5.0)


async def test_it_passes_on_what_comes(way: Travelled) -> None:
    ends = await way.connect()
    assert await said(ends, b"hello\n") == b"hello\n"


async def test_a_cut_breaks_what_is_open_and_what_is_opened_until_it_is_over(way: Travelled) -> None:
    ends = await way.connect()
    await said(ends, b"hello\n")
    cutting = asyncio.create_task(way.road.cut(1.0, 0.3))
    with pytest.raises(BROKEN):
        await asyncio.wait_for(ends[0].readexactly(1), 5.0)
    late = await way.connect()
    with pytest.raises(BROKEN):
        await late[0].readexactly(1)
    await cutting
    again = await way.connect()
    assert await said(again, b"there\n") == b"there\n"


async def test_a_partial_cut_leaves_some(way: Travelled) -> None:
    all_ends = [await way.connect() for _ in range(20)]
    for ends in all_ends:
        await said(ends, b"hello\n")
    await way.road.cut(0.5, 0.0)
    alive = 0
    for ends in all_ends:
        try:
            alive += await said(ends, b"there\n") == b"there\n"
        except ConnectionError:
            continue
    assert 0 < alive < 20


@pytest.mark.parametrize("order", [("hold", 0.3), ("late", 0.15, 1.0)], ids=["held", "late"])
async def test_what_is_held_or_late_arrives_in_its_order(way: Travelled, order: tuple[str, float]) -> None:
    """There and back: late twice."""
    ends = await way.connect()
    await said(ends, b"hello\n")
    obeying = asyncio.create_task(way.road.obey(*order))
    await asyncio.sleep(0)
    began = time.monotonic()
    assert await said(ends, b"one\ntwo\n") == b"one\n"
    assert time.monotonic() - began >= 0.25
    assert await ends[0].readline() == b"two\n"
    await obeying


async def test_an_order_that_is_none_is_refused(way: Travelled) -> None:
    with pytest.raises(ValueError, match="hold"):
        await way.road.obey("hold", 1.0, 2.0)


def test_a_full_disk_takes_nothing_more_until_it_is_cleared(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "data", size_mib=4)
    disk.mount()
    if disk.why_not:
        pytest.skip(f"no disk can be mounted here: {disk.why_not}")
    try:
        disk.fill()
        assert (disk.path / FILLER).stat().st_size >= 3 * 2**20
        with pytest.raises(OSError, match="No space left"):
            (disk.path / "more").write_bytes(bytes(2**22))
        disk.clear()
        (disk.path / "more").write_bytes(bytes(2**20))
    finally:
        disk.unmount()
    assert not list((tmp_path / "data").iterdir())

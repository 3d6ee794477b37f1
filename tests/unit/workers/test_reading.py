"""Where a worker reads on once the server is back."""

from __future__ import annotations

import pytest

from workers.reading import Place


class Server:
    """Says what its newest entry is, and counts who asks."""

    def __init__(self, newest: str) -> None:
        self.newest, self.asked = newest, 0

    async def __call__(self) -> str:
        self.asked += 1
        return self.newest


@pytest.mark.parametrize(
    ("read", "newest", "after"),
    [
        ("7000-2", "7000-2", "7000-2"),
        ("7000-2", "9000-0", "7000-2"),
        ("7000-2", "7000-1", "0-0"),
        ("7000-2", "900-5", "0-0"),
        ("7000-2", "0-0", "0-0"),
        ("0-0", "0-0", "0-0"),
    ],
)
async def test_what_the_server_lost_is_read_again_under_its_new_numbers(read: str, newest: str, after: str) -> None:
    place = Place()
    place.read(read)
    place.doubt()
    assert await place.after(Server(newest)) == after


async def test_only_who_doubts_asks_and_only_once() -> None:
    place, server = Place(), Server("1-0")
    place.read("5-0")
    assert (await place.after(server), server.asked) == ("5-0", 0)
    place.doubt()
    assert (await place.after(server), await place.after(server), server.asked) == ("0-0", "0-0", 1)


async def test_a_server_that_is_still_away_leaves_the_doubt() -> None:
    place = Place()
    place.read("5-0")
    place.doubt()

    async def away() -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await place.after(away)
    assert await place.after(Server("1-0")) == "0-0"

"""A server that is on its way back is waited for, one that stays away is not, and other errors come at once."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError, FabricError, FabricUnavailable
from shared.patience import patiently


class Server:
    def __init__(self, *errors: FabricError | ConfigError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "here"


async def test_a_server_that_comes_back_is_waited_for() -> None:
    server = Server(FabricUnavailable("loading"))
    assert await patiently(server) == "here"
    assert server.asked == 2


async def test_one_that_stays_away_is_not() -> None:
    server = Server(FabricUnavailable("refused"), FabricUnavailable("refused"))
    with pytest.raises(FabricUnavailable, match="refused"):
        await patiently(server, 0.0)
    assert server.asked == 1


async def test_what_waiting_does_not_mend_is_said_at_once() -> None:
    server = Server(ConfigError("too old"))
    with pytest.raises(ConfigError, match="too old"):
        await patiently(server)
    assert server.asked == 1

"""The server is killed, again and again, while there is much to do."""

from __future__ import annotations

import pytest
import trio

from trio_romancy import App

from ..support.servers import PrivateServer
from .load import SLACK, open_load

pytestmark = [pytest.mark.long, pytest.mark.real_clock]


async def test_killed_again_and_again_under_load_nothing_fails_and_work_goes_on_when_it_is_back(
    server: PrivateServer, database: str, quiet: pytest.LogCaptureFixture
) -> None:
    async with App(database) as app, open_load(app, database) as load:
        for away in (0.0, 0.1, 1.0):
            await trio.to_thread.run_sync(server.kill)
            await trio.sleep(away)
            await trio.to_thread.run_sync(server.start)
            assert await load.goes_on() < 2.0 + SLACK
            await trio.sleep(0.2)
        statistics = app.statistics().worker
        assert statistics is not None
        assert statistics.supervisor.restarts == 0

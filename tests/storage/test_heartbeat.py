"""A worker that has nothing to write writes all the same, so that its lease goes on."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from trio_romancy import App


def test_an_idle_worker_is_never_silent_for_more_than_a_third_of_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(str(tmp_path / "idle.db"), lease=3.0) as app:
            before = app.statistics().worker
            await trio.sleep(30.5)
            after = app.statistics().worker
        assert before is not None and after is not None
        assert after.epoch == before.epoch
        assert after.journal.batches - before.journal.batches >= 30

    trio.run(main, clock=MockClock(autojump_threshold=0))

"""An activity gives up its transaction while nobody answers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from trio_romancy import (
    EntryKind,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    current_activity,
    workflow,
)
from trio_romancy._storage.dialects import limits
from trio_romancy._storage.drivers import connections

from ..support.lossy_proxy import LossyProxy, open_app
from ..support.servers import execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

proxies: list[LossyProxy] = []


@pytest.fixture(autouse=True)
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 0.7)
    monkeypatch.setattr(limits, "LOCK_TIMEOUT", 1)
    proxies.clear()


@activity(name="lost_rollbacks_fails_once_without_an_answer", retry=RetryPolicy.fixed(3, 0.01))
async def fails_once_without_an_answer(error: str) -> int:
    attempt = current_activity().attempt
    session = current_activity().session
    await session.execute(sa.text("INSERT INTO spent VALUES (:n)"), {"n": attempt})
    if attempt == 1:
        await session.run_sync(lambda session: proxies[0].forget(session.connection()))
        raise TerminalError("no more") if error == "terminal" else ValueError("once more")
    return attempt


@workflow(name="lost_rollbacks_failing_once")
async def failing_once(ctx: WorkflowContext, error: str) -> int:
    return await fails_once_without_an_answer(error)


async def test_a_failed_attempt_counts_and_the_next_one_follows(database: str) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    async with open_app(database) as (proxy, app):
        proxies.append(proxy)
        handle = await app.start(failing_once, "any")
        assert await handle.result(timeout=10) == 2
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
        assert kinds == [EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_COMPLETED]
    assert execute(database, "SELECT n FROM spent") == [(2,)]


async def test_a_terminal_error_is_the_outcome_and_not_that_nobody_answered(database: str) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    async with open_app(database) as (proxy, app):
        proxies.append(proxy)
        handle = await app.start(failing_once, "terminal")
        with pytest.raises(WorkflowFailedError, match="no more"):
            await handle.result(timeout=10)
    assert execute(database, "SELECT n FROM spent") == []

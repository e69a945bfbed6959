"""A damaged row of the outbox stops no other event: it is named, and no attempt follows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection

from trio_romancy import App, OutboxSettings, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.sql.tables import outbox
from trio_romancy.cli.checks import Verdict, examine
from trio_romancy.model import OutboxStatus

from ..support.broker import open_broker
from ..support.databases import SHARED_KINDS
from ..support.probe import probe

pytestmark = pytest.mark.real_clock


@activity(name="bad_outbox_tell")
async def tell(number: int) -> None:
    current_activity().send_event("told", number, id=f"event {number}")


@workflow(name="bad_outbox_telling")
async def telling(ctx: WorkflowContext, number: int) -> None:
    await tell(number)


EVERYWHERE: dict[str, dict[str, Any]] = {
    "no JSON": {"data": "{{{"},
    "deep JSON": {"data": "[" * 100_000},
    "a time beyond all times": {"time": 2**62},
    "a due time beyond all times": {"due_at": 2**62},
    "no type": {"type": ""},
    "no id": {"event_id": ""},
}
SQLITE_ONLY: dict[str, dict[str, Any]] = {
    "a time that is no number": {"time": sa.literal_column("'noon'")},
    "a creation that is no number": {"created_at": sa.literal_column("'noon'")},
    "a due time that is no number": {"due_at": sa.literal_column("'noon'")},
    "bytes as the due time": {"due_at": sa.literal_column("x'ff00'")},
    "a type that is not UTF-8": {"type": sa.literal_column("CAST(x'ff' AS TEXT)")},
    "data that are no text": {"data": sa.literal_column("x'ff00'")},
}
CASES = [(kind, what) for kind in SHARED_KINDS for what in EVERYWHERE] + [("file", what) for what in SQLITE_ONLY]


def damage(connection: Connection, values: dict[str, Any]) -> None:
    damaged = sa.update(outbox).where(outbox.c.event_id == "event 1").values(values)
    assert connection.execute(damaged).rowcount == 1


@pytest.mark.parametrize(("kind", "what"), CASES, indirect=["kind"])
async def test_a_damaged_event_is_parked_and_named_and_the_others_are_posted(
    database: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(database, shutdown_timeout=1) as app:
        handles = [await app.start(telling.options(id=f"i{number}"), number) for number in range(4)]
        for handle in handles:
            await handle.result()
        await probe(app).write(damage, (EVERYWHERE | SQLITE_ONLY)[what])
    with trio.fail_after(30):
        async with (
            open_broker() as broker,
            App(database, broker_url=broker.url, outbox=OutboxSettings(max_age=3600), shutdown_timeout=1) as app,
        ):
            await broker.until(lambda: len(broker.posts) >= 3)
            while (relay := app.statistics().relay) is None or not relay.dead:  # noqa: ASYNC110 - no request tells
                await trio.sleep(0.05)
            assert sorted(post.event["data"] for post in broker.posts) == [0, 2, 3]
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "i1" in errors[0]
    assert "is invalid" in errors[0]


async def test_damaged_events_are_listed_and_doctor_names_the_first_of_them(tmp_path: Path) -> None:
    database = str(tmp_path / "romancy.db")
    async with App(database) as app:
        for number in range(14):
            await (await app.start(telling.options(id=f"i{number:02}"), number)).result()
        for values in (*EVERYWHERE.values(), *SQLITE_ONLY.values()):
            if "event_id" not in values:
                await probe(app).write(damage, {"status": "invalid"} | values)
                listed = (await app.outbox.list()).events
                assert [event.event_id for event in listed if event.status is OutboxStatus.INVALID] == ["event 1"]
                (found,) = [one for one in await examine(database) if one.check == "outbox"]
                assert found.verdict is Verdict.PROBLEM
                assert "1 event failed, invalid or expired: event 1 (" in found.found
                assert ", invalid)" in found.found
        await probe(app).write(lambda connection: connection.execute(sa.update(outbox).values(status="failed")))
        (found,) = [one for one in await examine(database) if one.check == "outbox"]
        assert found.found.count("(told, failed)") == 10
        assert found.found.endswith(" and 4 more")

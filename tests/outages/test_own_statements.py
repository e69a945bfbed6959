"""An error of the engine's own SQL is a pause, unless it concerns the row: nothing fails, nothing runs twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
import trio
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from trio_romancy import App, DatabaseError, Status, WorkflowContext, WorkflowStuckError, activity, workflow
from trio_romancy._runtime.worker import supervisor as supervisor_module
from trio_romancy._storage.drivers.connections import is_away
from trio_romancy._storage.journal import journal as journal_module
from trio_romancy._storage.journal import transaction

from ..support.probe import probe

begun: list[int] = []


@activity(name="own_count")
async def count(number: int) -> int:
    begun.append(number)
    await trio.sleep(5)
    return number


@workflow(name="own_counting")
async def counting(ctx: WorkflowContext) -> list[int]:
    return [await count(number) for number in range(5)]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    begun.clear()
    yield


def cancelled_by_the_server() -> DBAPIError:
    error = RuntimeError("canceling statement due to statement timeout")
    error.sqlstate = "57014"  # type: ignore[attr-defined]
    return DBAPIError("UPDATE", {}, error)


ERRORS: dict[str, tuple[Callable[[], Exception], int]] = {
    "statement timeout of PostgreSQL": (cancelled_by_the_server, logging.WARNING),
    "statement timeout of MariaDB": (
        lambda: OperationalError("UPDATE", {}, pymysql.err.OperationalError(1969, "max_statement_time exceeded")),
        logging.WARNING,
    ),
    "an unknown error": (
        lambda: OperationalError("UPDATE", {}, pymysql.err.OperationalError(9999, "never heard of")),
        logging.ERROR,
    ),
    "a table that is missing": (
        lambda: ProgrammingError("UPDATE", {}, pymysql.err.ProgrammingError(1146, "Table doesn't exist")),
        logging.ERROR,
    ),
    "a connection that cannot be made": (
        lambda: DatabaseError("mysql://... cannot be used: Access denied for user 'app'"),
        logging.ERROR,
    ),
}


@pytest.mark.parametrize("what", ["statement timeout of PostgreSQL", "statement timeout of MariaDB"])
def test_a_statement_timeout_while_a_connection_is_made_is_an_outage(what: str) -> None:
    assert is_away(ERRORS[what][0]())


@pytest.mark.parametrize("function", ["write_batch", "load_again"])
@pytest.mark.parametrize("what", ERRORS)
async def test_a_statement_that_fails_for_a_minute_is_a_pause(
    what: str, function: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make, level = ERRORS[what]
    module = journal_module if function == "write_batch" else supervisor_module
    works = getattr(module, function)
    is_away = False

    def fail(*args: Any, **kwargs: Any) -> Any:
        if is_away:
            raise make()
        return works(*args, **kwargs)

    monkeypatch.setattr(module, function, fail)
    async with App(":memory:", lease=600) as app:
        handle = await app.start(counting)
        await trio.sleep(7)
        is_away = True
        if function == "load_again":
            probe(app).crash_actors()  # the restart loads the journal
        await trio.sleep(60)
        is_away = False
        assert await handle.result() == [0, 1, 2, 3, 4]
    assert begun == [0, 1, 2, 3, 4] if function == "write_batch" else [0, 1, 1, 2, 3, 4]
    said = [record for record in caplog.records if "trying again in" in record.getMessage()]
    assert {record.levelno for record in said} == {level}
    assert 10 < len(said) < 100  # each try is logged, and there are more and more seconds between two


async def test_an_error_that_concerns_the_row_is_told_to_its_instance_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = transaction.write_batch

    def refuse(connection: Any, batch: Any, *args: Any) -> None:
        if any(row["operation_id"] == "own_count:3" for row in batch.entries):
            raise DBAPIError("INSERT", {}, pymysql.err.OperationalError(1644, "a trigger refuses the row"))
        works(connection, batch, *args)

    monkeypatch.setattr(journal_module, "write_batch", refuse)
    async with App(":memory:") as app:
        handle = await app.start(counting)
        with pytest.raises(WorkflowStuckError, match="a trigger refuses the row"):
            await handle.result()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK

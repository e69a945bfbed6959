"""What a session cannot write is a failed attempt of its activity, whenever it is found out."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trio_romancy import (
    ActivityError,
    App,
    Entry,
    EntryKind,
    RetryPolicy,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    holder: Mapped[str] = mapped_column(sa.String(20))


@activity(name="failures_make_tables")
async def make_tables() -> None:
    await current_activity().session.run_sync(lambda session: Base.metadata.create_all(session.connection()))


@activity(name="failures_holders")
async def holders() -> list[str]:
    return list(await current_activity().session.scalars(sa.select(Ticket.holder).order_by(Ticket.id)))


async def attempts(database: str, write: Any) -> tuple[list[Entry], list[str]]:
    """Run the activity. Returns the entries about it, and who holds a ticket in the end."""

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        await make_tables()
        await write()
        return await holders()

    async with App(database, retry=RetryPolicy.fixed(3, 0.01)) as app:
        handle = await app.start(flow)
        result = await handle.result()
        return [e for e in await app.history(handle.instance_id) if e.operation_id.startswith("write")], result


async def test_found_when_it_is_flushed_at_the_end(database: str) -> None:
    @activity
    async def write() -> None:
        session = current_activity().session
        await session.execute(sa.insert(Ticket).values(id=1, holder="anna"))
        if current_activity().attempt < 3:
            await session.add(Ticket(id=1, holder="berta"))

    entries, found = await attempts(database, write)
    assert [entry.kind for entry in entries] == [EntryKind.ATTEMPT_FAILED] * 2 + [EntryKind.ACTIVITY_COMPLETED]
    assert "IntegrityError" in entries[0].payload["error_type"]
    assert "berta" not in str(entries)  # what users store is no business of a journal of errors
    assert found == ["anna"]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_found_when_it_is_committed(database: str) -> None:
    @activity
    async def write() -> None:
        session = current_activity().session
        deferred = "ALTER TABLE tickets ADD FOREIGN KEY (id) REFERENCES tickets DEFERRABLE INITIALLY DEFERRED"
        orphan = "ALTER TABLE tickets ADD parent INTEGER REFERENCES tickets DEFERRABLE INITIALLY DEFERRED"
        await session.execute(sa.text(deferred))
        await session.execute(sa.text(orphan))
        await session.execute(sa.insert(Ticket).values(id=1, holder="anna"))
        if current_activity().attempt < 3:
            await session.execute(sa.text("UPDATE tickets SET parent = 7"))

    entries, found = await attempts(database, write)
    assert [entry.kind for entry in entries] == [EntryKind.ATTEMPT_FAILED] * 2 + [EntryKind.ACTIVITY_COMPLETED]
    assert "foreign key" in entries[0].payload["message"]
    assert found == ["anna"]


async def test_found_at_every_attempt_fails_the_activity_and_leaves_nothing(database: str) -> None:
    @activity
    async def write() -> None:
        await current_activity().session.add_all([Ticket(id=1, holder="anna"), Ticket(id=2, holder=None)])

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await make_tables()
        try:
            await write()
        except Exception as error:
            return f"{type(error).__name__}: {await holders()}"
        return "written"

    async with App(database, retry=RetryPolicy.fixed(2, 0.01)) as app:
        assert await (await app.start(flow)).result() == "RetryExhaustedError: []"


async def test_a_result_that_cannot_be_journaled_counts_more_than_what_cannot_be_flushed(database: str) -> None:
    @activity
    async def write() -> Any:
        await current_activity().session.add_all([Ticket(id=1, holder="anna"), Ticket(id=2, holder=None)])
        return object()

    @workflow
    async def flow(ctx: WorkflowContext) -> tuple[str, list[str]]:
        await make_tables()
        try:
            await write()
        except ActivityError as error:
            return error.error_type, await holders()
        return "", []

    async with App(database, retry=RetryPolicy.fixed(3, 0.01)) as app:
        handle = await app.start(flow)
        error_type, found = await handle.result()
        assert error_type == "trio_romancy.InvalidDataError"  # not the IntegrityError of the flush
        assert found == []
        kinds = [entry.kind for entry in await app.history(handle.instance_id) if entry.operation_id == "write:1"]
        assert kinds == [EntryKind.ACTIVITY_FAILED]  # a further attempt would repeat the work for nothing


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"], indirect=True)
async def test_an_error_that_the_activity_catches_undoes_only_its_own_statement(database: str) -> None:
    @activity
    async def write() -> None:
        session = current_activity().session
        await session.execute(sa.insert(Ticket).values(id=1, holder="anna"))
        with pytest.raises(sa.exc.IntegrityError):
            await session.execute(sa.insert(Ticket).values(id=1, holder="berta"))

    entries, found = await attempts(database, write)
    assert [entry.kind for entry in entries] == [EntryKind.ACTIVITY_COMPLETED]
    assert found == ["anna"]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_on_postgresql_it_takes_a_savepoint_to_go_on_after_an_error(database: str) -> None:
    @activity
    async def write() -> None:
        session = current_activity().session
        await session.execute(sa.insert(Ticket).values(id=1, holder="anna"))
        twice = sa.insert(Ticket).values(id=1, holder="berta")
        with pytest.raises(sa.exc.IntegrityError):
            if current_activity().attempt == 1:
                await session.execute(twice)
            else:
                async with session.begin_nested():
                    await session.execute(twice)

    entries, found = await attempts(database, write)
    assert [entry.kind for entry in entries] == [EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_COMPLETED]
    assert "current transaction is aborted" in entries[0].payload["message"]
    assert found == ["anna"]

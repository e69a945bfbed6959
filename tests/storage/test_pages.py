"""Journals are loaded in pages, so that no statement takes long, however large the journal is."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._data.journal_format import ActivityCompleted
from trio_romancy._storage.sql import entries
from trio_romancy._storage.sql.entries import BEGINNING, JournalEntry, entry_row, load_page
from trio_romancy._storage.sql.tables import history, history_archive

from ..support.databases import SHARED_KINDS


def store(connection: Connection, *sizes: int, table: sa.Table = history) -> None:
    rows = [
        entry_row("a", JournalEntry(10 * seq, f"op:{seq}", ActivityCompleted.KIND, ActivityCompleted("x" * size), 0))
        for seq, size in enumerate(sizes, 1)
    ]
    connection.execute(sa.insert(table), rows)


def pages(connection: Connection) -> list[tuple[list[int], bool]]:
    found: list[tuple[list[int], bool]] = []
    after = BEGINNING
    while not found or not found[-1][1]:
        page = load_page(connection, "a", after)
        found.append(([row.seq for row in page.rows], page.is_last))
        after = page.end if page.rows else after
    return found


def test_a_page_has_as_many_bytes_as_may_come_in_time(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_PAGE_BYTES", 1_000)
    store(connection, 400, 400, 400, 5_000, 5_000, 1, 1)
    assert pages(connection) == [([10, 20], False), ([30], False), ([40], False), ([50], False), ([60, 70], True)]


def test_a_page_has_as_many_entries_as_may_come_in_time(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_PAGE_ENTRIES", 2)
    store(connection, 1, 1, 1, 1)
    assert pages(connection) == [([10, 20], False), ([30, 40], True)]


def test_a_journal_without_entries_has_one_page(connection: Connection) -> None:
    assert pages(connection) == [([], True)]


def test_an_entry_with_a_damaged_number_is_on_the_first_page(connection: Connection) -> None:
    store(connection, 1)
    connection.execute(sa.update(history).values(seq=-1))
    assert pages(connection) == [([-1], True)]


@pytest.mark.parametrize("table", [history, history_archive], ids=["history", "archive"])
def test_a_transaction_reads_all_pages(
    connection: Connection, table: sa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_PAGE_BYTES", 100)
    store(connection, *[40] * 7, table=table)
    assert [entry.seq for entry in entries.load_history(connection, "a")] == [10, 20, 30, 40, 50, 60, 70]
    if table is history:
        assert [entry.seq for entry in entries.load_entries(connection, "a")] == [10, 20, 30, 40, 50, 60, 70]


@activity(name="pages_step")
async def step(number: int) -> str:
    steps.append(number)
    return "x" * 50_000


@workflow(name="pages_of_steps")
async def in_steps(ctx: WorkflowContext) -> int:
    total = 0
    for number in range(5):
        total += len(await step(number))
    await ctx.sleep(100)
    return total


steps: list[int] = []


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_worker_takes_up_an_instance_page_by_page(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.clear()
    loaded: list[int] = []
    load = entries._load_page

    def counted(*args: object) -> entries.RowPage:
        page = load(*args)  # type: ignore[arg-type]
        loaded.append(len(page.rows))
        return page

    async with App(database) as app:
        handle = await app.start(in_steps.options(id="a"))
        await trio.sleep(50)
    monkeypatch.setattr(entries, "_load_page", counted)
    monkeypatch.setattr(entries, "_PAGE_BYTES", 100_000)
    async with App(database) as app:
        assert await app.handle(handle.instance_id).result() == 250_000
        assert [max(loaded), sum(loaded), len(loaded)] == [1, 5, 5]
        loaded.clear()
        assert len(await app.history(handle.instance_id)) == 7
        assert sum(loaded) == 7
        assert len(loaded) >= 5
    assert steps == [*range(5)]

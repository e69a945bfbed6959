"""Journals that version 0.1 has written are read, and their instances go on as that version would have.

``record.py`` has recorded them, with instances in every stage and entries of every kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio_asyncio
from sqlalchemy import Connection, insert

from trio_romancy import App, EntryKind
from trio_romancy._data import journal_format
from trio_romancy._storage import migrations
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql.tables import metadata
from trio_romancy.clock import current_clock

from ...support.databases import SHARED_KINDS
from .workflows import define, finish

RECORDED = json.loads(Path(__file__).with_name("recorded_0_1.json").read_text())
TIMES = {
    "created_at",
    "updated_at",
    "finished_at",
    "wake_at",
    "recorded_at",
    "event_time",
    "sent_at",
    "touched_at",
}
"""Columns whose values are moved to the present: what was sent long ago is not kept."""


def entries() -> Iterator[tuple[EntryKind, str]]:
    for table in ("history", "history_archive"):
        for row in RECORDED["rows"][table]:
            yield EntryKind(row["kind"]), row["payload"]


LATER = {EntryKind.WORKFLOW_TERMINATED}
"""Kinds that the release that made the recording did not know."""


def test_every_kind_was_recorded() -> None:
    assert {kind for kind, _ in entries()} == set(EntryKind) - LATER


def test_every_stage_was_recorded() -> None:
    statuses = {row["status"] for row in RECORDED["rows"]["instances"]}
    assert statuses >= {"pending", "running", "waiting", "compensating", "completed", "failed", "cancelled", "recurred"}
    assert any(row["cancel_requested"] and row["status"] == "waiting" for row in RECORDED["rows"]["instances"])


def test_every_entry_is_read_and_written_as_it_was() -> None:
    for kind, text in entries():
        assert journal_format.read(kind, text)[1].to_text() == text


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_instances_go_on_to_the_ends_that_they_would_have_had(database: str) -> None:
    define()
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run_long(migrations.migrate)
        await opened.run(store, current_clock().now() - RECORDED["recorded_at"])
    async with App(database, worker_id="next") as app:
        assert await finish(app) == RECORDED["endings"]
        for row in RECORDED["rows"]["history"]:
            stored = [entry for entry in await app.history(row["instance_id"]) if entry.seq == row["seq"]]
            kept = [(entry.operation_id, entry.kind, entry.payload) for entry in stored]
            assert kept == [(row["operation_id"], EntryKind(row["kind"]), json.loads(row["payload"]))]


def store(connection: Connection, later: int) -> None:
    """Store what was recorded, with times that many microseconds later."""

    def moved(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value + later if name in TIMES and value else value for name, value in row.items()}

    for name, rows in RECORDED["rows"].items():
        connection.execute(insert(metadata.tables[f"romancy_{name}"]), list(map(moved, rows)))

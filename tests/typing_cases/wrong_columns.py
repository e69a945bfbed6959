"""Columns that a type checker must refuse: each line that says so, for the reason it gives, and no other line."""

from __future__ import annotations

from sqlalchemy import Connection, select

from trio_romancy import EntryKind, Status
from trio_romancy._storage.journal.batch import Batch
from trio_romancy._storage.outgoing import event_row
from trio_romancy._storage.sql.instances import closing_row, new_row, update_row
from trio_romancy._storage.sql.rows import ChannelRow, EntryRow, OutboxRow, StoredInstance, fetch_all, fetch_first
from trio_romancy._storage.sql.tables import instances


def writing(batch: Batch, outbox: OutboxRow) -> None:
    entry: EntryRow = {  # E: Extra key "sequence" for TypedDict "EntryRow"
        "instance_id": "a",
        "seq": 1,
        "sequence": 1,
        "operation_id": "b",
        "kind": EntryKind.PATCHED,
        "payload": "null",
        "recorded_at": 1,
    }
    channel: ChannelRow = {"channel": "c", "last": 0, "touched_at": 1}  # E: Missing key "mode" for TypedDict
    entry["recorded"] = 1  # E: TypedDict "EntryRow" has no key "recorded"
    entry["payload"] = None  # E: Value of "payload" has incompatible type "None"
    outbox["event"]  # E: TypedDict "OutboxRow" has no key "event"
    channel["mode"].upper()  # E: Item "None" of "ChannelMode | None" has no attribute "upper"
    batch.entries.append(outbox)  # E: Argument 1 to "append" of "list" has incompatible type "OutboxRow"
    batch.updates[0]["status"]  # E: TypedDict "StatusUpdate" has no key "status"
    batch.closings[0].row["output"]  # E: TypedDict "ClosingRow" has no key "output"
    batch.starts[0].row["parent"]  # E: TypedDict "InstanceRow" has no key "parent"


def making() -> None:
    new_row("a", "w", "{}", 1, owner=None)["workflow_name"]  # E: TypedDict "InstanceRow" has no key "workflow_name"
    update_row("a", Status.RUNNING, 1, owner=None)["wake_at"]  # E: TypedDict "StatusUpdate" has no key "wake_at"
    closing_row("a", Status.COMPLETED, 1, owner=None, output="1", error=None)["owner"]  # E: TypedDict "ClosingRow"
    event = event_row("t", 1, source="s", id="1", subject=None, to=None, time=None, metadata=None, now=1, max_payload=1)
    event["id"]  # E: TypedDict "MessageRow" has no key "id"
    event["seq"] = "1"  # E: Value of "seq" has incompatible type "str"


def reading(connection: Connection) -> None:
    for row in fetch_all(connection, StoredInstance, select(instances)):
        print(row.worker_id)  # E: "StoredInstance" has no attribute "worker_id"
        print(row.finished_at + 1)  # E: Unsupported operand types for + ("None" and "int")
    first = fetch_first(connection, StoredInstance, select(instances))
    print(first.status)  # E: Item "None" of "StoredInstance | None" has no attribute "status"

"""The types of rows say what the tables hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import pytest
from sqlalchemy import BigInteger, Boolean, Column, Integer, Table, create_engine, select
from sqlalchemy.types import TypeEngine

from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql import rows, tables
from trio_romancy._storage.sql.rows import fetch_all, fetch_first
from trio_romancy._storage.sql.waits import open_waits_of_all

WRITTEN: Mapping[type, Table] = {
    rows.InstanceRow: tables.instances,
    rows.ChildRow: tables.instances,
    rows.SuccessorRow: tables.instances,
    rows.EntryRow: tables.history,
    rows.MessageRow: tables.messages,
    rows.WaitRow: tables.waits,
    rows.ChannelRow: tables.channels,
    rows.OutboxRow: tables.outbox,
    rows.WorkerRow: tables.workers,
    rows.IncompatibleRow: tables.incompatible,
    rows.ScheduleRow: tables.schedules,
    rows.OccurrenceRow: tables.occurrences,
}
READ: Mapping[Any, Any] = {
    rows.StoredInstance: select(tables.instances),
    rows.StoredEntry: select(tables.history),
    rows.StoredMessage: select(tables.messages),
    rows.StoredWait: open_waits_of_all,
    rows.StoredEvent: select(tables.outbox),
    rows.StoredWorker: select(tables.workers),
    rows.StoredSchedule: select(tables.schedules),
    rows.StoredOccurrence: select(tables.occurrences),
}
PARAMETERS: Mapping[type, Mapping[str, TypeEngine[Any]]] = {
    rows.ClosingRow: instance_sql.CLOSING,
    rows.StatusUpdate: instance_sql.CHANGING,
}


def name_of(row: Any) -> str:
    return str(getattr(row, "__name__", row))


def plain(hint: Any) -> tuple[type, bool]:
    """The type without None, and whether None is allowed."""
    types = get_args(hint) or (hint,)
    (kind,) = (each for each in types if each is not type(None))
    return kind, type(None) in types


def python_type(type_: TypeEngine[Any]) -> type:
    if isinstance(type_, Boolean):
        return bool
    return int if isinstance(type_, Integer | BigInteger) else str


def assert_fits(hint: Any, column: Column[Any]) -> None:
    kind, may_be_none = plain(hint)
    assert issubclass(kind, python_type(column.type)), column
    assert column.nullable or not may_be_none, f"{column} is never NULL"


def test_each_kind_of_row_is_compared() -> None:
    types = {each for each in vars(rows).values() if isinstance(each, type) and each.__module__ == rows.__name__}
    # The rest of its columns come with the payload; and both halves of an end are here.
    assert types - WRITTEN.keys() - READ.keys() - PARAMETERS.keys() == {rows.OpenEntryRow, rows.EndRow}


@pytest.mark.parametrize("row", WRITTEN, ids=name_of)
def test_what_is_written_has_columns_of_its_table_and_all_that_must_be_given(row: Any) -> None:
    columns = WRITTEN[row].c
    hints = get_type_hints(row)
    for name, hint in hints.items():
        assert_fits(hint, columns[name])
    assert {column.name for column in columns if not (column.nullable or column.server_default)} <= hints.keys()


@pytest.mark.parametrize("row", PARAMETERS, ids=name_of)
def test_what_a_statement_takes_are_its_parameters(row: Any) -> None:
    types = PARAMETERS[row]
    hints = get_type_hints(row)
    assert hints.keys() == types.keys()
    for name, hint in hints.items():
        assert issubclass(plain(hint)[0], python_type(types[name])), name


@pytest.mark.parametrize("row", READ, ids=name_of)
def test_what_is_read_has_the_columns_of_its_query_in_their_order(row: Any) -> None:
    columns = READ[row].selected_columns
    assert list(row._fields) == list(columns.keys())
    for name, hint in get_type_hints(row).items():
        assert_fits(hint, columns[name])
        assert plain(hint)[1] == columns[name].nullable, name


@pytest.mark.parametrize("fetch", [fetch_all, fetch_first])
def test_a_query_with_other_columns_than_its_row_is_refused(fetch: Any) -> None:
    with create_engine("sqlite://").connect() as connection:
        tables.metadata.create_all(connection)
        assert not fetch(connection, rows.StoredWorker, select(tables.workers))
        with pytest.raises(AssertionError, match=r"StoredWorker does not fit \('worker_id',\)"):
            fetch(connection, rows.StoredWorker, select(tables.workers.c.worker_id))

"""Many rows are updated as if one after the other, in however few round trips."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select

from trio_romancy._data.codec import dumps
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.instances import (
    close_instances,
    closing_row,
    insert_instances,
    new_row,
    update_instances,
    update_row,
)
from trio_romancy.model import ErrorInfo, Status

ERROR = ErrorInfo("ValueError", "no", "")


def stored(connection: Connection) -> list[tuple[str, str, str | None, int | None, int | None, bool]]:
    c = tables.instances.c
    rows = connection.execute(
        select(c.instance_id, c.status, c.owner, c.wake_at, c.finished_at, c.error).order_by(c.instance_id)
    )
    return [(*row[:5], row.error is not None) for row in rows]


def test_each_row_gets_its_own_values(connection: Connection) -> None:
    insert_instances(connection, [new_row(id, "w", "{}", 1, owner="me") for id in ("a", "a ", "A", "ä", "b")])
    update_instances(
        connection,
        [
            update_row("a", Status.WAITING, 2, owner=None, wake_at=50),
            update_row("A", Status.STUCK, 3, owner=None, error=ERROR),
            update_row("ä", Status.FAILED, 4, owner=None, error=ERROR),
            update_row("b", Status.COMPENSATING, 5, owner="me"),
        ],
    )
    assert stored(connection) == [
        ("A", "stuck", None, None, None, True),
        ("a", "waiting", None, 50, None, False),
        ("a ", "running", "me", None, None, False),
        ("b", "compensating", "me", None, None, False),
        ("ä", "failed", None, None, 4, True),
    ]


@pytest.mark.parametrize("size", [1_000, 8_000, 40_000, 99_000, 1_000_000])
def test_values_of_any_size_are_stored(connection: Connection, size: int) -> None:
    ids = [str(number) for number in range(50 if size < 1_000_000 else 5)]
    insert_instances(connection, [new_row(id, "w", "{}", 1, owner="me") for id in ids])
    output = dumps('\\"' * (size // 4))
    rows = [closing_row(id, Status.COMPLETED, 2, owner=None, output=output, error=None) for id in ids]
    assert close_instances(connection, rows) == {}
    assert connection.execute(select(tables.instances.c.output).distinct()).scalars().all() == [output]


def test_the_last_of_several_updates_of_one_row_counts(connection: Connection) -> None:
    insert_instances(connection, [new_row(id, "w", "{}", 1, owner="me") for id in "ab"])
    update_instances(
        connection,
        [
            update_row("a", Status.COMPENSATING, 2, owner="me", error=ERROR),
            update_row("b", Status.WAITING, 2, owner="me", wake_at=70),
            update_row("a", Status.CANCELLED, 3, owner=None),
        ],
    )
    assert stored(connection) == [
        ("a", "cancelled", None, None, 3, True),
        ("b", "waiting", "me", 70, None, False),
    ]

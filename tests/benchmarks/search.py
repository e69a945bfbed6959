"""Search among very many instances: ``-m tests.benchmarks.search measure PLACE COUNT SAMPLES`` prints JSON.

The instances are made by SQL, and all have ended. A customer has ten of them, far from each other. One in a hundred
thousand has failed. The oldest tenth has a journal, and is purged in the end.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from sqlalchemy import Connection, text

from trio_romancy import App, Status
from trio_romancy._data.page_tokens import page_token

from . import fresh, table
from .databases import FILES, NAMES, open_new

BOUND = 50.0
"""Highest acceptable median of a search by an indexed path, in milliseconds."""

_AT_ONCE = 50_000
"""Number of instances made by one statement."""
_FAILED_EACH = 100_000
_FIRST = 1_750_000_000_000_000
"""Start of the oldest instance, in microseconds. Each other started a millisecond later."""
_LIST_SAMPLES = 50
_LONG_SAMPLES = 2
_HEADS = ("database", "instances", "what", "samples", "p50 ms", "p99 ms", "bound")


def measure(kind: str, place: str, count: int, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure searches, lists and a purge among ``count`` instances.

    Args:
      samples: number of searches by an indexed path.
    """
    found: dict[str, Any] = fresh.ask("search", "measure", place, count, samples, timeout=3600.0)
    indexed = found["times"]["find_instances, indexed"]
    say(f"{NAMES[kind]}, {count:,} instances: {indexed['p50_ms']:.1f} ms to find those of a customer by an index")
    return {"instances": count, "bound_ms": None if place == FILES else BOUND, **found}


def show(results: dict[str, dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows.append([])
        for what, each in found["times"].items():
            bound = f"{found['bound_ms']:.1f}" if found["bound_ms"] and what == "find_instances, indexed" else "-"
            ms = [f"{each['p50_ms']:,.1f}", f"{each['p99_ms']:,.1f}"]
            rows.append([NAMES[kind], f"{found['instances']:,}", what, str(each["samples"]), *ms, bound])
    others = [
        f"{NAMES[kind]}: {found['index_seconds']:.1f} s to make the index, "
        f"{found['purged']:,} instances purged at {found['purged'] / found['purge_seconds']:,.0f} per second"
        for kind, found in results.items()
    ]
    title = "Search: to find and to list among many instances (the bound is for p50)"
    return "\n".join([table.render(title, _HEADS, rows[1:]), "", *others])


# -- many instances ----------------------------------------------------------------------------------------------------

_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT {a} UNION ALL SELECT n + 1 FROM numbers WHERE n < {b})",
    "postgresql": "WITH numbers AS (SELECT n FROM generate_series({a}, {b}) AS n)",
    "mysql": "WITH numbers AS (SELECT seq AS n FROM seq_{a}_to_{b})",
}
_TWELVE_DIGITS = {
    "sqlite": "printf('%012d', n)",
    "postgresql": "LPAD(CAST(n AS TEXT), 12, '0')",
    "mysql": "LPAD(n, 12, '0')",
}
_INPUT = (
    """'{"order_id":"ORD-'""",
    "n",
    """'","customer":{"id":"C-'""",
    "n % {customers} * 7919 % {customers}",
    """'","country":"DE"},"items":[{"sku":"SKU-'""",
    "n % 997",
    """'","quantity":2,"price":19.99}],"address":"Marktplatz 1, 12345 Musterstadt","gift":false}'""",
)
"""Parts of JSON text, as SQL."""


def _fill(dialect: str, count: int) -> list[str]:
    """Return the statements that make the instances."""
    kind = "mysql" if dialect in ("mysql", "mariadb") else dialect

    def joined(*parts: str) -> str:
        return f"CONCAT({', '.join(parts)})" if kind == "mysql" else " || ".join(f"({part})" for part in parts)

    instance_id = joined("'0192f3a0-'", _TWELVE_DIGITS[kind])
    created = f"{_FIRST} + n * 1000"
    instance = {
        "instance_id": instance_id,
        "workflow": "'order_processing'",
        "status": f"CASE WHEN n % {_FAILED_EACH} = 7 THEN 'failed' ELSE 'completed' END",
        "input": joined(*(part.replace("{customers}", str(count // 10)) for part in _INPUT)),
        "output": """'"TRACK-1"'""",
        "recoveries": "0",
        "created_at": created,
        "updated_at": f"{created} + 500",
        "finished_at": f"{created} + 500",
        "started_after": "0",
    }
    entry = {
        "instance_id": instance_id,
        "seq": "entries.seq",
        "operation_id": "'step:1'",
        "kind": "'activity_completed'",
        "payload": """'{"result":"done"}'""",
        "recorded_at": created,
    }
    three = f"(SELECT 1 AS seq UNION SELECT 2 UNION SELECT 3) AS entries WHERE n <= {count // 10}"
    statements = []
    for first in range(1, count + 1, _AT_ONCE):
        numbers = _NUMBERS[kind].format(a=first, b=min(first + _AT_ONCE - 1, count))
        for into, values, source in (("instances", instance, ""), ("history", entry, f", {three}")):
            select = f"{numbers} SELECT {', '.join(values.values())} FROM numbers{source}"
            statements.append(f"INSERT INTO romancy_{into} ({', '.join(values)}) {select}")
    return statements


def _make(connection: Connection, count: int) -> None:
    for statement in _fill(connection.dialect.name, count):
        connection.execute(text(statement.replace(":", "\\:")))
    tables = " TABLE romancy_instances" if connection.dialect.name in ("mysql", "mariadb") else ""
    connection.exec_driver_sql(f"ANALYZE{tables}")


# -- measuring ---------------------------------------------------------------------------------------------------------


async def _measure(database: str, count: int, samples: int) -> dict[str, Any]:
    chance = random.Random(1)
    times = {}
    async with App(database, worker=False) as app:
        await app._require_engine("search").database.alter(_make, count)

        async def find(path: str, value: str, most: int) -> None:
            found = await app.find_instances({path: value})
            assert 1 <= len(found) <= most

        async def find_customer() -> None:
            await find("customer.id", f"C-{chance.randrange(count // 10)}", 10)

        async def list_page(token: str | None, status: Status | None = None) -> None:
            assert (await app.list_instances(page_token=token, status=status)).instances

        last = page_token(_FIRST + 51_000, "0192f3a0-000000000051")
        middle = page_token(_FIRST + count // 2 * 1000, f"0192f3a0-{count // 2:012}")
        times["list_instances, first page"] = await _times(_LIST_SAMPLES, lambda: list_page(None))
        times["list_instances, in the middle"] = await _times(_LIST_SAMPLES, lambda: list_page(middle))
        times["list_instances, last page"] = await _times(_LIST_SAMPLES, lambda: list_page(last))
        times["list_instances, a rare status"] = await _times(_LONG_SAMPLES, lambda: list_page(None, Status.FAILED))
        times["find_instances, no index"] = await _times(_LONG_SAMPLES, lambda: find("order_id", "ORD-1", 1))
        begun = time.perf_counter()
        assert await app.index_input("customer.id")
        index_seconds = time.perf_counter() - begun
        times["find_instances, indexed"] = await _times(samples, find_customer)
        begun = time.perf_counter()
        age = (app._require_engine("search").clock.now() - _FIRST - count // 10 * 1000 - 501) / 1_000_000
        purged = await app.purge(older_than=age)
        purge_seconds = time.perf_counter() - begun
    return {"times": times, "index_seconds": index_seconds, "purged": purged, "purge_seconds": purge_seconds}


async def _times(samples: int, do: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    taken = []
    for _ in range(samples):
        begun = time.perf_counter()
        await do()
        taken.append((time.perf_counter() - begun) * 1000)
    taken.sort()
    return {"samples": samples, "p50_ms": taken[samples // 2], "p99_ms": taken[samples * 99 // 100]}


def _measure_in(place: str, count: int, samples: int) -> dict[str, Any]:
    with open_new(place) as database:
        return trio.run(_measure, database, count, samples)


if __name__ == "__main__":
    do, place, *numbers = sys.argv[1:]
    fresh.answer(lambda: _measure_in(place, *map(int, numbers)))

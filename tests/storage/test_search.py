"""Finding instances by what is in their inputs: the same on every database, with an index and without."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, delete, event, text
from trio.testing import MockClock

from trio_romancy import App, InvalidInputError, Status, WorkflowContext, workflow
from trio_romancy._data.codec import dumps
from trio_romancy._data.conditions import Path as InputPath
from trio_romancy._data.conditions import checked_path, checked_where
from trio_romancy._storage import migrations
from trio_romancy._storage.dialects import postgresql
from trio_romancy._storage.dialects.input_index import indexed_paths
from trio_romancy._storage.dialects.input_keys import column_name, index_name
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.instances import insert_instances, new_row
from trio_romancy._storage.sql.search import Place, Sought, search_step

from ..support.databases import SHARED_KINDS, Databases
from ..support.probe import probe
from ..support.servers import PRODUCTS

pytestmark = pytest.mark.long


@workflow(name="search_any")
async def take(ctx: WorkflowContext, document: dict[str, Any]) -> None:
    pass


@workflow(name="search_größe")
async def take_size(ctx: WorkflowContext, größe: str) -> None:
    pass


@pytest.fixture
def new(kind: str, databases: Databases, nobody_polls: None) -> str:
    """The URL of a database of which other tests see no index."""
    return databases.new(kind)


async def store(app: App, *documents: Any, status: Status = Status.PENDING) -> None:
    """Store instances, the first of them first, whose ids are the places of their inputs among them."""
    rows = [new_row(str(n), "search_any", dumps(document), n, owner=None) for n, document in enumerate(documents)]
    await probe(app).write(insert_instances, [row | {"status": status, "wake_at": None} for row in rows])


async def empty(app: App) -> None:
    await probe(app).write(lambda connection: connection.execute(delete(tables.instances)))


async def found(app: App, *where: tuple[Any, Any], **filters: Any) -> list[int]:
    return [int(one.instance_id) for one in await app.find_instances(where, **filters)]


LONG = "x" * 300
NASTY = [
    "'",
    '"',
    "\\",
    "\\\\",
    '\\"',
    "$",
    "]",
    "[0]",
    "a.b",
    "*",
    "**",
    "last",
    "%",
    "%(text)s",
    "%s",
    ":name",
    "?",
    "{",
    "}",
    ",",
    "~",
    "~u0022",
    "\\u0022",
    "'; DROP TABLE romancy_instances; --",
    '"; DROP TABLE romancy_instances; --',
    "')) OR 1=1 --",
    "$.a",
    "-1",
    "+1",
    " 1",
    "01",
    "1e0",
    "é",
    "e\u0301",
    "É",
    "😀",
    "😁",
    "\ufffd",
    "\x01",
    "\x7f",
    "\n",
    "\u2028",
    " ",
    "null",
    "true",
    "0",
    "A",
    "a",
    "a ",
]
"""Keys and texts that some language, or some collation, takes for something else. No two are the same."""

CASES: list[tuple[Any, Any, Any, bool]] = [
    # the path, the value, the input, whether it is there
    ("a", "x", {"a": "x"}, True),
    ("a", "x", {"a": "X"}, False),
    ("a", "x", {"a": "x "}, False),
    ("a", "x", {"a": ["x"]}, False),
    ("a", "x", {"b": "x"}, False),
    ("a", "x", {"b": {"a": "x"}}, False),
    ("a", "", {"a": ""}, True),
    ("a", "", {"a": None}, False),
    ("a", "", {}, False),
    ("a", LONG, {"a": LONG}, True),
    ("a", LONG + "y", {"a": LONG + "z"}, False),
    ("a", "\0", {"a": "\0"}, True),
    ("a", "x", {"a": "x\0"}, False),
    ("a", "x", {"a": "x\0y"}, False),
    ("a", "\ud800", {"a": "\ud800"}, True),
    ("a", "\ud800", {"a": "\ud801"}, False),
    ("a", "x", {"a": "x", "b": "\0", "c": "\udc00\ud800"}, True),
    ("a", "ä", {"a": "a\u0308"}, False),
    ("a", "\u00e4", {"a": "\\u00e4"}, False),
    ("a", "\\u00e4", {"a": "\\u00e4"}, True),
    ("a", "~u00e4", {"a": "\u00e4"}, False),
    ("a", "😀", {"a": "😀"}, True),
    ("a", "😀", {"a": "😁"}, False),
    ("a", 1, {"a": 1}, True),
    ("a", 1, {"a": 1.0}, True),
    ("a", 1.0, {"a": 1}, True),
    ("a", 1, {"a": "1"}, False),
    ("a", "1", {"a": 1}, False),
    ("a", 1, {"a": True}, False),
    ("a", True, {"a": 1}, False),
    ("a", True, {"a": True}, True),
    ("a", True, {"a": "true"}, False),
    ("a", "true", {"a": True}, False),
    ("a", False, {"a": False}, True),
    ("a", False, {"a": True}, False),
    ("a", False, {"a": 0}, False),
    ("a", False, {"a": None}, False),
    ("a", 0, {"a": False}, False),
    ("a", 0, {"a": -0.0}, True),
    ("a", -0.0, {"a": 0}, True),
    ("a", 1, {"a": 12}, False),
    ("a", 12, {"a": 1}, False),
    ("a", -1, {"a": -1}, True),
    ("a", -1, {"a": 1}, False),
    ("a", 0.1, {"a": 0.1}, True),
    ("a", 0.1, {"a": 0.10000000000000002}, False),
    ("a", 0.3, {"a": 0.1 + 0.2}, False),
    ("a", 2**53, {"a": 2**53}, True),
    ("a", 2**53, {"a": 2**53 + 1}, False),
    ("a", 2**53 + 1, {"a": float(2**53)}, False),
    ("a", 2**53, {"a": float(2**53)}, True),
    ("a", 2**64 + 1, {"a": 2**64 + 1}, True),
    ("a", 2**64 + 1, {"a": 2**64}, False),
    ("a", 10**16, {"a": 1e16}, True),
    ("a", 1e16, {"a": 10**16}, True),
    ("a", 1e22, {"a": 10**22}, True),
    ("a", 10**23, {"a": 1e23}, False),  # which is a little less, as a float
    ("a", int(1e23), {"a": 1e23}, True),
    ("a", 10**400, {"a": 10**400}, True),
    ("a", 10**400, {"a": 10**400 + 1}, False),
    ("a", 1e308, {"a": 1e308}, True),
    ("a", 5e-324, {"a": 5e-324}, True),
    ("a", 5e-324, {"a": 0}, False),
    ("a", None, {"a": None}, True),
    ("a", None, {}, False),
    ("a", None, {"a": "null"}, False),
    ("a", None, {"a": 0}, False),
    ("a", None, {"a": {}}, False),
    ("a", "null", {"a": None}, False),
    ("a.b", None, {"a": None}, False),
    ("a.b", None, {"a": {"b": None}}, True),
    ("a.b", "x", {"a": {"b": "x"}}, True),
    ("a.b", "x", {"a.b": "x"}, False),
    (("a.b",), "x", {"a.b": "x"}, True),
    (["a.b"], "x", {"a.b": "x"}, True),
    (("a", "b"), "x", {"a": {"b": "x"}}, True),
    ("a.b", "x", {"a": [{"b": "x"}]}, False),
    ("a.b", "x", {"a": "x"}, False),
    ("a.0", "x", {"a": ["x"]}, True),
    ("a.0", "x", {"a": ["y", "x"]}, False),
    ("a.1", "x", {"a": ["y", "x"]}, True),
    ("a.1", "x", {"a": ["x"]}, False),
    ("a.0", "x", {"a": {"0": "x"}}, True),
    ("a.0", "x", {"a": "x"}, False),
    (("a", 0), "x", {"a": ["x"]}, True),
    (("a", 0), "x", {"a": {"0": "x"}}, True),
    ("a.00", "x", {"a": ["x"]}, False),
    ("a.00", "x", {"a": {"00": "x"}}, True),
    ("a.-1", "x", {"a": ["x"]}, False),
    ("a.-1", "x", {"a": {"-1": "x"}}, True),
    ("a.0.sku", "x", {"a": [{"sku": "x"}]}, True),
    ("a.0.sku", "x", {"a": {"0": {"sku": "x"}}}, True),
    ("a.0.0", "x", {"a": [["x"]]}, True),
    ("a.0.0", "x", {"a": [{"0": "x"}]}, True),
    ("a.0.0", "x", {"a": {"0": ["x"]}}, True),
    ("a.0.0", "x", {"a": ["x"]}, False),
    ("0", "x", {"0": "x"}, True),
    ("0", "x", {"1": "x"}, False),
    ("a.999999999", "x", {"a": ["x"]}, False),
    ("a.99999999999999999999", "x", {"a": {"99999999999999999999": "x"}}, True),
    (("",), "x", {"": "x"}, True),
    (("a", ""), "x", {"a": {"": "x"}}, True),
    *(((key,), "x", {key: "x"}, True) for key in NASTY),
    *(((key,), "x", {other: "x" for other in NASTY if other != key}, False) for key in NASTY),
    *((("a", key), "x", {"a": {key: "x"}}, True) for key in NASTY),
    *(("a", value, {"a": value}, True) for value in NASTY),
]
assert len(set(NASTY)) == len(NASTY)


async def ask_all(app: App, documents: Sequence[Any], questions: Sequence[tuple[Any, Any]]) -> None:
    for path, value in questions:
        there = await found(app, (path, value), limit=len(documents) + 1)
        expected = [n for n, document in enumerate(documents) if holds(list(checked_path(path)), value, document)]
        assert there == expected[::-1], (path, value)


async def check_cases(app: App, cases: Sequence[tuple[Any, Any, Any, bool]]) -> None:
    await empty(app)
    await store(app, *(document for _, _, document, _ in cases))
    for number, (path, value, document, is_there) in enumerate(cases):
        there = await found(app, (path, value), limit=len(cases))
        assert (number in there) == is_there, (path, value, document)
    # And whatever else is found has it too.
    await ask_all(app, [document for _, _, document, _ in cases], [(path, value) for path, value, _, _ in cases])


def holds(path: list[str], value: Any, document: Any) -> bool:
    """The same question, asked in another way."""
    if not path:
        kinds = [bool, type(None), str, (int, float)]
        kind = next(kind for kind in kinds if isinstance(value, kind))  # type: ignore[arg-type]
        return next((k for k in kinds if isinstance(document, k)), None) is kind and document == value  # type: ignore[arg-type]
    key, *rest = path
    if isinstance(document, dict):
        return key in document and holds(rest, value, document[key])
    if isinstance(document, list):
        return any(holds(rest, value, part) for index, part in enumerate(document) if str(index) == key)
    return False


async def test_an_input_is_found_by_what_is_in_it_and_by_nothing_else(new: str) -> None:
    async with App(new, worker=False) as app:
        await check_cases(app, CASES)


async def test_nothing_that_is_sought_is_taken_for_sql(new: str) -> None:
    async with App(new, worker=False) as app:
        await store(app, {"a": "x"})
        for nasty in NASTY:
            assert await found(app, ((nasty,), nasty)) == []
            assert await found(app, (("a", nasty), nasty)) == []
            assert (await app.list_instances(parent=nasty)).instances == []
        assert await found(app, ("a", "x")) == [0]


async def test_several_conditions_and_filters_all_hold(database: str) -> None:
    async with App(database, worker=False) as app:
        await store(app, *({"a": n % 2, "b": str(n % 3)} for n in range(12)))
        await store_as_failed(app, {"a": 1, "b": "1"})
        assert await found(app, ("a", 1), ("b", "1")) == [12, 7, 1]
        assert await found(app, ("a", 1), ("b", "1"), limit=2) == [12, 7]
        assert await found(app, ("a", 1), ("a", 0)) == []
        assert await found(app, ("a", 1), ("b", "1"), status=Status.FAILED) == [12]
        assert await found(app, ("a", 1), ("b", "1"), status=["failed", "pending"]) == [12, 7, 1]
        assert await found(app, ("a", 1), ("b", "1"), workflow="search") == [12, 7, 1]
        assert await found(app, ("a", 1), workflow="other") == []
        assert await found(app, ("a", 1), workflow="\0") == []
        assert len(await found(app)) == 13  # without conditions, all
        assert [one.instance_id for one in await app.find_instances({"a": 1, ("b",): "1"}, limit=1)] == ["12"]


async def store_as_failed(app: App, document: Any) -> None:
    row = new_row("12", "search_any", dumps(document), 99, owner=None)
    await probe(app).write(insert_instances, [row | {"status": Status.FAILED, "wake_at": None}])


async def test_a_parameter_is_found_whatever_its_name(new: str) -> None:
    async with App(new, worker=False) as app:
        handle = await app.start(take_size, "groß")
        for _ in range(2):
            assert [one.instance_id for one in await app.find_instances({"größe": "groß"})] == [handle.instance_id]
            assert await app.index_input("größe")


class Size(str, enum.Enum):  # noqa: UP042 - it is text, and calls itself something else
    LARGE = "large"


class Level(enum.IntEnum):
    HIGH = 3


async def test_an_enum_is_the_value_that_is_stored_for_it(database: str) -> None:
    async with App(database, worker=False) as app:
        await store(app, {"a": "large"}, {"a": 3})
        assert await found(app, ("a", Size.LARGE)) == [0]
        assert await found(app, ("a", Level.HIGH)) == [1]


REFUSED: list[tuple[Any, str]] = [
    ({"": 1}, r"\$\.where\[''\]: '' has an empty part"),
    ({"a..b": 1}, "has an empty part; give a path to such a key as a tuple"),
    ({".a": 1}, "has an empty part"),
    ({(): 1}, "at least one key"),
    ({("a", True): 1}, "made of keys and whole numbers, not True"),
    ({("a", -1): 1}, "not -1"),
    ({("a", None): 1}, "not None"),
    ({7: 1}, r"\$\.where\[7\]: a path is text, or a tuple"),
    ({b"a": 1}, "a path is text"),
    ({"a\0": 1}, "NUL or a lone surrogate"),
    ({("a", "\ud800"): 1}, "NUL or a lone surrogate"),
    ({"a": [1]}, r"\$\.where\['a'\]: expected text, a number, true, false or null, as they are stored; got list"),
    ({"a.b": {"c": 1}}, r"\$\.where\['a.b'\]: expected .* got dict"),
    ({"a": b"x"}, "got bytes"),
    ({"a": Decimal(1)}, "got Decimal"),
    ({"a": float("nan")}, "nan is no number that JSON has"),
    ({"a": float("-inf")}, "-inf is no number"),
    ({"a": 10**5000}, "too large to be stored"),
    ({"a": [], "b": {}, "c": 1}, r"where\['a'\].*; \$\.where\['b'\]"),
    ("a", r"\$\.where: expected a mapping of paths to values, got str"),
    (None, "got NoneType"),
    (["a"], "expected a pair of a path and a value, got 'a'"),
    ([("a", 1, 2)], "expected a pair"),
]


@pytest.mark.parametrize(("where", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_sought_is_refused_with_its_path(where: Any, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        checked_where(where)


async def test_what_is_refused_is_refused_by_the_app() -> None:
    async with App(":memory:") as app:
        with pytest.raises(InvalidInputError, match=r"instances cannot be found by this: .*got list"):
            await app.find_instances({"a": []})
        with pytest.raises(InvalidInputError, match=r"cannot be indexed: .*empty part"):
            await app.index_input("a..b")
        with pytest.raises(ValueError, match="limit is a whole number"):
            await app.find_instances({}, limit=0)
        with pytest.raises(ValueError, match="not a valid Status"):
            await app.find_instances({}, status="sleeping")  # type: ignore[arg-type]


# -- a few at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("among", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("most", [1, 2, 100])
def test_looks_at_a_few_at_a_time_find_each_instance_once(connection: Connection, among: int, most: int) -> None:
    """Also where several were created at the same time."""
    rows = [new_row(f"{n:02}", "w", dumps({"a": n % 3}), n // 4, owner=None) for n in range(20)]
    insert_instances(connection, rows)
    newest_first = sorted(rows, key=lambda row: (row["created_at"], row["instance_id"]), reverse=True)
    for where, wanted in (({}, range(3)), ({"a": 1}, [1]), ({"a": 7}, [])):
        sought = Sought(conditions=checked_where(where))
        seen = search_step(connection, sought, None, among, most)
        found = [one.instance_id for one in seen.instances]
        while seen.end is not None:
            seen = search_step(connection, sought, seen.end, among, most)
            assert len(seen.instances) <= most
            found += [one.instance_id for one in seen.instances]
        assert found == [row["instance_id"] for row in newest_first if json.loads(row["input"])["a"] in wanted]


# -- with an index -----------------------------------------------------------------------------------------------------


def drop_index(connection: Connection, path: InputPath) -> None:
    name = index_name(path)
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.exec_driver_sql(f"ALTER TABLE romancy_instances DROP INDEX {name}, DROP COLUMN {column_name(path)}")
    else:
        connection.exec_driver_sql(f"DROP INDEX {name}")


async def test_with_an_index_the_same_is_found(new: str, kind: str) -> None:
    async with App(new, worker=False) as app:
        for path in dict.fromkeys(checked_path(path) for path, *_ in CASES):
            if len(path) == 2 and path[1] in NASTY and path[1] not in ("0", "-1"):
                continue  # as alone
            await empty(app)  # so that each of the inputs is stored while there is an index
            if kind == "mariadb" and any(key.startswith("-") for key in path):
                assert not await app.index_input(path)  # MariaDB does not find what it has under such a key
                continue
            assert await app.index_input(path)
            assert await probe(app).read(indexed_paths, [path]) == {path}
            await check_cases(app, [case for case in CASES if checked_path(case[0]) == path])
            await probe(app).write(drop_index, path)


async def test_an_index_holds_what_was_stored_before_it_was_made(new: str) -> None:
    async with App(new, worker=False) as app:
        await store(app, *({"a": value} for value in ("x", 1, 1.0, None, True, LONG, "\0", "\ud800")))
        assert await app.index_input("a")
        values: list[Any] = ["x", 1, None, True, LONG, "\0", "\ud800"]
        assert [await found(app, ("a", value)) for value in values] == [[0], [2, 1], [3], [4], [5], [6], [7]]


async def test_an_input_is_stored_however_long_or_deep_it_is_where_the_index_looks(new: str) -> None:
    deep: Any = "x"
    for level in range(150):
        deep = [deep] if level % 2 else {"a": deep}
    megabyte = "x" * 1024 * 1024
    documents = [
        {"a": megabyte},
        {"a": megabyte + "y"},
        {"b": deep, "a": 1},
        {"a": deep},
        {"a": "\U0001f600" * 100_000},
    ]
    async with App(new, worker=False) as app:
        assert await app.index_input("a")
        await store(app, *documents)
        handle = await app.start(take, {"a": megabyte})
        await ask_all(app, documents, [("a", megabyte + "y"), ("a", 1), ("a", "\U0001f600" * 100_000), ("a", "x")])
        assert {one.instance_id for one in await app.find_instances({"a": megabyte})} == {"0", handle.instance_id}


def plans(connection: Connection, fn: Callable[..., object], *args: Any) -> list[str]:
    """How the database carries out each query of a function."""
    queries: list[tuple[str, Any]] = []

    @event.listens_for(connection, "before_cursor_execute")
    def executing(_: object, cursor: object, statement: str, parameters: Any, *__: object) -> None:
        queries.append((statement, parameters))

    fn(connection, *args)
    event.remove(connection, "before_cursor_execute", executing)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    about_instances = [(statement, given) for statement, given in queries if "FROM romancy_instances" in statement]
    explained = [connection.exec_driver_sql(f"{explain} {statement}", given) for statement, given in about_instances]
    return ["\n".join(map(str, rows)) for rows in explained]


def many(connection: Connection) -> None:
    """Fill the table, so that a plan that reads all of it would be the worse one."""
    rows = [new_row(f"{n:04}", "w", dumps({"a": {"b": f"value {n}"}}), n, owner=None) for n in range(5000)]
    insert_instances(connection, [row | {"wake_at": None} for row in rows])


async def test_an_index_is_used(new: str, kind: str) -> None:
    async with App(new, worker=False) as app:
        database = probe(app).database
        await database.run(many)
        assert await app.index_input("a.b")
        await database.run(lambda c: c.exec_driver_sql("ANALYZE" + " TABLE romancy_instances" * (kind == "mariadb")))
        for value in ("value 4999", "value 0", "nothing"):
            for after in (None, (2500, "2500")):
                sought = Sought(conditions=checked_where({"a.b": value}))
                (plan,) = await database.read(plans, search_step, sought, after, 1000, 100)
                reads = re.findall(r".*(?: on |SEARCH |SCAN |, ')romancy_instances.*", plan)
                assert len(reads) == 2, plan  # one for the key, and one for inputs that cannot be read
                assert all(index_name(("a", "b")) in read for read in reads), plan


async def test_children_are_read_from_the_index_of_parents(new: str, kind: str) -> None:
    async with App(new, worker=False) as app:
        database = probe(app).database
        await database.run(many)
        await database.run(lambda c: c.exec_driver_sql("ANALYZE" + " TABLE romancy_instances" * (kind == "mariadb")))
        for sought in (Sought(parent="p"), Sought(parent="p", statuses=[Status.FAILED])):
            for plan in await database.read(plans, search_step, sought, None, 20, 20):
                assert "ix_romancy_instances_parent_id" in plan


@pytest.mark.parametrize("status", [(), (Status.FAILED,)])
@pytest.mark.parametrize("after", [None, (4990, "4990"), (10, "0010")])
async def test_a_page_is_read_from_the_index_of_its_order(
    new: str, kind: str, after: Place | None, status: tuple[Status, ...]
) -> None:
    async with App(new, worker=False) as app:
        database = probe(app).database
        await database.run(many)
        await database.run(lambda c: c.exec_driver_sql("ANALYZE" + " TABLE romancy_instances" * (kind == "mariadb")))
        for plan in await database.read(plans, search_step, Sought(statuses=status), after, 20, 20):
            assert f"ix_romancy_instances_{'status' if status else 'created_at'}" in plan
            assert not re.search("SCAN romancy_instances$|TEMP B-TREE|Seq Scan|Sort|filesort|'ALL'", plan), plan


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_many_apps_that_index_the_same_path_at_once_make_one_index(kind: str, new_url: str) -> None:
    made: list[bool] = []
    async with App(new_url, worker=False) as app:
        await store(app, *({"a": n} for n in range(100)))

    async def make() -> None:
        async with App(new_url, worker=False) as app:
            made.append(await app.index_input("a"))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(make)
    assert made == [True] * 6
    async with App(new_url, worker=False) as app:
        assert await app.index_input(("a",))
        assert await found(app, ("a", 7)) == [7]
        assert await probe(app).read(indexed_paths, [("a",)]) == {("a",)}


@pytest.fixture
def new_url(kind: str, databases: Databases, tmp_path: Path) -> str:
    return str(tmp_path / "romancy.db") if kind == "file" else databases.new(kind)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_making_an_index_can_be_cancelled_and_is_completed_by_the_next_call(new_url: str) -> None:
    async with App(new_url, worker=False) as app:
        row = new_row("0", "search_any", '{"a":7}', 0, owner=None)
        async with probe(app).database.open_transaction() as transaction:
            await transaction.run(insert_instances, [row])
            with trio.move_on_after(0.5) as scope:
                await app.index_input("a")  # waits for the open transaction
            assert scope.cancelled_caught
            await transaction.commit(lambda _: None)
        assert await app.index_input("a")
        assert await found(app, ("a", 7)) == [0]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_an_index_that_another_process_has_finished_meanwhile_is_left_alone(new_url: str) -> None:
    number = text(f"SELECT CAST('{index_name(('a',))}' AS regclass)::oid")
    async with App(new_url, worker=False) as app:
        database = probe(app).database
        assert await app.index_input("a")
        before = await database.read(lambda connection: connection.execute(number).scalar())
        assert await database.alter(postgresql.create_input_index, ("a",))
        assert await database.read(lambda connection: connection.execute(number).scalar()) == before


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_an_index_whose_maker_died_is_made_again(new_url: str) -> None:
    async with App(new_url, worker=False) as app:
        await store(app, *({"a": n} for n in range(10)))
        assert await app.index_input("a")
        name = index_name(("a",))
        broken = text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('{name}')")
        await probe(app).write(lambda connection: connection.execute(broken))
        assert await found(app, ("a", 7)) == [7]
        assert await probe(app).read(indexed_paths, [("a",)]) == set()
        assert await app.index_input("a")
        assert await probe(app).read(indexed_paths, [("a",)]) == {("a",)}


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
async def test_an_index_whose_maker_died_before_it_is_made_on_its_column(new_url: str) -> None:
    async with App(new_url, worker=False) as app:
        assert await app.index_input("a")
        drop = text(f"DROP INDEX {index_name(('a',))} ON romancy_instances")
        await probe(app).write(lambda connection: connection.execute(drop))
        assert await app.index_input("a")
        assert await probe(app).read(indexed_paths, [("a",)]) == {("a",)}


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_workflows_run_while_an_index_is_made_and_with_it(new_url: str) -> None:
    async with App(new_url) as app:
        handles = []

        async def work() -> None:
            for number in range(20):
                handles.append(await app.start(take, {"a": number}))
                await handles[-1].result()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            assert await app.index_input("a")
        for number in range(20):
            (one,) = await app.find_instances({"a": number}, status=Status.COMPLETED)
            assert one.instance_id == handles[number].instance_id
    async with App(new_url) as app:  # the tables are those of this version all the same
        await probe(app).write(migrations.migrate)
        await probe(app).read(migrations.check)


def add_column(connection: Connection) -> None:
    op = Operations(MigrationContext.configure(connection))
    op.add_column("romancy_instances", Column("later", Integer))
    op.create_index("ix_romancy_instances_later", "romancy_instances", ["later"])


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_table_with_an_index_can_be_migrated(new_url: str) -> None:
    async with App(new_url, worker=False) as app:
        assert await app.index_input("a.0")
        await store(app, {"a": ["x"]})
        await probe(app).write(add_column)
        await app.start(take, {"a": ["y"]})
        assert await found(app, ("a.0", "x")) == [0]
        assert await probe(app).read(indexed_paths, [("a", "0")]) == {("a", "0")}


async def test_a_path_that_can_mean_too_much_is_searched_without_an_index(new: str) -> None:
    async with App(new, worker=False) as app:
        path = ("a", *("0" * 5))
        assert not await app.index_input(path)
        await store(app, {"a": [[[[["x"]]]]]}, {"a": {"0": {"0": [[["x"]]]}}}, {"a": "x"})
        assert await found(app, (path, "x")) == [1, 0]
        assert await app.index_input("k" * 900)
        assert not await app.index_input("k" * 1100)


# -- whatever is stored and sought -------------------------------------------------------------------------------------

some_keys = st.one_of(st.sampled_from(["a", "b", "0", "1", "a.b", "", *NASTY]), st.text(max_size=3))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 1.0, -0.0, 2**53, 2**53 + 1, 10**16, 1e16, 1e23, "", "1", "null", "x" * 250]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(), max_size=5),
    st.sampled_from(NASTY),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(some_keys, inner, max_size=3), max_leaves=8
)
documents = st.lists(st.dictionaries(some_keys, values, min_size=1, max_size=3), min_size=1, max_size=6)
paths = st.lists(some_keys, min_size=1, max_size=3)


def leaves(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar in a document, and where it is."""
    if isinstance(document, dict | list):
        parts = document.items() if isinstance(document, dict) else ((str(n), part) for n, part in enumerate(document))
        for key, part in parts:
            yield from leaves(part, (*path, key))
    else:
        yield path, document


def test_whatever_is_stored_is_found_by_what_is_in_it(kind: str, databases: Databases, nobody_polls: None) -> None:
    url = databases.new(kind)

    @settings(max_examples=60 if kind == "sqlite" else 10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(documents, st.lists(st.tuples(paths, scalars), max_size=3), st.data())
    def holds_for(documents: list[Any], others: list[tuple[Any, Any]], data: st.DataObject) -> None:
        there = [leaf for document in documents for leaf in leaves(document)]
        questions = [*there, *others, *((path, value) for path, _ in there for _, value in there[:3])]
        questions = [(path, value) for path, value in questions if not any("\0" in key for key in path)]
        paths = [path for path, _ in questions] or [("a",)]
        index = tuple(data.draw(st.sampled_from(paths)))

        async def main() -> None:
            async with App(url, worker=False) as app:
                await empty(app)
                await store(app, *documents)
                await ask_all(app, documents, questions)
                if await app.index_input(index):
                    await ask_all(app, documents, [(path, value) for path, value in questions if tuple(path) == index])
                    await probe(app).write(drop_index, index)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    holds_for()

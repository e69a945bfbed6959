"""``romancy_start``: programs in other languages start instances by plain SQL."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, WorkflowContext, workflow
from trio_romancy._storage.sql.tables import instances
from trio_romancy.clock import due_since

from ..support.callers import Psycopg, PyMySQL
from ..support.databases import query
from ..support.servers import PRODUCTS

pytestmark = pytest.mark.real_clock
on_servers = pytest.mark.parametrize("kind", PRODUCTS, indirect=True)

TEXTS = ["plain", 'a "quote" and a \\ backslash', "Grüße, 你好, 𝄞 and 😀", " ", "tab\tand\nline"]


@workflow(name="routine_echo")
async def echo(ctx: WorkflowContext, text: str, number: int = 0) -> str:
    return text * (number + 1)


def call(kind: str) -> str:
    return "SELECT romancy_start(%s, %s, %s)" if kind == "postgresql" else "CALL romancy_start(%s, %s, %s)"


async def connect(kind: str, url: str) -> Any:
    caller: PyMySQL | Psycopg = Psycopg() if kind == "postgresql" else PyMySQL()
    await caller.open(url, autocommit=False)
    if kind == "postgresql":
        caller.connection.row_factory = None
        from psycopg.rows import tuple_row

        caller.connection.row_factory = tuple_row
    else:
        from pymysql.cursors import Cursor

        caller.connection.cursorclass = Cursor
    return caller.connection


def start(connection: Any, kind: str, workflow: Any, input: Any, id: Any) -> str:
    cursor = connection.cursor()
    cursor.execute(call(kind), (workflow, input, id))
    (started,) = cursor.fetchone()
    assert isinstance(started, str)
    return started


@on_servers
async def test_other_programs_start_instances_in_their_transaction(kind: str, database: str) -> None:
    async with App(database) as app:
        connection = await connect(kind, database)
        rolled_back = start(connection, kind, "routine_echo", json.dumps({"text": "never"}), None)
        connection.rollback()
        ids = [start(connection, kind, "routine_echo", json.dumps({"text": text}), None) for text in TEXTS]
        raw = json.dumps({"text": TEXTS[2]}, ensure_ascii=False)
        ids.append(start(connection, kind, "routine_echo", raw, "mine"))
        assert start(connection, kind, "routine_echo", raw, "mine") == "mine"
        connection.commit()
        with trio.fail_after(20):
            assert [await app.handle(id).result() for id in ids] == [*TEXTS, TEXTS[2]]
        assert await app.get_instance(rolled_back) is None
        assert ids[-1] == "mine"
        assert len({*ids}) == len(ids)
        assert all(len(id) == 36 and id[14] == "7" for id in ids[:-1])
        connection.close()


@on_servers
async def test_its_row_is_that_of_a_start_by_an_app(kind: str, database: str) -> None:
    async with App(database, worker=False) as app:
        await app.send_event("before")
        await app.start(echo.options(id="one"), "é", 0)
        connection = await connect(kind, database)
        start(connection, kind, "routine_echo", '{"text":"é","number":0}', "two")
        connection.commit()
        connection.close()
        columns = ", ".join(column.name for column in instances.columns)
        rows = await trio.to_thread.run_sync(
            query, database, f"SELECT {columns} FROM romancy_instances ORDER BY instance_id"
        )
        one, two = (dict(zip(instances.columns.keys(), row, strict=True)) for row in rows)
        for row in (one, two):
            assert due_since(row.pop("wake_at")) == row["created_at"]
        for name in ("created_at", "updated_at"):
            assert abs(one.pop(name) - two.pop(name)) < 60_000_000
        assert one.pop("instance_id") == "one"
        assert two.pop("instance_id") == "two"
        assert one == two
        assert one["started_after"] == 1


@on_servers
@pytest.mark.parametrize(
    ("workflow", "input", "id", "said"),
    [
        ("", "{}", None, "the name of a workflow"),
        (None, "{}", None, "the name of a workflow"),
        ("routine_echo", "{}", "", "an id has"),
        ("routine_echo", "[1]", None, "the input is a JSON object"),
        ("routine_echo", None, None, "the input is a JSON object"),
        ("routine_echo", "{", None, "json|JSON"),
        ("x" * 256, "{}", None, "the name of a workflow|too long"),
        ("routine_echo", "{}", "x" * 256, "an id has|too long"),
        ("routine_other", '{"text": "a"}', "taken", "exists with another workflow or input"),
        ("routine_echo", '{"text": "b"}', "taken", "exists with another workflow or input"),
    ],
)
async def test_bad_arguments_are_errors(
    kind: str, database: str, workflow: str | None, input: str | None, id: str | None, said: str
) -> None:
    async with App(database, worker=False) as app:
        connection = await connect(kind, database)
        start(connection, kind, "routine_echo", '{"text": "a"}', "taken")
        connection.commit()
        with pytest.raises(Exception, match=said):
            start(connection, kind, workflow, input, id)
        connection.rollback()
        connection.close()
        assert len((await app.list_instances()).instances) == 1


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
async def test_a_user_who_may_not_create_routines_has_all_else(database: str, caplog: pytest.LogCaptureFixture) -> None:
    parsed = sa.make_url(database)
    await trio.to_thread.run_sync(query, database, "CREATE USER IF NOT EXISTS 'meagre'@'127.0.0.1'")
    new = f"{parsed.database}_meagre"
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, REFERENCES"
    for statement in (f"CREATE DATABASE {new}", f"GRANT {rights} ON {new}.* TO 'meagre'@'127.0.0.1'"):
        await trio.to_thread.run_sync(query, database, statement)
    try:
        url = parsed.set(username="meagre", database=new).render_as_string(hide_password=False)
        async with App(url) as app:
            assert await (await app.start(echo, "works")).result() == "works"
        assert "other programs cannot call romancy_start" in caplog.text
    finally:
        await trio.to_thread.run_sync(query, database, f"DROP DATABASE {new}")

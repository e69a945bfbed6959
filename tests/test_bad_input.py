"""Bad input is refused at the door, with an error that names the thing, and nothing is stored."""

from __future__ import annotations

import math
import os
import re
import sqlite3
import stat
import traceback
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sqlalchemy import Connection, select
from sqlalchemy.engine import make_url

from trio_romancy import (
    App,
    DatabaseError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidInputError,
    Limits,
    PayloadTooLargeError,
    RomancyError,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy._storage.sql import tables as schema

from .support.databases import ALL_KINDS, Databases
from .support.probe import probe
from .support.servers import PRODUCTS

real_clock = pytest.mark.real_clock


@attrs.define
class Item:
    sku: str
    quantity: int = 1


@attrs.define
class Order:
    order_id: str
    items: list[Item]


ORDER = {"order_id": "1", "items": []}


@activity
async def bad_input_repeat(text: str, times: int) -> str:
    return text * times


@activity
async def bad_input_lie() -> int:
    return "three"  # type: ignore[return-value]


@workflow
async def bad_input_order(ctx: WorkflowContext, order: Order) -> str:
    return order.order_id


@workflow
async def bad_input_two(ctx: WorkflowContext, when: datetime, count: int = 1) -> int:
    return count


@workflow
async def bad_input_long_result(ctx: WorkflowContext, times: int) -> str:
    return "x" * times


@workflow
async def bad_input_long_activity(ctx: WorkflowContext, times: int) -> int:
    return len(await bad_input_repeat("x", times))


@workflow
async def bad_input_wrong_result(ctx: WorkflowContext) -> Item:
    return Item("a", "two")  # type: ignore[arg-type]


@workflow
async def bad_input_wrong_activity(ctx: WorkflowContext) -> int:
    return await bad_input_lie()


@workflow
async def bad_input_waits(ctx: WorkflowContext) -> None:
    await ctx.sleep(3600)


def read_tables(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    tables = (schema.instances, schema.history)
    return {table.name: [dict(row) for row in connection.execute(select(table)).mappings()] for table in tables}


async def stored(app: App) -> dict[str, list[dict[str, Any]]]:
    """Everything that the database holds about instances."""
    return await probe(app).read(read_tables)


NOTHING: dict[str, list[dict[str, Any]]] = {"romancy_instances": [], "romancy_history": []}


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


# -- the input of a workflow -------------------------------------------------------------------------------------------

Call = Callable[[App], Awaitable[object]]

REFUSED: list[Any] = [
    pytest.param(
        lambda app: app.start(bad_input_order, Order("1", [Item("a", "two"), Item(3)])),  # type: ignore[arg-type]
        "workflow 'bad_input_order' does not take this input: $.items[0].quantity: expected int, got 'two'; "
        "$.items[1].sku: expected str, got 3",
        id="wrong types",
    ),
    pytest.param(
        lambda app: app.start(bad_input_order, {"order_id": "1", "items": []}),
        "workflow 'bad_input_order' does not take this input: $: expected Order, got {",
        id="dict in place of the class",
    ),
    pytest.param(
        lambda app: app.start(bad_input_two, "noon", count="2"),
        "workflow 'bad_input_two' does not take this input: $.when: expected datetime, got 'noon'; "
        "$.count: expected int, got '2'",
        id="wrong types of several parameters",
    ),
    pytest.param(
        lambda app: app.start(bad_input_two),
        "workflow 'bad_input_two' does not take this input: $: missing a required argument: 'when'",
        id="missing argument",
    ),
    pytest.param(
        lambda app: app.start(bad_input_waits, 1),
        "workflow 'bad_input_waits' does not take this input: $: too many positional arguments",
        id="argument too many",
    ),
    pytest.param(
        lambda app: app.start("bad_input_order", {"items": [{"quantity": 1.5, "colour": "red"}]}),
        "workflow 'bad_input_order' does not take this input: $.order_id: missing; $.items[0].sku: missing; "
        "$.items[0].quantity: expected int, got 1.5; $.items[0].colour: unknown field",
        id="missing and unknown fields of plain JSON",
    ),
    pytest.param(
        lambda app: app.start("bad_input_order", "{}"),
        "workflow 'bad_input_order' does not take this input: $: expected Order, got '{}'",
        id="JSON text in place of JSON",
    ),
    pytest.param(
        lambda app: app.start("bad_input_waits", None),
        "workflow 'bad_input_waits' does not take this input: $: expected an object, got NoneType",
        id="nothing in place of an object",
    ),
    pytest.param(
        lambda app: app.start("bad_input_missing", {}),
        "workflow 'bad_input_missing' cannot be started: $: no workflow of that name is defined in this process (",
        id="unknown workflow name",
    ),
    pytest.param(
        lambda app: app.start("bad_input_repeat", {"text": "a", "times": 1}),
        "workflow 'bad_input_repeat' cannot be started: $: no workflow of that name is defined in this process",
        id="name of an activity",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
async def test_an_input_that_does_not_fit_is_refused_and_nothing_is_stored(
    database: str, call: Call, message: str
) -> None:
    async with App(database) as app:
        with pytest.raises(InvalidInputError) as caught:
            await call(app)
        assert str(caught.value).startswith(message)
        assert await stored(app) == NOTHING


async def test_a_client_refuses_what_a_worker_refuses(database: str) -> None:
    async with App(database, worker=False) as app:
        with pytest.raises(InvalidInputError, match="expected Order"):
            await app.start("bad_input_order", None)
        assert await stored(app) == NOTHING


@pytest.mark.parametrize(
    "not_a_workflow", [bad_input_repeat, print, None, 3], ids=["activity", "function", "none", "int"]
)
async def test_what_is_no_workflow_cannot_be_started(not_a_workflow: Any) -> None:
    async with App(":memory:") as app:
        with pytest.raises(TypeError, match="workflow") as caught:
            await app.start(not_a_workflow, 1)
        assert repr(not_a_workflow)[:20] in str(caught.value)
        assert await stored(app) == NOTHING


@pytest.mark.parametrize(
    "id", ["", "x" * 256, 3, "a\0b", "\ud800"], ids=["empty", "too long", "no text", "NUL", "lone surrogate"]
)
async def test_an_id_that_some_database_could_not_hold_is_refused(database: str, id: Any) -> None:
    async with App(database) as app:
        with pytest.raises(ValueError, match="an id is "):
            await app.start("bad_input_order", ORDER, id=id)
        with pytest.raises(ValueError, match="an id is "):
            await app.start(bad_input_order.options(id=id), Order("1", []))
        assert await stored(app) == NOTHING


async def test_the_longest_id_and_any_character_in_it_are_fine(database: str) -> None:
    id = "\N{PILE OF POO}'\"\n%_ " * 36 + "abc"
    assert len(id) == 255
    async with App(database) as app:
        handle = await app.start(bad_input_order.options(id=id), Order("1", []))
        assert (handle.instance_id, await handle.result()) == (id, "1")
        assert [row["instance_id"] for row in (await stored(app))["romancy_instances"]] == [id]


async def test_an_id_that_is_taken_by_another_input_or_workflow_is_refused_and_its_holder_unharmed(
    database: str,
) -> None:
    async with App(database) as app:
        await (await app.start(bad_input_order.options(id="a"), Order("1", []))).result()
        before = await stored(app)
        with pytest.raises(InstanceExistsError, match="instance 'a' exists already with another input"):
            await app.start(bad_input_order.options(id="a"), Order("2", []))
        with pytest.raises(InstanceExistsError, match="'a' exists already with workflow 'bad_input_order', not"):
            await app.start(bad_input_waits.options(id="a"))
        assert await stored(app) == before


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True], ids=["by workflow", "by name"])
async def test_an_input_that_is_too_large_is_refused_and_nothing_is_stored(database: str, by_name: bool) -> None:
    order_id = "x" * 1000
    async with App(database, limits=Limits(max_payload=1000)) as app:
        with pytest.raises(
            PayloadTooLargeError, match=r"input of workflow 'bad_input_order' is \d+ bytes.*max_payload is 1000"
        ):
            if by_name:
                await app.start("bad_input_order", {"order_id": order_id, "items": []})
            else:
                await app.start(bad_input_order, Order(order_id, []))
        assert await stored(app) == NOTHING


async def test_an_input_just_as_large_as_allowed_is_accepted_and_one_byte_more_is_not(database: str) -> None:
    size = len('{"order_id":"","items":[]}')
    async with App(database, limits=Limits(max_payload=size + 10)) as app:
        assert await (await app.start(bad_input_order, Order("x" * 10, []))).result() == "x" * 10
        with pytest.raises(PayloadTooLargeError, match=f"is {size + 11} bytes"):
            await app.start(bad_input_order, Order("x" * 11, []))


async def test_the_size_is_that_of_what_is_stored_and_not_the_number_of_characters() -> None:
    async with App(":memory:", limits=Limits(max_payload=1000)) as app:
        with pytest.raises(PayloadTooLargeError):
            await app.start(bad_input_order, Order("\N{PILE OF POO}" * 100, []))


@pytest.mark.parametrize(
    ("starter", "error_type", "named"),
    [
        (bad_input_long_result, "trio_romancy.PayloadTooLargeError", "the result of the workflow is 5002 bytes"),
        (
            bad_input_long_activity,
            "trio_romancy.ActivityTerminalError",
            "the outcome of 'bad_input_repeat:1', which has done its work",
        ),
    ],
    ids=["workflow", "activity"],
)
async def test_a_result_that_is_too_large_fails_the_workflow_and_is_not_stored(
    database: str, starter: Any, error_type: str, named: str
) -> None:
    async with App(database, limits=Limits(max_payload=1000)) as app:
        handle = await app.start(starter, 5000)
        with pytest.raises(WorkflowFailedError, match=re.escape(named)) as caught:
            await handle.result()
        assert caught.value.error_type == error_type
        assert "max_payload is 1000" in str(caught.value)
        assert "x" * 1000 not in str(await stored(app))


@pytest.mark.parametrize(
    ("starter", "error_type", "problem"),
    [
        (bad_input_wrong_result, "trio_romancy.InvalidDataError", "$.quantity: expected int, got 'two'"),
        (bad_input_wrong_activity, "trio_romancy.ActivityTerminalError", "$: expected int, got 'three'"),
    ],
    ids=["workflow", "activity"],
)
async def test_a_result_of_another_type_than_declared_fails_the_workflow_at_once(
    database: str, starter: Any, error_type: str, problem: str
) -> None:
    async with App(database) as app:
        handle = await app.start(starter)
        with pytest.raises(WorkflowFailedError, match=re.escape(problem)) as caught:
            await handle.result()
        assert caught.value.error_type == error_type
        (row,) = (await stored(app))["romancy_instances"]
        assert (row["status"], row["output"]) == (Status.FAILED, None)


# -- asking for what is not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda app, id: app.handle(id).result(), id="result"),
        pytest.param(lambda app, id: app.handle(id).cancel(), id="handle.cancel"),
        pytest.param(lambda app, id: app.cancel(id, "why"), id="cancel"),
        pytest.param(lambda app, id: app.resume(id), id="resume"),
        pytest.param(lambda app, id: app.history(id), id="history"),
    ],
)
@pytest.mark.parametrize("id", ["nobody", "", "x" * 1000, "\ud800"], ids=["unknown", "empty", "too long", "surrogate"])
async def test_an_instance_that_is_not_there_is_named(call: Callable[[App, str], Awaitable[object]], id: str) -> None:
    async with App(":memory:") as app:
        with pytest.raises(InstanceNotFoundError, match="there is no instance") as caught:
            await call(app, id)
        assert repr(id) in str(caught.value)
        assert caught.value.instance_id == id
        assert await app.get_instance(id) is None
        assert await stored(app) == NOTHING


@pytest.mark.parametrize("reason", [object(), 3, b"x"], ids=["object", "int", "bytes"])
async def test_a_reason_that_is_no_text_is_refused_and_cancels_nothing(reason: Any) -> None:
    async with App(":memory:") as app:
        handle = await app.start(bad_input_waits)
        with pytest.raises((TypeError, ValueError), match="reason"):
            await app.cancel(handle.instance_id, reason)
        (row,) = (await stored(app))["romancy_instances"]
        assert row["cancel_requested"] is None


# -- the app -----------------------------------------------------------------------------------------------------------

OUTSIDE: list[Any] = [
    pytest.param(lambda app: app.start(bad_input_waits), id="start"),
    pytest.param(lambda app: app.get_instance("a"), id="get_instance"),
    pytest.param(lambda app: app.history("a"), id="history"),
    pytest.param(lambda app: app.cancel("a"), id="cancel"),
    pytest.param(lambda app: app.resume("a"), id="resume"),
    pytest.param(lambda app: app.handle("a").result(), id="result"),
    pytest.param(lambda app: trio.to_thread.run_sync(app.statistics), id="statistics"),
]


@pytest.mark.parametrize("worker", [True, False], ids=["worker", "client"])
@pytest.mark.parametrize("call", OUTSIDE)
async def test_an_app_outside_of_its_block_says_so(call: Call, worker: bool) -> None:
    app = App(":memory:", worker=worker)
    with pytest.raises(RomancyError, match=r"the app is not running: use it inside `async with App"):
        await call(app)
    async with app:
        pass
    with pytest.raises(RomancyError, match=r"the app is not running: use it inside `async with App"):
        await call(app)


async def test_a_handle_outside_of_its_app_s_block_says_so() -> None:
    async with App(":memory:") as app:
        handle = await app.start(bad_input_waits)
    with pytest.raises(RomancyError, match="the app is not running"):
        await handle.result()


async def test_an_app_is_for_one_block() -> None:
    app = App(":memory:")
    async with app:
        with pytest.raises(RomancyError, match="this app has been used; make a new App for each block"):
            async with app:
                pass
        assert await (await app.start(bad_input_order, Order("1", []))).result() == "1"
    with pytest.raises(RomancyError, match="this app has been used"):
        async with app:
            pass


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("worker_id", ""),
        ("worker_id", "x" * 256),
        ("worker_id", 3),
        ("worker_id", "a\0b"),
        ("worker_id", "\ud800"),
        ("lease", 0),
        ("lease", -1.0),
        ("lease", math.nan),
        ("lease", math.inf),
        ("lease", "10"),
        ("idle_timeout", -1),
        ("idle_timeout", math.nan),
        ("max_running", 0),
        ("max_running", "5"),
        ("max_running", 2.5),
        ("max_resident", 0),
        ("max_resident", -3),
        ("shutdown_timeout", 0),
        ("shutdown_timeout", math.nan),
        ("retry", 3),
    ],
    ids=lambda part: ascii(part)[:20],
)
def test_an_argument_out_of_range_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=argument.replace("_", "[_ ]")) as caught:
        App(":memory:", **{argument: value})
    assert repr(value)[:20] in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_payload", 0), ("max_payload", None), ("max_payload", 2**30), ("max_recoveries", -1), ("threads", 0)],
)
def test_a_limit_out_of_range_is_refused_by_name(limit: str, value: Any) -> None:
    with pytest.raises(ValueError, match=limit) as caught:
        Limits(**{limit: value})
    assert repr(value)[:20] in str(caught.value)


# -- the database ------------------------------------------------------------------------------------------------------


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def read_only_file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    path.write_bytes(b"")
    path.chmod(0o444)
    return path


@pytest.fixture
def read_only_directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o555)
    return tmp_path


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "letter.txt"
    path.write_text(LETTER)
    return path


LETTER = "Dear Sir or Madam, " * 1000


def damage(path: Path, keep: int) -> None:
    """Overwrite all but the first bytes."""
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] + b"\xa5" * (len(whole) - keep))


async def refusal(database: Any) -> str:
    """What the app says when it is opened on the database."""
    error: BaseException | None = None
    try:
        async with App(database):
            pass
    except Exception as caught:
        error = caught
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    assert isinstance(error, DatabaseError), repr(error)
    return str(error)


async def test_a_database_that_cannot_be_used_is_an_error_that_a_caller_can_catch_and_not_a_group(
    tmp_path: Path,
) -> None:
    for worker in (True, False):
        with pytest.raises(DatabaseError, match="redis://host/0"):
            async with App("redis://host/0", worker=worker):
                pass


@pytest.mark.parametrize("database", ["", "   ", None, 3, b"orders.db"], ids=["empty", "blank", "none", "int", "bytes"])
async def test_what_names_no_database_is_refused(database: Any) -> None:
    assert await refusal(database) == f"a database is a file name, ':memory:' or a URL, not {database!r}"


@pytest.mark.parametrize(
    "url", ["redis://user:secret@host/0", "oracle://user:secret@host/orders", "amqp://user:sec%2Fsecret@host/orders"]
)
async def test_a_database_that_is_not_supported_is_refused_without_showing_the_password(url: str) -> None:
    message = await refusal(url)
    assert message.startswith(f"{url.partition('user:')[0]}user:***@host")
    assert message.endswith("the scheme of a database URL is one of mariadb, mysql, postgres, postgresql, sqlite")
    assert "secret" not in message


@pytest.mark.parametrize(
    "url", ["://", "my sql://user:secret@host/x", "mysql://user:secret@host:port/x", "://user:secret@host"]
)
async def test_a_url_that_cannot_be_parsed_is_refused_without_showing_it(url: str) -> None:
    message = await refusal(url)
    hint = "it looks like sqlite:///orders.db or mysql://user@host/database, with any @ in a password written as %40"
    assert message == f"the database URL cannot be parsed; {hint}"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///orders.db?mode=ro",
        "sqlite:///file:orders.db?uri=true",
        "sqlite://host/orders.db",
        "sqlite+aiosqlite:///orders.db",
        "sqlite+pysqlcipher://:secret@/orders.db",
    ],
)
async def test_a_sqlite_url_with_more_than_a_file_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = await refusal(url)
    assert message.endswith("a SQLite URL is sqlite:///file, with three slashes and no options")
    assert "secret" not in message
    assert files(tmp_path) == set()


@real_clock
async def test_a_sqlite_url_names_the_file_that_it_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{tmp_path}/absolute.db", "sqlite:///relative.db", "plain.db"):
        async with App(url, worker=False):
            pass
    assert {"absolute.db", "relative.db", "plain.db"} <= files(tmp_path)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
async def test_a_sqlite_url_without_a_file_is_in_memory(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with App(url) as app:
        assert await (await app.start(bad_input_order, Order("1", []))).result() == "1"
    assert files(tmp_path) == set()


@real_clock
async def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    assert (
        await refusal(str(tmp_path))
        == f"{tmp_path} is a directory; name a file in it, such as {tmp_path / 'romancy.db'}"
    )
    assert files(tmp_path) == set()


@real_clock
async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "orders.db"
    assert await refusal(str(path)) == f"{path} cannot be created: there is no directory {path.parent}; create it first"
    assert files(tmp_path) == set()


@real_clock
async def test_a_file_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    await refusal(f"{tmp_path}/a\0b")
    assert files(tmp_path) == set()


@real_clock
async def test_a_read_only_file_is_refused_and_unharmed(read_only_file: Path) -> None:
    message = f"{read_only_file} cannot be written; give this process write permission on the file"
    assert await refusal(str(read_only_file)) == message
    state = os.stat(read_only_file)
    assert (state.st_size, stat.S_IMODE(state.st_mode)) == (0, 0o444)
    assert files(read_only_file.parent) == {"orders.db"}


@real_clock
@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
async def test_a_read_only_directory_is_refused(read_only_directory: Path) -> None:
    message = await refusal(str(read_only_directory / "orders.db"))
    assert message.startswith(f"{read_only_directory} cannot be written")


@real_clock
async def test_a_file_that_is_no_database_is_refused_and_unharmed(letter: Path) -> None:
    assert await refusal(str(letter)) == f"{letter} cannot be used as a SQLite database: file is not a database"
    assert await trio.Path(letter).read_text() == LETTER


@real_clock
@pytest.mark.parametrize("keep", [100, 4096, 9000], ids=["header", "first page", "two pages"])
async def test_a_corrupt_database_is_refused_in_words(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "orders.db"
    async with App(str(path)) as app:
        await (await app.start(bad_input_order, Order("1", []))).result()
    damage(path, keep)
    message = await refusal(str(path))
    assert message.startswith(f"{path} cannot be used")
    assert "malformed" in message


@real_clock
async def test_tables_of_that_name_which_are_not_ours_are_refused_and_unharmed(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE romancy_workers (mine TEXT)")
    message = await refusal(str(path))
    assert message.startswith(f"{path} cannot be used")
    assert "romancy_workers" in message
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert names == [("romancy_workers",)]


@real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
@pytest.mark.parametrize("worker", [True, False], ids=["worker", "client"])
@pytest.mark.parametrize("wrong", ["password", "user", "database", "port", "host"])
async def test_a_server_that_does_not_let_us_in_is_named_without_its_password(
    kind: str, databases: Databases, wrong: str, worker: bool
) -> None:
    url = make_url(databases.server(kind)).set(database="romancy_nowhere")
    if wrong == "password":
        url = url.set(username="romancy_nobody", password="secret")
    elif wrong == "user":
        url = url.set(username="romancy_nobody")
    elif wrong == "port":
        url = url.set(port=1, password="secret")
    elif wrong == "host":
        url = url.set(host="romancy.invalid", password="secret")
    begun = trio.current_time()
    with pytest.raises(DatabaseError) as caught:
        async with App(url.render_as_string(hide_password=False), worker=worker, start_timeout=0.5):
            pass
    assert trio.current_time() - begun < 5
    assert str(caught.value).startswith(f"{url.render_as_string()} cannot be used: ")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_server_that_refuses_us_for_good_is_not_asked_again(kind: str, databases: Databases) -> None:
    """Waiting does not help against a wrong name."""
    url = make_url(databases.server(kind)).set(database="romancy_nowhere").render_as_string(hide_password=False)
    with trio.fail_after(15), pytest.raises(DatabaseError, match="romancy_nowhere"):
        async with App(url, start_timeout=30):
            pass


@real_clock
async def test_the_users_own_tables_in_the_same_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE orders (id TEXT); INSERT INTO orders VALUES ('1');"
            "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('mine');"
        )
    async with App(str(path)) as app:
        assert await (await app.start(bad_input_order, Order("1", []))).result() == "1"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM orders").fetchall() == [("1",)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("mine",)]

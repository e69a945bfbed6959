"""A row that cannot be read parks its instance, which says which row it is, and harms no other instance."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing
from sqlalchemy import Connection

from trio_romancy import (
    App,
    InvalidDataError,
    InvalidInputError,
    Status,
    WorkflowContext,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._data.codec import codec
from trio_romancy._data.readable import MOST_DEPTH, MOST_DIGITS
from trio_romancy._storage.sql.claims import claim_due
from trio_romancy._storage.sql.tables import history, instances, messages, waits

from ..support.probe import probe

HOUR = 3600
DEEP = "[" * 100_000
TOO_LONG = "9" * (MOST_DIGITS + 1)


@compensation(name="bad_rows_undo")
async def undo() -> None:
    pytest.fail("an instance that cannot be read is rolled back")


@activity(name="bad_rows_step", compensation=undo)
async def step() -> int:
    return 1


@activity(name="bad_rows_work")
async def work() -> None:
    await trio.sleep(10)


@workflow(name="bad_rows_victim")
async def victim(ctx: WorkflowContext) -> str:
    await step()
    return str((await ctx.wait_event("go")).data)


@workflow(name="bad_rows_innocent")
async def innocent(ctx: WorkflowContext) -> str:
    await work()
    return str((await ctx.wait_event("go")).data)


def damage(connection: Connection, /, table: sa.Table, **values: Any) -> None:
    changed = sa.update(table).where(table.c.instance_id == "victim").values(values)
    assert connection.execute(changed).rowcount


ROWS: dict[str, tuple[sa.Table, dict[str, Any], str]] = {
    "no JSON in the journal": (
        history,
        {"payload": "{{{"},
        "entry 1 of its journal, 'bad_rows_step:1', cannot be read",
    ),
    "wrong JSON in the journal": (history, {"payload": "[1]"}, "entry 1 of its journal, 'bad_rows_step:1'"),
    "deep JSON in the journal": (history, {"payload": DEEP}, "entry 1 of its journal, 'bad_rows_step:1'"),
    "a long number in the journal": (history, {"payload": f'{{"result":{TOO_LONG}}}'}, "entry 1 of its journal"),
    "an unknown kind": (history, {"kind": "teleported"}, "does not know that kind"),
    "an unknown status": (
        instances,
        {"status": "confused", "wake_at": 0},
        "its row cannot be read: $.status: 'conf",
    ),
    "no JSON in the input": (instances, {"input": "{{{"}, "its input cannot be read"),
}


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["", "cancelled"])
@pytest.mark.parametrize("what", ROWS)
async def test_a_bad_row_parks_its_instance_and_no_other(what: str, is_cancelled: bool) -> None:
    table, values, named = ROWS[what]
    if is_cancelled and table is instances:
        pytest.skip("its journal says what to undo")
    async with App(":memory:", idle_timeout=1) as app:
        await app.start(victim.options(id="victim"))
        others = [await app.start(innocent) for _ in range(3)]
        await trio.sleep(HOUR)
        await probe(app).write(damage, table, **values)
        if is_cancelled:
            await app.cancel("victim")
        await app.send_event("go", "now")
        for other in others:
            assert await other.result() == "now"
        with pytest.raises(WorkflowStuckError, match="victim") as caught:
            await app.handle("victim").result()
        assert named in str(caught.value)
        shown = await app.get_instance("victim")
        assert shown is not None
        assert shown.worker_id is None
        listed = {one.instance_id: one for one in (await app.list_instances()).instances}
        assert listed["victim"].status is Status.STUCK
        assert [one.instance_id for one in await app.find_instances({}, status=[Status.STUCK])] == ["victim"]
        assert len(await app.history("victim")) == 1


async def test_an_unknown_status_is_not_left_to_a_worker_with_other_code(tmp_path: Path) -> None:
    """That worker would find another status, which the first one has written, and run the instance."""
    database = str(tmp_path / "romancy.db")
    async with (
        App(database, worker_id="old", code_version="1", idle_timeout=1) as old,
        App(database, worker_id="new", code_version="2", idle_timeout=1),
    ):
        await old.start(victim.options(id="victim"))
        await trio.sleep(10)
        await probe(old).write(damage, instances, status="confused", wake_at=0)
        with pytest.raises(WorkflowStuckError, match=r"its row cannot be read: \$.status: 'confused'"):
            await old.handle("victim").result()


async def test_an_unknown_status_outlives_the_worker_that_claims_its_instance() -> None:
    async with App(":memory:", worker=False) as app:
        await app.start(victim.options(id="victim"))
        await probe(app).write(damage, instances, status="confused", wake_at=0)
        (claim,) = await probe(app).write(claim_due, "worker", 1, [victim.name], 10, suspects=False)
        assert claim.problem is not None
        (stored,) = await probe(app).read(lambda connection: connection.execute(sa.select(instances.c.status)).all())
        assert stored.status == "confused"


@pytest.mark.parametrize("what", ROWS)
async def test_a_bad_row_is_shown_and_hides_no_other(what: str) -> None:
    table, values, _ = ROWS[what]
    async with App(":memory:", worker=False) as app:
        await app.start(victim.options(id="victim"))
        other = await app.start(innocent)
        if table is history:
            await probe(app).write(
                lambda connection: connection.execute(
                    sa.insert(history).values(
                        instance_id="victim",
                        seq=1,
                        operation_id="bad_rows_step:1",
                        kind="activity_completed",
                        payload='{"result":1}',
                        recorded_at=1,
                    )
                )
            )
        await probe(app).write(damage, table, **values)
        listed = {one.instance_id: one for one in (await app.list_instances()).instances}
        assert set(listed) == {"victim", other.instance_id}
        assert {one.instance_id for one in await app.find_instances({})} == set(listed)
        shown = await app.get_instance("victim")
        assert shown == listed["victim"]
        if table is instances:
            assert shown is not None
            assert shown.error is not None
            assert next(iter(values)) in shown.error.message
        else:
            (entry,) = await app.history("victim")
            assert entry.kind == values.get("kind", "activity_completed")
            if values.get("payload", "[1]") != "[1]":
                assert "unreadable" in str(entry.payload)


async def test_a_message_that_cannot_be_read_parks_the_instance_that_would_get_it() -> None:
    async with App(":memory:", idle_timeout=1) as app:
        await app.start(victim.options(id="victim"))
        await app.start(innocent.options(id="innocent"))
        await trio.sleep(1)  # the one waits, the other works
        await app.send_event("go", "now", to="innocent")
        await probe(app).write(lambda connection: connection.execute(sa.update(messages).values(data="{{{")))
        with pytest.raises(WorkflowStuckError, match=r"'innocent', 'wait_event:1': message \d+ of 'go' cannot be read"):
            await app.handle("innocent").result()
        assert "event_received" not in [entry.kind.value for entry in await app.history("innocent")]
        await app.send_event("go", "later")
        assert await app.handle("victim").result() == "later"


async def test_a_wait_of_an_unknown_mode_is_opened_again() -> None:
    async with App(":memory:", idle_timeout=1) as app:
        await app.start(victim.options(id="victim"))
        await trio.sleep(HOUR)
        await probe(app).write(damage, waits, mode="telepathic")
        await probe(app).write(damage, instances, wake_at=0)
        await trio.sleep(1)
        await app.send_event("go", "now")
        assert await app.handle("victim").result() == "now"


# -- what is refused when it is written --------------------------------------------------------------------------------


@pytest.fixture
def no_limit() -> Iterator[None]:
    """This process could read what another one could not."""
    digits, depth = sys.get_int_max_str_digits(), sys.getrecursionlimit()
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(20_000)
    yield
    sys.set_int_max_str_digits(digits)
    sys.setrecursionlimit(depth)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        (int, 10**MOST_DIGITS, "a number of more than 4,300 digits"),
        (int, -(10**MOST_DIGITS), "a number of more than 4,300 digits"),
        (Any, {"a": [10**MOST_DIGITS]}, "a number of more than 4,300 digits"),
        (Any, nested(MOST_DEPTH + 1), "nested too deeply"),
        (Any, {"]": nested(MOST_DEPTH)}, "nested too deeply"),
    ],
    ids=["positive", "negative", "inside", "deep", "deep in an object"],
)
def test_what_another_process_could_not_read_is_refused(annotation: Any, value: Any, why: str, no_limit: None) -> None:
    with pytest.raises(InvalidDataError, match=why):
        codec(annotation).encode(value)


@pytest.mark.parametrize(
    "value",
    [
        10 ** (MOST_DIGITS - 1),
        "9" * 2 * MOST_DIGITS,
        '[{"' * MOST_DEPTH * 2,
        '\\"' + "[" * MOST_DEPTH * 2,
        nested(MOST_DEPTH),
        [{"a": [1]}] * MOST_DEPTH,
    ],
    ids=["digits", "digits in text", "brackets in text", "quotes in text", "deep", "wide"],
)
def test_what_every_process_can_read_is_stored(value: Any) -> None:
    text, restored = codec(Any).encode(value)
    assert restored == value == json.loads(text)


async def test_a_number_that_another_process_could_not_read_is_refused_at_the_door(no_limit: None) -> None:
    @workflow(name="bad_rows_numbers")
    async def numbers(ctx: WorkflowContext, number: int) -> None: ...

    async with App(":memory:") as app:
        with pytest.raises(InvalidInputError, match=r"\$.number: it contains a number of more than 4,300 digits"):
            await app.start(numbers, 10**MOST_DIGITS)
        with pytest.raises(InvalidDataError, match="a number of more than 4,300 digits"):
            await app.send_event("go", 10**MOST_DIGITS)

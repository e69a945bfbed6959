"""Stored data that the code cannot read park their instance, unharmed, until the code can read them again.

Most tests deploy twice: an enum loses a member, and gets it back.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sqlalchemy import Connection, select, update

from trio_romancy import (
    App,
    EntryKind,
    InvalidDataError,
    RetryPolicy,
    Status,
    Workflow,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._definitions.registry import registry
from trio_romancy._storage.sql.tables import history

from ..support.probe import probe

BOTH = {"CARD": "card", "CASH": "cash"}
CARD = {"CARD": "card"}

did: list[str] = []
carrier = {"is up": False}


@pytest.fixture(autouse=True)
def _nothing_was_done() -> None:
    did.clear()
    carrier["is up"] = False


@compensation(name="stored_data_refund")
async def refund() -> None:
    did.append("refund")


@activity(name="stored_data_charge", compensation=refund)
async def charge() -> None:
    did.append("charge")


@activity(name="stored_data_ship", retry=RetryPolicy.fixed(1000, 60))
async def ship() -> str:
    if not carrier["is up"]:
        raise ConnectionError("the carrier does not answer")
    did.append("ship")
    return "shipped"


def deploy(methods: dict[str, str], way: str) -> Workflow[..., str]:
    """Define a workflow that gets a method of payment in some way, and then tries to ship."""
    Method: Any = enum.Enum("Method", methods)  # type: ignore[misc]

    @activity
    async def ask() -> Method:
        return Method("cash")

    @workflow
    async def asking(ctx: WorkflowContext) -> Method:
        return Method("cash")

    @workflow
    async def order(ctx: WorkflowContext, given: Method | None = None) -> str:
        await charge()
        if way == "event":
            assert (await ctx.wait_event("paid", data_type=Method)).data is Method("cash")
        elif way == "message":
            await ctx.subscribe("paid")
            assert (await ctx.receive("paid", data_type=Method)).data is Method("cash")
        elif way == "competing message":
            await ctx.subscribe("paid", "competing")
            assert (await ctx.receive("paid", data_type=Method)).data is Method("cash")
        elif way == "task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_branch, ctx, Method)
        elif way == "result":
            assert await ask() is Method("cash")
        elif way == "result of a child":
            assert await ctx.run(asking) is Method("cash")
        elif way == "input":
            assert given is Method("cash")
        elif way == "input of a recurrence" and given is None:
            ctx.recur(Method("cash"))
        return await ship()

    return order


async def wait_in_branch(ctx: WorkflowContext, data_type: Any) -> None:
    with ctx.branch("payment"):
        assert (await ctx.wait_event("paid", data_type=data_type)).data is data_type("cash")


WAYS = [
    "event",
    "message",
    "competing message",
    "task",
    "result",
    "result of a child",
    "input",
    "input of a recurrence",
]


@pytest.mark.parametrize("way", WAYS)
async def test_data_that_the_code_can_no_longer_read_park_the_instance_until_it_can(way: str) -> None:
    async with App(":memory:") as app:
        deploy(BOTH, way)
        handle = await app.start("order", {"given": "cash" if way == "input" else None}, id="order-1")
        await trio.sleep(1)
        await app.send_event("paid", "cash")
        await trio.sleep(100)
        deploy(CARD, way)
        await trio.sleep(200)
        parked = await app.get_instance("order-1#2" if way == "input of a recurrence" else "order-1")
        assert parked is not None
        assert parked.status is Status.STUCK
        assert parked.error is not None
        assert parked.error.error_type in ("trio_romancy.InvalidDataError", "trio_romancy.InvalidInputError")
        assert "cash" in parked.error.message
        with pytest.raises(WorkflowStuckError, match="cash"):
            await handle.result()
        deploy(BOTH, way)
        carrier["is up"] = True
        assert await app.resume("order-1")
        assert await handle.result(timeout=3600) == "shipped"
    assert did == (["charge"] * 2 if way == "input of a recurrence" else ["charge"]) + ["ship"]


@pytest.mark.parametrize("way", ["event", "result", "input"])
async def test_code_that_reads_the_data_again_is_another_version_and_so_is_tried_by_itself(
    way: str, tmp_path: Path
) -> None:
    database = str(tmp_path / "romancy.db")
    deploy(BOTH, way)
    async with App(database) as app:
        await app.start("order", {"given": "cash" if way == "input" else None}, id="order-1")
        await trio.sleep(1)
        await app.send_event("paid", "cash")
        await trio.sleep(100)
    deploy(CARD, way)
    async with App(database) as app:
        with pytest.raises(WorkflowStuckError):
            await app.handle("order-1").result()
    deploy(BOTH, way)
    carrier["is up"] = True
    async with App(database) as app:
        assert await app.handle("order-1").result(timeout=3600) == "shipped"


# -- rollbacks ---------------------------------------------------------------------------------------------------------


def deploy_rollback(methods: dict[str, str], *, takes_reason: bool = False) -> Workflow[..., None]:
    """Define a workflow that pays in two ways, waits, and fails or is cancelled."""
    Method: Any = enum.Enum("Method", methods)  # type: ignore[misc]

    if takes_reason:

        @compensation(name="give_back")
        async def give_back(method: Method, reason: str = "no reason") -> None:
            did.append(f"give back {method.value}, {reason}")
    else:

        @compensation(name="give_back")
        async def give_back(method: Method) -> None:
            did.append(f"give back {method.value}")

    @activity(compensation=give_back)
    async def pay(method: Method, reason: str = "no reason") -> None:
        did.append(f"pay by {method.value}")

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await pay(Method("cash" if "CASH" in methods else "card"))
        await pay(Method("card"))
        await ctx.sleep(1000)
        raise ValueError("out of stock")

    return order


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_arguments_of_a_compensation_that_cannot_be_read_park_the_rollback_before_it_begins(how: str) -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy_rollback(BOTH).options(id="order-1"))
        await trio.sleep(100)
        deploy_rollback(CARD)
        if how == "cancelled":
            await handle.cancel("not wanted")
        with pytest.raises(WorkflowStuckError, match=r"'give_back' of 'pay:1' do not fit the code: \$.method: .*cash"):
            await handle.result()
        assert did == ["pay by cash", "pay by card"]
        deploy_rollback(BOTH)
        assert await app.resume("order-1")
        with pytest.raises(WorkflowFailedError if how == "failed" else WorkflowCancelledError):
            await handle.result()
        instance = await app.get_instance("order-1")
        assert instance is not None
        assert (str(instance.status), instance.error is not None and instance.error.uncompensated) == (how, [])
    assert did[2:] == ["give back card", "give back cash"]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_rollback_that_the_code_cannot_read_is_left_to_a_worker_that_can(how: str, tmp_path: Path) -> None:
    database = str(tmp_path / "romancy.db")
    async with App(database, code_version="1") as app:
        handle = await app.start(deploy_rollback(BOTH).options(id="order-1"))
        await trio.sleep(100)
        deploy_rollback(CARD)
        if how == "cancelled":
            await handle.cancel("not wanted")
        with pytest.raises(WorkflowStuckError):
            await handle.result()
    deploy_rollback(BOTH)
    async with App(database, code_version="2") as app:
        with pytest.raises(WorkflowFailedError if how == "failed" else WorkflowCancelledError):
            await app.handle("order-1").result()
    assert did[2:] == ["give back card", "give back cash"]


async def test_a_compensation_that_the_code_no_longer_defines_parks_the_rollback_before_it_begins() -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy_rollback(BOTH).options(id="order-1"))
        await trio.sleep(100)
        with (
            registry.scoped(keep=lambda made: made.name != "give_back"),
            pytest.raises(WorkflowStuckError, match=r"keep the old one: @compensation\(name='give_back'\)"),
        ):
            await handle.result()
        assert did == ["pay by cash", "pay by card"]
        assert await app.resume("order-1")
        with pytest.raises(WorkflowFailedError, match="out of stock"):
            await handle.result()
    assert did[2:] == ["give back card", "give back cash"]


async def test_a_new_parameter_of_a_compensation_without_a_default_parks_the_rollback() -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy_rollback(BOTH).options(id="order-1"))
        await trio.sleep(100)

        @compensation
        async def give_back(method: str, reason: str) -> None: ...

        with pytest.raises(WorkflowStuckError, match=r"'give_back' takes 'reason' now, .* give it a default"):
            await handle.result()
    assert did == ["pay by cash", "pay by card"]


async def test_a_new_parameter_of_a_compensation_gets_its_default() -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy_rollback(BOTH).options(id="order-1"))
        await trio.sleep(100)
        deploy_rollback(BOTH, takes_reason=True)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
    assert did[2:] == ["give back card, no reason", "give back cash, no reason"]


# -- values that do not fit their annotation ---------------------------------------------------------------------------


@compensation(name="stored_data_unlabel")
async def unlabel(labels: dict[str, Any]) -> None:
    did.append("unlabel")


@activity(name="stored_data_label", compensation=unlabel)
async def label(labels: dict[str, Any]) -> None:
    did.append("label")


@activity(name="stored_data_charge_all", compensation=refund, retry=RetryPolicy.fixed(5, 1))
async def charge_all() -> dict[int, Any]:
    did.append("charge all")
    return {1: {2: "TXN-2"}}


async def test_an_argument_that_cannot_be_stored_is_refused_before_the_activity_runs() -> None:
    @workflow
    async def labelling(ctx: WorkflowContext) -> None:
        await label({"sizes": {36: "S"}})

    async with App(":memory:") as app:
        with pytest.raises(
            WorkflowFailedError, match=r"'labels' of activity 'stored_data_label', .*\$.sizes: .* dict\[int, \.\.\.\]"
        ):
            await (await app.start(labelling)).result()
    assert did == []


async def test_a_result_that_does_not_fit_its_annotation_ends_the_attempts_and_says_what_to_do() -> None:
    @workflow
    async def charging(ctx: WorkflowContext) -> None:
        await charge_all()

    async with App(":memory:") as app:
        with pytest.raises(
            WorkflowFailedError, match=r"neither run again nor compensated, .* correct its .*dict\[int,"
        ):
            await (await app.start(charging)).result()
    assert did == ["charge all"]


async def test_a_result_with_keys_that_are_numbers_is_the_same_on_replay() -> None:
    @activity
    async def charge_each() -> dict[int, str]:
        return {1: "TXN-1"}

    seen: list[dict[int, str]] = []

    @workflow
    async def charging(ctx: WorkflowContext) -> None:
        seen.append(await charge_each())
        await ctx.sleep(1000)

    async with App(":memory:") as app:
        await (await app.start(charging)).result()
    assert seen == [{1: "TXN-1"}, {1: "TXN-1"}]


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_a_result_that_a_client_cannot_read_is_an_error_of_the_client_alone() -> None:
    @workflow(name="paying")
    async def by_cash(ctx: WorkflowContext) -> str:
        return "cash"

    async with App(":memory:") as app:
        await (await app.start(by_cash.options(id="order-1"))).result()

        @workflow(name="paying")
        async def by_number(ctx: WorkflowContext) -> int:
            return 1

        handle = await app.start(by_number.options(id="order-1"))
        with pytest.raises(InvalidDataError, match=r"'order-1' has completed, but .* 'paying' .*: \$: expected int"):
            await handle.result()
        assert await app.handle("order-1").result() == "cash"
        instance = await app.get_instance("order-1")
        assert instance is not None
        assert instance.status is Status.COMPLETED


# -- events and messages that never fitted -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["event", "competing message"])
async def test_a_message_that_never_fitted_fails_the_workflow_and_parks_nothing(way: str) -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy(CARD, way).options(id="order-1"))
        await app.send_event("paid", "cash")
        with pytest.raises(WorkflowFailedError, match=r"are not of the data_type: .*cash"):
            await handle.result()
    assert did == ["charge", "refund"]


@pytest.mark.parametrize("later", [CARD, BOTH])
async def test_data_that_did_not_fit_raise_the_same_error_again_whatever_the_code_is_now(later: dict[str, str]) -> None:
    errors: list[tuple[str, list[Any]]] = []

    def deploy(methods: dict[str, str]) -> Workflow[..., str]:
        Method: Any = enum.Enum("Method", methods)  # type: ignore[misc]

        @workflow
        async def patient(ctx: WorkflowContext) -> str:
            while True:
                try:
                    return str((await ctx.wait_event("paid", data_type=Method)).data)
                except InvalidDataError as error:
                    errors.append((str(error), error.problems))

        return patient

    async with App(":memory:") as app:
        handle = await app.start(deploy(CARD))
        await app.send_event("paid", "cash")
        await trio.sleep(1000)  # it leaves memory
        deploy(later)
        await app.send_event("paid", "card")
        assert await handle.result() == "Method.CARD"
    first, second = errors
    assert first == second


async def test_a_class_that_exits_when_it_is_read_is_a_problem_of_the_data() -> None:
    def exits(instance: object, attribute: object, value: float) -> None:
        raise SystemExit(1)

    @attrs.define
    class Payment:
        amount: float = attrs.field(validator=exits)

    @workflow
    async def of_payment(ctx: WorkflowContext) -> None:
        await ctx.wait_event("paid", data_type=Payment)

    async with App(":memory:") as app:
        handle = await app.start(of_payment)
        await app.send_event("paid", {"amount": 1.5})
        with pytest.raises(WorkflowFailedError, match=r"\$: SystemExit was raised by the class of the data"):
            await handle.result()


async def test_a_stranger_cannot_make_the_journal_grow_with_problems() -> None:
    @workflow
    async def of_ints(ctx: WorkflowContext) -> int:
        try:
            await ctx.wait_event("numbers", data_type=list[dict[str, int]])
        except InvalidDataError as error:
            return len(error.problems)
        return 0

    async with App(":memory:") as app:
        handle = await app.start(of_ints)
        await app.send_event("numbers", [{"x" * 5000: "a"}] * 100)
        assert await handle.result() == 20
        received = (await app.history(handle.instance_id))[0].payload
        assert len(json.dumps(received["problems"])) < 20_000


# -- entries of earlier versions, which do not say whether their data did fit ------------------------------------------


def _forget_receipts(connection: Connection) -> None:
    """Make entries of received messages what earlier versions have written."""
    for row in connection.execute(select(history).where(history.c.kind == EntryKind.EVENT_RECEIVED)).all():
        payload = json.loads(row.payload)
        del payload["channel"], payload["problems"]
        entry = history.c.instance_id == row.instance_id, history.c.seq == row.seq
        connection.execute(update(history).where(*entry).values(payload=json.dumps(payload)))


async def test_an_event_of_an_earlier_version_parks_an_instance_that_cannot_read_it() -> None:
    async with App(":memory:") as app:
        handle = await app.start(deploy(BOTH, "event").options(id="order-1"))
        await app.send_event("paid", "cash")
        await trio.sleep(100)
        await probe(app).write(_forget_receipts)
        deploy(CARD, "event")
        with pytest.raises(WorkflowStuckError, match=r"the recorded data of event .* do not fit the code: .*cash"):
            await handle.result()
        deploy(BOTH, "event")
        carrier["is up"] = True
        assert await app.resume("order-1")
        assert await handle.result() == "shipped"
    assert did == ["charge", "ship"]


async def test_an_event_of_an_earlier_version_that_never_fitted_does_not_park_an_instance_that_went_on() -> None:
    @workflow
    async def forgiving(ctx: WorkflowContext) -> str:
        try:
            await ctx.wait_event("paid", data_type=int)
        except InvalidDataError:
            await charge()
        await ctx.sleep(3600)
        return "went on"

    async with App(":memory:") as app:
        handle = await app.start(forgiving)
        await app.send_event("paid", "cash")
        await trio.sleep(100)
        await probe(app).write(_forget_receipts)
        assert await handle.result() == "went on"

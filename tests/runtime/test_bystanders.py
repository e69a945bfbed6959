"""Only its own causes decide the fate of an instance: no error of another instance, and none of the runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
import trio_asyncio

from trio_romancy import (
    App,
    Instance,
    RetryPolicy,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._exceptions import leaves
from trio_romancy._runtime.run.intake import Intake
from trio_romancy._runtime.worker import retention
from trio_romancy._runtime.worker.claimer import Claimer

from ..support.probe import probe

HOUR = 3600.0
kept: list[Any] = []
"""Keeps generators and exceptions alive."""
mistake: Callable[[], Awaitable[Any]] | None = None
"""What the activity of ``careless`` does; None: nothing."""


# -- bystanders --------------------------------------------------------------------------------------------------------


@compensation(name="bystanders_release")
async def release() -> None:
    pytest.fail("a bystander is rolled back")


@activity(name="bystanders_reserve", compensation=release)
async def reserve() -> None: ...


@activity(name="bystanders_call_partner", retry=RetryPolicy.fixed(10, HOUR))
async def call_partner() -> None:
    raise ConnectionError("try again later")  # nine attempts are left, the next one in an hour


@activity(name="bystanders_poll", cancellable=True)
async def poll() -> None:
    await trio.sleep(HOUR)


@activity(name="bystanders_work")
async def work() -> None:
    await trio.sleep(HOUR)


@workflow(name="bystanders_backing_off")
async def backing_off(ctx: WorkflowContext) -> None:
    await reserve()
    await call_partner()


@workflow(name="bystanders_polling")
async def polling(ctx: WorkflowContext) -> None:
    await reserve()
    await poll()


@workflow(name="bystanders_working")
async def working(ctx: WorkflowContext) -> None:
    await reserve()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.options(id="one"))
        nursery.start_soon(poll.options(id="two"))


@workflow(name="bystanders_waiting")
async def waiting(ctx: WorkflowContext) -> str:
    await reserve()
    with ctx.move_on_after(10 * HOUR):
        return str((await ctx.wait_event("go")).data)
    return "late"


@workflow(name="bystanders_child")
async def child(ctx: WorkflowContext) -> None:
    await ctx.sleep(HOUR)


@workflow(name="bystanders_parent")
async def parent(ctx: WorkflowContext) -> None:
    await reserve()
    await ctx.run(child)


BYSTANDERS = (backing_off, polling, working, waiting, parent)


async def start_bystanders(app: App) -> None:
    for each in BYSTANDERS:
        await app.start(each.options(id=each.name.removeprefix("bystanders_")))
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(1)


async def look(app: App) -> dict[str, tuple[str, list[str], str | None]]:
    """Return what is recorded of the bystanders."""
    seen = {}
    for one in (await app.list_instances()).instances:
        if one.workflow != careless.name:
            journal = [entry.kind.value for entry in await app.history(one.instance_id)]
            seen[one.instance_id] = (
                "open" if _is_open(one) else one.status.value,
                journal,
                one.error.message if one.error else None,
            )
    return seen


def _is_open(one: Instance) -> bool:
    return one.status in (Status.PENDING, Status.RUNNING, Status.WAITING)


# -- mistakes of one instance ------------------------------------------------------------------------------------------


async def pages() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)  # fetches ahead
        for n in range(10):
            yield n


async def leave_a_nursery() -> int:
    kept.append(pages())
    async for page in kept[-1]:
        return int(page)
    return -1


async def leave_two_nurseries_and_a_scope() -> None:
    for _ in range(2):
        await leave_a_nursery()
        kept.append(trio.CancelScope().__enter__())


async def leave_a_cancelled_scope() -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def leave_a_nursery_whose_task_fails() -> None:
    async def fail() -> NoReturn:
        raise ValueError("behind the back")

    async def generate() -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield 1

    kept.append(generate())
    async for _ in kept[-1]:
        return


async def leave_a_nursery_and_fail() -> None:
    await leave_a_nursery()
    raise ValueError("mine")


async def raise_a_stale_cancellation() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept.append(error)
            raise
    raise kept[-1]


async def raise_a_stale_cancellation_in_a_group() -> None:
    try:
        await raise_a_stale_cancellation()
    except trio.Cancelled as error:
        raise BaseExceptionGroup("group", [error]) from None


async def raise_generator_exit() -> None:
    raise GeneratorExit


MISTAKES = [
    leave_a_nursery,
    leave_two_nurseries_and_a_scope,
    leave_a_cancelled_scope,
    leave_a_nursery_whose_task_fails,
    leave_a_nursery_and_fail,
    raise_a_stale_cancellation,
    raise_a_stale_cancellation_in_a_group,
    raise_generator_exit,
]


async def make_the_mistake() -> None:
    if mistake is not None:
        await mistake()


@activity(name="bystanders_act", retry=RetryPolicy.no_retry())
async def act() -> None:
    await make_the_mistake()


@activity(name="bystanders_act_in_time", retry=RetryPolicy.no_retry(), timeout=HOUR)
async def act_in_time() -> None:
    await make_the_mistake()


@activity(name="bystanders_act_cancellably", retry=RetryPolicy.no_retry(), cancellable=True)
async def act_cancellably() -> None:
    await make_the_mistake()


@workflow(name="bystanders_careless")
async def careless(ctx: WorkflowContext, where: str) -> None:
    if where == "workflow":
        await make_the_mistake()
    elif where == "child task":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act.options(id="act"))
    else:
        await {"activity": act, "in time": act_in_time, "cancellable": act_cancellably}[where]()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    global mistake
    yield
    mistake = None
    kept.clear()


@pytest.mark.parametrize("where", ["activity", "in time", "cancellable", "child task", "workflow"])
async def test_a_mistake_in_one_instance_decides_no_other(where: str) -> None:
    global mistake
    async with App(":memory:", shutdown_timeout=1) as app:
        await start_bystanders(app)
        before, epoch = await look(app), probe(app).journal.lease.epoch
        for mistake in MISTAKES:
            handle = await app.start(careless, where)
            with pytest.raises(WorkflowFailedError) as caught, trio.fail_after(60):
                await handle.result()
            assert await look(app) == before, mistake
            if where == "activity" and mistake.__name__.startswith("leave"):
                name = "mine" if mistake is leave_a_nursery_and_fail else "'bystanders_act' has ended inside a nursery"
                assert name in str(caught.value)
        mistake = None
        await (await app.start(careless, where)).result()  # and so does a later one
        assert await look(app) == before
        assert probe(app).journal.lease.epoch == epoch


# -- failures of the runtime -------------------------------------------------------------------------------------------


@contextmanager
def failing_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[list[str]]:
    """Make a function of the runtime raise at its next call."""
    works = getattr(owner, name)
    failed: list[str] = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(name)
            raise ZeroDivisionError(f"a bug in {name}")
        return works(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield failed


SERVICES = {
    "fetcher": (Intake, "begin_fetch"),
    "fetcher's answer": (Intake, "end_fetch"),
    "claimer": (Claimer, "_make_room"),
    "retention": (retention, "oldest_message"),
}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_fails_starts_again_and_affects_nothing_else(
    service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(":memory:", shutdown_timeout=1) as app:
        await start_bystanders(app)
        before, epoch = await look(app), probe(app).journal.lease.epoch
        with failing_once(monkeypatch, *SERVICES[service]) as failed:
            await app.send_event("other", None)
            probe(app).supervisor.refresh(["waiting"])
            probe(app).worker.notify_due()
            await trio.sleep(1)
            assert failed
            assert await look(app) == before
            await app.send_event("go", "now")
            assert await app.handle("waiting").result() == "now"
        assert probe(app).journal.lease.epoch == epoch
    (record,) = (record for record in caplog.records if "has failed, starting again" in record.getMessage())
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


async def interrupt() -> NoReturn:
    raise KeyboardInterrupt


async def interrupt_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt)


async def interrupt_turned_into_another_exception() -> NoReturn:
    try:
        raise KeyboardInterrupt
    except BaseException as error:
        raise RuntimeError("the download was interrupted") from error


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (interrupt, "activity"),
        (interrupt, "workflow"),
        (interrupt_in_a_nursery, "cancellable"),
        (interrupt_turned_into_another_exception, "activity"),
        (interrupt_turned_into_another_exception, "child task"),
        (interrupt_turned_into_another_exception, "workflow"),
    ],
)
def test_an_interrupt_ends_the_block_and_is_the_outcome_of_nothing(
    what: Callable[[], Awaitable[Any]], where: str, tmp_path: Path
) -> None:
    global mistake
    mistake = what
    database = str(tmp_path / "app.db")
    seen = []

    async def first() -> None:
        async with App(database, shutdown_timeout=1) as app:
            await start_bystanders(app)
            seen.append(await look(app))
            await app.start(careless.options(id="careless"), where)
            await trio.sleep_forever()

    async def again() -> None:
        async with App(database, shutdown_timeout=1) as app:
            await app.handle("careless").result()
            seen.append(await look(app))
            assert not [entry for entry in await app.history("careless") if entry.kind.value == "attempt_failed"]

    with pytest.raises(KeyboardInterrupt):
        trio.run(first, clock=trio.testing.MockClock(autojump_threshold=0))
    mistake = None
    trio.run(again, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen[0] == seen[1]


def raise_interrupt() -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("loop_of", ["app", "program"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_in_a_callback_of_asyncio_ends_the_block(times: int, loop_of: str) -> None:
    ended = []

    async def cross() -> None:
        with trio.CancelScope(shield=True):  # like a transaction
            await trio_asyncio.aio_as_trio(asyncio.sleep)(10)
        ended.append(trio.current_time())

    async def main() -> None:
        if loop_of == "program":
            async with trio_asyncio.open_loop():
                await use()
        else:
            await use()

    async def use() -> None:
        async with (
            App(":memory:", shutdown_timeout=1),
            App(":memory:", shutdown_timeout=1),
            trio.open_nursery() as nursery,
        ):
            loop = trio_asyncio.current_loop.get()
            for _ in range(3):
                nursery.start_soon(cross)
            for after in range(times):
                loop.call_later(5 + after, raise_interrupt)
            await trio.sleep_forever()

    with pytest.raises(BaseException) as caught:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert {type(leaf) for leaf in leaves(caught.value)} == {KeyboardInterrupt}
    assert ended == [10.0] * 3

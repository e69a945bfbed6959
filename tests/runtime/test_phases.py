"""A run goes through its phases only as their table says; and once it is gone, nothing that it is made of can write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    EntryKind,
    Status,
    TerminalError,
    WorkflowContext,
    WorkflowError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._runtime.run.exits import RunGone
from trio_romancy._runtime.run.message_table import MessageFilter
from trio_romancy._runtime.run.operation import Operation
from trio_romancy._runtime.run.phase import (
    CLOSING,
    COMPENSATING,
    GONE,
    LIVE,
    NEXT,
    REPLAYING,
    IllegalTransitionError,
    Phase,
)
from trio_romancy._runtime.run.run import InstanceRun
from trio_romancy._storage.journal.effects import Effects
from trio_romancy._storage.sql.statuses import IllegalStatusError

from ..support.probe import probe
from ..support.runs import new_run

FOLLOWS = {
    REPLAYING: {LIVE, CLOSING, COMPENSATING, GONE},
    LIVE: {CLOSING, GONE},
    CLOSING: {COMPENSATING, GONE},
    COMPENSATING: {GONE},
    GONE: set(),
}
"""Once more, from what the architecture page says of the phases."""
PAIRS = [(before, after) for before in Phase for after in Phase]


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda phase: phase.value)
def test_a_run_enters_a_phase_only_after_those_that_it_may_follow(before: Phase, after: Phase) -> None:
    run, _ = new_run(before)
    assert run.phase is before
    assert (after in NEXT[before]) is (after in FOLLOWS[before])
    if after in FOLLOWS[before]:
        run.enter(after)
        assert run.phase is after
    else:
        with pytest.raises(IllegalTransitionError, match=f"that is {before.value} cannot become {after.value}"):
            run.enter(after)
        assert run.phase is before


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_says_what_the_run_may_do(phase: Phase) -> None:
    run, _ = new_run(phase)
    assert run.is_live is (phase is LIVE)
    assert run.runs_function is (phase in (REPLAYING, LIVE))
    assert run.has_ended_function is (phase in (CLOSING, COMPENSATING))
    assert run.is_gone is (phase is GONE)


@pytest.mark.parametrize("phase", Phase)
def test_a_workflow_whose_code_does_not_fit_must_not_go_on_but_its_rollback_may(phase: Phase) -> None:
    run, _ = new_run(phase)
    assert run.is_unwinding is (phase is GONE)
    run.reject(ValueError("does not fit"))
    assert run.is_unwinding is (phase in (REPLAYING, LIVE, GONE))
    for after in FOLLOWS[phase]:
        run, _ = new_run(phase)
        run.reject(ValueError("does not fit"))
        run.enter(after)
        assert run.is_unwinding is (after in (LIVE, GONE))


# -- what a run that is gone refuses -----------------------------------------------------------------------------------

WRITES: dict[str, Callable[[InstanceRun], object]] = {
    "append": lambda run: run.writer.append("a:1", EntryKind.PATCHED, "null"),
    "append with effects": lambda run: run.writer.append("a:1", EntryKind.PATCHED, "null", Effects()),
    "append_row": lambda run: run.writer.append_row("a:1", EntryKind.PATCHED, "null"),
    "next_row": lambda run: run.writer.next_row("a:1", EntryKind.PATCHED, "null"),
    "set_status": lambda run: run.writer.set_status(run.writer.status),
    "clear_probation": lambda run: run.writer.clear_probation(),
    "journal": lambda run: run.journal.append_end("i"),
    "open a wait": lambda run: run.intake.open(Operation("a:1", "wait", frozenset()), MessageFilter("c")),
    "close unasked waits": lambda run: run.intake.close_unasked(),
    "go on": lambda run: run.refuse_if_gone(),
}
STOPS: dict[str, Callable[[InstanceRun], None]] = {
    "enter": lambda run: run.enter(GONE),
    "abandon": lambda run: run.abandon(),
    "crash": lambda run: run.crash(ValueError("a bug")),
    "release": lambda run: run.release(Status.WAITING),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("phase", [REPLAYING, LIVE, CLOSING, COMPENSATING])
def test_what_a_run_that_is_gone_could_write_with_refuses(phase: Phase, write: str, stop: str) -> None:
    run, journal = new_run(phase)
    WRITES[write](run)  # so far it may
    written, number = [*journal.appended], run.writer._seq
    STOPS[stop](run)
    with pytest.raises(RunGone):
        WRITES[write](run)
    assert (journal.appended, run.writer._seq) == (written, number)


@pytest.mark.parametrize("is_opened_before", [True, False])
def test_the_instance_of_a_run_that_is_gone_goes_on_waiting(is_opened_before: bool) -> None:
    run, journal = new_run(LIVE)
    if is_opened_before:
        wait = run.intake.open(Operation("a:1", "wait", frozenset()), MessageFilter("c"))
    run.abandon()
    if is_opened_before:
        run.intake.close(wait)
    run.close_unasked_waits()
    assert run.intake.is_closed
    assert journal.appended == (["append_wait"] if is_opened_before else [])


@pytest.mark.parametrize("write", ["append", "append_row", "set_status"])
def test_a_run_whose_lease_is_lost_is_gone_as_soon_as_it_writes(write: str) -> None:
    run, journal = new_run(LIVE)
    journal.is_lost = True
    with pytest.raises(RunGone):
        WRITES[write](run)
    assert run.is_gone


@pytest.mark.parametrize("stop", STOPS)
def test_why_a_run_has_gone_is_said_once(stop: str) -> None:
    """What comes after is a consequence, such as what user code makes of its cancellation."""
    run, _ = new_run(LIVE)
    STOPS[stop](run)
    why = run.crash_cause, run.release_as
    for again in STOPS.values():
        if again is not STOPS["enter"]:
            again(run)
    assert (run.crash_cause, run.release_as) == why


def test_a_refused_status_leaves_the_status_as_it_is() -> None:
    run, journal = new_run(COMPENSATING, status=Status.COMPENSATING)
    assert run.writer.status is Status.COMPENSATING
    with pytest.raises(IllegalStatusError):
        run.writer.set_status(Status.WAITING)
    with pytest.raises(IllegalStatusError):
        run.writer.closing_row(Status.COMPLETED, 1, output="1", error=None)
    assert run.writer.status is Status.COMPENSATING
    assert not journal.appended


# -- the phases of real runs -------------------------------------------------------------------------------------------


@compensation(name="phases_undo")
async def undo() -> None:
    await trio.sleep(100)


@activity(name="phases_do", compensation=undo)
async def do() -> None:
    pass


@workflow(name="phases")
async def steps(ctx: WorkflowContext, plan: list[str]) -> None:
    for step in plan:
        match step:
            case "do":
                await do()
            case "sleep":
                await ctx.sleep(100)
            case "linger":
                await trio.sleep(4)
            case "fail":
                raise TerminalError("it fails")
            case "child":
                await ctx.run(child.options(id="i"))


@workflow(name="phases_child")
async def child(ctx: WorkflowContext) -> None:
    pass


@asynccontextmanager
async def observed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[App, dict[str, list[list[Phase]]]]]:
    """Open an app, and note the phases of each run, by instance."""
    phases: dict[str, list[list[Phase]]] = {}
    noted: dict[InstanceRun, list[Phase]] = {}
    enter = InstanceRun.enter

    def enter_and_note(self: InstanceRun, phase: Phase) -> None:
        enter(self, phase)
        if self not in noted:
            noted[self] = [REPLAYING]
            phases.setdefault(self.instance_id, []).append(noted[self])
        noted[self].append(phase)

    monkeypatch.setattr(InstanceRun, "enter", enter_and_note)
    async with App(":memory:", idle_timeout=10**6) as app:
        yield app, phases


Scenario = Callable[[App], Awaitable[object]]


def runs(*plan: str, crashes_after: float | None = None) -> Scenario:
    async def scenario(app: App) -> None:
        handle = await app.start(steps.options(id="i"), [*plan])
        if crashes_after is not None:
            await trio.sleep(crashes_after)
            probe(app).crash_actors()
        with suppress(WorkflowError):
            await handle.result()

    return scenario


async def goes_away_during_its_replay(app: App) -> None:
    handle = await app.start(steps.options(id="i"), ["linger", "do", "sleep"])
    await trio.sleep(50)
    probe(app).crash_actors()
    await trio.sleep(2)  # it lingers in front of the entry
    probe(app).crash_actors()
    await handle.result()


async def asks_for_nothing(app: App) -> None:
    await (await app.start(steps, ["child"])).result()


LIVES: dict[str, tuple[Scenario, list[list[Phase]]]] = {
    "a new instance is live at once": (
        runs("do", "sleep"),
        [[REPLAYING, LIVE, CLOSING, GONE]],
    ),
    "one that fails compensates after it has closed": (
        runs("do", "fail"),
        [[REPLAYING, LIVE, CLOSING, COMPENSATING, GONE]],
    ),
    "a journal with the end of the function is compensated at once": (
        runs("do", "fail", crashes_after=10),
        [[REPLAYING, LIVE, CLOSING, COMPENSATING, GONE], [REPLAYING, COMPENSATING, GONE]],
    ),
    "a replay is live when its journal is used up": (
        runs("do", "sleep", crashes_after=10),
        [[REPLAYING, LIVE, GONE], [REPLAYING, LIVE, CLOSING, GONE]],
    ),
    "one goes away during its replay": (
        goes_away_during_its_replay,
        [[REPLAYING, LIVE, GONE], [REPLAYING, GONE], [REPLAYING, LIVE, CLOSING, GONE]],
    ),
    "a replay that asks for nothing ends at once": (
        asks_for_nothing,
        [[REPLAYING, CLOSING, GONE]],
    ),
}
"""For each, what happens, and the phases of each run of instance ``i``."""


@pytest.mark.parametrize("life", LIVES)
async def test_the_phases_of_a_run(life: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, expected = LIVES[life]
    async with observed(monkeypatch) as (app, phases):
        await scenario(app)
    assert phases["i"] == expected


def test_each_change_of_the_table_happens_in_one_of_these() -> None:
    seen = {change for _, lives in LIVES.values() for life in lives for change in pairwise(life)}
    assert seen == {(before, after) for before in Phase for after in NEXT[before]}


async def test_a_run_that_goes_away_while_it_closes_is_followed_by_one_that_compensates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with observed(monkeypatch) as (app, phases):

        async def crash(batch: Any) -> None:
            if batch.closings and not crashed:
                crashed.append(True)
                probe(app).crash_actors()

        crashed: list[bool] = []
        probe(app).before_each_commit(crash, monkeypatch)
        await runs("do", "fail")(app)
    assert phases["i"] == [[REPLAYING, LIVE, CLOSING, GONE], [REPLAYING, COMPENSATING, GONE]]

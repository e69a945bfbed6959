"""Whatever a workflow waits for, and whenever it crashes: each event is received once, and none is lost."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_romancy import App, EventTimeoutError, Limits, WorkflowContext, workflow
from trio_romancy.testing import Crash, How, run_with_crashes

subjects = st.sampled_from([None, "a", "b"])
waits = st.fixed_dictionaries({"subject": subjects, "timeout": st.sampled_from([1, 30, 100])})
programs = st.lists(
    st.one_of(
        st.builds(lambda wait: [wait], waits),
        st.lists(waits, min_size=2, max_size=3),  # at once, each in a branch
        st.builds(lambda seconds: seconds, st.sampled_from([5, 40])),
    ),
    max_size=5,
)
sends = st.lists(
    st.fixed_dictionaries(
        {
            "pause": st.sampled_from([0, 0, 1, 7, 30, 100]),
            "id": st.integers(0, 9),
            "subject": subjects,
            "to": st.sampled_from([None, None, "me", "other"]),
        }
    ),
    max_size=10,
)
crashes = st.lists(
    st.builds(Crash, st.integers(1, 30), st.sampled_from(How)), max_size=3, unique_by=lambda crash: crash.commit
)


@workflow(name="random_messages_receive")
async def receive(ctx: WorkflowContext, program: list[Any]) -> list[list[Any]]:
    """Runs the program, then takes all that is left. Returns the subject and number of each wait that got one."""
    got: list[list[Any]] = []

    async def take(path: str, subject: str | None, timeout: float) -> bool:
        with ctx.branch(path):
            try:
                event = await ctx.wait_event("t", subject, timeout=timeout)
            except EventTimeoutError:
                return False
        got.append([subject, event.data])
        return True

    for number, step in enumerate(program):
        if isinstance(step, int):
            await ctx.sleep(step)
            continue
        async with trio.open_nursery() as nursery:
            for branch, wait in enumerate(step):
                nursery.start_soon(take, f"{number}.{branch}", wait["subject"], wait["timeout"])
    number = 0
    while await take(f"rest.{number}", None, 2000):
        number += 1
    return got


def check(program: list[Any], schedule: list[dict[str, Any]], before: int, crashes: list[Crash]) -> None:
    async def scenario(app: App) -> None:
        accepted: list[tuple[int, str | None]] = []
        seen_ids: set[int] = set()
        await app.start(receive.options(id="other"), [])

        async def send(number: int, sent: dict[str, Any], *, started: bool) -> None:
            to = sent["to"] if started or sent["to"] == "other" else None
            answer = await app.send_event("t", number, id=str(sent["id"]), subject=sent["subject"], to=to)
            # A lost answer makes the client send again, and see its own event as a duplicate.
            if sent["id"] not in seen_ids and started and to != "other":
                accepted.append((number, sent["subject"]))
            assert answer.is_duplicate or sent["id"] not in seen_ids
            seen_ids.add(sent["id"])

        for number, sent in enumerate(schedule[:before]):
            await send(number, sent, started=False)
        handle = await app.start(receive.options(id="me"), program)
        for number, sent in enumerate(schedule[before:], before):
            await trio.sleep(sent["pause"])
            await send(number, sent, started=True)
        got = await handle.result()
        await app.handle("other").result()
        numbers = [number for _, number in got]
        assert sorted(numbers) == [number for number, _ in accepted]
        about = dict(accepted)
        assert all(subject in (None, about[number]) for subject, number in got)
        if not any(isinstance(step, list) and len(step) > 1 for step in program):
            for asked in (None, "a", "b"):
                of_filter = [number for subject, number in got if subject == asked]
                assert of_filter == sorted(of_filter)

    run = run_with_crashes(scenario, crashes, idle_timeout=20, limits=Limits(max_recoveries=100))
    assert not run.broken_guarantees


def test_every_event_after_the_start_is_received_once_in_order() -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(programs, sends, st.integers(0, 3), crashes)
    def holds(program: list[Any], schedule: list[dict[str, Any]], before: int, crashes: list[Crash]) -> None:
        check(program, schedule, before, crashes)

    holds()

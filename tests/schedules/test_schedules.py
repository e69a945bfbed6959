"""Schedules start each occurrence once, at its time, whatever else happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    Hooks,
    InvalidInputError,
    Overlap,
    Schedule,
    ScheduledRunInfo,
    ScheduleNotFoundError,
    SkipReason,
    Status,
    WorkflowContext,
    workflow,
)
from trio_romancy.clock import VIRTUAL_EPOCH, current_clock, to_datetime

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

BEGIN = to_datetime(VIRTUAL_EPOCH)  # 2023-11-14 22:13:20

ran: list[tuple[str, datetime]] = []
"""What ran, and when."""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    ran.clear()
    yield


def now() -> datetime:
    return to_datetime(current_clock().now())


@workflow(name="schedules_report")
async def report(ctx: WorkflowContext, what: str = "all", seconds: float = 0.0) -> str:
    if not ctx.is_replaying:
        ran.append((what, ctx.now()))
    if seconds:
        await ctx.sleep(seconds)
    return what


@workflow(name="schedules_fails")
async def fails(ctx: WorkflowContext) -> None:
    raise ValueError("no paper")


class Told(Hooks):
    """Keeps what hooks are told of schedules."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ScheduledRunInfo]] = []

    def schedule_fired(self, run: ScheduledRunInfo) -> None:
        self.told.append(("fired", run))

    def schedule_late(self, run: ScheduledRunInfo) -> None:
        self.told.append(("late", run))

    def schedule_skipped(self, run: ScheduledRunInfo) -> None:
        self.told.append(("skipped", run))

    def schedule_failed(self, run: ScheduledRunInfo) -> None:
        self.told.append(("failed", run))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]


async def test_each_night_an_instance_starts_whose_id_names_the_time(database: str) -> None:
    async with App(database) as app:
        await app.schedule("nightly", report, "sales", cron="30 2 * * *", tz="Europe/Berlin")
        await trio.sleep(3 * 86_400)
        page = await app.list_instances()
        found = await app.schedules.get("nightly")
    assert [each.instance_id for each in reversed(list(page))] == [
        "nightly@2023-11-15T01:30:00Z",
        "nightly@2023-11-16T01:30:00Z",
        "nightly@2023-11-17T01:30:00Z",
    ]
    assert {each.status for each in page} == {Status.COMPLETED}
    assert [each.input for each in page] == [{"what": "sales", "seconds": 0.0}] * 3
    assert ran == [("sales", datetime(2023, 11, day, 1, 30, tzinfo=UTC)) for day in (15, 16, 17)]
    assert found.next_at == datetime(2023, 11, 18, 1, 30, tzinfo=UTC)
    assert found.last_at == datetime(2023, 11, 17, 1, 30, tzinfo=UTC)
    assert (found.running, found.buffered, found.paused) == ([], 0, None)


async def test_an_interval_goes_by_the_hour_and_not_by_the_start_of_the_schedule(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, every=timedelta(hours=1))
        await trio.sleep(2 * 3600)
    assert [when.strftime("%H:%M") for _, when in ran] == ["23:00", "00:00"]


async def test_the_same_schedule_again_changes_nothing_and_another_one_changes_it(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, "a", every=3600)
        await trio.sleep(3600)
        await app.schedule("hourly", report, "a", every=3600)
        await app.schedule("hourly", report, "b", every=3600)
        await trio.sleep(3600)
        await app.schedule("hourly", report, "b", every=600)
        await trio.sleep(1001)
    times = [("a", "23:00"), ("b", "00:00"), ("b", "00:20"), ("b", "00:30")]
    assert [(what, when.strftime("%H:%M")) for what, when in ran] == times


@pytest.mark.parametrize(
    ("overlap", "expected", "skipped"),
    [
        (Overlap.SKIP, ["00:00", "03:00", "06:00"], ["01:00", "02:00", "04:00", "05:00"]),
        (Overlap.BUFFER_ONE, ["00:00", "02:24", "04:48"], ["02:00", "04:00", "06:00"]),
        (Overlap.BUFFER_ALL, ["00:00", "02:24", "04:48"], []),
        (Overlap.ALLOW_ALL, ["00:00", "01:00", "02:00", "03:00", "04:00", "05:00", "06:00"], []),
        (Overlap.CANCEL_OTHER, ["00:00", "01:00", "02:00", "03:00", "04:00", "05:00", "06:00"], []),
    ],
)
async def test_overlap_policies(database: str, overlap: Overlap, expected: list[str], skipped: list[str]) -> None:
    async with App(database) as app:
        await trio.sleep(3600)
        await app.schedule("hourly", report, "a", 2.4 * 3600, every=3600, overlap=overlap)
        await trio.sleep(7 * 3600)
        assert [when.strftime("%H:%M") for _, when in ran] == expected
        found = await app.schedules.skipped("hourly")
        assert [one.due_at.strftime("%H:%M") for one in reversed(found)] == skipped
        assert {one.reason for one in found} <= {SkipReason.OVERLAP}
        statuses = Counter(each.status for each in await app.list_instances())
        if overlap is Overlap.CANCEL_OTHER:
            assert statuses == {Status.CANCELLED: 6, Status.WAITING: 1}
        if overlap is Overlap.BUFFER_ALL:
            assert (await app.schedules.get("hourly")).buffered == 4


async def test_what_was_missed_is_caught_up_within_its_window_and_the_rest_is_logged(
    tmp_path: Any, nobody_polls: None
) -> None:
    database, told = str(tmp_path / "schedules.db"), Told()
    async with App(database, worker=False) as app:
        await app.schedule("hourly", report, every=3600, overlap="allow_all", catch_up=3 * 3600)
    await trio.sleep(10 * 3600)
    async with App(database, hooks=[told]) as app:
        await trio.sleep(1)
        (skipped,) = await app.schedules.skipped()
    at = now().replace(microsecond=0)
    fired = [run for name, run in told.told if name == "fired"]
    assert [run.due_at.hour for run in fired] == [6, 7, 8]
    assert told.names.count("late") == 3
    assert skipped.due_at == datetime(2023, 11, 14, 23, tzinfo=UTC)
    assert skipped.until is not None
    assert datetime(2023, 11, 15, 5, tzinfo=UTC) < skipped.until < datetime(2023, 11, 15, 6, tzinfo=UTC)
    assert skipped.reason is SkipReason.TOO_LATE
    assert at - fired[-1].due_at < timedelta(hours=1)


async def test_a_failed_run_does_not_end_a_schedule(database: str) -> None:
    told = Told()
    async with App(database, hooks=[told]) as app:
        await app.schedule("hourly", fails, every=3600)
        await trio.sleep(3 * 3600)
    assert told.names == ["fired", "failed"] * 3
    assert told.told[1][1].instance_id == "hourly@2023-11-14T23:00:00Z"


async def test_a_failure_pauses_the_schedule_that_asks_for_it(database: str) -> None:
    told = Told()
    async with App(database, hooks=[told]) as app:
        await app.schedule("hourly", fails, every=3600, pause_on_failure=True)
        await trio.sleep(3 * 3600)
        found = await app.schedules.get("hourly")
        assert found.paused == "instance 'hourly@2023-11-14T23:00:00Z' has failed"
        assert found.next_at is None
        await app.schedule("hourly", fails, every=3600, pause_on_failure=True)  # as after a deploy
        assert (await app.schedules.get("hourly")).paused is not None
        assert await app.schedules.resume("hourly")
        await trio.sleep(3600)
    assert told.names == ["fired", "failed"] * 2


async def test_pause_and_resume(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, every=3600)
        assert await app.schedules.pause("hourly", "the printer is away")
        assert not await app.schedules.pause("hourly", "again")
        await trio.sleep(2 * 3600)
        found = await app.schedules.get("hourly")
        assert (found.paused, found.paused_at) == ("the printer is away", BEGIN)
        assert await app.schedules.resume("hourly")
        assert not await app.schedules.resume("hourly")
        await trio.sleep(3600)
    assert [when.strftime("%H:%M") for _, when in ran] == ["01:00"]


async def test_trigger_starts_an_instance_at_once_also_of_a_paused_schedule(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, "x", every=3600)
        await app.schedules.pause("hourly")
        first, second = await app.schedules.trigger("hourly"), await app.schedules.trigger("hourly")
        assert [await first.result(), await second.result()] == ["x", "x"]
    assert first.instance_id == "hourly@2023-11-14T22:13:20Z"
    assert second.instance_id != first.instance_id


async def test_one_occurrence_is_skipped_and_left_out_of_the_next_ones(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, every=3600)
        _, second, _ = await app.schedules.next("hourly", 3)
        assert await app.schedules.skip("hourly", second)
        assert await app.schedules.skip("hourly", second)
        assert not await app.schedules.skip("hourly", second + timedelta(minutes=1))
        assert [when.hour for when in await app.schedules.next("hourly", 3)] == [23, 1, 2]
        await trio.sleep(3 * 3600)
        (skipped,) = await app.schedules.skipped("hourly")
    assert (skipped.due_at, skipped.reason) == (second, SkipReason.ASKED)
    assert [when.strftime("%H:%M") for _, when in ran] == ["23:00", "01:00"]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.ALLOW_ALL])
async def test_backfill_starts_what_has_not_run_and_nothing_twice(database: str, overlap: Overlap) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, every=3600, overlap=overlap)
        await trio.sleep(2 * 3600)
        assert len(ran) == 2
        assert await app.schedules.backfill("hourly", BEGIN - timedelta(hours=3), now()) == 3
        assert await app.schedules.backfill("hourly", BEGIN - timedelta(hours=3), now()) <= 3
        await trio.sleep(60)  # each starts when the one before it is known to have ended
        ids = Counter(each.instance_id for each in await app.list_instances())
        with pytest.raises(ValueError, match="is in the past"):
            await app.schedules.backfill("hourly", now(), now() + timedelta(hours=1))
    assert sorted(ids) == [f"hourly@2023-11-{day}:00:00Z" for day in ("14T20", "14T21", "14T22", "14T23", "15T00")]
    assert len(ran) == 5


async def test_jitter_delays_each_occurrence_by_its_own_part(database: str) -> None:
    async with App(database) as app:
        await app.schedule("jittery", report, every=3600, jitter=1800)
        await trio.sleep(6 * 3600)
        ids = [each.instance_id for each in await app.list_instances()]
    late = [when - when.replace(minute=0, second=0, microsecond=0) for _, when in ran]
    assert len({*late}) == len(late) >= 5
    assert max(late) < timedelta(minutes=30)
    assert all(":00:00Z" in id for id in ids)


async def test_declared_schedules_are_applied_as_a_diff(tmp_path: Any, nobody_polls: None) -> None:
    database = str(tmp_path / "schedules.db")
    one, two = Schedule("one", report, "1", every=3600), Schedule("two", report, "2", every=3600)
    async with App(database, schedules=[one, two]) as app:
        await app.schedule("three", report, "3", every=3600)
        await trio.sleep(3600)
    assert sorted(what for what, _ in ran) == ["1", "2", "3"]
    await trio.sleep(3600)
    ran.clear()
    async with App(database, schedules=[one]) as app:
        await trio.sleep(1)
        assert sorted(what for what, _ in ran) == ["1", "3"], "a deploy loses nothing that is due"
        found = {each.name: each for each in await app.schedules.list()}
        assert {name: each.paused for name, each in found.items()} == {
            "one": None,
            "two": "no app declares it any more",
            "three": None,
        }
    async with App(database) as app:
        assert (await app.schedules.get("two")).paused is not None
    async with App(database, schedules=[one, two]) as app:
        assert (await app.schedules.get("two")).paused is None
        await app.schedules.pause("two", "by me")
    async with App(database, schedules=[one, two]) as app:
        assert (await app.schedules.get("two")).paused == "by me"


async def test_a_run_that_recurs_counts_as_running_until_its_chain_has_ended(database: str) -> None:
    @workflow(name="schedules_recurs")
    async def recurs(ctx: WorkflowContext, left: int) -> None:
        await ctx.sleep(1800)
        if left:
            ctx.recur(left - 1)

    async with App(database) as app:
        await app.schedule("hourly", recurs, 2, every=3600, overlap="buffer_one")
        await trio.sleep(3 * 3600 + 60)
        second = await app.get_instance("hourly@2023-11-15T00:00:00Z")
        third = await app.get_instance("hourly@2023-11-15T01:00:00Z")
        assert (await app.schedules.get("hourly")).running
    assert second is not None
    assert second.created_at == datetime(2023, 11, 15, 0, 30, tzinfo=UTC)
    assert third is None


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_two_workers_fire_each_occurrence_once(database: str) -> None:
    async with App(database) as one, App(database) as two:
        await one.schedule("minutely", report, every=60)
        probe(two).worker.notify_schedules()
        await trio.sleep(10 * 60)
        ids = [each.instance_id for each in await one.list_instances()]
    assert len({*ids}) == len(ids) == 10
    assert len(ran) == 10


async def test_a_worker_that_is_abandoned_in_between_loses_nothing(database: str) -> None:
    async with App(database) as app:
        await app.schedule("minutely", report, every=60)
        for _ in range(5):
            await trio.sleep(45)
            probe(app).abandon()
        await trio.sleep(60)
        ids = {each.instance_id for each in await app.list_instances()}
    assert len(ids) == 5


async def test_a_deleted_schedule_is_gone_and_unknown_ones_are_named(database: str) -> None:
    async with App(database) as app:
        await app.schedule("hourly", report, every=3600)
        await app.schedules.delete("hourly")
        await trio.sleep(2 * 3600)
        assert not ran
        assert await app.schedules.list() == []
        for call in (app.schedules.get, app.schedules.pause, app.schedules.trigger, app.schedules.delete):
            with pytest.raises(ScheduleNotFoundError, match="there is no schedule 'hourly'"):
                await call("hourly")
        with pytest.raises(ScheduleNotFoundError):
            await app.schedules.resume("\0")


async def test_another_instance_with_the_id_of_an_occurrence_is_left_alone(database: str) -> None:
    async with App(database) as app:
        await app.start(report.options(id="hourly@2023-11-14T23:00:00Z"), "mine")
        await app.schedule("hourly", report, "theirs", every=3600)
        await trio.sleep(2 * 3600)
        (skipped,) = await app.schedules.skipped()
    assert skipped.reason is SkipReason.TAKEN
    assert [what for what, _ in ran] == ["mine", "theirs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has either cron=... or every="),
        ({"cron": "* * * * *", "every": 5}, "has either cron=... or every="),
        ({"cron": "* * *"}, "schedule 'x': '\\* \\* \\*' is not a valid cron expression"),
        ({"cron": "0 0 * * *", "tz": "Berlin"}, "tz is the name of a time zone"),
        ({"every": 0.5}, "every is at least 1 s"),
        ({"every": 60, "catch_up": 1}, "catch_up is at least 10 s"),
        ({"every": 60, "jitter": -1}, "jitter is at least 0 s"),
        ({"every": 60, "overlap": "both"}, "'both' is not a valid Overlap"),
        ({"every": 60, "exclude": ["nonsense"]}, "exclude: 'nonsense' is not a valid cron"),
        ({"cron": "0 0 * * *", "exclude": ["* * * * *"]}, "would never be due"),
    ],
)
def test_what_is_no_schedule_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule("x", report, **options)


def test_other_mistakes_are_refused_too() -> None:
    with pytest.raises(ValueError, match="at most 200 characters"):
        Schedule("x" * 201, report, every=60)
    with pytest.raises(InvalidInputError, match=r"\$.seconds: expected"):
        Schedule("x", report, "a", "b", every=60)
    with pytest.raises(TypeError, match="gives its instances their ids"):
        Schedule("x", report.options(id="y"), every=60)
    with pytest.raises(TypeError, match="made with @workflow"):
        Schedule("x", "report", every=60)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two schedules have the name 'x'"):
        App(schedules=[Schedule("x", report, every=60), Schedule("x", report, every=61)])
    assert Schedule("x", report, every=60, exclude=[date(2026, 12, 25)]).rules.exclude == ("2026-12-25",)

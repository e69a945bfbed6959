"""Wall time that follows trio's clock, durations, and points in time."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
import trio_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from trio_romancy._storage.open import open_database
from trio_romancy.clock import (
    LONGEST,
    VIRTUAL_EPOCH,
    Clock,
    at_once,
    current_clock,
    due_since,
    from_datetime,
    microseconds,
    seconds,
    to_datetime,
)

from .support.databases import ALL_KINDS

# -- durations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0),
        (1, 1_000_000),
        (0.1, 100_000),
        (1e-7, 0),
        (-2.5, -2_500_000),
        (3600 * 24 * 365 * 100.0, 3_153_600_000_000_000),
        (timedelta(days=1, microseconds=1), 86_400_000_001),
        (timedelta(microseconds=-1), -1),
    ],
)
def test_a_duration_is_seconds_or_a_timedelta(duration: float | timedelta, expected: int) -> None:
    assert microseconds(duration) == expected
    assert seconds(duration) == expected / 1_000_000


@pytest.mark.parametrize("duration", [math.nan, -math.inf, "10", None], ids=str)
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    for convert in (microseconds, seconds):
        with pytest.raises(ValueError, match="a duration is a number of seconds or a timedelta") as caught:
            convert(duration)
        assert repr(duration) in str(caught.value)


@pytest.mark.parametrize("duration", [math.inf, timedelta.max, Decimal("Infinity")], ids=str)
def test_an_endless_duration_is_no_number_of_microseconds(duration: Any) -> None:
    assert microseconds(duration) is None
    assert seconds(duration) == math.inf


@pytest.mark.parametrize(
    "duration", [1e13, 10**400, 1e300, timedelta.max - timedelta(microseconds=1), timedelta(days=1_000_001)], ids=repr
)
def test_a_duration_that_is_too_long_to_be_stored_is_refused(duration: Any) -> None:
    for convert in (microseconds, seconds):
        with pytest.raises(ValueError, match=r"at most 1,000,000 days.*math\.inf"):
            convert(duration)


def test_the_longest_duration_ends_before_the_last_year() -> None:
    assert microseconds(timedelta(days=1_000_000)) == LONGEST
    assert to_datetime(time.time_ns() // 1000 + LONGEST).year < 9999
    assert microseconds(timedelta.min) == -LONGEST


@given(st.timedeltas(timedelta(days=-1_000_000), timedelta(days=1_000_000)))
def test_a_timedelta_is_exact_to_the_microsecond(duration: timedelta) -> None:
    assert microseconds(duration) == duration // timedelta(microseconds=1)


# -- points in time ----------------------------------------------------------------------------------------------------


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_point_in_time_is_exact_to_the_microsecond(when: datetime) -> None:
    back = to_datetime(from_datetime(when))
    assert (back, back.tzinfo) == (when, UTC)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), VIRTUAL_EPOCH),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(2026, 10, 25, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Berlin")), 1_792_888_200_000_000),
        (datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")), 1_792_891_800_000_000),
    ],
)
def test_an_aware_datetime_is_the_moment_that_it_means(when: datetime, expected: int) -> None:
    assert from_datetime(when) == expected


def test_a_naive_datetime_is_refused_because_it_could_mean_any_moment() -> None:
    with pytest.raises(ValueError, match=r"2026, 1, 1.* has no time zone; give an aware datetime"):
        from_datetime(datetime(2026, 1, 1))


# -- the virtual clock -------------------------------------------------------------------------------------------------


async def test_under_a_mock_clock_wall_time_is_virtual_and_moves_with_it() -> None:
    clock = current_clock()
    assert clock.is_virtual
    assert clock.now() == VIRTUAL_EPOCH
    await trio.sleep(30 * 24 * 3600)
    assert clock.now() == VIRTUAL_EPOCH + 30 * 24 * 3600 * 1_000_000


async def test_a_virtual_deadline_comes_exactly_when_it_is_due() -> None:
    clock = current_clock()
    due = clock.now() + 3600 * 24 * 1_000_000 + 1
    await trio.sleep_until(clock.deadline(due))
    assert clock.now() == due


async def test_a_virtual_deadline_in_the_past_is_now() -> None:
    clock = current_clock()
    await trio.sleep(10)
    assert clock.deadline(VIRTUAL_EPOCH) == clock.deadline(clock.now()) == trio.current_time()


SLEEP = {"mysql": "SELECT SLEEP(0.1)", "postgresql": "SELECT pg_sleep(0.1)"}


def sleep_in_database(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        time.sleep(0.1)
    else:
        connection.execute(text(SLEEP[connection.dialect.name]))


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
async def test_virtual_time_stands_still_while_a_database_works_and_goes_on_after_it(database: str) -> None:
    woken: list[float] = []

    async def sleep() -> None:
        await trio.sleep(10)
        woken.append(trio.current_time())

    async with trio_asyncio.open_loop(), open_database(database) as opened, trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(sleep)
        async with trio.open_nursery() as calls:
            for _ in range(3):
                calls.start_soon(opened.run, sleep_in_database)
            async with opened.open_writer() as writer:
                await writer.run(sleep_in_database)
        async with opened.open_transaction() as transaction:
            await transaction.run(sleep_in_database)
        assert trio.current_time() == begun
        assert not woken
        await trio.sleep(20)
    assert woken == [begun + 10]


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
async def test_virtual_time_goes_on_after_a_call_of_the_database_that_failed_or_was_cancelled(database: str) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        with pytest.raises(ProgrammingError if "://" in database else OperationalError):
            await opened.run(lambda connection: connection.execute(text("SELECT * FROM nowhere")))
        with trio.CancelScope() as scope:
            scope.cancel()
            await opened.run(sleep_in_database)
        begun = trio.current_time()
        await trio.sleep(10)
        assert trio.current_time() == begun + 10


# -- the real clock ----------------------------------------------------------------------------------------------------


@pytest.mark.real_clock
async def test_on_the_real_clock_wall_time_is_the_system_s() -> None:
    clock = current_clock()
    assert not clock.is_virtual
    before = time.time_ns() // 1000
    assert before - 1000 <= clock.now() <= time.time_ns() // 1000 + 1000


@pytest.mark.real_clock
@pytest.mark.parametrize("step", [-900_000_000, 900_000_000], ids=["back", "forward"])
async def test_setting_the_clock_of_the_machine_does_not_move_the_time(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    clock = Clock(None)
    before = clock.now()
    monkeypatch.setattr("time.time_ns", lambda: before * 1000 + step * 1000)
    assert before <= clock.now() < before + 10_000_000


@pytest.mark.real_clock
async def test_the_time_is_corrected_by_the_difference_to_the_right_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Steady(monkeypatch, wall=1_000_000)
    clock = Clock(None)
    clock.correct(-300_000)
    assert clock.now() == 700_000
    steady.now += 50
    assert clock.now() == 700_050


@given(st.lists(st.integers(0, 2**60)), st.integers(0, 2**60))
def test_what_is_due_at_once_comes_before_every_time_and_in_the_order_in_which_it_was_given(
    times: list[int], other: int
) -> None:
    stored = [at_once(time) for time in times]
    assert all(-(2**63) <= time < 0 <= other for time in stored)
    assert [due_since(time) for time in sorted(stored)] == sorted(times)
    assert due_since(other) == other


class Steady:
    """A clock that cannot be set, which stands still until a test moves it. In microseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wall: int = 1_000_000) -> None:
        self.now = 77
        monkeypatch.setattr("trio_romancy.clock.steady_ns", lambda: self.now * 1000)
        monkeypatch.setattr(Clock, "of_machine", lambda _: wall)


@pytest.mark.real_clock
async def test_a_near_deadline_is_due_after_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    Steady(monkeypatch)
    clock = Clock(None)
    before = trio.current_time()
    assert before + 2.5 <= clock.deadline(3_500_000) <= trio.current_time() + 2.5
    assert before <= clock.deadline(0) <= trio.current_time()


@pytest.mark.real_clock
async def test_after_a_suspension_a_deadline_is_as_much_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio's clock stands still while the machine is suspended, the time goes on."""
    steady = Steady(monkeypatch)
    clock = Clock(None)
    due = clock.now() + 4_000_000
    assert clock.deadline(due) - trio.current_time() == pytest.approx(4, abs=1)
    steady.now += 3_000_000
    assert clock.deadline(due) - trio.current_time() == pytest.approx(1, abs=0.5)


@pytest.mark.real_clock
async def test_a_sleeper_looks_at_the_clock_again_long_before_a_far_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    Steady(monkeypatch, wall=0)
    month = 30 * 24 * 3600 * 1_000_000
    assert Clock(None).deadline(month) - trio.current_time() <= 600

"""A worker ends the lease of another only if it knows enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from attrs import define, field

from trio_romancy._runtime.worker.contact import Contact
from trio_romancy._runtime.worker.observer import Observer
from trio_romancy._runtime.worker.reaper import Reaper, Survey
from trio_romancy._storage.sql.workers import OtherLease
from trio_romancy.clock import Clock, current_clock

LEASE = 12
"""In seconds."""


class Watch:
    """A worker that renews its lease each second, and looks at another lease at the same time."""

    def __init__(self, clock: Clock, **values: bool) -> None:
        self.clock = clock
        self.contact = Contact(clock, LEASE * 1_000_000)
        self.observer = Observer(clock, self.contact, LEASE * 1_000_000)
        self.other = OtherLease(
            "other", 7, self.clock.now() + LEASE * 1_000_000, **{"is_dead": False, "is_seen_to_live": False} | values
        )

    async def until_ended(self, most: int = 1000, *, renewed_until: float = 0) -> float | None:
        """Look for so many seconds. Return after how many the lease was found to have ended; None: it has not."""
        begun = trio.current_time()
        while trio.current_time() - begun < most:
            self.contact.renewed()
            if trio.current_time() - begun < renewed_until:
                self.other = attrs.evolve(self.other, expires_at=self.clock.now() + LEASE * 1_000_000)
            if self.observer.ended([self.other]):
                return trio.current_time() - begun
            await trio.sleep(1)
        return None

    async def be_cut_off(self, seconds: float) -> None:
        self.contact.broken()
        await trio.sleep(seconds)


async def test_a_lease_ends_when_it_has_run_out_under_the_eyes_of_this_worker() -> None:
    watch = Watch(current_clock())
    assert await watch.until_ended(renewed_until=100) == pytest.approx(99 + LEASE, abs=1)


async def test_the_lease_of_a_dead_process_ends_at_once() -> None:
    assert await Watch(current_clock(), is_dead=True).until_ended() == 0


async def test_after_an_outage_the_others_have_a_whole_lease_to_come_back() -> None:
    watch = Watch(current_clock())
    assert await watch.until_ended(100, renewed_until=1000) is None
    await watch.be_cut_off(1.5 * LEASE)
    assert await watch.until_ended() == pytest.approx(LEASE, abs=1)
    watch = Watch(current_clock())
    assert await watch.until_ended(100, renewed_until=1000) is None
    await watch.be_cut_off(1.5 * LEASE)
    assert await watch.until_ended(LEASE - 1) is None
    assert await watch.until_ended(100, renewed_until=1000) is None


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_worker_that_could_not_write_was_cut_off_whether_or_not_it_was_told(is_told: bool) -> None:
    watch = Watch(current_clock())
    assert await watch.until_ended(100, renewed_until=1000) is None
    if is_told:
        watch.contact.broken()
    for _ in range(2 * LEASE):  # it reads, and cannot write: the disk of the server is full
        assert not watch.observer.ended([watch.other])
        await trio.sleep(1)
    assert await watch.until_ended() == pytest.approx(LEASE, abs=1)


@define
class Slow:
    """A database in which a lease has run out, and whose outage begins when that is to be ended."""

    clock: Clock
    contact: Contact
    away_for: float
    """In seconds."""
    may_end: list[bool] = field(factory=list)
    is_exclusive: bool = False
    is_away: bool = False

    async def renew(self) -> None:
        while True:
            if not self.is_away:
                self.contact.renewed()
            await trio.sleep(1)

    async def read(self, *_: object) -> Survey:
        return Survey([OtherLease("other", 7, 0, is_dead=False, is_seen_to_live=False)], False, ())

    async def run(self, *_: object, may_end: Callable[[], bool], **__: object) -> list[OtherLease]:
        self.is_away = True
        await trio.sleep(self.away_for)
        self.is_away = False
        self.contact.renewed()
        self.may_end.append(may_end())
        await trio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("away_for", [0, 0.9 * LEASE])
async def test_a_lease_that_has_run_out_before_an_outage_is_not_ended_after_it(away_for: float) -> None:
    """Its worker may have been about to renew it, and could not."""
    clock = current_clock()
    contact = Contact(clock, LEASE * 1_000_000)
    database: Any = Slow(clock, contact, away_for)
    reaper = Reaper(database, clock, "me", contact, LEASE * 1_000_000, None, on_freed=lambda: None)
    with trio.move_on_after(10 * LEASE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.renew)
            nursery.start_soon(reaper.run)
    assert database.may_end == [away_for == 0]


async def test_a_new_worker_watches_for_a_lease_before_it_ends_one() -> None:
    watch = Watch(current_clock())
    watch.other = attrs.evolve(watch.other, expires_at=watch.clock.now() - 1_000_000)
    assert await watch.until_ended() == pytest.approx(LEASE, abs=1)


async def test_a_process_that_is_seen_to_run_is_given_six_leases() -> None:
    assert await Watch(current_clock(), is_seen_to_live=True).until_ended() == pytest.approx(6 * LEASE, abs=1)


async def test_a_lease_that_is_renewed_does_not_end_whatever_the_clocks_show() -> None:
    watch = Watch(current_clock())
    for _ in range(10 * LEASE):
        watch.contact.renewed()
        watch.other = attrs.evolve(watch.other, expires_at=watch.other.expires_at + 1 - 10**9)
        assert not watch.observer.ended([watch.other])
        await trio.sleep(LEASE / 3)


async def test_another_lease_of_the_same_worker_is_watched_again() -> None:
    watch = Watch(current_clock())
    assert await watch.until_ended(LEASE - 1) is None
    watch.other = attrs.evolve(watch.other, epoch=8)
    assert await watch.until_ended() == LEASE // 2

"""Leases: at most one worker may write for a worker id, and the instances of a dead one are free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import Connection, delete, insert, select, update

from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.workers import (
    Lease,
    Process,
    beat,
    end_dead_leases,
    end_leases,
    fence,
    fence_batch,
    is_dead,
    is_seen_to_live,
    join,
    leave,
    list_workers,
    mark_begun,
    other_leases,
    shared_clock,
    this_process,
)
from trio_romancy.clock import at_once
from trio_romancy.errors import CommitsLostError, LeaseLostError
from trio_romancy.model import Status

HERE = this_process()
OTHER = attrs.evolve(HERE, token="another worker in this process")
ELSEWHERE = Process("another machine", 1, "", "token")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def dead() -> Process:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return attrs.evolve(HERE, pid=process.pid)


def own(connection: Connection, instance_id: str, owner: str | None, **values: object) -> None:
    """Store an instance that this worker owns."""
    row = instance_sql.new_row(instance_id, "w", "{}", 1, owner=owner)
    connection.execute(insert(tables.instances).values(**row | values))


def owned(connection: Connection) -> dict[str, tuple[str | None, int | None, int]]:
    """Owner, wake-up and recoveries of every instance."""
    columns = (tables.instances.c.owner, tables.instances.c.wake_at, tables.instances.c.recoveries)
    rows = connection.execute(select(tables.instances.c.instance_id, *columns))
    return {row.instance_id: (row.owner, row.wake_at, row.recoveries) for row in rows}


def leases(connection: Connection) -> dict[str, Row]:
    rows = connection.execute(select(tables.workers)).mappings()
    return {row["worker_id"]: dict(row) for row in rows}


def joined(connection: Connection, worker_id: str, process: Process, now: int, expires_at: int) -> Lease:
    lease = join(connection, worker_id, process, now, expires_at)
    assert lease is not None
    return lease


def end_all(connection: Connection, me: str, now: int) -> list[str]:
    """End all leases of others that have expired, or whose process has ended. Returns the worker ids."""
    return sorted(one.worker_id for one in end_leases(connection, other_leases(connection, me), now))


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_new_worker_gets_a_lease_and_takes_nothing_from_others(connection: Connection) -> None:
    joined(connection, "other", ELSEWHERE, 5, 100)
    own(connection, "theirs", "other")
    lease = joined(connection, "me", HERE, 10, 50)
    row = leases(connection)["me"]
    assert (row["epoch"], row["batch"], row["expires_at"], row["joined_at"]) == (lease.epoch, 0, 50, 10)
    assert lease.worker_id == "me"
    assert owned(connection) == {"theirs": ("other", None, 0)}


@pytest.mark.parametrize("holder", [OTHER, ELSEWHERE], ids=["in this process", "on another machine"])
def test_a_worker_id_that_a_live_process_holds_is_not_taken(connection: Connection, holder: Process) -> None:
    lease = joined(connection, "me", holder, 10, 50)
    own(connection, "theirs", "me")
    before = leases(connection)
    assert join(connection, "me", HERE, 49, 90) is None
    assert leases(connection) == before
    assert owned(connection) == {"theirs": ("me", None, 0)}
    fence(connection, lease, 60)


def test_an_expired_lease_is_taken_under_a_higher_epoch(connection: Connection) -> None:
    old = joined(connection, "me", ELSEWHERE, 10, 50)
    new = joined(connection, "me", HERE, 50, 90)
    assert new.epoch > old.epoch
    assert leases(connection)["me"]["expires_at"] == 90
    with pytest.raises(LeaseLostError):
        fence(connection, old, 100)
    fence(connection, new, 100)


def test_the_lease_of_a_dead_process_is_taken_at_once(connection: Connection, dead: Process) -> None:
    old = joined(connection, "me", dead, 10, 50)
    new = joined(connection, "me", HERE, 11, 51)
    assert new.epoch > old.epoch


def test_a_worker_that_joins_again_takes_its_own_lease_at_once(connection: Connection) -> None:
    old = joined(connection, "me", HERE, 10, 50)
    new = joined(connection, "me", HERE, 11, 51)
    assert new.epoch > old.epoch


def test_taking_a_lease_sets_free_what_it_owned_and_counts_the_death(connection: Connection) -> None:
    joined(connection, "me", ELSEWHERE, 10, 50)
    joined(connection, "other", ELSEWHERE, 10, 90)
    own(connection, "a", "me", wake_at=1_000)
    own(connection, "b", "me", recoveries=2, has_begun=True)
    own(connection, "e", "me", recoveries=2)
    own(connection, "c", "other")
    own(connection, "d", None, wake_at=7)
    joined(connection, "me", HERE, 60, 90)
    assert owned(connection) == {
        "a": (None, at_once(60), 1),
        "b": (None, at_once(60), 3),
        "e": (None, at_once(60), 2),
        "c": ("other", None, 0),
        "d": (None, 7, 0),
    }


def test_a_lease_begins_with_no_batch_committed(connection: Connection) -> None:
    old = joined(connection, "me", HERE, 10, 50)
    assert fence_batch(connection, old, 50, 7)
    new = joined(connection, "me", HERE, 20, 60)
    assert fence_batch(connection, new, 60, 1)


def test_an_epoch_is_never_used_again_after_a_lease_has_ended(connection: Connection) -> None:
    epochs = []
    for now in (10, 20, 30):
        epochs.append(joined(connection, "me", HERE, now, now + 5).epoch)
        epochs.append(joined(connection, "me", HERE, now + 1, now + 6).epoch)
        assert end_all(connection, "other", now + 6) == ["me"]
    assert epochs == sorted(set(epochs))


# -- who is dead -------------------------------------------------------------------------------------------------------


def test_this_process_lives_and_each_of_its_workers_has_its_own_token() -> None:
    assert not is_dead(HERE)
    assert this_process().token != HERE.token


def test_a_process_that_has_ended_is_dead(dead: Process) -> None:
    assert is_dead(dead)


@pytest.mark.skipif(not HERE.started, reason="the system does not tell the state of a process")
def test_a_process_is_seen_to_live_unless_it_stands_still_has_ended_or_is_elsewhere(dead: Process) -> None:
    assert is_seen_to_live(HERE)
    assert not is_seen_to_live(dead)
    assert not is_seen_to_live(ELSEWHERE)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = attrs.evolve(HERE, pid=process.pid, started=started(process.pid))
        assert is_seen_to_live(other)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert not is_dead(other)
        assert not is_seen_to_live(other)
        process.send_signal(signal.SIGCONT)
        process.kill()


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@pytest.mark.skipif(not HERE.started, reason="the system does not say when a process started")
def test_a_process_whose_id_is_used_again_is_dead() -> None:
    assert is_dead(attrs.evolve(HERE, started="long ago"))


def test_a_process_of_another_machine_or_of_an_earlier_boot_is_not_known_to_be_dead(dead: Process) -> None:
    assert not is_dead(attrs.evolve(dead, host="another machine"))


# -- the fence ---------------------------------------------------------------------------------------------------------


def test_the_fence_prolongs_a_lease_that_is_held(connection: Connection) -> None:
    lease = joined(connection, "me", HERE, 10, 50)
    fence(connection, lease, 70)
    assert leases(connection)["me"]["expires_at"] == 70


def test_a_lease_that_has_expired_but_was_not_ended_is_still_held(connection: Connection) -> None:
    """Nobody else has written in between, so its worker may go on."""
    lease = joined(connection, "me", HERE, 10, 50)
    fence(connection, lease, 1_000)
    assert leases(connection)["me"]["expires_at"] == 1_000


@pytest.mark.parametrize("how", ["ended", "taken", "left", "never had"])
@pytest.mark.parametrize("is_batch", [False, True], ids=["fence", "batch"])
def test_nothing_passes_the_fence_without_the_lease(connection: Connection, how: str, is_batch: bool) -> None:
    lease = Lease("me", 10)
    if how != "never had":
        lease = joined(connection, "me", ELSEWHERE, 10, 50)
    if how == "ended":
        assert end_all(connection, "other", 60) == ["me"]
    elif how == "taken":
        joined(connection, "me", HERE, 60, 90)
    elif how == "left":
        leave(connection, lease, 20)
    before = leases(connection)
    with pytest.raises(LeaseLostError, match=rf"worker 'me' lost its lease \(epoch {lease.epoch}\)"):
        if is_batch:
            fence_batch(connection, lease, 999, 1)
        else:
            fence(connection, lease, 999)
    assert leases(connection) == before


def test_the_fence_of_one_worker_leaves_the_leases_of_others_alone(connection: Connection) -> None:
    joined(connection, "other", ELSEWHERE, 10, 50)
    before = leases(connection)["other"]
    fence(connection, joined(connection, "me", HERE, 10, 50), 70)
    assert leases(connection)["other"] == before


def test_each_batch_passes_the_fence_once(connection: Connection) -> None:
    lease = joined(connection, "me", HERE, 10, 50)
    passed = [fence_batch(connection, lease, 60, number) for number in (1, 1, 2, 1, 2, 5, 4, 6)]
    assert passed == [True, False, True, False, False, True, False, True]
    assert leases(connection)["me"]["batch"] == 6


def write_batch_9(connection: Connection, lease: Lease, expires_at: int) -> bool:
    return fence_batch(connection, lease, expires_at, 9)


@pytest.mark.parametrize("write", [fence, beat, write_batch_9])
def test_a_worker_whose_committed_batches_are_gone_writes_nothing(
    connection: Connection, write: Callable[[Connection, Lease, int], object]
) -> None:
    lease = joined(connection, "me", HERE, 10, 50)
    fence_batch(connection, lease, 60, 6)
    lease.committed = 6
    write(connection, lease, 70)
    lease.committed = 12
    with pytest.raises(CommitsLostError, match=r"has lost [36] committed transactions of worker 'me'"):
        write(connection, lease, 80)
    assert leases(connection)["me"]["expires_at"] == 70


def test_a_batch_is_a_heartbeat(connection: Connection) -> None:
    lease = joined(connection, "me", HERE, 10, 50)
    fence_batch(connection, lease, 70, 1)
    assert leases(connection)["me"]["expires_at"] == 70


# -- ending leases -----------------------------------------------------------------------------------------------------


def test_leases_end_that_have_expired_or_whose_process_is_gone(connection: Connection, dead: Process) -> None:
    joined(connection, "me", HERE, 10, 20)
    joined(connection, "live", ELSEWHERE, 10, 51)
    joined(connection, "expired", ELSEWHERE, 10, 50)
    joined(connection, "dead", dead, 10, 1_000)
    for worker_id in ("me", "live", "expired", "dead"):
        own(connection, f"of {worker_id}", worker_id)
    assert end_all(connection, "me", 50) == ["dead", "expired"]
    assert sorted(leases(connection)) == ["live", "me"]
    assert owned(connection) == {
        "of me": ("me", None, 0),
        "of live": ("live", None, 0),
        "of expired": (None, at_once(50), 1),
        "of dead": (None, at_once(50), 1),
    }


def test_only_leases_of_dead_processes_end_without_being_watched(connection: Connection, dead: Process) -> None:
    joined(connection, "expired", ELSEWHERE, 10, 50)
    joined(connection, "dead", dead, 10, 1_000)
    end_dead_leases(connection, "me", 60)
    assert sorted(leases(connection)) == ["expired"]


def test_a_lease_that_was_renewed_or_taken_since_it_was_read_does_not_end(connection: Connection) -> None:
    late = joined(connection, "late", ELSEWHERE, 10, 50)
    joined(connection, "back", ELSEWHERE, 10, 50)
    seen = other_leases(connection, "me")
    fence(connection, late, 55)
    joined(connection, "back", HERE, 52, 55)
    assert end_leases(connection, seen, 60) == []
    assert end_all(connection, "me", 60) == ["back", "late"]


def test_the_clock_of_the_server_says_what_has_expired(connection: Connection) -> None:
    joined(connection, "a", ELSEWHERE, 10, 2**60)
    seen = other_leases(connection, "me")
    if connection.dialect.name != "sqlite":  # whose clock is the app's
        assert end_leases(connection, seen, 2**61, by_server=True) == []
    assert [one.worker_id for one in end_leases(connection, seen, 2**61)] == ["a"]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.COMPENSATING, Status.WAITING])
def test_a_death_counts_only_if_an_attempt_may_have_begun(connection: Connection, status: Status) -> None:
    """That is recorded for an instance that has outlived a death before, and only for that."""
    for epoch, expected in enumerate([1, 1, 2, 3, 3] if status is not Status.WAITING else [0, 0, 1, 2, 2]):
        joined(connection, "w", ELSEWHERE, 10, 50)
        if epoch == 0:
            own(connection, "i", "w", status=status)
        else:
            connection.execute(update(tables.instances).values(owner="w"))
        if epoch in (2, 3):
            mark_begun(connection, "i")
        assert end_all(connection, "me", 60) == ["w"]
        assert owned(connection) == {"i": (None, at_once(60), expected)}


def test_a_worker_that_lost_its_lease_and_lives_has_not_died(connection: Connection) -> None:
    joined(connection, "me", HERE, 10, 50)
    own(connection, "a", "me", recoveries=1, has_begun=True)
    joined(connection, "me", HERE, 60, 90)
    assert owned(connection) == {"a": (None, at_once(60), 1)}


def test_a_worker_whose_row_is_gone_sets_free_what_it_owned(connection: Connection) -> None:
    joined(connection, "me", HERE, 10, 50)
    own(connection, "a", "me")
    connection.execute(delete(tables.workers))
    joined(connection, "me", HERE, 60, 90)
    assert owned(connection) == {"a": (None, at_once(60), 0)}


def test_dead_leases_are_ended_once(connection: Connection) -> None:
    joined(connection, "expired", ELSEWHERE, 10, 50)
    own(connection, "a", "expired")
    assert end_all(connection, "me", 60) == ["expired"]
    assert end_all(connection, "me", 70) == []
    assert owned(connection) == {"a": (None, at_once(60), 1)}


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_leaves_hands_back_what_it_owns_and_that_is_no_death(connection: Connection) -> None:
    lease = joined(connection, "me", HERE, 10, 50)
    joined(connection, "other", ELSEWHERE, 10, 90)
    own(connection, "mine", "me", recoveries=1)
    own(connection, "theirs", "other")
    leave(connection, lease, 30)
    assert sorted(leases(connection)) == ["other"]
    assert owned(connection) == {"mine": (None, at_once(30), 1), "theirs": ("other", None, 0)}


def test_leaving_with_a_lease_that_was_lost_changes_nothing(connection: Connection) -> None:
    old = joined(connection, "me", ELSEWHERE, 10, 50)
    joined(connection, "me", HERE, 60, 90)
    own(connection, "mine", "me")
    before = leases(connection)
    leave(connection, old, 70)
    assert leases(connection) == before
    assert owned(connection) == {"mine": ("me", None, 0)}


def test_a_worker_that_has_left_can_join_again(connection: Connection) -> None:
    leave(connection, joined(connection, "me", HERE, 10, 50), 20)
    fence(connection, joined(connection, "me", OTHER, 30, 60), 70)


# -- the clock of the machine ------------------------------------------------------------------------------------------


def test_the_time_is_that_of_the_first_live_worker_since_the_same_boot(connection: Connection, dead: Process) -> None:
    boot = HERE.host.split(" ")[1]
    joined_at = iter(range(10, 100))

    def join_with(worker_id: str, process: Process, clock: int | None, expires_at: int) -> None:
        assert join(connection, worker_id, process, next(joined_at), expires_at, clock=clock) is not None

    assert shared_clock(connection, 1_000) is None
    join_with("an old version", HERE, None, 9_000)
    join_with("dead", dead, 100, 9_000)
    join_with("elsewhere", ELSEWHERE, 200, 9_000)
    join_with("before the last boot", attrs.evolve(HERE, host="here another-boot pid:[1]"), 300, 9_000)
    join_with("expired", attrs.evolve(HERE, host=f"here {boot} pid:[1]"), 400, 1_400)
    assert shared_clock(connection, 1_000) is None
    join_with("in a container", attrs.evolve(HERE, host=f"there {boot} pid:[1]"), 500, 1_501)
    join_with("later", HERE, 600, 9_000)
    assert shared_clock(connection, 1_000) == 500
    assert shared_clock(connection, 1_001) == 600


def test_what_was_read_before_an_outage_ends_only_leases_of_the_dead(connection: Connection, dead: Process) -> None:
    joined(connection, "expired", ELSEWHERE, 10, 50)
    joined(connection, "dead", dead, 10, 50)
    seen = other_leases(connection, "me")
    assert [one.worker_id for one in end_leases(connection, seen, 60, may_end=lambda: False)] == ["dead"]
    assert [one.worker_id for one in end_leases(connection, seen, 60, may_end=lambda: True)] == ["expired"]


def in_container(name: str) -> Process:
    """A process of this machine of which this one cannot see whether it lives."""
    return attrs.evolve(HERE, host=f"{name} {HERE.host.split()[1]} pid:[1]")


@pytest.mark.skipif(len(HERE.host.split()) < 2, reason="the system does not name its boot")
def test_a_lease_on_a_file_ends_by_the_time_of_its_worker(connection: Connection) -> None:
    """The clock of the machine was wrong when the worker began, and was set before this one did."""
    is_file = connection.dialect.name == "sqlite"  # a server has a clock, by which all workers tell the time
    for ahead in (1_000, -1_000):
        assert join(connection, "other", in_container("there"), 10 + ahead, 50 + ahead, clock=300 + ahead)
        (other,) = other_leases(connection, "me", 300)
        assert other.ahead == (ahead if is_file else 0)
        if is_file:
            assert end_leases(connection, [other], 49) == []
            assert end_leases(connection, [other], 50) == [other]
        else:
            end_leases(connection, [other], 2_000)


@pytest.mark.skipif(len(HERE.host.split()) < 2, reason="the system does not name its boot")
def test_a_worker_id_on_a_file_is_taken_by_the_time_of_its_holder(connection: Connection) -> None:
    is_file = connection.dialect.name == "sqlite"
    assert join(connection, "me", in_container("there"), 1_010, 1_050, clock=1_300)
    assert join(connection, "me", in_container("here"), 49, 90, clock=300) is None
    assert (join(connection, "me", in_container("here"), 50, 90, clock=300) is not None) is is_file


# -- looking -----------------------------------------------------------------------------------------------------------


def test_workers_are_listed_with_what_they_own(connection: Connection) -> None:
    joined(connection, "b", HERE, now=1_000_000, expires_at=9_000_000)
    join(connection, "a", OTHER, 2_000_000, 9_000_000, "version 7")
    own(connection, "i-1", "a")
    own(connection, "i-2", "a")
    own(connection, "i-3", None)
    a, b = list_workers(connection, 3_000_000)
    assert (a.worker_id, a.version, a.owned, a.is_alive) == ("a", "version 7", 2, True)
    assert (b.worker_id, b.version, b.owned, b.is_alive) == ("b", None, 0, True)
    assert (a.joined_at.timestamp(), a.expires_at.timestamp(), a.pid) == (2, 9, HERE.pid)
    assert a.host == HERE.host.split()[0]


def test_a_worker_is_listed_as_dead_once_its_lease_expired_or_its_process_ended(
    connection: Connection, dead: Process
) -> None:
    joined(connection, "ended", dead, now=1, expires_at=9)
    joined(connection, "expired", ELSEWHERE, now=1, expires_at=5)
    joined(connection, "works", ELSEWHERE, now=1, expires_at=6)
    found = {worker.worker_id: worker.is_alive for worker in list_workers(connection, 5)}
    assert found == {"ended": False, "expired": False, "works": True}

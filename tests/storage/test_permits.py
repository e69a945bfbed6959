"""Permits of limits: who gets them, who waits, and what frees them."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from trio_romancy import Status
from trio_romancy._storage.sql import permits as sql
from trio_romancy._storage.sql.limits import call_waiting, list_limits, set_limit, store_limit
from trio_romancy._storage.sql.permits import KeyStates, PermitRequest, Permits, Want
from trio_romancy._storage.sql.tables import instances, limit_waits, permits
from trio_romancy._storage.sql.workers import Process, join
from trio_romancy.clock import at_once

from .rows import own, wake_times

NOW = 1_000_000_000


def define(connection: Connection, *, concurrent: int | None = 1, rate: int | None = None) -> None:
    period = None if rate is None else 1_000_000
    store_limit(connection, "limit", {"concurrent": concurrent, "rate": rate, "period": period, "burst": None}, now=NOW)


def ask(
    connection: Connection, instance_id: str, key: str = "", *, now: int = NOW, worker: str = "me", cost: int = 1
) -> tuple[Permits, sql.Answer]:
    one = Permits(instance_id, "op", [Want("limit", key, cost)])
    request = PermitRequest(one)
    states = KeyStates(connection, [("limit", key)], now)
    states.take([request], worker)
    states.finish()
    assert request.answer is not None
    return one, request.answer


def free(connection: Connection, *freed: Permits, now: int = NOW) -> None:
    states = KeyStates(connection, [("limit", want.key) for one in freed for want in one.wants], now)
    states.free(freed)
    states.finish()


def called(connection: Connection) -> set[str]:
    return {id for id, wake_at in wake_times(connection).items() if wake_at is not None}


def test_the_permit_that_is_freed_calls_the_first_that_waits_and_no_other(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b", "c")
    first, answer = ask(connection, "a")
    assert answer.is_granted
    for number, id in enumerate("bc"):
        assert not ask(connection, id, now=NOW + number)[1].is_granted
    assert called(connection) == set()
    free(connection, first)
    assert called(connection) == {"b"}
    assert not ask(connection, "c", now=NOW + 5)[1].is_granted  # it has not been called
    assert ask(connection, "b", now=NOW + 5)[1].is_granted


def test_one_that_comes_later_does_not_overtake_those_that_wait(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b", "c")
    first, _ = ask(connection, "a")
    ask(connection, "b")
    free(connection, first)
    assert not ask(connection, "c", now=NOW + 1)[1].is_granted
    assert ask(connection, "b", now=NOW + 2)[1].is_granted


def test_what_asks_twice_holds_one_permit(connection: Connection) -> None:
    define(connection, concurrent=2)
    own(connection, "a", "b", "c")
    for _ in range(3):
        assert ask(connection, "a")[1].is_granted
    assert ask(connection, "b")[1].is_granted
    assert not ask(connection, "c")[1].is_granted


def test_what_is_freed_twice_is_free_once(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b")
    one, _ = ask(connection, "a")
    free(connection, one)
    free(connection, one)
    (use,) = list_limits(connection)
    assert use.taken == 0
    assert ask(connection, "b")[1].is_granted
    free(connection, one)
    assert list_limits(connection)[0].taken == 1


def test_the_end_of_a_lease_frees_the_permits_of_its_worker_and_calls_the_next(connection: Connection) -> None:
    process = Process("host", 1, "then", "token")
    lease = join(connection, "dead", process, NOW, NOW + 1)
    assert lease is not None
    define(connection)
    own(connection, "a", owner="dead")
    own(connection, "b", owner="other")
    assert ask(connection, "a", worker="dead")[1].is_granted
    assert not ask(connection, "b", worker="other")[1].is_granted
    join(connection, "dead", Process("host", 2, "now", "other token"), NOW + 10, NOW + 20)
    assert connection.execute(select(func.count()).select_from(permits)).scalar_one() == 0
    assert wake_times(connection)["b"] == at_once(NOW + 10)
    assert ask(connection, "b", worker="other", now=NOW + 11)[1].is_granted


def test_an_attempt_that_is_called_and_does_not_come_is_passed_over_and_keeps_its_place(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b", "c", "d")
    first, _ = ask(connection, "a")
    for number, id in enumerate("bcd"):
        ask(connection, id, now=NOW + number)
    free(connection, first, now=NOW + 10)
    assert called(connection) == {"b"}
    sql.pass_over(connection, NOW + 1_000_000)
    assert called(connection) == {"b"}
    assert sql.has_late(connection, NOW + 6_000_000)
    sql.pass_over(connection, NOW + 6_000_000)
    assert called(connection) == {"b", "c"}
    third, answer = ask(connection, "c", now=NOW + 6_000_001)
    assert answer.is_granted
    assert not ask(connection, "b", now=NOW + 6_000_002)[1].is_granted  # late, and before d
    free(connection, third, now=NOW + 6_000_003)
    assert called(connection) == {"b", "c"}
    assert ask(connection, "b", now=NOW + 6_000_004)[1].is_granted


def test_what_waits_for_an_instance_that_has_ended_holds_nobody_up(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b", "c")
    first, _ = ask(connection, "a")
    ask(connection, "b")
    ask(connection, "c", now=NOW + 1)
    connection.execute(instances.update().where(instances.c.instance_id == "b").values(status=Status.CANCELLED))
    free(connection, first)
    assert called(connection) == {"c"}
    assert list(connection.execute(select(limit_waits.c.instance_id)).scalars()) == ["c"]


def test_ten_thousand_of_one_key_do_not_hold_up_another(connection: Connection) -> None:
    define(connection)
    own(connection, "a", "b", "other")
    ask(connection, "a", "A")
    rows = [
        {
            "instance_id": f"{number}",
            "operation_id": "op",
            "name": "limit",
            "limit_key": "A",
            "cost": 1,
            "since": NOW + number,
            "called_at": None,
            "is_passed": False,
        }
        for number in range(10_000)
    ]
    connection.execute(limit_waits.insert(), rows)
    one, answer = ask(connection, "other", "B")
    assert answer.is_granted
    free(connection, one)


def test_a_rate_gives_permits_at_even_distances(connection: Connection) -> None:
    define(connection, concurrent=None, rate=10)
    own(connection, *"abcdefgh")
    times = [ask(connection, id)[1] for id in "abcdefgh"]
    granted = [answer.at - NOW for answer in times if answer.is_granted and answer.at is not None]
    assert granted == [0, 105_000, 210_000, 315_000, 420_000]  # no more than half a second ahead
    assert [answer.is_granted for answer in times[5:]] == [False] * 3
    assert wake_times(connection)["f"] == NOW + 25_000  # half a second before its time
    assert wake_times(connection)["g"] is None


def test_a_limit_that_is_raised_calls_as_many_as_fit(connection: Connection) -> None:
    define(connection)
    own(connection, *"abcde")
    for number, id in enumerate("abcde"):
        ask(connection, id, now=NOW + number)
    assert not set_limit(connection, "unknown", {"concurrent": 3}, NOW)
    assert set_limit(connection, "limit", {"concurrent": 3}, NOW)
    assert call_waiting(connection, "limit", None, NOW + 10) is None
    assert called(connection) == {"b", "c"}
    store_limit(connection, "limit", {"concurrent": 1, "rate": None, "period": None, "burst": None}, NOW)
    assert list_limits(connection)[0].limit.concurrent == 3

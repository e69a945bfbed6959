"""The outbox as rows: storing, claiming in order, finishing, retrying, listing, deleting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from trio_romancy._storage.sql import outbox_claims, tables
from trio_romancy._storage.sql.outbox import (
    DEAD,
    OutboxPlace,
    delete_finished,
    insert_outbox,
    list_events,
    new_row,
    retry,
    retry_all,
)
from trio_romancy._storage.sql.outbox_claims import (
    Claimed,
    Outcome,
    claim_due,
    next_due,
    record_outcome,
    release,
    release_all,
)
from trio_romancy.clock import at_once, to_datetime
from trio_romancy.model import OutboxEvent, OutboxStatus

Row = Any

SENT, FAILED, PENDING = OutboxStatus.SENT, OutboxStatus.FAILED, OutboxStatus.PENDING


def event(instance_id: str, seq: int, number: int = 0, *, now: int = 100, **values: Any) -> Row:
    """A new event, whose id tells its key."""
    given: Row = {"event_id": f"{instance_id}{seq}.{number}", "source": "/s", "type": "t", "subject": None, "time": 50}
    given |= {"data_text": '{"a":1}'} | values
    return new_row(instance_id=instance_id, seq=seq, number=number, now=now, **given)


def store(connection: Connection, *keys: str, now: int = 100) -> None:
    """Store events of the form ``a1``: instance a, journal entry 1."""
    insert_outbox(connection, [event(key[0], int(key[1:]), now=now) for key in keys])


def claim(connection: Connection, me: str = "me", now: int = 100, until: int = 500, limit: int = 10) -> list[list[str]]:
    """What was claimed, as keys of the form ``a1``, by instance."""
    return [[shown(event) for event in run] for run in claim_due(connection, me, now, until, limit)]


def claimed(connection: Connection, me: str = "me", now: int = 100, until: int = 500) -> dict[str, Claimed]:
    return {shown(event): event for run in claim_due(connection, me, now, until, 10) for event in run}


def shown(event: Claimed | OutboxEvent) -> str:
    return event.event_id.removesuffix(".0")


def finish(connection: Connection, event: Claimed, status: OutboxStatus, now: int = 200, **values: Any) -> bool:
    return record_outcome(connection, values.pop("me", "me"), Outcome(event, status, **values), now)


def stored(connection: Connection, key: str) -> Row:
    found = select(tables.outbox).where(tables.outbox.c.instance_id == key[0], tables.outbox.c.seq == int(key[1:]))
    return dict(connection.execute(found).mappings().one())


def listed(connection: Connection, **given: Any) -> list[str]:
    options: Row = {"status": None, "instance_id": None, "limit": 100, "after": None} | given
    return [shown(event) for event, _ in list_events(connection, **options)]


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_new_event_is_pending_and_due_now(connection: Connection) -> None:
    insert_outbox(connection, [event("a", 3, 2, now=70, subject="s", event_id="e")])
    found = list_events(connection, status=None, instance_id=None, limit=1, after=None)
    assert [event for event, _ in found] == [
        OutboxEvent(
            event_id="e",
            instance_id="a",
            source="/s",
            type="t",
            subject="s",
            time=to_datetime(50),
            data={"a": 1},
            status=PENDING,
            attempts=0,
            error=None,
            created_at=to_datetime(70),
            due_at=to_datetime(70),
            finished_at=None,
        )
    ]


def test_storing_nothing_is_fine(connection: Connection) -> None:
    insert_outbox(connection, [])
    assert listed(connection) == []


def test_an_event_is_stored_once(connection: Connection) -> None:
    store(connection, "a1")
    with pytest.raises(IntegrityError):
        store(connection, "a1")


# -- claiming ----------------------------------------------------------------------------------------------------------


def test_a_claim_says_all_that_is_needed_to_send(connection: Connection) -> None:
    insert_outbox(connection, [event("a", 3, 2, now=70, subject="s", event_id="e", source="/x", type="y")])
    assert claim_due(connection, "me", 100, 500, 1) == [
        [
            Claimed(
                instance_id="a",
                seq=3,
                number=2,
                event_id="e",
                source="/x",
                type="y",
                subject="s",
                time=50,
                data='{"a":1}',
                attempts=0,
                created_at=70,
                claimed_until=500,
            )
        ]
    ]


def test_events_of_one_instance_are_claimed_together_in_their_order(connection: Connection) -> None:
    insert_outbox(connection, [event("a", 10), event("a", 2, 1), event("a", 2, 0), event("b", 1), event("a", 9)])
    assert claim(connection) == [["a2", "a2.1", "a9", "a10"], ["b1"]]


def test_nobody_else_gets_anything_of_a_claimed_instance_until_the_claim_ends(connection: Connection) -> None:
    store(connection, "a1")
    assert claim(connection, "me") == [["a1"]]
    store(connection, "a2")
    assert [claim(connection, "other", now=499, until=900), claim(connection, "other", now=500, until=900)] == [
        [],
        [["a1", "a2"]],
    ]


def test_a_claim_that_is_repeated_gives_the_same(connection: Connection) -> None:
    store(connection, "a1", "b1")
    assert claim(connection) == claim(connection) == [["a1"], ["b1"]]


def test_what_waits_for_its_next_attempt_holds_back_its_own_instance_only(connection: Connection) -> None:
    store(connection, "a1", "a2", "b1")
    events = claimed(connection)
    assert finish(connection, events["a1"], PENDING, due_at=300, error="away")
    release(connection, "me", 500, 200, "a")
    assert finish(connection, events["b1"], SENT)
    store(connection, "b2")
    assert claim(connection, now=299, until=600) == [["b2"]]
    assert claim(connection, now=300, until=700) == [["a1", "a2"]]


@pytest.mark.parametrize("status", [status for status in OutboxStatus if status is not PENDING])
def test_what_is_finished_holds_back_nothing(connection: Connection, status: OutboxStatus) -> None:
    store(connection, "a1", "a2")
    assert finish(connection, claimed(connection)["a1"], status, error="why")
    release(connection, "me", 500, 200, "a")
    assert claim(connection, now=200, until=600) == [["a2"]]


def test_the_instances_whose_events_are_due_longest_come_first(connection: Connection) -> None:
    for key, now in (("c1", 30), ("a1", 20), ("b1", 10), ("d1", 40)):
        store(connection, key, now=now)
    assert sorted(claim(connection, limit=2)) == [["a1"], ["b1"]]
    assert sorted(claim(connection, until=600, limit=2)) == [["c1"], ["d1"]]


def test_many_events_of_one_instance_do_not_hide_another_for_ever(connection: Connection) -> None:
    insert_outbox(connection, [event("a", seq, now=10) for seq in range(1, 60)])
    store(connection, "b1", now=20)
    first = claim(connection, limit=2)
    assert [run[0] for run in first] == ["a1"]
    assert claim(connection, until=600, limit=2) == [["b1"]]


def test_a_run_is_bounded_in_number_and_in_size(connection: Connection) -> None:
    insert_outbox(connection, [event("a", seq) for seq in range(1, 30)])
    large = '"' + 400_000 * "x" + '"'
    insert_outbox(connection, [event("b", seq, data_text=large) for seq in range(1, 5)])
    insert_outbox(connection, [event("c", seq, data_text=large + 3 * large) for seq in (1, 2)])
    assert [(run[0], len(run)) for run in claim(connection)] == [("a1", 10), ("b1", 2), ("c1", 1)]


def test_an_event_that_lies_before_one_that_is_being_sent_waits_for_it(connection: Connection) -> None:
    store(connection, "a1", "a2", "a3")
    events = claimed(connection)
    finish(connection, events["a1"], FAILED, error="why")
    finish(connection, events["a2"], PENDING, due_at=400, error="why")
    release(connection, "me", 500, 200, "a")
    assert retry(connection, "a1.0", 250)
    assert claim(connection, now=300, until=600) == []
    assert claim(connection, now=400, until=700) == [["a1", "a2", "a3"]]


def test_a_run_ends_before_an_event_that_somebody_else_sends_or_that_waits(connection: Connection) -> None:
    store(connection, "a1", "a2", "a3")
    events = claimed(connection)
    finish(connection, events["a1"], FAILED, error="why")
    finish(connection, events["a2"], PENDING, due_at=400, error="why")
    release(connection, "me", 500, 200, "a")
    assert retry(connection, "a1.0", 250)
    assert outbox_claims._claim_run(connection, "me", 300, 600, "a")  # it has been a candidate a moment ago
    assert [stored(connection, key)["claimed_by"] for key in ("a1", "a2", "a3")] == ["me", None, None]


def test_a_claim_that_lost_a_race_for_some_of_a_run_takes_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(connection, "a1", "a2")
    limited = outbox_claims._limited

    def somebody_is_quicker(*given: Any) -> Sequence[tuple[int, int]]:
        run = list(limited(*given))
        rival = tables.outbox.update().where(tables.outbox.c.instance_id == "a", tables.outbox.c.seq == 1)
        connection.execute(rival.values(claimed_by="rival", claimed_until=400, due_at=400))
        return run

    monkeypatch.setattr(outbox_claims, "_limited", somebody_is_quicker)
    assert claim(connection) == []
    assert (stored(connection, "a1")["claimed_by"], stored(connection, "a2")["claimed_by"]) == ("rival", None)


def test_the_events_of_an_instance_are_sent_in_order_whatever_happens(connection: Connection) -> None:
    chance = random.Random(7)
    insert_outbox(connection, [event(name, seq, now=seq) for name in "abcd" for seq in range(1, 9)])
    sent: list[tuple[str, int]] = []
    now, holding = 100, list[list[Claimed]]()
    while len(sent) < 32:
        now += 10
        holding += claim_due(connection, f"relay {now % 3}", now, now + 200, 1)
        run = holding.pop(chance.randrange(len(holding))) if holding else []
        for one in run:
            me = f"relay {(one.claimed_until - 200) % 3}"
            what = chance.choice(["sent", "sent", "again", "dies"])
            if what == "dies":
                break
            if what == "again":
                finish(connection, one, PENDING, now, due_at=now + chance.randrange(100), error="why", me=me)
                release(connection, me, one.claimed_until, now, one.instance_id)
                break
            if not finish(connection, one, SENT, now, me=me):
                break
            sent.append((one.instance_id, one.seq))
    for name in "abcd":
        assert [seq for instance, seq in sent if instance == name] == list(range(1, 9))


# -- the next look -----------------------------------------------------------------------------------------------------


def test_who_has_nothing_to_claim_is_told_when_to_look_again(connection: Connection) -> None:
    assert next_due(connection, 100) is None
    store(connection, "a1", "a2", now=90)
    assert next_due(connection, 100) == 100
    assert next_due(connection, 80) == 80  # a clock that is behind delays nothing
    events = claimed(connection)
    assert next_due(connection, 100) == 500
    finish(connection, events["a1"], PENDING, due_at=300, error="why")
    release(connection, "me", 500, 200, "a")
    assert next_due(connection, 200) == 300  # a2 is due, and waits for a1
    store(connection, "b1", now=250)
    assert next_due(connection, 260) == 260
    assert [run[0] for run in claim(connection, now=300, until=600)] == ["a1", "b1"]


# -- finishing ---------------------------------------------------------------------------------------------------------


def test_a_sent_event_is_not_due_any_more(connection: Connection) -> None:
    store(connection, "a1")
    assert finish(connection, claimed(connection)["a1"], SENT, now=230)
    row = stored(connection, "a1")
    assert (row["status"], row["attempts"], row["due_at"], row["finished_at"]) == ("sent", 1, None, 230)
    assert (row["claimed_by"], row["claimed_until"], row["error"]) == (None, None, None)


def test_an_event_that_is_tried_again_says_why_and_when(connection: Connection) -> None:
    store(connection, "a1")
    for attempt, due_at in ((1, 300), (2, 400)):
        one = claimed(connection, now=300, until=500 + attempt)["a1"]
        assert one.attempts == attempt - 1
        assert finish(connection, one, PENDING, due_at=due_at, error=f"no {attempt}\0")
        row = stored(connection, "a1")
        assert (row["status"], row["attempts"], row["due_at"], row["finished_at"]) == ("pending", attempt, due_at, None)
        store(connection, f"b{attempt}")
        connection.execute(tables.outbox.update().where(tables.outbox.c.instance_id == "a").values(due_at=200))
    ((found, _), *_) = list_events(connection, status=None, instance_id="a", limit=1, after=None)
    assert found.error == "no 2\0"


@pytest.mark.parametrize("status", DEAD)
def test_an_event_that_nobody_tries_any_more_says_why(connection: Connection, status: OutboxStatus) -> None:
    store(connection, "a1")
    assert finish(connection, claimed(connection)["a1"], status, now=230, error="why", was_tried=False)
    ((found, _),) = list_events(connection, status=status, instance_id=None, limit=10, after=None)
    assert (found.status, found.error, found.attempts, found.due_at) == (status, "why", 0, None)
    assert found.finished_at == to_datetime(230)


def test_only_the_claim_that_sent_it_records_what_became_of_an_event(connection: Connection) -> None:
    store(connection, "a1")
    mine = claimed(connection)["a1"]
    assert not finish(connection, mine, SENT, me="other")
    claimed(connection, "other", now=500, until=900)
    assert not finish(connection, mine, FAILED, error="late")
    theirs = claimed(connection, "me", now=900, until=1300)["a1"]
    assert not finish(connection, mine, FAILED, error="later")  # also with the same name
    assert finish(connection, theirs, SENT)
    assert not finish(connection, theirs, FAILED, error="twice")
    assert stored(connection, "a1")["status"] == "sent"


def test_what_is_handed_back_is_due_for_anybody(connection: Connection) -> None:
    store(connection, "a1", "a2", "b1")
    events = claimed(connection)
    finish(connection, events["a1"], SENT)
    release(connection, "me", 500, 210, "a")
    assert [stored(connection, key)["due_at"] for key in ("a1", "a2", "b1")] == [None, at_once(210), 500]
    assert claim(connection, "other", now=210, until=600) == [["a2"]]
    release(connection, "me", 500, 220, "a")  # no longer mine
    assert stored(connection, "a2")["claimed_by"] == "other"


def test_a_relayer_hands_back_all_that_its_worker_had_claimed(connection: Connection) -> None:
    store(connection, "a1", "b1")
    claim(connection, limit=1)
    claim(connection, until=501)
    store(connection, "c1")
    claim(connection, "other", until=700)
    assert release_all(connection, "me", 300) == 2
    assert claim(connection, "third", now=300, until=800) == [["a1"], ["b1"]]


# -- retrying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", DEAD)
def test_a_dead_event_is_as_if_new_when_it_is_retried(connection: Connection, status: OutboxStatus) -> None:
    store(connection, "a1")
    finish(connection, claimed(connection)["a1"], status, error="why")
    assert retry(connection, "a1.0", 700)
    assert stored(connection, "a1") == event("a", 1, now=700) | {
        "claimed_by": None,
        "claimed_until": None,
        "error": None,
        "finished_at": None,
    }
    assert claim(connection, now=700, until=900) == [["a1"]]


def test_an_event_that_waits_for_its_next_attempt_can_be_retried_at_once(connection: Connection) -> None:
    store(connection, "a1")
    finish(connection, claimed(connection)["a1"], PENDING, due_at=10_000, error="why")
    assert retry(connection, "a1.0", 250)
    assert claim(connection, now=250, until=600) == [["a1"]]


def test_what_was_sent_or_is_being_sent_or_is_not_there_is_not_retried(connection: Connection) -> None:
    store(connection, "a1", "b1")
    finish(connection, claimed(connection)["a1"], SENT)
    before = [stored(connection, key) for key in ("a1", "b1")]
    assert not any(retry(connection, event_id, 250) for event_id in ("a1.0", "b1.0", "c1.0"))
    assert [stored(connection, key) for key in ("a1", "b1")] == before


def test_all_dead_events_of_a_status_can_be_retried(connection: Connection) -> None:
    store(connection, "a1", "b1", "c1", "d1", "e1")
    events = claimed(connection)
    statuses = {"a1": FAILED, "b1": OutboxStatus.INVALID, "c1": OutboxStatus.EXPIRED, "d1": SENT}
    for key, status in statuses.items():
        finish(connection, events[key], status)
    assert retry_all(connection, [FAILED, SENT, PENDING], 250) == 1
    assert claim(connection, now=250, until=600) == [["a1"]]
    assert retry_all(connection, DEAD, 260) == 2
    assert claim(connection, now=260, until=700) == [["b1"], ["c1"]]
    assert retry_all(connection, DEAD, 260) == 0


# -- listing -----------------------------------------------------------------------------------------------------------


def test_events_are_listed_the_oldest_first_and_those_of_an_instance_in_order(connection: Connection) -> None:
    store(connection, "b2", "b1", "b10", now=100)
    store(connection, "a1", now=200)
    store(connection, "c1", now=50)
    assert listed(connection) == ["c1", "b1", "b2", "b10", "a1"]


def test_events_are_listed_by_status_and_by_instance(connection: Connection) -> None:
    store(connection, "a1", "a2", "b1")
    events = claimed(connection)
    for key in ("a1", "b1"):
        finish(connection, events[key], FAILED, error="why")
    assert listed(connection, status=FAILED) == ["a1", "b1"]
    assert listed(connection, status=FAILED, instance_id="b") == ["b1"]
    assert listed(connection, instance_id="a") == ["a1", "a2"]
    assert listed(connection, status=SENT) == []


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_page_after_page_lists_each_event_once(connection: Connection, size: int) -> None:
    store(connection, "b2", "b1", "a3", now=100)
    store(connection, "c1", "d1", now=90)
    pages: list[str] = []
    last: OutboxPlace | None = None
    while page := list_events(connection, status=None, instance_id=None, limit=size, after=last):
        assert len(page) <= size
        pages += [shown(event) for event, _ in page]
        last = page[-1][1]
    assert pages == listed(connection) == ["c1", "d1", "a3", "b1", "b2"]


def test_a_page_begins_after_a_place_also_if_its_event_is_gone(connection: Connection) -> None:
    store(connection, "a1", "a2", "b1", now=100)
    assert listed(connection, after=OutboxPlace(100, "a", 1, 0)) == ["a2", "b1"]
    assert listed(connection, after=OutboxPlace(100, "a", 7, 0)) == ["b1"]


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_what_was_finished_long_ago_is_deleted_by_status(connection: Connection) -> None:
    store(connection, "a1", "b1", "c1", "d1")
    events = claimed(connection)
    finish(connection, events["a1"], SENT, now=200)
    finish(connection, events["b1"], SENT, now=300)
    finish(connection, events["c1"], FAILED, now=200)
    assert delete_finished(connection, [SENT], 300, 10) == 1
    assert listed(connection) == ["b1", "c1", "d1"]
    assert delete_finished(connection, DEAD, 300, 10) == 1
    assert delete_finished(connection, [*OutboxStatus], 10_000, 10) == 1
    assert listed(connection) == ["d1"]


def test_so_many_are_deleted_at_once_and_no_more(connection: Connection) -> None:
    store(connection, *[f"a{seq}" for seq in range(1, 6)])
    for one in claimed(connection).values():
        finish(connection, one, SENT)
    assert [delete_finished(connection, [SENT], 1000, 2) for _ in range(4)] == [2, 2, 1, 0]


# -- a full outbox -----------------------------------------------------------------------------------------------------


def test_while_too_many_wait_for_their_next_attempt_no_others_are_taken(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_claims, "_MOST_HELD_BACK", 2)
    store(connection, "a1", "b1", "c1")
    for due_at, one in zip((300, 400), list(claimed(connection).values())[:2], strict=True):
        finish(connection, one, PENDING, due_at=due_at, error="away")
    release_all(connection, "me", 200)
    assert (next_due(connection, 250), claim(connection, now=250, until=600)) == (300, [])
    assert next_due(connection, 300) == 300
    assert claim(connection, now=300, until=600, limit=1) == [["c1"]]

"""Messages, waits and subscriptions as rows; and that who sends and who waits cannot miss each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio_asyncio
from sqlalchemy import Connection, func, insert, select, update

from trio_romancy import ChannelMode, EntryKind, InstanceNotFoundError, Status
from trio_romancy._storage import migrations
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql import messages as sql
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql import waits as waiting
from trio_romancy._storage.sql.claims import claim_and_load
from trio_romancy._storage.sql.messages import Outgoing, new_message
from trio_romancy._storage.sql.news import find_news, read_matches
from trio_romancy._storage.sql.rows import EntryRow
from trio_romancy._storage.sql.waits import Match, Wait
from trio_romancy.clock import at_once

from ..support.in_flight import InFlight, cross
from ..support.servers import PRODUCTS
from .rows import DUE, NOW, own, wake_times


def event(type: str = "t", data: str = "1", **values: Any) -> Outgoing:
    must_exist = values.pop("must_exist", False)
    return Outgoing(new_message(type, data, NOW, **{"source": "s", "event_id": f"id {data}"} | values), must_exist)


def message(channel: str = "ch", data: str = "1", **values: Any) -> Outgoing:
    return Outgoing(new_message(channel, data, NOW, **values))


def wait(instance_id: str = "a", channel: str = "t", operation_id: str = "wait:1", **values: Any) -> Wait:
    given: dict[str, Any] = {"subject": None, "mode": None, "after": 0} | values
    return Wait(instance_id=instance_id, operation_id=operation_id, channel=channel, **given)


def send(connection: Connection, *outgoing: Outgoing, me: str | None = None, now: int = NOW) -> tuple[set[str], bool]:
    sql.lock_channels(connection, {one.row["channel"] for one in outgoing}, now)
    first = sql.count_messages(connection, len(outgoing), now)
    news, wakes_others = sql.send(connection, outgoing, first, now, me)
    return {one.wait.instance_id for one in news}, wakes_others


def open_waits(connection: Connection, *waits: Wait) -> None:
    sql.lock_channels(connection, {one.channel for one in waits}, NOW)
    waiting.open_waits(connection, waits)


def payloads(found: Sequence[Match]) -> list[str]:
    return [one.payload.rpartition('"data":')[2].removesuffix("}") for one in found]


def count_messages(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(tables.messages)).scalar_one()


# -- sending -----------------------------------------------------------------------------------------------------------


def test_messages_are_numbered_in_the_order_in_which_they_are_sent(connection: Connection) -> None:
    assert sql.last_message(connection) == 0
    send(connection, event(data="1"), message(data="2"))
    assert sql.last_message(connection) == 2
    send(connection, message(data="3"), event(data="4"))
    assert sql.last_message(connection) == 4
    rows = connection.execute(select(tables.messages.c.seq, tables.messages.c.data).order_by(tables.messages.c.seq))
    assert [tuple(row) for row in rows] == [(1, "1"), (2, "2"), (3, "3"), (4, "4")]
    assert count_messages(connection) == 4


def test_one_source_and_id_is_stored_once_also_within_one_batch(connection: Connection) -> None:
    first, same = event(data="1", event_id="x"), event(data="2", event_id="x")
    another_source, another_case = event(data="3", event_id="x", source="S"), event(data="4", event_id="X")
    send(connection, first, same, another_source, another_case)
    assert [one.is_duplicate for one in (first, same, another_source, another_case)] == [False, True, False, False]
    later = event(type="u", data="5", event_id="x")
    send(connection, later)
    assert later.is_duplicate
    assert payloads(waiting.find_matches(connection, wait(), 10)) == ["1", "3", "4"]


def test_messages_without_an_id_are_never_duplicates(connection: Connection) -> None:
    sent = [message(), message()]
    send(connection, *sent)
    send(connection, message())
    assert not any(one.is_duplicate for one in sent)
    assert count_messages(connection) == 3


def test_what_must_exist_and_does_not_is_refused_alone(connection: Connection) -> None:
    own(connection, "a")
    lost, found = event(data="1", addressee="b", must_exist=True), event(data="2", addressee="a", must_exist=True)
    unchecked = event(data="3", addressee="b")
    send(connection, lost, found, unchecked)
    assert [type(one.failure) for one in (lost, found, unchecked)] == [InstanceNotFoundError, type(None), type(None)]
    assert count_messages(connection) == 2
    own(connection, "b")
    send(connection, lost)
    assert (lost.failure, lost.is_duplicate) == (None, False)


def test_those_who_wait_for_it_are_counted_and_woken_and_nobody_else(connection: Connection) -> None:
    own(connection, "any", "about a", "about b", "other type", "closed", "two waits")
    own(connection, "mine", owner="me")
    own(connection, "theirs", owner="they")
    own(connection, "sooner", wake_at=at_once(5))
    own(connection, "later", wake_at=NOW + 5)
    own(connection, "ended", status=Status.COMPLETED)
    open_waits(
        connection,
        *[wait(id) for id in ("any", "closed", "two waits", "mine", "theirs", "sooner", "later", "ended")],
        wait("about a", subject="a"),
        wait("about b", subject="b"),
        wait("other type", channel="T"),
        wait("two waits", operation_id="wait:2", subject="a"),
    )
    waiting.close_waits(connection, [("closed", "wait:1")])
    sent = event(subject="a")
    assert send(connection, sent, me="me") == ({"mine"}, True)
    woken = {id for id, wake_at in wake_times(connection).items() if wake_at == DUE}
    assert woken == {"any", "about a", "two waits", "theirs", "later"}
    assert wake_times(connection)["sooner"] == at_once(5)
    assert sent.waiting >= {"any", "about a", "two waits", "mine", "theirs", "sooner", "later"}
    assert not sent.waiting & {"about b", "other type", "closed"}


def test_an_addressed_message_wakes_its_addressee_only(connection: Connection) -> None:
    own(connection, "a", "b", "c")
    open_waits(connection, wait("a"), wait("b"), wait("c", channel="u"))
    sent, unwanted = event(addressee="a"), event(data="2", addressee="c")
    send(connection, sent, unwanted)
    assert (sent.waiting, unwanted.waiting) == ({"a"}, set())
    assert wake_times(connection) == {"a": DUE, "b": None, "c": None}


def test_a_wait_for_a_subject_is_not_woken_by_what_has_none(connection: Connection) -> None:
    own(connection, "a")
    open_waits(connection, wait("a", subject="x"))
    sent = [event(), event(data="2", subject="X"), event(data="3", subject="x", addressee="b")]
    assert send(connection, *sent) == (set(), False)
    assert [one.waiting for one in sent] == [set()] * 3


def test_more_messages_and_waits_than_fit_in_one_statement(connection: Connection) -> None:
    ids = [f"i{number}" for number in range(2500)]
    row = instance_sql.new_row("i", "w", "{}", 1, owner=None) | {"status": Status.WAITING, "wake_at": None}
    connection.execute(insert(tables.instances), [row | {"instance_id": id} for id in ids])
    open_waits(connection, *[wait(id, subject=id) for id in ids[:1250]], *[wait(id) for id in ids[1250:]])
    about = [event(data=str(number), subject=id) for number, id in enumerate(ids[:1250])]
    addressed = [event(data=str(number + 1250), addressee=id) for number, id in enumerate(ids[1250:])]
    send(connection, *about, *addressed)
    assert {len(one.waiting) for one in about} == {1251}
    assert [one.waiting for one in addressed] == [{id} for id in ids[1250:]]
    assert set(wake_times(connection).values()) == {DUE}
    again = [event(data=str(number)) for number in range(2500)]
    send(connection, *again)
    assert all(one.is_duplicate for one in again)


def test_who_waits_for_many_messages_is_gathered_once_for_all_of_them(connection: Connection) -> None:
    """Else a transaction with many messages that many wait for keeps its locks, without a statement, for seconds."""
    for id in ("a", "b"):
        own(connection, id)
    open_waits(connection, wait("a"), wait("b"), wait("b", "u", "wait:2", mode=ChannelMode.BROADCAST))
    first, second = event(data="1"), event(data="2")
    to_one, no_event = event(data="3", addressee="a"), message("t")
    published, elsewhere = message("u"), message("v")
    send(connection, first, second, to_one, no_event, published, elsewhere)
    assert [one.waiting for one in (first, second, to_one, published)] == [{"a", "b"}, {"a", "b"}, {"a"}, {"b"}]
    assert (no_event.waiting, elsewhere.waiting) == (set(), set())
    [[gathered], [same]] = first.gathered, second.gathered
    assert gathered is same


# -- finding -----------------------------------------------------------------------------------------------------------


def test_a_wait_finds_events_of_its_type_for_it_and_after_its_start_in_order(connection: Connection) -> None:
    send(connection, event(data="1"), event(data="2", addressee="a"), event(data="3", addressee="b"))
    send(connection, event(data="4", subject="x"), event("T", "5"), message("t", "6"), event(data="7"))
    assert payloads(waiting.find_matches(connection, wait(), 10)) == ["1", "2", "4", "7"]
    assert payloads(waiting.find_matches(connection, wait(after=1), 10)) == ["2", "4", "7"]
    assert payloads(waiting.find_matches(connection, wait(after=2), 1)) == ["4"]
    assert payloads(waiting.find_matches(connection, wait(subject="x"), 10)) == ["4"]
    assert payloads(waiting.find_matches(connection, wait(subject="X"), 10)) == []
    assert payloads(waiting.find_matches(connection, wait("b", after=2), 10)) == ["3", "4", "7"]
    assert [found.seq for found in waiting.find_matches(connection, wait(after=7), 10)] == []
    assert [payloads(found) for found in waiting.find_all_matches(connection, [(wait(), 2), (wait("b"), 2)])] == [
        ["1", "2"],
        ["1", "3"],
    ]


def test_each_mode_finds_what_is_for_it(connection: Connection) -> None:
    send(connection, message(data="1"), message(data="2", addressee="a"), message(data="3", addressee="b"))
    send(connection, event("ch", "4"))
    found = {mode: payloads(waiting.find_matches(connection, wait("a", "ch", mode=mode), 10)) for mode in ChannelMode}
    assert found == {
        ChannelMode.BROADCAST: ["1", "2", "4"],
        ChannelMode.COMPETING: ["1", "2", "4"],
        ChannelMode.DIRECT: ["2"],
    }


def test_many_waits_find_together_what_each_finds_alone(connection: Connection) -> None:
    own(connection, "running", "ended", "recurred", "last")
    for id, status in (("ended", Status.COMPLETED), ("recurred", Status.RECURRED)):
        connection.execute(
            update(tables.instances).where(tables.instances.c.instance_id == id).values(status=status, finished_at=NOW)
        )
    connection.execute(
        update(tables.instances).where(tables.instances.c.instance_id == "last").values(origin="recurred")
    )
    send(connection, *[event(data=f"{n}", subject=f"s{n % 7}") for n in range(30)], message("t", "m", subject="s1"))
    send(connection, event(data="30", subject="s1", addressee="a"), event(data="31", subject="s1", addressee="b"))
    send(connection, *[event("u", f"{n}", event_id=f"u{n}", subject="often") for n in range(40)])
    looks = [
        *[(wait(subject=f"s{n}", operation_id=f"{n}", after=n), 3) for n in range(9)],
        *[(wait("b", subject=f"s{n}"), 100) for n in range(3)],
        *[(wait(channel="u", subject=subject), 5) for subject in ("often", "never")],
        (wait(), 4),
        *[(wait(channel=child, mode=waiting.ChildMode.CHILD), 1) for child in ("running", "ended", "recurred", "gone")],
    ]
    together = waiting.find_all_matches(connection, looks)
    assert together == [waiting.find_matches(connection, *look) for look in looks]
    assert [len(found) for found in together[-4:]] == [0, 1, 0, 0]
    assert len(together[1]) == 3 and together[-7] != []


def test_a_child_whose_status_is_damaged_keeps_no_other_wait_from_its_messages(connection: Connection) -> None:
    own(connection, "damaged", "ended")
    for id, status in (("damaged", "confused"), ("ended", Status.COMPLETED)):
        connection.execute(
            update(tables.instances).where(tables.instances.c.instance_id == id).values(status=status, finished_at=NOW)
        )
    looks = [(wait(channel=child, mode=waiting.ChildMode.CHILD), 1) for child in ("damaged", "ended")]
    together = waiting.find_all_matches(connection, looks)
    assert together == [waiting.find_matches(connection, *look) for look in looks]
    assert [len(found) for found in together] == [0, 1]


def test_the_news_are_what_was_sent_since_and_may_be_for_the_instance(connection: Connection) -> None:
    assert find_news(connection, "a", None, 10) == (0, None)
    send(connection, event(data="1"), message(data="2"), event(data="3", subject="x"))
    last, news = find_news(connection, "a", 1, 10)
    assert (last, news) == (3, [(2, "ch", None, "", False), (3, "t", "x", "", True)])
    assert find_news(connection, "a", 3, 10) == (3, [])
    send(connection, message(data="4", addressee="a"), message(data="5", addressee="b"), message(data="6"))
    assert find_news(connection, "a", 3, 2) == (6, [(4, "ch", None, "a", False), (6, "ch", None, "", False)])
    assert find_news(connection, "a", 3, 1) == (6, None)  # more than that
    send(connection, *[message(data=f"{n}", addressee="b") for n in range(15)])
    assert find_news(connection, "a", 6, 1) == (21, None)  # reading past those for others would take long
    assert payloads(read_matches(connection, [6, 3, 99])) == ["3", "6"]
    sql.take(connection, 6, entry("b", 1))
    assert payloads(read_matches(connection, [6, 3])) == ["3"]


def entry(instance_id: str, seq: int) -> EntryRow:
    """An entry of the journal."""
    return {
        "instance_id": instance_id,
        "seq": seq,
        "operation_id": f"receive:{seq}",
        "kind": EntryKind.MESSAGE_RECEIVED,
        "payload": "null",
        "recorded_at": NOW,
    }


def test_a_message_is_taken_once_and_only_who_takes_it_records_that(connection: Connection) -> None:
    send(connection, message(), message(data="2"))
    assert sql.take(connection, 1, entry("a", 1))
    assert not sql.take(connection, 1, entry("b", 1))
    assert not sql.take(connection, 1, entry("a", 2))
    assert payloads(waiting.find_matches(connection, wait("b", "ch", mode=ChannelMode.COMPETING), 10)) == ["2"]
    assert connection.execute(select(tables.history.c.instance_id, tables.history.c.seq)).all() == [("a", 1)]


# -- waits and subscriptions -------------------------------------------------------------------------------------------


def kept(connection: Connection) -> set[tuple[str, str, bool]]:
    rows = connection.execute(select(tables.waits))
    return {(row.instance_id, row.operation_id, bool(row.is_open)) for row in rows}


def test_subscriptions_outlive_waits_and_end_with_the_instance(connection: Connection) -> None:
    own(connection, "a", "b")
    sql.lock_channels(connection, ["ch"], NOW)
    for id in ("a", "b"):
        assert sql.subscribe(connection, id, "subscribe:1", "ch", ChannelMode.BROADCAST) == (ChannelMode.BROADCAST, 0)
        open_waits(connection, wait(id, "ch", mode=ChannelMode.BROADCAST))
    waiting.close_waits(connection, [("a", "wait:1")])
    assert kept(connection) == {("a", "subscribe:1", False), ("b", "subscribe:1", False), ("b", "wait:1", True)}
    waiting.forget_waits(connection, {"b"})
    assert kept(connection) == {("a", "subscribe:1", False)}
    sent = message()
    assert send(connection, sent) == (set(), False)
    assert sent.waiting == set()


def test_the_first_subscriber_fixes_the_mode_for_good(connection: Connection) -> None:
    send(connection, message(), message())
    assert sql.subscribe(connection, "a", "subscribe:1", "ch", ChannelMode.COMPETING) == (ChannelMode.COMPETING, 2)
    waiting.forget_waits(connection, {"a"})
    assert sql.subscribe(connection, "b", "subscribe:1", "ch", ChannelMode.DIRECT)[0] is ChannelMode.COMPETING
    assert kept(connection) == set()


def test_old_messages_and_idle_channels_are_deleted_and_no_others(connection: Connection) -> None:
    own(connection, "a")
    for number, channel in enumerate(["gone", "kept", "gone", "new"]):
        one = message(channel, str(number))
        one.row["sent_at"] = 10 * number
        send(connection, one, now=10 * number)
    sql.lock_channels(connection, ["subscribed"], 0)
    sql.subscribe(connection, "a", "subscribe:1", "subscribed", ChannelMode.BROADCAST)
    assert sql.delete_old_messages(connection, 25, 2) == 2
    assert sql.delete_old_messages(connection, 25, 2) == 1
    assert sql.delete_old_messages(connection, 25, 2) == 0
    assert count_messages(connection) == 1
    assert sql.delete_idle_channels(connection, 15, 10) == 1
    names = set(connection.execute(select(tables.channels.c.channel)).scalars())
    assert names == {sql.COUNTER, "gone", "new", "subscribed"}
    assert sql.delete_idle_channels(connection, 1_000, 10) == 1
    assert sql.last_message(connection) == 4
    send(connection, message("gone", "5"))
    assert sql.last_message(connection) == 5


# -- in flight at the same time ----------------------------------------------------------------------------------------


def send_one(connection: Connection, channel: str, data: str) -> set[str]:
    mine, _ = send(connection, event(channel, data), me="me")
    return mine


def wait_for(connection: Connection, instance_id: str, channel: str) -> list[str]:
    one = wait(instance_id, channel)
    open_waits(connection, one)
    return payloads(waiting.find_matches(connection, one, 10))


def subscribe_to(connection: Connection, instance_id: str, channel: str) -> int:
    sql.lock_channels(connection, [channel], NOW)
    return sql.subscribe(connection, instance_id, "subscribe:1", channel, ChannelMode.BROADCAST)[1]


def prepare(connection: Connection, channel: str | None) -> None:
    migrations.migrate(connection)
    own(connection, "a")
    if channel is not None:  # that there is, because somebody has sent to it before
        send(connection, event(channel, '"long ago"', event_id="long ago"))


on_servers = pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
is_new = pytest.mark.parametrize("is_new", [True, False], ids=["new channel", "channel in use"])


async def check_crossing(url: str, order: str, *, is_new: bool) -> None:
    """One sends and one begins to wait, in transactions that are open at the same time: they must meet."""
    async with trio_asyncio.open_loop(), open_database(url) as database:
        await database.run(prepare, None if is_new else "t")
        sender = InFlight(database, send_one, "t", '"now"')
        waiter = InFlight(database, wait_for, "a", "t")
        with trio.fail_after(60):
            if order == "send first":
                blocked = await cross(database, sender, waiter)
            else:
                blocked = await cross(database, waiter, sender)
        wakes = await database.read(wake_times)
    assert '"now"' in waiter.result or wakes["a"] == DUE, "the message and the wait have missed each other"
    assert blocked
    if order == "send first":
        assert waiter.result[-1] == '"now"'
    else:
        assert wakes["a"] == DUE


@pytest.mark.real_clock
@on_servers
@is_new
@pytest.mark.parametrize("order", ["send first", "wait first"])
async def test_a_message_and_a_wait_that_cross_in_flight_meet(database: str, order: str, is_new: bool) -> None:
    await check_crossing(database, order, is_new=is_new)


@pytest.mark.real_clock
@on_servers
@is_new
@pytest.mark.parametrize("order", ["send first", "subscribe first"])
async def test_a_broadcast_and_a_subscription_that_cross_in_flight_agree_on_who_was_first(
    database: str, order: str, is_new: bool
) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, None if is_new else "t")
        sender = InFlight(opened, send_one, "t", '"now"')
        subscriber = InFlight(opened, subscribe_to, "a", "t")
        pair = (sender, subscriber) if order == "send first" else (subscriber, sender)
        with trio.fail_after(60):
            assert await cross(opened, *pair)
        last = await opened.read(sql.last_message)
    assert subscriber.result == (last if order == "send first" else last - 1)


@pytest.mark.real_clock
@on_servers
@pytest.mark.parametrize("channels", [("t", "t"), ("t", "u"), ("u", "t")])
async def test_whoever_has_seen_a_number_has_seen_all_below(database: str, channels: tuple[str, str]) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, "t")
        first = InFlight(opened, send_one, channels[0], '"first"')
        second = InFlight(opened, send_one, channels[1], '"second"')
        with trio.fail_after(60):
            assert await cross(opened, first, second)
        numbers = await opened.read(numbered)
    assert numbers == {'"long ago"': 1, '"first"': 2, '"second"': 3}


def numbered(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(tables.messages.c.data, tables.messages.c.seq))
    return {row.data: row.seq for row in rows}


@pytest.mark.real_clock
@on_servers
@pytest.mark.parametrize("owner", [None, "me"], ids=["passive", "resident"])
@pytest.mark.parametrize("order", ["send first", "claim first"])
async def test_a_message_that_crosses_the_claim_of_an_instance_that_is_due_already_is_found_by_it_or_the_next(
    database: str, order: str, owner: str | None
) -> None:
    """The message before it has made the instance due, so waking it again must not go without a trace."""
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, None)
        await opened.run(lambda connection: connection.execute(update(tables.instances).values(owner=owner)))
        await opened.run(wait_for, "a", "t")
        await opened.run(send, event("t", '"first"'))
        sender = InFlight(opened, partial(send, now=NOW + 1), event("t", '"second"'))
        claimer = InFlight(opened, claim_and_look, NOW + 1)
        with trio.fail_after(60):
            await cross(opened, *((sender, claimer) if order == "send first" else (claimer, sender)))
        found = claimer.result + await opened.run(claim_and_look, NOW + 2)
    assert [data for data in found if data == '"second"'], "nobody will ever look for the second message"


def claim_and_look(connection: Connection, now: int) -> list[str]:
    taken, _ = claim_and_load(connection, "me", now, ["w"], 10, suspects=True)
    return [data for one in taken for news in one.waits for data in payloads(news.found)]


@pytest.mark.real_clock
@on_servers
async def test_many_senders_at_once_leave_no_gap_that_is_filled_later(database: str) -> None:
    """A reader never sees a number while a smaller one is still to come."""
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, "t")
        seen: list[set[int]] = []

        async def send_some(channel: str) -> None:
            for number in range(8):
                await opened.run(send_one, channel, f'"{channel}{number}"')

        async with trio.open_nursery() as readers:

            async def read() -> None:
                while True:
                    seen.append(set((await opened.read(numbered)).values()))

            readers.start_soon(read)
            async with trio.open_nursery() as senders:
                for channel in ("t", "u", "v", "t2"):
                    senders.start_soon(send_some, channel)
            readers.cancel_scope.cancel()
    final = set(range(1, 34))
    for numbers in seen:
        assert numbers == {number for number in final if number <= max(numbers)}


@pytest.mark.real_clock
@on_servers
async def test_an_instance_that_is_started_while_an_event_is_in_flight_gets_it_or_was_started_later(
    database: str,
) -> None:
    """Who notes the counter while a sender holds it, sees the state before: the event comes after its start."""
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, "t")
        sender = InFlight(opened, send_one, "t", '"now"')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            await sender.done.wait()
            with trio.fail_after(60):
                after = await opened.run(sql.last_message)
            await sender.commit()
        found = await opened.read(waiting.find_matches, wait(after=after), 10)
    assert payloads(found) == ['"now"']


def test_waking_changes_also_what_is_due_already_whatever_the_time(connection: Connection) -> None:
    """Or a claim on another node of a cluster would not meet it."""
    updated_at = select(tables.instances.c.updated_at)
    own(connection, "a", wake_at=1, updated_at=NOW)
    waiting.wake(connection, ["a"], NOW)
    first = connection.execute(updated_at).scalar_one()
    assert first > NOW
    waiting.wake(connection, ["a"], NOW + 10)
    assert connection.execute(updated_at).scalar_one() == NOW + 10


def test_waking_does_not_postpone_and_leaves_those_alone_that_cannot_run(connection: Connection) -> None:
    own(connection, "none")
    own(connection, "sooner", wake_at=at_once(1))
    own(connection, "later", wake_at=NOW + 1)
    own(connection, "stuck", status=Status.STUCK)
    waiting.wake(connection, ["none", "sooner", "later", "stuck", "nobody"], NOW)
    assert wake_times(connection) == {"none": DUE, "sooner": at_once(1), "later": DUE, "stuck": None}
    connection.execute(update(tables.instances).values(wake_at=None))
    waiting.wake(connection, [], NOW)
    assert set(wake_times(connection).values()) == {None}

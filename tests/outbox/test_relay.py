"""The relayer: what is in the outbox reaches the broker, in order, whatever the broker and the workers do."""

from __future__ import annotations

import base64
import logging
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
import trio_asyncio
from sqlalchemy import select

from trio_romancy import App, InvalidInputError, OutboxSettings, RomancyError
from trio_romancy._data.page_tokens import page_token
from trio_romancy._outbox import relay as relay_module
from trio_romancy._outbox.relay import Relay
from trio_romancy._settings import RelaySettings
from trio_romancy._storage import migrations
from trio_romancy._storage.database import Database
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.outbox import insert_outbox, list_events, new_row, retry
from trio_romancy._storage.sql.outbox_claims import claim_due
from trio_romancy.clock import current_clock, to_datetime
from trio_romancy.errors import DatabaseAwayError
from trio_romancy.model import OutboxEvent, OutboxStatus

from ..support.broker import LOSE, TAKE, Answer, Broker, Post, no, open_broker
from ..support.databases import ALL_KINDS, SHARED_KINDS
from ..support.probe import probe

REFUSALS = [408, 425, 429, 500, 502, 503, 504]


@asynccontextmanager
async def open_outbox(url: str) -> AsyncIterator[Database]:
    """A database that nobody else has open, unless it is a shared one."""
    async with trio_asyncio.open_loop(), open_database(url) as database:
        await database.run(migrations.migrate)
        yield database


@asynccontextmanager
async def relaying(database: Database, broker: Broker | str, me: str = "me", **settings: Any) -> AsyncIterator[Relay]:
    """A relayer that is stopped in order when the block ends."""
    url = broker if isinstance(broker, str) else broker.url
    relay = Relay(database, current_clock(), me, RelaySettings(broker_url=url, **settings))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        yield relay
        await relay.drain()


async def store(database: Database, *ids: str, now: int | None = None, **values: Any) -> None:
    """Store events of the form ``a1``: instance a, journal entry 1."""
    at = current_clock().now() if now is None else now
    given: dict[str, Any] = {"source": "/s", "type": "t", "subject": None, "time": at, "data_text": "1"} | values
    rows = [new_row(instance_id=id[0], seq=int(id[1:]), number=0, event_id=id, now=at, **given) for id in ids]
    await database.run(insert_outbox, rows)


async def listed(database: Database, **given: Any) -> list[OutboxEvent]:
    options: dict[str, Any] = {"status": None, "instance_id": None, "limit": 10_000, "after": None} | given
    return [event for event, _ in await database.read(lambda connection: list_events(connection, **options))]


async def statuses(database: Database) -> dict[str, str]:
    return {event.event_id: event.status.value for event in await listed(database)}


async def settled(database: Database, *, longest: float = 10.0) -> dict[str, str]:
    """Wait until nothing is pending. Returns the status of each event."""
    step = 0.02
    while await listed(database, status=OutboxStatus.PENDING, limit=1):
        await trio.sleep(step)
        step = min(2 * step, longest)
    return await statuses(database)


def firsts(ids: list[str], instance: str) -> list[str]:
    """Events of an instance in the order in which they came first."""
    return list(dict.fromkeys(id for id in ids if id[0] == instance))


# -- what is sent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("data", ['{"a":[1.5,"\\u00fc"]}', '"text"', "[1]", "0", "null"])
async def test_an_event_is_posted_as_a_cloudevent(mode: Any, data: str) -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        when = current_clock().now()
        await store(database, "a1", source="/orders", type="placed", subject="Zürich 1", time=1_500_000, data_text=data)
        async with relaying(database, broker, content_mode=mode, headers={"X-Own": "mine"}):
            assert await settled(database) == {"a1": "sent"}
    (post,) = broker.posts
    assert (post.path, post.headers["x-own"]) == ("/events", "mine")
    expected: dict[str, Any] = {
        "specversion": "1.0",
        "id": "a1",
        "source": "/orders",
        "type": "placed",
        "subject": "Zürich 1" if mode == "structured" else "Z%C3%BCrich%201",
        "time": "1970-01-01T00:00:01.500000Z",
        "datacontenttype": "application/json",
        "data": {"a": [1.5, "ü"]},
    }
    if data != '{"a":[1.5,"\\u00fc"]}':
        expected["data"] = {'"text"': "text", "[1]": [1], "0": 0, "null": None}[data]
    got = post.event
    assert {"data": None} | got == expected
    assert current_clock().now() - when < 2_000_000


async def test_a_sent_event_says_so(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        await store(outbox, "a1")
        async with relaying(outbox, broker) as relay:
            await settled(outbox)
            assert (relay.statistics().sent, relay.statistics().sending) == (1, 0)
        (event,) = await listed(outbox)
    assert (event.status, event.attempts, event.error, event.due_at) == (OutboxStatus.SENT, 1, None, None)
    assert event.finished_at is not None


async def test_what_can_be_no_cloudevent_is_parked_and_the_next_one_sent(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        await store(outbox, "a1", type="")
        await store(outbox, "a2", subject="")
        async with relaying(outbox, broker):
            assert await settled(outbox) == {"a1": "invalid", "a2": "sent"}
        assert "cannot be sent as a CloudEvent" in str((await listed(outbox))[0].error)
    assert broker.ids == ["a2"]
    assert "subject" not in broker.posts[0].event


async def test_a_new_event_is_sent_as_soon_as_the_relayer_is_told(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker, relaying(outbox, broker) as relay:
        await trio.sleep(1000)
        assert broker.posts == []
        await store(outbox, "a1")
        begun = trio.current_time()
        relay.notify()
        await broker.until(lambda: broker.ids == ["a1"])
        assert trio.current_time() == begun
        await settled(outbox)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_what_another_process_has_stored_is_found(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker, relaying(outbox, broker):
        await trio.sleep(0.2)
        await store(outbox, "a1")
        with trio.fail_after(30):
            await broker.until(lambda: broker.ids == ["a1"])


# -- order -------------------------------------------------------------------------------------------------------------


async def test_events_of_an_instance_are_taken_in_order_while_the_broker_fails(database: str) -> None:
    chance = random.Random(3)
    ids = [f"{instance}{seq}" for instance in "abcd" for seq in range(1, 16)]

    def decide(post: Post) -> Answer:
        return chance.choice([TAKE, TAKE, LOSE, no(503), no(429, retry_after="3")])

    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.decide = decide
        await store(outbox, *ids)
        async with relaying(outbox, broker, first_delay=0.1, longest_delay=5.0) as relay:
            assert set((await settled(outbox)).values()) == {"sent"}
            assert relay.statistics().sent == len(ids)
    for instance in "abcd":
        assert firsts(broker.taken, instance) == firsts(broker.ids, instance) == firsts(ids, instance)
        # Once a later one has come, no earlier one comes any more.
        seen = [int(id[1:]) for id in broker.ids if id[0] == instance]
        assert seen == sorted(seen)


async def test_an_event_that_is_tried_again_and_again_holds_up_its_own_instance_only(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.decide = lambda post: no(500) if post.id == "a1" else TAKE
        others = [f"{instance}{seq}" for instance in "bcd" for seq in range(1, 13)]
        await store(outbox, "a1", "a2", *others)
        async with relaying(outbox, broker):
            await broker.until(lambda: len(broker.taken) == len(others))
            await trio.sleep(100)
            found = await statuses(outbox)
        assert {found.pop("a1"), found.pop("a2")} == {"pending"}
        assert set(found.values()) == {"sent"}
    assert "a2" not in broker.ids


async def test_dead_events_never_hold_up_live_ones(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.decide = lambda post: {"1": no(400), "2": no(503)}.get(post.id[1:], TAKE)
        await store(outbox, *[f"{instance}{seq}" for instance in "abc" for seq in (1, 2, 3)])
        async with relaying(outbox, broker, max_attempts=3) as relay:
            found = await settled(outbox)
            assert (relay.statistics().sent, relay.statistics().dead, relay.statistics().retried) == (3, 6, 6)
    for instance in "abc":
        assert [found[f"{instance}{seq}"] for seq in (1, 2, 3)] == ["invalid", "failed", "sent"]


async def test_so_many_are_posted_at_once_and_no_more() -> None:
    go = trio.Event()
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.decide = lambda _: Answer(waits_for=go)
        instances = [chr(ord("A") + number) for number in range(26)]
        await store(database, *[f"{instance}{seq}" for instance in instances for seq in (1, 2)])
        async with relaying(database, broker, concurrency=7) as relay:
            await broker.until(lambda: len(broker.posts) == 7)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (len(broker.posts), relay.statistics().sending) == (7, 7)
            go.set()
            assert set((await settled(database)).values()) == {"sent"}
    assert broker.most_at_once == 7
    assert len(broker.posts) == 52


# -- trying again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", REFUSALS)
async def test_what_the_broker_does_not_take_now_is_tried_again_under_the_same_id(status: int) -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.script(a1=[no(status, "not\nnow")])
        await store(database, "a1", "a2")
        async with relaying(database, broker):
            await broker.until(lambda: len(broker.posts) == 1)
            while (first := (await listed(database))[0]).attempts == 0:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert first.error == f"the broker answered {status}: not now"
            assert await settled(database) == {"a1": "sent", "a2": "sent"}
    assert broker.ids == ["a1", "a1", "a2"]


async def test_delays_double_up_to_the_longest_and_then_it_has_failed(database: str) -> None:
    times: list[float] = []

    def decide(post: Post) -> Answer:
        times.append(trio.current_time())
        return no(503)

    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.decide = decide
        await store(outbox, "a1")
        async with relaying(outbox, broker, max_attempts=12):
            assert await settled(outbox) == {"a1": "failed"}
        (event,) = await listed(outbox)
    assert (event.attempts, event.error) == (12, "the broker answered 503")
    delays = [after - before for before, after in pairwise(times)]
    for number, delay in enumerate(delays):
        full = min(2.0**number, 300)
        assert full / 2 - 0.001 <= delay <= full + 0.001
    assert len(set(delays)) == 11


async def test_without_a_limit_it_is_tried_for_ever() -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.script(a1=[no(500)] * 200)
        await store(database, "a1")
        async with relaying(database, broker, max_attempts=0):
            assert await settled(database, longest=600) == {"a1": "sent"}
    assert len(broker.posts) == 201


def _http_date(seconds: float) -> str:
    return format_datetime(to_datetime(current_clock().now()) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        pytest.param(lambda: {"retry_after": "120"}, 120, 132, id="seconds"),
        pytest.param(lambda: {"date": _http_date(7), "retry_after": _http_date(127)}, 120, 132, id="date"),
        pytest.param(lambda: {"retry_after": "99999999999999999999"}, 3600, 3960, id="more than is granted"),
        pytest.param(lambda: {"retry_after": "0"}, 0.5, 1, id="less than the own delay"),
        pytest.param(lambda: {"date": _http_date(9), "retry_after": _http_date(7)}, 0.5, 1, id="a past date"),
        pytest.param(lambda: {"retry_after": "soon"}, 0.5, 1, id="nonsense"),
        pytest.param(lambda: {"retry_after": "-5"}, 0.5, 1, id="negative"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_it_is_not_tried_again_before_the_broker_wants_it(
    headers: Callable[[], dict[str, str]], least: float, most: float, status: int
) -> None:
    times: list[float] = []

    def decide(post: Post) -> Answer:
        times.append(trio.current_time())
        return no(status, **headers()) if len(times) == 1 else TAKE

    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.decide = decide
        await store(database, "a1")
        async with relaying(database, broker):
            assert await settled(database) == {"a1": "sent"}
    assert least - 0.001 <= times[1] - times[0] <= most + 0.001


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 415, 422, 301, 307, 308])
async def test_what_the_broker_refuses_is_parked_after_one_attempt(status: int) -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.script(a1=[no(status, "no <such>\n\nthing", location="https://u:secret@b.example.org/x?key=secret")])
        await store(database, "a1", "a2")
        async with relaying(database, broker):
            assert await settled(database) == {"a1": "invalid", "a2": "sent"}
        parked = (await listed(database))[0]
    assert broker.ids == ["a1", "a2"]
    assert parked.attempts == 1
    redirect = ", a redirect to 'https://b.example.org/x'; set broker_url to where the broker is"
    assert parked.error == f"the broker answered {status}{redirect if status < 400 else ''}: no <such> thing"


async def test_what_became_too_old_has_expired_and_is_not_posted_any_more(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.decide = lambda post: no(503)
        await store(outbox, "a1", "a2")
        begun = trio.current_time()
        async with relaying(outbox, broker, max_age=20.0):
            assert await settled(outbox, longest=0.1) == {"a1": "expired", "a2": "expired"}
            assert 20 <= trio.current_time() - begun < 20.2
            events = await listed(outbox)
            broker.decide = lambda post: TAKE
            await store(outbox, "a3")
            await outbox.run(retry, "a2", current_clock().now())
    assert set(broker.ids) == {"a1"}
    assert [event.error for event in events] == ["it could not be sent within 20 s"] * 2
    assert (events[0].attempts > 2, events[1].attempts) == (True, 0)


async def test_an_expired_event_that_is_retried_is_as_if_new() -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        await store(database, "a1", now=current_clock().now() - 60_000_000)
        async with relaying(database, broker, max_age=20.0) as relay:
            assert await settled(database) == {"a1": "expired"}
            assert await database.run(retry, "a1", current_clock().now())
            relay.notify()
            assert await settled(database) == {"a1": "sent"}


async def test_a_broker_that_is_away_at_first_gets_everything_later(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_romancy.relay")
    async with open_broker() as somebody:
        port = somebody.port
    async with open_outbox(database) as outbox:
        await store(outbox, "a1", "a2", "b1")
        async with relaying(outbox, f"http://127.0.0.1:{port}/events"):
            await trio.sleep(60)
            assert {event.status for event in await listed(outbox)} == {OutboxStatus.PENDING}
            assert "ConnectError" in str((await listed(outbox))[0].error)
            async with open_broker(port) as broker:
                assert await settled(outbox) == {"a1": "sent", "a2": "sent", "b1": "sent"}
    assert sorted(broker.ids) == ["a1", "a2", "b1"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]  # and not with each attempt


async def test_what_was_taken_and_whose_answer_was_lost_comes_again_under_the_same_id(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(a1=[LOSE, LOSE])
        await store(outbox, "a1", "a2")
        async with relaying(outbox, broker):
            assert await settled(outbox) == {"a1": "sent", "a2": "sent"}
    assert broker.taken == ["a1", "a1", "a1", "a2"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
async def test_a_broker_that_hangs_costs_one_attempt_and_holds_up_nobody_else(database: str) -> None:
    never = trio.Event()
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(a1=[Answer(503, waits_for=never)], b1=[Answer(503, drips=True)])
        await store(outbox, "a1", "a2", "b1", "c1")
        async with relaying(outbox, broker, timeout=2, first_delay=0.1) as relay:
            await broker.until(lambda: "c1" in broker.taken)
            assert broker.taken == ["c1"]
            assert set((await settled(outbox, longest=0.05)).values()) == {"sent"}
            assert relay.statistics().retried == 2
    assert Counter(broker.ids) == {"a1": 2, "a2": 1, "b1": 2, "c1": 1}
    assert firsts(broker.ids, "a") == ["a1", "a2"]


@pytest.mark.real_clock
@pytest.mark.parametrize("answer", [Answer(202, drips=True), Answer(200, body=3_000_000 * b"x")], ids=["drips", "huge"])
async def test_an_answer_counts_however_long_its_body_is(answer: Answer) -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.script(a1=[answer])
        await store(database, "a1", "a2")
        async with relaying(database, broker):
            with trio.fail_after(30):
                assert await settled(database, longest=0.05) == {"a1": "sent", "a2": "sent"}
    assert broker.ids == ["a1", "a2"]


@pytest.mark.real_clock
async def test_a_broker_that_never_ends_its_headers_hangs_too() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"HTTP/1.1 202 Accepted\r\n")
            while True:
                await trio.sleep(0.05)
                await stream.send_all(b"X-Header: y\r\n")

    async with open_outbox(":memory:") as database, trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        await store(database, "a1")
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        async with relaying(database, url, timeout=0.5, max_attempts=1):
            with trio.fail_after(30):
                assert await settled(database, longest=0.05) == {"a1": "failed"}
        assert (await listed(database))[0].error == "no answer within 0.5 s"
        nursery.cancel_scope.cancel()


# -- several relayers --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dying(database: Database, broker: Broker, me: str) -> AsyncIterator[None]:
    """A relayer that is gone when the block ends, as if its process had died."""
    relay = Relay(database, current_clock(), me, RelaySettings(broker_url=broker.url))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        yield
        nursery.cancel_scope.cancel()


async def test_what_a_dead_relayer_was_sending_another_sends_under_the_same_id(database: str) -> None:
    never = trio.Event()
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(a1=[Answer(waits_for=never)])
        await store(outbox, "a1", "a2")
        begun = trio.current_time()
        async with dying(outbox, broker, "dead"):
            await broker.until(lambda: broker.ids == ["a1"])
        async with relaying(outbox, broker, "other"):
            await trio.sleep(29)
            assert broker.ids == ["a1"]
            assert await settled(outbox) == {"a1": "sent", "a2": "sent"}
            assert trio.current_time() - begun < 31
    assert broker.ids == ["a1", "a1", "a2"]


async def test_a_worker_that_comes_back_sends_at_once_what_it_was_sending(database: str) -> None:
    never = trio.Event()
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(a1=[Answer(waits_for=never)])
        await store(outbox, "a1")
        async with dying(outbox, broker, "me"):
            await broker.until(lambda: broker.ids == ["a1"])
        begun = trio.current_time()
        async with relaying(outbox, broker, "me"):
            assert await settled(outbox) == {"a1": "sent"}
            assert trio.current_time() - begun < 1
    assert broker.ids == ["a1", "a1"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_workers_share_the_work_and_send_nothing_twice(database: str) -> None:
    ids = [f"{chr(number)}{seq}" for number in range(ord("A"), ord("Z") + 1) for seq in range(1, 8)]
    workers: Counter[str] = Counter()
    all_work = trio.Event()

    def decide(post: Post) -> Answer:
        workers[post.headers["x-worker"]] += 1
        if len(workers) == 3:
            all_work.set()
        return Answer(waits_for=all_work)

    async with (
        open_outbox(database) as one,
        open_database(database) as two,
        open_database(database) as three,
        open_broker() as broker,
    ):
        broker.decide = decide
        await store(one, *ids)
        async with trio.open_nursery() as nursery:

            async def work(outbox: Database, me: str) -> None:
                async with relaying(outbox, broker, me, headers={"x-worker": me}, concurrency=3):
                    await settled(outbox, longest=0.05)

            for outbox, me in ((one, "one"), (two, "two"), (three, "three")):
                nursery.start_soon(work, outbox, me)
        assert set((await statuses(one)).values()) == {"sent"}
    assert sorted(broker.ids) == sorted(ids)
    assert all_work.is_set()
    for instance in {id[0] for id in ids}:
        assert firsts(broker.ids, instance) == firsts(ids, instance)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_order_holds_while_relayers_die_and_the_broker_fails(database: str) -> None:
    chance = random.Random(11)
    ids = [f"{instance}{seq}" for instance in "abcde" for seq in range(1, 7)]

    def decide(post: Post) -> Answer:
        return chance.choice([TAKE, TAKE, TAKE, LOSE, no(503)])

    async with open_outbox(database) as one, open_database(database) as two, open_broker() as broker:
        broker.decide = decide
        await store(one, *ids)
        settings = RelaySettings(
            broker_url=broker.url, first_delay=0.01, longest_delay=0.05, concurrency=3, timeout=0.3, claim_time=0.4
        )
        done = trio.Event()

        async def work_and_die(outbox: Database, me: str) -> None:
            while not done.is_set():
                relay = Relay(outbox, current_clock(), f"{me}{chance.random()}", settings)
                with trio.move_on_after(chance.uniform(0.1, 0.8)):
                    await relay.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work_and_die, one, "one")
            nursery.start_soon(work_and_die, two, "two")
            await settled(one, longest=0.05)
            done.set()
        assert set((await statuses(one)).values()) == {"sent"}
    for instance in "abcde":
        # What a dead one had on its way can come late, but never first.
        assert firsts(broker.ids, instance) == firsts(ids, instance)


# -- outages and failures ----------------------------------------------------------------------------------------------


class Lossy:
    """A database of which every second write fails at first."""

    def __init__(self, database: Database, is_carried_out: bool) -> None:
        self._database = database
        self._is_carried_out = is_carried_out
        self._writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def run(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self._writes += 1
        if self._writes % 2:
            if self._is_carried_out:
                await self._database.run(fn, *args, **kwargs)
            raise DatabaseAwayError("away")
        return await self._database.run(fn, *args, **kwargs)


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["nothing done", "only the answer lost"])
async def test_a_database_that_goes_away_makes_nothing_come_twice(is_carried_out: bool) -> None:
    async with open_outbox(":memory:") as database, open_broker() as broker:
        await store(database, *[f"{instance}{seq}" for instance in "abcd" for seq in range(1, 16)])
        lossy: Any = Lossy(database, is_carried_out)
        async with relaying(lossy, broker):
            assert set((await settled(database)).values()) == {"sent"}
    assert max(Counter(broker.ids).values()) == 1
    for instance in "abcd":
        assert firsts(broker.ids, instance) == [f"{instance}{seq}" for seq in range(1, 16)]


async def test_a_relayer_that_fails_goes_on(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([ZeroDivisionError("first"), ZeroDivisionError("second")])

    def failing(*args: Any) -> Any:
        for failure in failures:
            raise failure
        return claim_due(*args)

    monkeypatch.setattr(relay_module, "claim_due", failing)
    async with open_outbox(database) as outbox, open_broker() as broker:
        await store(outbox, "a1")
        async with relaying(outbox, broker):
            assert await settled(outbox) == {"a1": "sent"}
    assert [record.message for record in caplog.records] == ["the relayer of worker me failed: it goes on"] * 2


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_what_is_being_sent_when_it_stops_is_given_some_time_and_the_rest_is_handed_back(database: str) -> None:
    go = trio.Event()
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(a1=[Answer(waits_for=go)])
        await store(outbox, "a1", "a2", "a3")
        async with trio.open_nursery() as nursery:
            relay = Relay(outbox, current_clock(), "me", RelaySettings(broker_url=broker.url))
            nursery.start_soon(relay.run)
            await broker.until(lambda: broker.ids == ["a1"])
            nursery.start_soon(relay.drain)
            await trio.testing.wait_all_tasks_blocked(0.01)
            go.set()
        assert await statuses(outbox) == {"a1": "sent", "a2": "pending", "a3": "pending"}
        assert await claims(outbox) == {}
    assert broker.ids == ["a1"]


@pytest.mark.real_clock
async def test_a_broker_that_hangs_does_not_keep_it_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "RELAY_GRACE", 0.2)
    never = trio.Event()
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.decide = lambda _: Answer(waits_for=never)
        await store(database, "a1", "a2", "b1")
        async with relaying(database, broker):
            await broker.until(lambda: len(broker.ids) == 2)
            begun = trio.current_time()
        assert trio.current_time() - begun < 5
        assert set((await statuses(database)).values()) == {"pending"}
        assert await claims(database) == {}
        assert all(event.due_at <= to_datetime(current_clock().now()) for event in await listed(database))  # type: ignore[operator]


async def claims(database: Database) -> dict[str, str]:
    """Who claims what."""
    found = select(tables.outbox.c.event_id, tables.outbox.c.claimed_by).where(tables.outbox.c.claimed_by.is_not(None))
    return await database.read(lambda connection: {row.event_id: row.claimed_by for row in connection.execute(found)})


# -- cleaning up -------------------------------------------------------------------------------------------------------


async def test_what_was_sent_is_deleted_a_day_later_and_the_dead_after_thirty(database: str) -> None:
    async with open_outbox(database) as outbox, open_broker() as broker:
        broker.script(b1=[no(400)])
        await store(outbox, "a1", "b1")
        async with relaying(outbox, broker):
            await settled(outbox)
            await trio.sleep(23 * 3600)
            assert await statuses(outbox) == {"a1": "sent", "b1": "invalid"}
            await trio.sleep(8 * 3600)
            assert await statuses(outbox) == {"b1": "invalid"}
            await trio.sleep(28 * 24 * 3600)
            assert await statuses(outbox) == {"b1": "invalid"}
            await trio.sleep(2 * 24 * 3600)
            assert await statuses(outbox) == {}


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_no_log_error_or_repr_shows_a_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["h%2Ash", "h*sh", base64.b64encode(b"ada:h*sh").decode(), "t0ken"]
    async with open_outbox(":memory:") as database, open_broker() as broker:
        broker.script(a1=[no(500), LOSE, no(404)])
        url = broker.url.replace("127", "ada:h%2Ash@127")
        settings: dict[str, Any] = {"headers": {"X-Api-Key": "t0ken"}}
        await store(database, "a1", "b1")
        shown = repr(RelaySettings(broker_url=url, **settings))
        async with relaying(database, url, **settings):
            await settled(database)
        shown += repr(await listed(database))
    assert {post.headers["authorization"] for post in broker.posts} == {f"Basic {secrets[2]}"}
    assert {post.headers["x-api-key"] for post in broker.posts} == {"t0ken"}
    assert "httpx" in {record.name for record in caplog.records}
    shown += "\n".join(f"{record.getMessage()} {record.args} {record.exc_info}" for record in caplog.records)
    assert [secret for secret in secrets if secret in shown] == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ada:h*sh@broker/",
        "http://",
        "http://ada:h*sh@/events",
        "broker:8080/h*sh@events",
        "http://ada:h*sh@broker:port/",
        "http://ada:h*sh@broker:0/",
        "http://ada:h*sh@bröker/",
        "http://ada:h*sh@broker/a b",
        "http://[ada:h*sh@broker",
        "",
        b"http://broker",
        7,
    ],
)
def test_a_url_that_is_none_is_refused_when_the_app_is_made(url: Any) -> None:
    with pytest.raises(ValueError, match=r"^broker_url is the URL that events are posted to, such as") as caught:
        App(":memory:", broker_url=url)
    assert "h*sh@" not in str(caught.value).replace("'broker:8080/h*sh@events'", "")


@pytest.mark.parametrize(
    "headers", [{"a b": "secret"}, {"": "secret"}, {"a": "sec\nret"}, {"a": "secr€t"}, {"ce-id": "1"}, ["a"], {1: "2"}]
)
def test_headers_that_cannot_be_sent_are_refused_without_their_values(headers: Any) -> None:
    with pytest.raises(ValueError, match=r"^headers") as caught:
        OutboxSettings(headers=headers)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": -1}, {"max_attempts": 1.5}, {"max_age": 0}, {"content_mode": "x"}],
)
def test_other_bad_options_are_refused_too(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        OutboxSettings(**options)


def test_a_group_of_options_must_be_of_its_class() -> None:
    for group in ("limits", "outbox", "web"):
        options: dict[str, Any] = {group: {"max_age": 5}}
        with pytest.raises(TypeError, match=rf"^{group} is made with (Limits|OutboxSettings|WebSettings)\("):
            App(":memory:", **options)


@pytest.mark.parametrize("missing", ["httpx", "cloudevents.core.bindings.http"])
def test_without_the_extra_the_error_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    App(":memory:")
    with pytest.raises(RomancyError, match=r"pip install 'trio_romancy\[web\]'"):
        App(":memory:", broker_url="http://broker")


# -- the app -----------------------------------------------------------------------------------------------------------


def database_of(app: App) -> Database:
    return probe(app).database


async def test_a_parked_event_can_be_looked_at_and_retried(database: str) -> None:
    async with open_broker() as broker:
        broker.decide = lambda _: no(404, "no such queue")
        async with App(database, broker_url=broker.url) as app:
            await store(database_of(app), "a1", "b1", "c1")
            probe(app).wake_relay()
            await settled(database_of(app))
            parked = await app.outbox.list(status=OutboxStatus.INVALID)
            assert [event.event_id for event in parked] == ["a1", "b1", "c1"]
            assert {event.error for event in parked} == {"the broker answered 404: no such queue"}
            broker.decide = lambda _: TAKE
            assert await app.outbox.retry("a1")
            assert (await settled(database_of(app)))["a1"] == "sent"
            assert not await app.outbox.retry("a1")
            assert not await app.outbox.retry("nobody")
            assert await app.outbox.retry_all(OutboxStatus.FAILED) == 0
            assert await app.outbox.retry_all() == 2
            assert set((await settled(database_of(app))).values()) == {"sent"}
            statistics = app.statistics().relay
            assert statistics is not None
            assert (statistics.sent, statistics.dead) == (3, 3)


async def test_the_outbox_is_listed_page_by_page(database: str) -> None:
    async with App(database) as app:
        await store(database_of(app), "b1", "a1", "a2")
        assert [event.event_id for event in await app.outbox.list()] == ["a1", "a2", "b1"]
        page = await app.outbox.list(limit=2)
        assert [event.event_id for event in page] == ["a1", "a2"]
        page = await app.outbox.list(limit=2, page_token=page.next_page_token)
        assert ([event.event_id for event in page], page.next_page_token) == (["b1"], None)
        assert [event.event_id for event in await app.outbox.list(instance_id="b")] == ["b1"]
        assert not await app.outbox.list(status="sent")  # type: ignore[arg-type]
        assert not await app.outbox.list(instance_id="\0")
        for token in ("c1", "\0", page_token(1, "a")):
            with pytest.raises(InvalidInputError, match="not the token of a page of events"):
                await app.outbox.list(page_token=token)
        for bad in ({"limit": 0}, {"status": "sending"}):
            with pytest.raises(ValueError, match=r"limit|sending"):
                await app.outbox.list(**bad)
        with pytest.raises(ValueError, match="failed, invalid or expired"):
            await app.outbox.retry_all(OutboxStatus.SENT)


async def test_without_a_broker_the_events_stay_where_they_are(database: str) -> None:
    async with App(database) as app:
        await store(database_of(app), "a1")
        await trio.sleep(3600)
        assert await statuses(database_of(app)) == {"a1": "pending"}
        assert app.statistics().relay is None


async def test_a_worker_that_loses_its_lease_sends_what_it_was_sending_under_the_next(database: str) -> None:
    never = trio.Event()
    async with open_broker() as broker:
        broker.script(a1=[Answer(waits_for=never)])
        async with App(database, broker_url=broker.url) as app:
            await store(database_of(app), "a1", "a2")
            probe(app).wake_relay()
            await broker.until(lambda: broker.ids == ["a1"])
            probe(app).abandon()
            assert await settled(database_of(app)) == {"a1": "sent", "a2": "sent"}
    assert broker.ids == ["a1", "a1", "a2"]


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_app_that_is_left_hands_back_what_it_has_not_sent_for_the_next_one(database: str) -> None:
    ids = [f"a{seq}" for seq in range(1, 30)]
    async with open_broker() as broker:
        async with App(database, broker_url=broker.url) as app:
            await store(database_of(app), *ids)
            probe(app).wake_relay()
            await broker.until(lambda: "a3" in broker.ids)
        begun = len(broker.ids)
        async with App(database, broker_url=broker.url) as app:
            assert await settled(database_of(app)) == dict.fromkeys(ids, "sent")
    assert begun < len(ids)
    assert broker.ids == ids

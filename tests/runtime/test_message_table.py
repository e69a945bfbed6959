"""Which message goes to which wait: each to one, in order, and none is lost when a wait closes or a chain goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_romancy import ChannelMode
from trio_romancy._data.journal_format import CarryOver, from_text
from trio_romancy._runtime.run import intake as intake_module
from trio_romancy._runtime.run.intake import Fetch, Intake, Search
from trio_romancy._runtime.run.message_table import LocalWait, MessageFilter, MessageTable, WaitQueue
from trio_romancy._runtime.run.operation import Operation
from trio_romancy._storage.sql.news import NewMessage
from trio_romancy._storage.sql.waits import Match, MatchResult, Wait
from trio_romancy.clock import Microseconds
from trio_romancy.model import EntryKind

SUBJECTS = ["a", "b"]
CHANNEL = "news"
Step = tuple[str, Any]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(SUBJECTS)),
        st.tuples(st.just("open"), st.sampled_from([None, *SUBJECTS])),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("search"), st.integers(0, 5)),
        st.tuples(st.just("hear"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("recur"), st.none()),
    ),
    max_size=60,
)


def operation(number: int) -> Operation:
    return Operation(f"wait:{number}", "wait_event", frozenset({EntryKind.EVENT_RECEIVED}))


@define
class Database:
    """All messages that were sent, and what the waits of an instance have got: the model."""

    subjects: list[str] = field(factory=list)
    """Subject of each message; the first has number 1."""
    got: list[int] = field(factory=list)

    def found(self, request: Wait, most: int) -> list[Match]:
        """Search as the SQL functions do."""
        numbers = [
            seq
            for seq, subject in enumerate(self.subjects, 1)
            if seq > request.after and request.subject in (None, subject)
        ]
        return [Match(seq, seq, "null") for seq in numbers[:most]]

    def left_for(self, filter: MessageFilter) -> list[int]:
        return [
            seq
            for seq, subject in enumerate(self.subjects, 1)
            if seq not in self.got and filter.subject in (None, subject)
        ]

    def take(self, filter: MessageFilter, seq: int) -> None:
        assert seq not in self.got, "two waits got the same message"
        assert filter.subject in (None, self.subjects[seq - 1])
        assert seq == self.left_for(filter)[0], "a message overtook another one"
        self.got.append(seq)


@define
class Events:
    """A table of waits for events, and searches whose results come at any time and in any order."""

    database: Database = field(factory=Database)
    table: MessageTable = field(factory=lambda: MessageTable("i", 0, None))
    opened: int = 0
    results: list[tuple[LocalWait, list[Match], int]] = field(factory=list)

    def open(self, subject: str | None) -> None:
        self.opened += 1
        wait = self.table.begin(operation(self.opened), MessageFilter(CHANNEL, subject))
        wait.queue.stored = wait.queue.first

    def close(self, wait: LocalWait) -> None:
        self.table.end(wait)
        wait.queue.stored = wait.queue.first

    def search(self, wait: LocalWait) -> None:
        found = self.database.found(*self.table.request(wait.queue))
        self.results.append((wait, found, len(self.database.subjects)))

    def hear(self, index: int) -> None:
        wait, found, searched_at = self.results.pop(index)
        if wait.queue.first is not None:
            self.table.offer(wait.queue, found, searched_at, is_cut=False)

    def take(self) -> bool:
        taken = self.table.next()
        if taken is None:
            return False
        wait, match = taken
        self.database.take(wait.filter, match.seq)
        self.table.consume(wait.filter, match.seq)
        self.close(wait)
        return True

    def recur(self) -> None:
        """Go on as another instance, which knows what the payload of its first entry says."""
        for wait in [*self.table.open.values()]:
            self.close(wait)
        self.results.clear()
        carried = from_text(EntryKind.CONTINUED, self.table.pack().to_text())
        assert isinstance(carried, CarryOver)
        self.table = MessageTable("i#2", 0, "i")
        self.table.unpack(carried)

    def do(self, step: Step) -> None:
        what, value = step
        waits = [*self.table.open.values()]
        if what == "send":
            self.database.subjects.append(value)
        elif what == "open":
            self.open(value)
        elif what == "close" and value < len(waits):
            self.close(waits[value])
        elif what == "search" and value < len(waits):
            self.search(waits[value])
        elif what == "hear" and value < len(self.results):
            self.hear(value)
        elif what == "take":
            self.take()
        elif what == "recur":
            self.recur()

    def settle(self) -> None:
        """Search for all waits, and give them what was found, until there is nothing more."""
        while True:
            for wait in self.table.open.values():
                self.search(wait)
            while self.results:
                self.hear(0)
            if not self.take():
                return


@settings(max_examples=300, deadline=None)
@given(steps)
def test_each_event_goes_to_one_wait_in_order_and_none_is_lost(steps: list[Step]) -> None:
    events = Events()
    for step in steps:
        events.do(step)
    events.settle()
    for wait in events.table.open.values():
        assert not events.database.left_for(wait.filter)
    for _ in events.database.subjects:  # what is left is there for waits that begin now
        events.open(None)
    events.settle()
    assert sorted(events.database.got) == list(range(1, len(events.database.subjects) + 1))


@given(st.lists(st.sampled_from([None, *SUBJECTS]), max_size=5), st.lists(st.sampled_from(SUBJECTS), max_size=8))
def test_the_first_event_goes_to_the_first_wait_that_it_is_for(waits: list[str | None], sent: list[str]) -> None:
    events = Events(Database(sent))
    for subject in waits:
        events.open(subject)
    expected: dict[str, int] = {}
    for seq, subject in enumerate(sent, 1):
        open = (f"wait:{n}" for n, of in enumerate(waits, 1) if of in (None, subject) and f"wait:{n}" not in expected)
        if (first := next(open, None)) is not None:
            expected[first] = seq
    got: dict[str, int] = {}
    for wait in events.table.open.values():
        events.search(wait)
    while events.results:
        events.hear(0)
    while (taken := events.table.next()) is not None:
        got[taken[0].operation.id] = taken[1].seq
        events.take()
    assert got == expected


# -- subscriptions -----------------------------------------------------------------------------------------------------


def receive_all(table: MessageTable, subjects: Sequence[str], count: int) -> list[int]:
    """Receive as many messages as there are, at most ``count``. Returns their numbers."""
    database, got = Database([*subjects]), []
    for number in range(count):
        subscription = table.subscriptions[CHANNEL]
        filter = MessageFilter(CHANNEL, None, subscription)
        wait = table.begin(operation(number), filter)
        wait.queue.stored = wait
        request, most = table.request(wait.queue)
        table.offer(wait.queue, database.found(request, most), 1, is_cut=False)
        if (taken := table.next()) is not None:
            table.consume(filter, taken[1].seq)
            got.append(taken[1].seq)
        table.end(wait)
    return got


@given(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_a_subscription_gets_what_was_sent_after_it_began_and_the_next_of_the_chain_gets_the_rest(
    before: int, received: int, more: int
) -> None:
    table = MessageTable("i", 0, None)
    table.subscribe(CHANNEL, "subscribe:1", ChannelMode.BROADCAST, before)
    sent = ["a"] * (before + received + more)
    assert receive_all(table, sent, received) == [before + n for n in range(1, received + 1)]
    following = MessageTable("i#2", 0, "i")
    following.unpack(table.pack())
    following.subscribe(CHANNEL, "subscribe:1", ChannelMode.BROADCAST, len(sent))
    assert receive_all(following, sent, 10) == [before + received + n for n in range(1, more + 1)]


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_subscription_that_ended_gets_nothing_from_before_when_it_begins_again(received: int, sent: int) -> None:
    table = MessageTable("i", 0, None)
    table.subscribe(CHANNEL, "subscribe:1", ChannelMode.DIRECT, 0)
    all = ["a"] * (received + sent)
    receive_all(table, all, received)
    assert table.unsubscribe(CHANNEL) is not None
    assert table.unsubscribe(CHANNEL) is None
    table.subscribe(CHANNEL, "subscribe:2", ChannelMode.DIRECT, len(all))
    assert receive_all(table, [*all, "a"], 10) == [len(all) + 1]


# -- the intake asks for what a wait may miss --------------------------------------------------------------------------


class StandingClock:
    def now(self) -> Microseconds:
        return 1


@define
class LateDatabase:
    """Takes the place of the journal and of the fetcher: waits become durable, and fetches answer, when it is told."""

    database: Database = field(factory=Database)
    opening: list[tuple[Wait, int, Callable[[Sequence[Match] | None], None]]] = field(factory=list)
    closing: set[str] = field(factory=set)
    stored: set[str] = field(factory=set)
    is_asked: bool = False
    fetch: tuple[Fetch, list[tuple[Search, list[Match]]], dict[int, list[WaitQueue]], int] | None = None
    intake: Intake = field(init=False)

    def __attrs_post_init__(self) -> None:
        here: Any = cast("Any", self)
        table, clock = MessageTable("i", 0, None), cast("Any", StandingClock())
        self.intake = Intake("i", table, here, clock, here, (), may_be_stored=False, notify=lambda: None)

    def append_wait(
        self, wait: Wait, most: int, on_open: Callable[[Sequence[Match] | None], None], *, is_stored: bool
    ) -> None:
        self.opening.append((wait, most, on_open))

    def append_close(self, instance_id: str, operation_id: str) -> None:
        self.closing.add(operation_id)

    def fetch_for(self, intake: Intake) -> None:
        self.is_asked = True

    def commit(self) -> None:
        """Make all waits durable that have begun or ended, and find the first messages for them."""
        opening, self.opening = self.opening, []
        self.stored |= {wait.operation_id for wait, _, _ in opening}
        self.stored -= self.closing
        self.closing.clear()
        for on_open, found in [(on_open, self.database.found(wait, most)) for wait, most, on_open in opening]:
            on_open(found)

    def send(self, subject: str) -> None:
        """Store a message. It makes the instance look again, if a stored wait may be for it."""
        self.database.subjects.append(subject)
        if self.stored:
            self.intake.refresh()

    def begin_fetch(self) -> None:
        if self.is_asked and self.fetch is None:
            self.is_asked = False
            fetch = self.intake.begin_fetch()
            last = len(self.database.subjects)
            chosen: dict[int, list[WaitQueue]] = {}
            if fetch.begins_with_news and fetch.since is None:
                self.intake.search_all(fetch)
            elif fetch.since is not None:
                new = enumerate(self.database.subjects[fetch.since :], fetch.since + 1)
                chosen = self.intake.choose(NewMessage(seq, CHANNEL, subject, "", True) for seq, subject in new)
            results = [(one, self.database.found(one.wait, one.most)) for one in fetch.searches]
            self.fetch = fetch, results, chosen, last

    def end_fetch(self) -> None:
        if self.fetch is not None:
            (fetch, results, chosen, last), self.fetch = self.fetch, None
            assert self.intake.offer_news(chosen, [Match(seq, seq, "null") for seq in chosen], 1)
            for search, found in results:
                self.intake.offer_fetched(search, found, 1)
            self.intake.end_fetch(fetch, 1, last if fetch.begins_with_news else None)

    def take(self) -> bool:
        taken = self.intake.table.next()
        if taken is None:
            return False
        wait, match = taken
        assert match.seq not in self.database.got
        self.database.got.append(match.seq)
        self.intake.receive(wait, match)
        return True


late_steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(SUBJECTS)),
        st.tuples(st.just("open"), st.sampled_from([None, *SUBJECTS])),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["commit", "begin", "end", "take"]), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("many", [1, 50])
@given(steps=late_steps)
def test_a_wait_that_can_get_a_message_gets_it_without_another_message_being_sent(
    many: int, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    monkeypatch.setattr(intake_module, "_MANY", many)  # with 1 even a single wait is served by what is new
    late, number = LateDatabase(), 0
    for what, value in steps:
        waits = [*late.intake.table.open.values()]
        if what == "send":
            late.send(value)
        elif what == "open":
            number += 1
            late.intake.open(operation(number), MessageFilter(CHANNEL, value))
        elif what == "close" and value < len(waits):
            late.intake.close(waits[value])
        elif what == "commit":
            late.commit()
        elif what == "begin":
            late.begin_fetch()
        elif what == "end":
            late.end_fetch()
        elif what == "take":
            late.take()
    for _ in range(200):
        late.commit()
        late.begin_fetch()
        late.end_fetch()
        late.take()
    assert not late.is_asked, "it fetches without end"
    for wait in late.intake.table.open.values():
        assert not late.database.left_for(wait.filter)


def test_a_wait_whose_messages_went_to_a_later_one_while_they_were_fetched_gets_the_next() -> None:
    late = LateDatabase()
    late.intake.open(operation(1), MessageFilter(CHANNEL))
    late.commit()
    late.send("a")
    late.send("a")
    late.begin_fetch()  # as many messages as there are waits
    late.intake.open(operation(2), MessageFilter(CHANNEL, "a"))
    late.commit()
    assert late.take()
    late.end_fetch()
    assert late.is_asked
    late.begin_fetch()
    late.end_fetch()
    assert late.take()
    assert late.database.got == [1, 2]


def test_a_message_that_found_the_wait_before_goes_to_the_wait_that_took_its_place() -> None:
    late = LateDatabase()
    for number in (1, 2, 3):
        late.intake.open(operation(number), MessageFilter(CHANNEL))
    late.commit()
    late.send("a")
    late.begin_fetch()
    late.end_fetch()
    sought, _ = late.intake.table.request(late.intake.table.queues[MessageFilter(CHANNEL)])
    late.database.subjects.append("a")  # its sender has found the first wait, and says so after that has ended
    result = MatchResult(sought, late.database.found(sought, 10), True, 1)
    assert late.take()
    late.commit()
    late.intake.offer(result)
    assert late.take()
    assert late.database.got == [1, 2]
    late.commit()
    assert late.stored == {"wait:3"}

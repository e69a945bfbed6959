"""Tells a workflow what its journal holds and what its mailbox receives: one thing at a time, in a recorded order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio
from sqlalchemy import Connection

from ..._data.codec import dumps, loads
from ..._storage.dialects.errors import is_transient
from ..._storage.outages import retry_while_away
from ..._storage.session import Session
from ..._storage.sql.instances import JournalEntry, has_entry, insert_entries
from ..._storage.sql.messages import take as take_message
from ..._storage.sql.waits import Match
from ..._storage.sql.workers import fence
from ...clock import Microseconds
from ...errors import LeaseLostError
from ...model import Kind, Status
from ..operations.attempts import Dropped
from .mailbox import Mailbox, PendingOutcome
from .message_table import LocalWait

if TYPE_CHECKING:
    from ..actor.actor import Actor

AHEAD: Microseconds = 200_000
"""So long before its next timer is due a passive instance is taken up: then it is in time, however busy its worker."""
_PATIENCE = 5.0
"""Seconds that a replay waits for code that is busy with something else than an operation."""
_GRACE: Microseconds = 50_000
"""How long an instance must have waited before its status says so."""


class Sequencer:
    """The one who empties an actor's mailbox.

    Only when every task of the workflow has come to rest is the next letter recorded and told. A replay tells the
    same from the journal, under the same rule, and so leads through the same states.
    """

    def __init__(self, actor: Actor) -> None:
        self.is_hurried = False
        """Whether to give the instance back as soon as it only waits."""
        self._actor = actor
        self._mailbox = Mailbox(actor.clock)
        self._is_recording = False
        self._alarm: int | None = None
        """What will wake it: it has no task now."""

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits to be recorded, and nothing is being recorded."""
        return not self._mailbox and not self._is_recording

    def post(self, letter: PendingOutcome) -> None:
        """Have it recorded and told when its turn comes."""
        self._mailbox.post(letter)
        self._get_up()

    def post_at(self, when: Microseconds, letter: PendingOutcome) -> None:
        """The same, not before that time."""
        self._actor.idle_since = None
        self._mailbox.post_at(when, letter)
        self._get_up()

    def poke(self) -> None:
        """Look at the state of the actor again."""
        self._mailbox.poke()
        self._get_up()

    async def run(self) -> None:
        """Tell the journal, then the mailbox, until the workflow function has ended or there is a long rest."""
        await self._try(self._tell_all)

    def close(self) -> None:
        """Nobody will tell the workflow anything any more. Its task, if it has one, must have ended."""
        if self._alarm is not None:
            self._actor.home.alarms.cancel(self._alarm)
            self._alarm = None

    async def _try(self, fn: Callable[[], Awaitable[None]]) -> None:
        actor = self._actor
        try:
            await fn()
        except (Dropped, LeaseLostError):
            actor.drop()
        except Exception as error:
            actor.crash(error)
        finally:
            if self._alarm is None:
                await self._mailbox.aclose()

    async def _tell_all(self) -> None:
        await self._tell_journal()
        await self._settled()
        self._actor.forget_stored_waits()
        await self._tell_mailbox()

    async def _tell_mailbox(self) -> None:
        actor = self._actor
        while self._alarm is None and not actor.is_ending and not actor.is_dropped:
            await self._settled()
            if actor.is_ending or actor.is_dropped:
                break  # meanwhile: what comes now, the end sees to
            letter = self._next()
            if letter is None:
                await self._rest()
            elif letter.operation.is_open:
                self._is_recording = True
                await self._record(letter)
                self._is_recording = False

    async def _settled(self) -> None:
        """Wait until no task of the workflow can go on by itself."""
        while not self._actor.replay.is_settled():
            await trio.lowlevel.checkpoint()

    # -- the journal -----------------------------------------------------------------------------------------------

    async def _tell_journal(self) -> None:
        actor, replay = self._actor, self._actor.replay
        while not actor.is_ending:
            await self._settled()
            record = replay.next_record()
            if record is None or actor.is_ending:
                break
            if replay.asked_for(record) is None and not (replay.waits_outside() and await self._comes_to_ask(record)):
                actor.give_up(replay.mismatch())
                return
            replay.tell_next()
        if not replay.is_live and not actor.is_ending:
            if (misfit := replay.unknown_change()) is not None and not replay.waits_outside():
                actor.give_up(misfit)
                return
            if self._mailbox and (letter := self._mailbox.receive_nowait()) is not None:
                await self._record(letter)  # a cancel request: what has not begun will not begin any more
                await self._settled()
            replay.go_live()

    async def _comes_to_ask(self, record: JournalEntry) -> bool:
        """Some task waits for something that is no operation: it may yet come to ask for the record."""
        replay = self._actor.replay
        with trio.move_on_after(_PATIENCE):
            while replay.asked_for(record) is None:
                await replay.added()
            await self._settled()
            return replay.next_record() is record and replay.asked_for(record) is not None
        return False

    # -- the mailbox -----------------------------------------------------------------------------------------------

    def _next(self) -> PendingOutcome | None:
        """The next letter; or the next message or due timer, whichever came first."""
        waits = self._actor.used_waits
        if waits is None or self._mailbox:
            return self._mailbox.receive_nowait()
        due, match = self._mailbox.due_timer(), waits.next()
        if match is not None and (due is None or match[1].sent_at <= due):
            return self._letter_of(*match)
        if due is not None and not waits.have_looked_since(due):
            if not waits.is_looking:
                waits.look()  # something may have come before the time was over
            return None
        return self._mailbox.receive_nowait()

    def _letter_of(self, wait: LocalWait, found: Match) -> PendingOutcome:
        actor, operation = self._actor, wait.operation
        kind = wait.filter.kind

        async def receive() -> JournalEntry | None:
            record = actor.append(operation.id, kind, found.payload)
            actor.waits.receive(wait, found)
            return record

        async def take() -> JournalEntry | None:
            entry = actor.entry(operation.id, kind, found.payload)
            if not await actor.journal.call(take_message, found.seq, entry):
                actor.waits.give_up(wait.filter, found.seq)
                return None
            actor.committed(entry)
            actor.waits.receive(wait, found)
            return JournalEntry(entry["seq"], operation.id, kind, loads(found.payload), entry["recorded_at"])

        return PendingOutcome(operation, kind, found.payload, via=take if wait.filter.is_competing else receive)

    async def _record(self, letter: PendingOutcome) -> None:
        """Record what a letter says, and tell the workflow."""
        actor, operation, payload = self._actor, letter.operation, letter.payload
        actor.idle_since = None
        if letter.kind is Kind.CANCEL_REQUESTED:
            payload = dumps({"reason": loads(payload), "running": self._running()})
        record: JournalEntry | None
        if letter.session is not None:
            record = await record_in(actor, letter.session, letter)
            if record is None:
                operation.stir()
        elif letter.via is not None:
            record = await letter.via()
        else:
            record = actor.append(operation.id, letter.kind, payload, letter.effects)
        if record is None:
            return
        actor.replay.now = record.recorded_at
        operation.tell(record)

    def _running(self) -> list[str]:
        """Activities that have begun, or may have begun before a crash: they go on to their outcome."""
        replay = self._actor.replay
        activities = [operation.id for operation in replay.in_flight.values() if operation.scope is not None]
        if replay.is_live or self._actor.claim.status not in (Status.PENDING, Status.WAITING):
            return activities
        return [id for id in activities if replay.failures_of(id)]

    # -- rest ------------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Nothing is to be done: wait for the next letter, or give the instance back if that is far away."""
        actor = self._actor
        if actor.is_draining and not any(operation.is_executing for operation in actor.replay.in_flight.values()):
            actor.let_go(Status.WAITING if self._is_idle() else Status.PENDING)
            return
        if not self._is_idle():
            actor.idle_since = None
            waits = actor.used_waits
            # A due timer may have to wait for the answer of a look, and that for the database.
            await self._mailbox.wait(None, for_timers=waits is None or not waits.is_looking)
            return
        now = actor.clock.now()
        if actor.idle_since is None:
            actor.idle_since = now
        if actor.is_unproven:
            actor.prove()
        until = actor.idle_since + actor.settings.idle_timeout
        if self.is_hurried or now >= until:
            wake = actor.next_wake(after=now)
            if wake is None or wake > now + AHEAD:
                actor.let_go(Status.WAITING)
                return
            until = wake  # it would be taken up again at once
        if actor.status is not Status.WAITING:
            if now >= actor.idle_since + _GRACE:
                actor.set_status(Status.WAITING)
            else:
                until = min(until, actor.idle_since + _GRACE)
        if actor.status is Status.WAITING:
            self._lie_down(until)
        else:
            await self._mailbox.wait(until)

    def _lie_down(self, until: Microseconds) -> None:
        """Wait without a task, which is half of what an actor that waits weighs."""
        due = self._mailbox.next_timer()
        self._alarm = self._actor.home.alarms.set(until if due is None else min(due, until), self._get_up)

    def _get_up(self) -> None:
        if self._alarm is not None:
            self.close()
            self._actor.start_soon(partial(self._try, self._tell_mailbox))

    def _is_idle(self) -> bool:
        waits = self._actor.used_waits
        if waits is not None and waits.is_looking:
            return False
        awaited = [operation for operation in self._actor.replay.in_flight.values() if operation.task is not None]
        return bool(awaited) and all(operation.waits for operation in awaited)


async def record_in(actor: Actor, session: Session, letter: PendingOutcome) -> JournalEntry | None:
    """Commit the transaction of an activity together with its entry. None if the database lost or refused it."""
    entry = actor.entry(letter.operation.id, letter.kind, letter.payload)
    record = JournalEntry(entry["seq"], letter.operation.id, letter.kind, loads(letter.payload), entry["recorded_at"])

    effects = letter.effects

    def write(connection: Connection) -> None:
        insert_entries(connection, [entry])
        fence(connection, actor.journal.lease, actor.clock.now() + actor.settings.lease_time)
        if effects is not None:
            effects.address(entry["seq"])
            effects.lock(connection, actor.clock.now())
            effects.apply(connection, actor.clock.now(), None)  # who is resident here is woken through the database

    failure: Exception | None = None
    # Once it has begun, nothing but its own answer ends it: a torn commit has an unknown fate.
    with trio.CancelScope(shield=True):
        try:
            try:
                await session.commit_with(write)
            finally:
                await session.aclose()
        except LeaseLostError:
            raise
        except Exception as error:
            failure = error
    if failure is not None and not (is_transient(failure) and await _is_stored(actor, record)):
        letter.refusal = None if is_transient(failure) else failure
        return None
    actor.committed(entry, effects)
    if actor.is_unproven:
        actor.prove()
    if effects is not None:
        actor.home.effects_stored()
    return record


async def _is_stored(actor: Actor, record: JournalEntry) -> bool:
    """Whether a commit without an answer was made.

    The fence waits for it, should the server still be at it. Where there is one writer the commit has ended, and
    waiting would be for the transaction of a sibling, which waits for its turn to be recorded, which is ours now.
    """
    database = actor.home.database
    if database.has_one_writer:
        return await retry_while_away(database, database.read, has_entry, actor.instance_id, record.seq)

    def has_entry_for_certain(connection: Connection) -> bool:
        fence(connection, actor.journal.lease, actor.clock.now() + actor.settings.lease_time)
        return has_entry(connection, actor.instance_id, record.seq)

    return await retry_while_away(database, database.run, has_entry_for_certain)

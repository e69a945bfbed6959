"""Tells a workflow what its journal holds and what its mailbox receives: one thing at a time, in a recorded order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from attrs import evolve

from ..._data.journal_format import (
    CancelRequested,
    EventReceived,
    MessageReceived,
    Payload,
    from_text,
    receipt_text,
)
from ..._data.large import decoded
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.messages import take as take_message
from ..._storage.sql.waits import Match
from ...clock import CLAIMED_AHEAD, Microseconds
from ...errors import InvalidDataError, LeaseLostError
from ...model import EntryKind, Status
from .exits import RunGone
from .mailbox import PendingOutcome
from .message_table import LocalWait
from .outside import name_outside_waits
from .phase import REPLAYING
from .run import InstanceRun
from .session_commit import commit_with_entry

_PATIENCE = 5.0
"""Seconds that a replay waits for code that is busy with something other than an operation."""
_GRACE: Microseconds = 50_000
"""Time for which an instance must have waited before its status is ``waiting``."""
_SOON: Microseconds = 100_000
"""Time after which to look again at an instance whose next wake-up is due."""
_SHOWN_WITHIN: Microseconds = 1_000_000
"""Time for which a waiting instance must have waited for something else before its row says so."""


class Sequencer:
    """Empties the mailbox of a run.

    Only when all tasks of the workflow rest is the next outcome recorded and told. A replay tells the same from the
    journal, under the same rule, and so leads through the same states.
    """

    __slots__ = ("_alarm", "_mailbox", "_run")

    def __init__(self, run: InstanceRun) -> None:
        self._run = run
        self._mailbox = run.open_mailbox()
        self._alarm: int | None = None
        """Alarm that starts the task again; None while the task runs, or once it is no longer needed."""
        if run.runs_function:
            run.start_soon(partial(self._guard, self._tell_all))

    def wake(self) -> None:
        """Look at the mailbox again, if no task of the sequencer waits for it."""
        if self._alarm is not None:
            self.close()
            self._run.start_soon(partial(self._guard, self._tell_mailbox))

    def close(self) -> None:
        """Cease to receive. The sequencer's task, if it has one, has ended."""
        if self._alarm is not None:
            self._run.env.alarms.cancel(self._alarm)
            self._alarm = None

    async def _guard(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Run ``fn``. What it raises stops the run, and never reaches the supervisor's nursery."""
        run = self._run
        try:
            await fn()
        except (RunGone, LeaseLostError):
            run.abandon()
        except InvalidDataError as error:
            run.reject_code(error)  # a message that cannot be read
        except Exception as error:
            run.crash(error)
        finally:
            if self._alarm is None:
                await self._mailbox.aclose()

    async def _tell_all(self) -> None:
        await self._tell_journal()
        await self._run.settled()
        self._run.close_unasked_waits()
        await self._tell_mailbox()

    async def _tell_mailbox(self) -> None:
        run = self._run
        while self._alarm is None and run.runs_function:
            await self._run.settled()
            if not run.runs_function:
                break  # the function has ended meanwhile: the actor does the rest
            pending = self._next()
            if pending is None:
                await self._rest()
            elif pending.operation.is_open:
                self._mailbox.is_recording = True
                await self._record(pending)
                self._mailbox.is_recording = False

    # -- the journal -----------------------------------------------------------------------------------------------

    async def _tell_journal(self) -> None:
        run, cursor, in_flight = self._run, self._run.cursor, self._run.in_flight
        while run.runs_function:
            await self._run.settled()
            entry = cursor.next_entry()
            if entry is None or not run.runs_function:
                break
            operation = in_flight.asked_for(entry)
            if operation is None and run.waits_outside() and await self._comes_to_ask(entry):
                operation = in_flight.asked_for(entry)
            if operation is None:
                run.reject_code(cursor.mismatch([*in_flight.by_id.values()]))
                return
            cursor.advance(entry)
            operation.tell(entry)
        if run.phase is REPLAYING:
            if (unasked := cursor.unasked_change()) is not None and not run.waits_outside():
                run.reject_code(unasked)
                return
            if self._mailbox and (pending := self._mailbox.receive_nowait()) is not None:
                await self._record(pending)  # a cancel request: operations that have not begun will not begin
                await self._run.settled()
            if run.phase is REPLAYING:
                await self._go_live()

    async def _go_live(self) -> None:
        """Have what the code asks for carried out, in the order in which it was asked for.

        Of two waits for the same message, the one that began first gets it, as if the instance had not left memory.
        """
        run = self._run
        run.go_live()
        for operation in [*run.in_flight.by_id.values()]:
            operation.notify()
            await run.settled()

    async def _comes_to_ask(self, expected: JournalEntry) -> bool:
        """Wait for a task that is busy with something other than an operation: it may yet ask for the entry."""
        cursor, in_flight = self._run.cursor, self._run.in_flight
        with trio.move_on_after(_PATIENCE):
            while in_flight.asked_for(expected) is None:
                await in_flight.added()
            await self._run.settled()
            return cursor.next_entry() is expected and in_flight.asked_for(expected) is not None
        return False

    # -- the mailbox -----------------------------------------------------------------------------------------------

    def _next(self) -> PendingOutcome | None:
        """Return the next pending outcome. Otherwise the next message or due timer, whichever is earlier."""
        intake = self._run.used_intake
        if intake is None or self._mailbox:
            return self._mailbox.receive_nowait()
        due, match = self._mailbox.due_timer(), intake.table.next()
        if match is not None and (due is None or match[1].sent_at <= due):
            return self._outcome_of(*match)
        if due is not None and not intake.has_searched_since(due):
            if not intake.is_fetching:
                intake.fetch_all()  # a message may have come before the time was over
            return None
        return self._mailbox.receive_nowait()

    def _outcome_of(self, wait: LocalWait, match: Match) -> PendingOutcome:
        """Return the outcome of a wait that gets a message."""
        run, operation, intake = self._run, wait.operation, self._run.intake
        kind = wait.filter.kind

        async def receive() -> JournalEntry | None:
            text, payload = await decoded(len(match.payload), partial(_receipt, run.instance_id, wait, match))
            if not operation.is_open:
                return None  # it was closed while its message was decoded
            row = run.writer.append_row(operation.id, kind, text)
            intake.receive(wait, match)
            return JournalEntry(row["seq"], operation.id, kind, payload, row["recorded_at"])

        async def take() -> JournalEntry | None:
            text, payload = await decoded(len(match.payload), partial(_receipt, run.instance_id, wait, match))
            row = run.writer.next_row(operation.id, kind, text)
            if not await run.journal.call(take_message, match.seq, row):
                intake.withdraw(wait, match.seq)
                return None
            run.writer.committed(row)
            intake.receive(wait, match)
            return JournalEntry(row["seq"], operation.id, kind, payload, row["recorded_at"])

        return PendingOutcome(operation, kind, match.payload, record=take if wait.filter.is_competing else receive)

    async def _record(self, pending: PendingOutcome) -> None:
        """Record an outcome, and tell the workflow."""
        run, operation, payload = self._run, pending.operation, pending.payload
        run.idle_since = None
        if pending.kind is EntryKind.CANCEL_REQUESTED:
            payload = CancelRequested.text(payload, self._running())
        entry: JournalEntry | None
        if pending.session is not None:
            entry = await commit_with_entry(run, pending.session, pending)
            if entry is None:
                operation.notify()
        elif pending.record is not None:
            entry = await pending.record()
        else:
            entry = run.writer.append(operation.id, pending.kind, payload, pending.effects)
        if entry is None:
            return
        run.cursor.now = entry.recorded_at
        run.cursor.is_repeating = False
        operation.tell(entry)

    def _running(self) -> list[str]:
        """Return the activities that go on to their outcome: they have begun, or may have begun before a crash."""
        run = self._run
        activities = [operation.id for operation in run.in_flight.by_id.values() if operation.scope is not None]
        if run.is_live or run.claim.status not in (Status.PENDING, Status.WAITING):
            return activities
        return [id for id in activities if run.cursor.failures_of(id)]

    # -- rest ------------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Wait for the next outcome, or release the instance if that is far away."""
        run, env = self._run, self._run.env
        name_outside_waits(run)
        if env.host.is_draining and not run.in_flight.is_executing:
            run.writer.show(run.in_flight)
            run.release(Status.WAITING if self._is_idle() else Status.PENDING)
            return
        if not self._is_idle():
            run.idle_since = None
            # A due timer may have to wait for the answer of a fetch, and that for the database.
            await self._mailbox.wait(None, for_timers=not run.is_fetching)
            return
        now = env.clock.now()
        if run.idle_since is None:
            run.idle_since = now
        if run.writer.on_probation:
            run.writer.clear_probation()
        until = run.idle_since + env.settings.idle_timeout
        if run.is_passivated or now >= until:
            wake = run.next_wake()
            if wake is None or wake > now + CLAIMED_AHEAD:
                run.writer.show(run.in_flight)
                run.release(Status.WAITING)
                return
            # A released instance would be claimed again at once. What is due already is about to wake by itself: looked
            # at again and again, it would not come to that.
            until = wake if wake > now else now + _SOON
        if run.writer.status is not Status.WAITING:
            if now >= run.idle_since + _GRACE:
                run.writer.show(run.in_flight)
                run.writer.set_status(Status.WAITING)
            else:
                until = min(until, run.idle_since + _GRACE)
        elif run.writer.batch is not None and run.writer.is_outdated(
            run.in_flight
        ):  # else an earlier run has shown them
            if now >= run.writer.time + _SHOWN_WITHIN:
                run.writer.show(run.in_flight)
                run.writer.set_status(Status.WAITING)
            else:
                until = min(until, run.writer.time + _SHOWN_WITHIN)
        if run.writer.status is Status.WAITING:
            self._lie_down(until)
        else:
            await self._mailbox.wait(until)

    def _lie_down(self, until: float) -> None:
        """Wait without a task, which takes half of the memory of a waiting actor."""
        due = self._mailbox.next_timer()
        self._alarm = self._run.env.alarms.set(until if due is None else min(due, until), self.wake)

    def _is_idle(self) -> bool:
        return not self._run.is_fetching and self._run.in_flight.only_waits()


def _receipt(instance_id: str, wait: LocalWait, match: Match) -> tuple[str, Payload]:
    """Return the payload of the entry that records a match, as text and as value.

    It says whether the data fit the wait. If a replay cannot decode data that did fit, the code has changed.

    Raises:
      InvalidDataError: naming the message, if it cannot be read.
    """
    try:
        payload = from_text(wait.filter.kind, match.payload)
    except InvalidDataError as error:
        what = f"instance {instance_id!r}, {wait.operation.id!r}: message {match.seq} of {wait.filter.channel!r}"
        raise InvalidDataError(f"{what} cannot be read", error.problems) from None
    if not isinstance(payload, EventReceived | MessageReceived):
        return match.payload, payload
    channel, problems = wait.filter.channel, wait.decode(payload.data)
    return receipt_text(match.payload, channel, problems), evolve(payload, channel=channel, problems=problems)

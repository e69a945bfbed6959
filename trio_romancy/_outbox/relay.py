"""The relayer: posts the events of the outbox to the broker."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from typing import ParamSpec, TypeVar

import trio
from attrs import define, field, frozen
from sqlalchemy import Connection

from .._data.log_fields import about
from .._settings import LEAVE_WITHIN, RELAY_GRACE, RelaySettings
from .._storage.database import Database, SQLFunction
from .._storage.outages import retry_while_away
from .._storage.sql.outbox import DEAD, delete_finished
from .._storage.sql.outbox_claims import (
    DAMAGED_DUE,
    Claimed,
    Outcome,
    claim_due,
    next_due,
    park_damaged,
    record_outcome,
    release,
    release_all,
)
from ..clock import Clock, Microseconds
from ..model import OutboxStatus
from .broker import Broker, Verdict, open_broker

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.relay")

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two queries of an outbox that other processes can write to as well."""
_REST = 4.0
"""Seconds without a query for each second of a query that has found nothing. A full outbox takes long to search while
its broker is away."""
_RESTART_AFTER = 1.0
"""Seconds before a relayer that failed goes on."""
_CLEAN_UP_EVERY = 6 * 3600.0
"""Seconds between two deletions of finished events."""
_CLEAN_UP_AT_ONCE = 200
"""Events that one transaction deletes."""
_MOST_DOUBLINGS = 30
"""Doublings after which every delay is the longest one."""


@frozen
class RelayStatistics:
    """Numbers of one relayer since the app was opened."""

    sent: int
    """Events that the broker has taken."""
    retried: int
    """Failed attempts that are followed by another one."""
    dead: int
    """Events that have failed, expired, or are invalid: no attempt follows."""
    sending: int
    """Events that are being sent now."""


@define(eq=False)
class _Report:
    """Result of one event of a run, for the task that records results."""

    event: Claimed
    outcome: Outcome | None
    """Outcome of the attempt; None: the event was not sent."""
    ends_run: bool
    """Whether the run ends with this event."""
    has_rest: bool
    """Whether events of the run are left, to be released."""
    was_held: bool = False
    """Whether the claim still held when this was recorded, so that the run may go on."""
    is_recorded: trio.Event = field(factory=trio.Event)
    """Set once the transaction with this report has committed."""


class Relay:
    """Posts the events of the outbox as CloudEvents: at least once, those of one instance in order.

    An event is posted once the outcome of all earlier events of its instance is durable: each was taken, or no attempt
    follows. Different instances do not wait for each other, except for a connection. An event that was posted and not
    recorded, because the process died or the answer was lost, is posted again under the same id, by this relayer or
    another one. Such a repetition can arrive after later events of the instance; the first post of an event never does.

    One task talks to the database: each of its transactions records the outcomes since the last one, and claims events
    to send next. For each claimed instance a task posts its events, one after the other.
    """

    def __init__(self, database: Database, clock: Clock, worker_id: str, settings: RelaySettings) -> None:
        self._database = database
        self._clock = clock
        self._me = worker_id
        self._settings = settings
        self._notified = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._limiter = trio.CapacityLimiter(settings.concurrency)
        self._reports: list[_Report] = []
        self._runs = 0
        self._last_until: Microseconds = 0
        self._is_stopping = False
        self._is_refused = False
        self._sent = self._retried = self._dead = 0

    def notify(self) -> None:
        """Query the outbox at once, because it may have new events."""
        self._notified.set()

    def statistics(self) -> RelayStatistics:
        """Return numbers about this relayer."""
        return RelayStatistics(self._sent, self._retried, self._dead, self._limiter.borrowed_tokens)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until :meth:`drain` is called. No failure of an event, the broker or the database ends it.

        If it is cancelled, nothing is recorded, as if the process had died: claimed events are due again after the
        claim time, or as soon as a relayer of the same worker id runs.
        """
        self._ended = trio.Event()
        try:
            while not self._is_stopping:
                try:
                    with trio.CancelScope() as self._scope:
                        await self._serve()
                except Exception:
                    _logger.exception("the relayer of worker %s failed: it goes on", self._me)
                    await trio.sleep(_RESTART_AFTER)
            with trio.move_on_after(LEAVE_WITHIN):
                await self._write(release_all, self._me, self._clock.now())
        finally:
            self._ended.set()

    async def drain(self) -> None:
        """Give events that are being sent a short time, release all others, and wait until :meth:`run` has ended."""
        self._is_stopping = True
        self.notify()
        with trio.move_on_after(RELAY_GRACE):
            await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self) -> None:
        settings = self._settings
        self._reports, self._runs = [], 0
        # A worker id has one worker, so claims under this id are from before the worker died.
        await self._write(release_all, self._me, self._clock.now())
        await self._park_damaged()
        opened = open_broker(
            settings.broker_url,
            headers=settings.headers,
            content_mode=settings.content_mode,
            timeout=settings.timeout,
            concurrency=settings.concurrency,
        )
        async with opened as broker, trio.open_nursery() as nursery:
            nursery.start_soon(self._clean_up)
            await self._pump(broker, nursery)
            nursery.cancel_scope.cancel()

    # -- recording and claiming ------------------------------------------------------------------------------------

    async def _pump(self, broker: Broker, nursery: trio.Nursery) -> None:
        poll = _SHORTEST_POLL
        rest_until = -math.inf
        while not self._is_stopping or self._runs:
            self._notified = trio.Event()
            reports, self._reports = self._reports, []
            begun = trio.current_time()
            is_resting = begun < rest_until
            limit = 0 if is_resting else self._room(reports)
            due: Microseconds | None = None
            if limit and not reports:
                due = await retry_while_away(self._database, self._database.read, next_due, self._clock.now())
            if reports or (due is not None and due <= self._clock.now()):
                runs, due = await self._exchange(reports, limit)
                for run in runs:
                    self._runs += 1
                    nursery.start_soon(self._send_run, broker, run)
                if runs:
                    poll = _SHORTEST_POLL
                    if due is not None and due <= self._clock.now():
                        continue  # more events are due
            elif limit:
                rest_until = trio.current_time() + _REST * (trio.current_time() - begun)
            with trio.move_on_at(rest_until if is_resting else math.inf):
                await self._wait(due, poll if limit else None)
            poll = min(poll * 2, _LONGEST_POLL)

    def _room(self, reports: Sequence[_Report]) -> int:
        """Return how many instances to claim now: some more than are sent at once, so that no connection is idle."""
        if self._is_stopping:
            return 0
        runs = self._runs - sum(report.ends_run for report in reports)
        return 0 if runs > self._settings.concurrency else 2 * self._settings.concurrency - runs

    async def _exchange(self, reports: list[_Report], limit: int) -> tuple[list[list[Claimed]], Microseconds | None]:
        """Record reports and claim events in one transaction. Return the runs, and when the next event is due."""
        now = self._clock.now()
        # A claim is identified by its end: a commit whose answer was lost is repeated with the same end.
        until = max(now + round(self._settings.claim_time * 1_000_000), self._last_until + 1)
        self._last_until = until

        def transact(connection: Connection) -> tuple[list[list[Claimed]], Microseconds | None]:
            for report in reports:
                self._apply(connection, report, now)
            if not limit:
                return [], None
            return claim_due(connection, self._me, now, until, limit), next_due(connection, now)

        answer = await self._write(transact)
        for report in reports:
            report.is_recorded.set()
        return answer

    def _apply(self, connection: Connection, report: _Report, now: Microseconds) -> None:
        report.was_held = report.outcome is None or record_outcome(connection, self._me, report.outcome, now)
        if report.ends_run and report.has_rest:
            release(connection, self._me, report.event.claimed_until, now, report.event.instance_id)

    async def _wait(self, due: Microseconds | None, poll: float | None) -> None:
        """Wait until an event is due, or may be, or :meth:`notify` is called."""
        now = self._clock.now()
        again = None if poll is None else now + round(poll * random.uniform(0.5, 1.0) * 1_000_000)
        if due is not None and due <= now:
            due = again  # another relayer is claiming it
        if self._database.is_exclusive:
            again = due
        until = min(filter(None, (due, again)), default=None)
        with trio.CancelScope() as scope:
            if until is not None:
                scope.deadline = self._clock.deadline(until)
            await self._notified.wait()

    async def _write(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await retry_while_away(self._database, lambda: self._database.run(fn, *args, **kwargs))

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send_run(self, broker: Broker, run: list[Claimed]) -> None:
        """Send events of one instance, each after the outcome of the one before is durable."""
        try:
            for number, event in enumerate(run, 1):
                async with self._limiter:
                    try:
                        outcome = await self._send(broker, event)
                    except Exception as error:  # no event may keep others back
                        outcome = _unreadable(event, error)
                is_last = number == len(run)
                ends_run = outcome is None or outcome.status is OutboxStatus.PENDING or self._is_stopping
                report = _Report(event, outcome, is_last or ends_run, has_rest=outcome is None or not is_last)
                self._reports.append(report)
                self.notify()
                await report.is_recorded.wait()
                if outcome is not None and report.was_held:
                    self._count(outcome)
                if report.ends_run or not report.was_held:
                    return
        finally:
            self._runs -= 1
            self.notify()

    async def _send(self, broker: Broker, event: Claimed) -> Outcome | None:
        """Post an event, unless its claim may end first. Return the outcome; None: the event was not sent."""
        settings = self._settings
        now = self._clock.now()
        if self._is_stopping or now + round(settings.timeout * 1_000_000) > event.claimed_until:
            return None
        expires_at = None if settings.max_age is None else event.created_at + round(settings.max_age * 1_000_000)
        if expires_at is not None and expires_at <= now:
            why = f"it could not be sent within {settings.max_age:g} s"
            return Outcome(event, OutboxStatus.EXPIRED, why, was_tried=False)
        answer = await broker.post(event)
        self._log_refusal(answer.verdict, answer.why)
        if answer.verdict is Verdict.TAKEN:
            return Outcome(event, OutboxStatus.SENT)
        if answer.verdict is Verdict.NEVER:
            return Outcome(event, OutboxStatus.INVALID, answer.why)
        attempts = event.attempts + 1
        if attempts == settings.max_attempts:
            return Outcome(event, OutboxStatus.FAILED, answer.why)
        due_at = self._clock.now() + round(self._delay(attempts, answer.retry_after) * 1_000_000)
        if expires_at is not None:
            due_at = min(due_at, expires_at)
        return Outcome(event, OutboxStatus.PENDING, answer.why, due_at)

    def _delay(self, attempts: int, retry_after: float | None) -> float:
        settings = self._settings
        delay = min(settings.first_delay * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS), settings.longest_delay)
        asked = min(retry_after or 0.0, settings.longest_retry_after)
        return max(delay * random.uniform(0.5, 1.0), asked * random.uniform(1.0, 1.1))

    def _log_refusal(self, verdict: Verdict, why: str | None) -> None:
        """Log once that the broker takes no events, and once that it takes them again."""
        if (verdict is Verdict.LATER) is self._is_refused:
            return
        self._is_refused = verdict is Verdict.LATER
        if self._is_refused:
            _logger.warning("the broker takes no events now, trying again: %s", why)
        else:
            _logger.info("the broker takes events again")

    def _count(self, outcome: Outcome) -> None:
        if outcome.status is OutboxStatus.SENT:
            self._sent += 1
        elif outcome.status is OutboxStatus.PENDING:
            self._retried += 1
        else:
            event = outcome.event
            self._name_dead(event.event_id, event.instance_id, outcome.status, outcome.error)

    def _name_dead(self, event_id: str, instance_id: str, status: OutboxStatus, error: str | None) -> None:
        self._dead += 1
        message = "event %s of instance %s is %s and stays in the outbox: %s"
        _logger.error(message, event_id, instance_id, status, error, extra=about(instance_id))

    # -- cleaning up -----------------------------------------------------------------------------------------------

    async def _park_damaged(self) -> None:
        """Park events that would stop the relayer. It comes here again if it fails because of one."""
        while parked := await self._write(park_damaged, self._clock.now()):
            for event in parked:
                self._name_dead(event.event_id, event.instance_id, OutboxStatus.INVALID, DAMAGED_DUE)

    async def _clean_up(self) -> None:
        ages = {(OutboxStatus.SENT,): self._settings.keep_sent, DEAD: self._settings.keep_dead}
        while True:
            await self._park_damaged()
            for statuses, age in ages.items():
                before = self._clock.now() - round(age * 1_000_000)
                while await self._write(delete_finished, statuses, before, _CLEAN_UP_AT_ONCE) == _CLEAN_UP_AT_ONCE:
                    pass
            await trio.sleep(_CLEAN_UP_EVERY * random.uniform(0.5, 1.0))


def _unreadable(event: Claimed, error: Exception) -> Outcome:
    """Return the outcome of an event whose row is damaged."""
    return Outcome(
        event, OutboxStatus.INVALID, f"its row cannot be read: {type(error).__name__}: {error}", was_tried=False
    )

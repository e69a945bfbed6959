"""The relayer: sends what is in the outbox to the broker."""

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
from .._settings import RelaySettings
from .._storage.database import Database, SQLFunction
from .._storage.outages import retry_while_away
from .._storage.sql.outbox import (
    DEAD,
    Claimed,
    Outcome,
    claim_due,
    delete_finished,
    hand_back,
    hand_back_all,
    next_due,
    record_outcome,
)
from ..clock import Clock, Microseconds
from ..model import OutboxStatus
from .broker import Broker, Verdict, open_broker

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.relay")

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two looks at an outbox that other processes can write to as well."""
_REST = 4.0
"""How long, for each second of a look that has found nothing, there is no other one: a full outbox takes long to look
through while its broker is away."""
_GRACE = 5.0
"""Seconds for what is being sent when the relayer is stopped."""
_LEAVE_WITHIN = 5.0
"""Seconds that the database may then take to note what was not sent."""
_RESTART_AFTER = 1.0
"""Seconds before a relayer that failed goes on."""
_CLEAN_UP_EVERY = 6 * 3600.0
"""Seconds."""
_CLEAN_UP_AT_ONCE = 200
"""Events in one transaction."""
_MOST_DOUBLINGS = 30
"""Doublings after which no delay is the shorter one."""


@frozen
class RelayStatistics:
    """What the relayer of a worker has done."""

    sent: int
    """Events that the broker has taken."""
    retried: int
    """Attempts that failed and are repeated."""
    dead: int
    """Events that are not tried any more: failed, invalid or expired."""
    sending: int
    """Events that are being sent now."""


@define(eq=False)
class _Report:
    """What a run has come to: recorded by the one task that writes."""

    event: Claimed
    outcome: Outcome | None
    """None: it was not sent."""
    ends_run: bool
    rest: bool
    """Whether something of the run is left then, to be handed back."""
    was_held: bool = False
    """Whether the claim still held, so that the run may go on."""
    is_recorded: trio.Event = field(factory=trio.Event)


class Relay:
    """Posts the events of the outbox as CloudEvents: at least once, those of one instance in order.

    An event is posted when all earlier ones of its instance were taken, or are not tried any more, durably. Different
    instances do not wait for each other, except for room. What was posted and not recorded, because the process died
    or the answer was lost, is posted again, under the same id, by this relayer or another. Such a repetition can reach
    the broker late, an event for the first time never does.

    One task talks to the database: each of its transactions records what has been sent since the last one, and claims
    what may be sent next. One task for each claimed instance posts its events, one after the other.
    """

    def __init__(self, database: Database, clock: Clock, worker_id: str, settings: RelaySettings) -> None:
        self._database = database
        self._clock = clock
        self._me = worker_id
        self._settings = settings
        self._stirred = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._limiter = trio.CapacityLimiter(settings.concurrency)
        self._reports: list[_Report] = []
        self._runs = 0
        self._last_until: Microseconds = 0
        self._is_stopping = False
        self._is_refused = False
        self._sent = self._retried = self._dead = 0

    def nudge(self) -> None:
        """There is something new in the outbox: look now."""
        self._stirred.set()

    def statistics(self) -> RelayStatistics:
        """Numbers."""
        return RelayStatistics(self._sent, self._retried, self._dead, self._limiter.borrowed_tokens)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until :meth:`drain`. Nothing that goes wrong with an event, the broker or the database ends it.

        If it is cancelled, nothing is recorded, as if the process had died: what was claimed is due again after the
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
            with trio.move_on_after(_LEAVE_WITHIN):
                await self._write(hand_back_all, self._me, self._clock.now())
        finally:
            self._ended.set()

    async def drain(self) -> None:
        """Give what is being sent a short time, hand everything else back, and return when :meth:`run` has ended."""
        self._is_stopping = True
        self.nudge()
        with trio.move_on_after(_GRACE):
            await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self) -> None:
        settings = self._settings
        self._reports, self._runs = [], 0
        # A worker id has one worker: what it claims and does not send was claimed before it died.
        await self._write(hand_back_all, self._me, self._clock.now())
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
            self._stirred = trio.Event()
            reports, self._reports = self._reports, []
            begun = trio.current_time()
            is_resting = begun < rest_until
            limit = 0 if is_resting else self._room(reports)
            due: Microseconds | None = None
            if limit and not reports:
                due = await retry_while_away(self._database, self._database.read, next_due, self._clock.now())
            if reports or (due is not None and due <= self._clock.now()):
                runs, due = await self._turn(reports, limit)
                for run in runs:
                    self._runs += 1
                    nursery.start_soon(self._send_run, broker, run)
                if runs:
                    poll = _SHORTEST_POLL
                    if due is not None and due <= self._clock.now():
                        continue  # there is more
            elif limit:
                rest_until = trio.current_time() + _REST * (trio.current_time() - begun)
            with trio.move_on_at(rest_until if is_resting else math.inf):
                await self._wait(due, poll if limit else None)
            poll = min(poll * 2, _LONGEST_POLL)

    def _room(self, reports: Sequence[_Report]) -> int:
        """How many instances to claim now. Some more than can be sent at once, so that there is always something."""
        if self._is_stopping:
            return 0
        runs = self._runs - sum(report.ends_run for report in reports)
        return 0 if runs > self._settings.concurrency else 2 * self._settings.concurrency - runs

    async def _turn(self, reports: list[_Report], limit: int) -> tuple[list[list[Claimed]], Microseconds | None]:
        """One transaction: record the reports, claim something. Returns it, and when there is more."""
        now = self._clock.now()
        # The end of a claim is its name: a commit whose answer was lost is repeated with the same one.
        until = max(now + round(self._settings.claim_time * 1_000_000), self._last_until + 1)
        self._last_until = until

        def turn(connection: Connection) -> tuple[list[list[Claimed]], Microseconds | None]:
            for report in reports:
                self._apply(connection, report, now)
            if not limit:
                return [], None
            return claim_due(connection, self._me, now, until, limit), next_due(connection, now)

        answer = await self._write(turn)
        for report in reports:
            report.is_recorded.set()
        return answer

    def _apply(self, connection: Connection, report: _Report, now: Microseconds) -> None:
        report.was_held = report.outcome is None or record_outcome(connection, self._me, report.outcome, now)
        if report.ends_run and report.rest:
            hand_back(connection, self._me, report.event.claimed_until, now, report.event.instance_id)

    async def _wait(self, due: Microseconds | None, poll: float | None) -> None:
        """Wait until something is due, or can be; or somebody says so."""
        now = self._clock.now()
        again = None if poll is None else now + round(poll * random.uniform(0.5, 1.0) * 1_000_000)
        if due is not None and due <= now:
            due = again  # another relayer is taking it
        if self._database.is_exclusive:
            again = due
        until = min(filter(None, (due, again)), default=None)
        with trio.CancelScope() as scope:
            if until is not None:
                scope.deadline = self._clock.deadline(until)
            await self._stirred.wait()

    async def _write(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await retry_while_away(self._database, lambda: self._database.run(fn, *args, **kwargs))

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send_run(self, broker: Broker, run: list[Claimed]) -> None:
        """Send events of one instance, each after the one before was recorded."""
        try:
            for number, event in enumerate(run, 1):
                async with self._limiter:
                    outcome = await self._send(broker, event)
                is_last = number == len(run)
                ends_run = outcome is None or outcome.status is OutboxStatus.PENDING or self._is_stopping
                report = _Report(event, outcome, is_last or ends_run, rest=outcome is None or not is_last)
                self._reports.append(report)
                self.nudge()
                await report.is_recorded.wait()
                if outcome is not None and report.was_held:
                    self._count(outcome)
                if report.ends_run or not report.was_held:
                    return
        finally:
            self._runs -= 1
            self.nudge()

    async def _send(self, broker: Broker, event: Claimed) -> Outcome | None:
        """Post it, if there is time to do so before others may. Returns what to record."""
        settings = self._settings
        now = self._clock.now()
        if self._is_stopping or now + round(settings.timeout * 1_000_000) > event.claimed_until:
            return None
        expires_at = None if settings.max_age is None else event.created_at + round(settings.max_age * 1_000_000)
        if expires_at is not None and expires_at <= now:
            why = f"it could not be sent within {settings.max_age:g} s"
            return Outcome(event, OutboxStatus.EXPIRED, why, was_tried=False)
        answer = await broker.post(event)
        self._tell(answer.verdict, answer.why)
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

    def _tell(self, verdict: Verdict, why: str | None) -> None:
        """Say once that the broker takes nothing, and once that it does again."""
        if (verdict is Verdict.LATER) is self._is_refused:
            return
        self._is_refused = verdict is Verdict.LATER
        if self._is_refused:
            _logger.warning("the broker does not take events now, trying again: %s", why)
        else:
            _logger.info("the broker takes events again")

    def _count(self, outcome: Outcome) -> None:
        if outcome.status is OutboxStatus.SENT:
            self._sent += 1
        elif outcome.status is OutboxStatus.PENDING:
            self._retried += 1
        else:
            self._dead += 1
            event = outcome.event
            _logger.error(
                "event %s of instance %s is %s and stays in the outbox: %s",
                event.event_id,
                event.instance_id,
                outcome.status,
                outcome.error,
                extra=about(event.instance_id),
            )

    # -- cleaning up -----------------------------------------------------------------------------------------------

    async def _clean_up(self) -> None:
        ages = {(OutboxStatus.SENT,): self._settings.keep_sent, DEAD: self._settings.keep_dead}
        while True:
            for statuses, age in ages.items():
                before = self._clock.now() - round(age * 1_000_000)
                while await self._write(delete_finished, statuses, before, _CLEAN_UP_AT_ONCE) == _CLEAN_UP_AT_ONCE:
                    pass
            await trio.sleep(_CLEAN_UP_EVERY * random.uniform(0.5, 1.0))

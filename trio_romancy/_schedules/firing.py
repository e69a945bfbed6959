"""Decides what becomes of the occurrences of a schedule that are due: pure, without a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import define, field, frozen

from ..clock import Microseconds
from ..model import Overlap, SkipReason
from .rules import Rules

AT_ONCE = 100
"""Most occurrences to decide about in one transaction."""
MOST_BUFFERED = 1_000
"""Most occurrences that wait for others to end. Further ones are skipped."""


@frozen
class Skip:
    """An occurrence that is skipped, or several in a row."""

    due: Microseconds
    """Time of the first one."""
    reason: SkipReason
    until: Microseconds | None = None
    """End of the time whose occurrences are skipped; None: it is one occurrence."""


@define
class Decision:
    """What becomes of the occurrences that are due."""

    next_at: Microseconds | None
    """The next occurrence to decide about; None: no other follows."""
    starts: list[Microseconds] = field(factory=list)
    buffers: list[Microseconds] = field(factory=list)
    """Occurrences that start when those before them have ended."""
    skips: list[Skip] = field(factory=list)
    cancels: bool = False
    """Whether to cancel what runs."""


def decide(
    name: str,
    rules: Rules,
    next_at: Microseconds,
    now: Microseconds,
    *,
    running: int,
    buffered: Sequence[Microseconds],
    asked: Collection[Microseconds],
) -> Decision:
    """Decide about the occurrences from ``next_at`` on that are due, but not about very many at once.

    Args:
      running: number of instances of the schedule that have not ended.
      buffered: occurrences that wait for them.
      asked: occurrences that an operator has asked to skip.
    """
    calendar, jitter = rules.calendar, rules.jitter
    decision = Decision(next_at)
    waiting = list(buffered)
    for _ in range(AT_ONCE):
        due = decision.next_at
        if due is None or rules.fires_at(name, due) > now:
            break
        since = due
        if rules.catch_up is not None and rules.fires_at(name, due) < now - rules.catch_up:
            since = max(due, now - rules.catch_up - 1 - jitter)
            skip = Skip(due, SkipReason.TOO_LATE)
        elif due in asked:
            skip = Skip(due, SkipReason.ASKED)
        elif rules.overlap is Overlap.ALLOW_ALL or not (running or waiting):
            decision.starts.append(due)
            running += 1
            skip = None
        else:
            skip = _overlapping(rules.overlap, due, decision, waiting)
            if rules.overlap is Overlap.SKIP:
                since = max(due, now - jitter)
                # An occurrence that an operator has asked to skip is decided about by itself.
                since = min([since, *(one - 1 for one in asked if due < one <= since)])
        following = calendar.next_after(since)
        if skip is not None:
            is_one = since == due or calendar.next_after(due) == following
            decision.skips.append(skip if is_one else Skip(skip.due, skip.reason, since + 1))
        decision.next_at = following
    return decision


def _overlapping(overlap: Overlap, due: Microseconds, decision: Decision, waiting: list[Microseconds]) -> Skip | None:
    """Decide about an occurrence that is due while an earlier one runs or waits. Returns what is skipped."""
    most = {Overlap.SKIP: 0, Overlap.BUFFER_ALL: MOST_BUFFERED}.get(overlap, 1)
    replaced = None
    if overlap is Overlap.CANCEL_OTHER:
        decision.cancels = True
        if waiting:
            replaced = Skip(waiting.pop(), SkipReason.OVERLAP)
            if replaced.due in decision.buffers:
                decision.buffers.remove(replaced.due)
    if len(waiting) >= most:
        return Skip(due, SkipReason.OVERLAP)
    waiting.append(due)
    decision.buffers.append(due)
    return replaced

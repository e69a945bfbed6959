"""A run without a worker: its journal notes what is appended, and nothing else happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import define, field

from trio_romancy import Status
from trio_romancy._runtime.run.environment import Environment
from trio_romancy._runtime.run.phase import Phase
from trio_romancy._runtime.run.run import InstanceRun
from trio_romancy._storage.journal.batch import Batch
from trio_romancy._storage.sql.claims import Claim
from trio_romancy._storage.sql.entries import JournalEntry
from trio_romancy._storage.sql.workers import Lease
from trio_romancy.clock import Microseconds
from trio_romancy.errors import LeaseLostError

WAYS: dict[Phase, list[Phase]] = {
    Phase.REPLAYING: [],
    Phase.LIVE: [Phase.LIVE],
    Phase.CLOSING: [Phase.LIVE, Phase.CLOSING],
    Phase.COMPENSATING: [Phase.LIVE, Phase.CLOSING, Phase.COMPENSATING],
    Phase.GONE: [Phase.GONE],
}
"""How a run comes to be in each phase."""


@define
class NotedJournal:
    """Takes the place of a journal, and notes each call that appends something."""

    is_lost: bool = False
    """Whether the lease is lost, so that everything is refused."""
    lease: Lease = field(factory=lambda: Lease("w", 1))
    appended: list[str] = field(factory=list)

    def __getattr__(self, name: str) -> Callable[..., Batch]:
        if not name.startswith("append_"):
            raise AttributeError(name)

        def note(*args: Any, **kwargs: Any) -> Batch:
            if self.is_lost:
                raise LeaseLostError("lost")
            self.appended.append(name)
            return Batch()

        return note


class StandingClock:
    """It is always the same time."""

    def now(self) -> Microseconds:
        return 100


class Host:
    """Takes the place of a supervisor."""

    is_draining = False

    def idle_changed(self, by: int) -> None: ...
    def awaiting_changed(self, run: object) -> None: ...
    def probation_cleared(self, instance_id: str) -> None: ...


class Receiver:
    """Takes the place of a sequencer: it leaves everything in the mailbox."""

    def __init__(self, run: InstanceRun) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def new_claim(status: Status = Status.RUNNING) -> Claim:
    """Return the claim of an instance."""
    return Claim("i", "flow", status, "{}", 1, 0, None, 0)


def new_run(
    phase: Phase = Phase.REPLAYING, *, status: Status = Status.RUNNING, entries: Sequence[JournalEntry] = ()
) -> tuple[InstanceRun, NotedJournal]:
    """Return a run that has come to a phase, and its journal."""
    journal, none = NotedJournal(), cast("Any", None)
    env = Environment(
        none,
        cast("Any", StandingClock()),
        none,
        cast("Any", journal),
        none,
        none,
        none,
        none,
        cast("Any", Host()),
        none,
        None,
    )
    run = InstanceRun(env, new_claim(status), entries, (), Receiver, is_new=False)
    for one in WAYS[phase]:
        run.enter(one)
    return run, journal

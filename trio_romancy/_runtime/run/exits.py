"""The ways in which a run leaves memory: an actor returns one of them to its supervisor."""

from __future__ import annotations

from attrs import frozen

from ..._storage.sql.claims import Claim
from ..._storage.sql.entries import JournalEntry
from ...clock import Microseconds
from ...model import ErrorInfo, Status


@frozen
class Ended:
    """The instance has this status now, durably: it has ended, or is stuck."""

    status: Status
    output: str | None
    """JSON text."""
    error: ErrorInfo | None


@frozen
class Released:
    """The instance was released, durably, for this worker or another to claim later."""

    wake_at: Microseconds | None
    """Time at which the instance is due again; None if only a message or a request makes it due."""


@frozen
class LeftToOthers:
    """The instance was released, durably: its journal does not fit the code here, but may fit that of other workers."""

    error: ErrorInfo


@frozen
class Recurred:
    """The instance has ended, durably, and the next of its chain continues it."""

    ended: Ended
    next: Claim
    first: JournalEntry
    """The entry with which the journal of the next one begins."""
    is_mine: bool
    """Whether this worker owns the next one; otherwise any worker may claim it."""


@frozen
class Abandoned:
    """The run was stopped and recorded nothing more. The instance is as its journal says."""


Exit = Ended | Released | LeftToOthers | Recurred | Abandoned
"""Results of :meth:`Actor.run`. An actor that crashes raises instead."""


class RunGone(BaseException):
    """Unwinds user code of a run that is gone, where trio's cancellation does not reach.

    Not an ``Exception``, so user code that catches those does not catch it.
    """

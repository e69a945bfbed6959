"""The phases in the life of a run, and which one may follow which."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """A phase of a run. A run enters each phase at most once, and ends in ``GONE``."""

    followers: tuple[Phase, ...]
    """Phases that may follow: see :data:`NEXT`."""

    REPLAYING = "replaying"
    """The workflow function runs over its journal."""
    LIVE = "live"
    """The journal is used up: operations are carried out."""
    CLOSING = "closing"
    """The workflow function has ended, and its end is being recorded."""
    COMPENSATING = "compensating"
    """Completed activities are being undone."""
    GONE = "gone"
    """The run has ended or was abandoned, and can record nothing more."""


REPLAYING, LIVE, CLOSING, COMPENSATING, GONE = Phase

NEXT: dict[Phase, tuple[Phase, ...]] = {
    REPLAYING: (LIVE, CLOSING, COMPENSATING, GONE),  # compensating at once, if the journal holds the function's end
    LIVE: (CLOSING, GONE),
    CLOSING: (COMPENSATING, GONE),
    COMPENSATING: (GONE,),
    GONE: (),
}
"""The phases that may follow each phase."""
for _phase, _followers in NEXT.items():
    _phase.followers = _followers  # found without hashing a member, which takes a call


class IllegalTransitionError(RuntimeError):
    """Raised if a phase cannot follow the present phase of a run. A bug in the runtime."""


def check(before: Phase, after: Phase) -> None:
    """Raise :exc:`IllegalTransitionError` unless ``after`` may follow ``before``."""
    if after not in before.followers:
        raise IllegalTransitionError(f"a run that is {before.value} cannot become {after.value}")

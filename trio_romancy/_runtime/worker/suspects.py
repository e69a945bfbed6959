"""Instances that may take their process down. They run one at a time, so that the culprit is found."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..._storage.sql.claims import Claim
from ...errors import RomancyError
from ...model import Status

_SUSPICION = 5.0
"""Seconds in memory after which an instance is no longer suspected, and the next suspect may run."""


class Suspects:
    """The suspect: the one instance in memory that has outlived its worker more than once.

    Args:
      on_cleared: called when the next suspect may run.
    """

    def __init__(self, on_cleared: Callable[[], None]) -> None:
        self._on_cleared = on_cleared
        self._suspect: str | None = None

    @property
    def is_any(self) -> bool:
        """Whether a suspect is in memory."""
        return self._suspect is not None

    def add(self, instance_id: str) -> None:
        """Suspect an instance that enters memory."""
        self._suspect = instance_id

    async def watch(self, instance_id: str) -> None:
        """Cease to suspect an instance once it has been in memory for some seconds."""
        await trio.sleep(_SUSPICION)
        self.clear(instance_id)

    def clear(self, instance_id: str) -> None:
        """Cease to suspect an instance. Does nothing if it is not the suspect."""
        if self._suspect == instance_id:
            self._suspect = None
            self._on_cleared()


def may_only_have_waited(claim: Claim) -> bool:
    """Return whether the one death that is charged to an instance may have met it before any attempt began.

    The first death is charged by its status alone, and an instance that has just begun to wait still has the status
    ``running``. Later deaths are charged by what was recorded of its attempts.
    """
    return claim.recoveries == 1 and claim.status is Status.RUNNING


def too_many_deaths(claim: Claim, most: int) -> Exception | None:
    """Return the error of an instance whose worker has died too often while it ran; None if it may run."""
    if claim.recoveries <= most:
        return None
    return RomancyError(
        f"instance {claim.instance_id!r}: its worker has died or lost its lease {claim.recoveries} times while it ran, "
        f"and max_recoveries is {most}; see what it was doing, then resume it"
    )

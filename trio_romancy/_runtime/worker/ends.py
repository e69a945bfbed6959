"""Tells how instances have left a worker: the log, the hooks, and the callers that wait for results."""

from __future__ import annotations

import logging
from weakref import WeakValueDictionary

from ..._data.log_fields import about, cause_text, visible
from ..._observe.dispatcher import HookDispatcher
from ..._observe.instance_events import tell_end
from ..._storage.sql.claims import Claim
from ...clock import Clock
from ...model import Status
from ..run.exits import Ended, LeftToOthers
from ..run.local_result import LocalResult

_logger = logging.getLogger("trio_romancy.supervisor")


class Ends:
    """Tells of the instances of one worker.

    Args:
      local_results: results to set when instances end, by instance id.
    """

    def __init__(
        self,
        worker_id: str,
        clock: Clock,
        local_results: WeakValueDictionary[str, LocalResult],
        dispatcher: HookDispatcher | None,
    ) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._local_results = local_results
        self._dispatcher = dispatcher

    def ended(self, claim: Claim, ended: Ended) -> None:
        """Tell that an instance has ended, or is stuck."""
        status, error = ended.status, ended.error
        if error is not None and status is Status.STUCK:
            cause = cause_text(error.error_type, error.message)
            _logger.error("instance %s is stuck: %s", visible(claim.instance_id), cause, extra=_about(claim))
        if self._dispatcher is not None:
            tell_end(self._dispatcher, claim, self._worker_id, self._clock.now(), status, error)
        result = self._local_results.pop(claim.instance_id, None)
        if result is not None:
            result.set(status, ended.output, error)

    def left_to_others(self, claim: Claim, exit: LeftToOthers) -> None:
        """Tell that the code here does not fit an instance, which another version may run."""
        message = "instance %s does not fit the code here, and is left to other workers: %s"
        _logger.warning(message, visible(claim.instance_id), visible(exit.error.message), extra=_about(claim))

    def left_memory(self, instance_id: str) -> None:
        """Tell that an instance is not in memory any more, so that callers that wait for it look elsewhere."""
        if (result := self._local_results.get(instance_id)) is not None:
            result.notify()


def _about(claim: Claim) -> dict[str, str | None]:
    return about(claim.instance_id, claim.workflow)

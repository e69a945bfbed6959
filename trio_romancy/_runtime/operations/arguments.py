"""Compares the arguments of an activity with those of an earlier run, of which the journal has digests."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..._data.digest import digest
from ..._definitions.values import Activity
from ..run.run import InstanceRun

_logger = logging.getLogger("trio_romancy.activity")

_UNSURE = "~"
"""Begins the digest of a value that may have been changed by the attempt before it was digested."""
_UNKNOWN = ""
"""Stands for the digest of a value that cannot be compared."""


def digests_of(
    run: InstanceRun,
    id: str,
    activity: Activity[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    has_run: bool,
) -> dict[str, str]:
    """Return the digests of the arguments of a call, by the names of the parameters.

    Args:
      id: operation id of the call.
      has_run: whether an attempt has had the arguments, which may have changed those that can change.
    """
    digests = {}
    for name, value in activity.signature.bind(*args, **kwargs).arguments.items():
        found = digest(value, f"{run.instance_id}/{id}/{name}")
        if found is None:
            digests[name] = _UNKNOWN
        else:
            digests[name] = _UNSURE + found.text if has_run and not found.is_fixed else found.text
    return digests


def check_arguments(run: InstanceRun, id: str, recorded: Mapping[str, str] | None, now: Mapping[str, str]) -> None:
    """Compare the arguments of a call with those that were recorded.

    An argument that an attempt may have changed only gives a warning: the workflow may have passed the same.

    Args:
      id: operation id of the call.
      recorded: digests from the journal; None: it has none.
      now: digests of the present arguments, taken before any attempt.

    Raises:
      NonDeterminismError: if an argument differs. The instance is parked, and the call is not made.
    """
    if recorded is None:
        return
    for name in sorted(recorded.keys() | now.keys()):
        before, after = recorded.get(name), now.get(name)
        if before == after or _UNKNOWN in (before, after):
            continue
        if before is None or after is None or not before.startswith(_UNSURE):
            raise run.forbid(
                f"argument {name!r} of {id!r} is not the one of the earlier run, under the same idempotency key; make "
                f"it of what is the same on each replay (ctx.uuid4(), ctx.now(), ctx.random, or the result of an "
                f"activity); if the earlier one cannot be had again, give the call a new id, with .options(id=...)"
            )
        if before != _UNSURE + after:
            message = (
                "%s of %s: argument %r is not as it was after the last attempt: the activity has changed what it was "
                "passed, or the workflow passes another one on replay"
            )
            _logger.warning(message, id, run.instance_id, name, extra=run.about(id))

"""Compares the arguments of a call with those of an earlier run, of which the journal has digests."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from ..._data.digest import digest
from ..._storage.sql.entries import JournalEntry
from ..run.run import InstanceRun

_logger = logging.getLogger("trio_romancy.activity")

_UNSURE = "~"
"""Begins the digest of a value that may have been changed by the attempt before it was digested."""
_UNKNOWN = ""
"""Stands for the digest of a value that cannot be compared."""


def digests_of(
    run: InstanceRun,
    id: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    has_run: bool,
) -> dict[str, str]:
    """Return the digests of the arguments of a call, by the names of the parameters.

    Args:
      id: operation id of the call.
      signature: signature of what is called.
      has_run: whether an attempt has had the arguments, which may have changed those that can change.
    """
    digests = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        found = digest(value, f"{run.instance_id}/{id}/{name}")
        if found is None:
            digests[name] = _UNKNOWN
        else:
            digests[name] = _UNSURE + found.text if has_run and not found.is_fixed else found.text
    return digests


def check_arguments(
    run: InstanceRun, id: str, entry: JournalEntry, recorded: Mapping[str, str] | None, now: Mapping[str, str]
) -> None:
    """Compare the arguments of a call with those that were recorded.

    A difference only gives a warning if an attempt may have changed the argument, since the workflow may have passed
    the same; and if an operator has resumed the instance since, who has accepted it.

    Args:
      id: operation id of the call.
      entry: entry that has the recorded arguments.
      recorded: digests from its payload; None: it has none.
      now: digests of the present arguments, taken before any attempt.

    Raises:
      NonDeterminismError: if an argument differs. The instance is parked, and the call is not made.
    """
    if recorded is None:
        return
    for name in sorted(recorded.keys() | now.keys()):
        before, after = recorded.get(name), now.get(name)
        if _UNKNOWN in (before, after) or before in (after, f"{_UNSURE}{after}"):
            continue
        if entry.seq <= run.saga.counts_from:
            message = "%s of %s: argument %r is not the one of the earlier run, and was accepted by the resumption"
        elif before is not None and after is not None and before.startswith(_UNSURE):
            message = (
                "%s of %s: argument %r is not as it was after the last attempt: the activity has changed what it was "
                "passed, or the workflow passes another one on replay"
            )
        else:
            raise run.forbid(
                f"argument {name!r} of {id!r} is not the one of the earlier run, under the same idempotency key; make "
                f"it of what is the same on each replay (ctx.uuid4(), ctx.now(), ctx.random, or the result of an "
                f"activity); once it is resumed, the instance goes on with the present one"
            )
        _logger.warning(message, id, run.instance_id, name, extra=run.about(id))

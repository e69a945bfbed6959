"""The durable answer to ``ctx.patched``: whether the instance goes the way of a change of the code."""

from __future__ import annotations

from ..._data.journal_format import NOTHING
from ...model import EntryKind
from ..run.run import InstanceRun


def patched(run: InstanceRun, change_id: str) -> bool:
    """Return the recorded answer; True, and record it, if the instance comes here for the first time.

    Raises:
      OperationIdError: if the id is empty or too long.
    """
    run.refuse_if_gone()
    id = run.ids.checked_change_id(change_id)
    is_patched = run.cursor.is_patched(id, run.ids.prefix)
    if is_patched is None:
        run.writer.append(id, EntryKind.PATCHED, NOTHING)
        run.cursor.patch(id, is_patched=True)
        is_patched = True
    return is_patched

"""Guesses which change of the code a journal does not fit, and names the cure, for the errors of stuck instances."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..._data.journal_format import ChildStarted
from ..._definitions.registry import registry
from ..._storage.sql.entries import JournalEntry
from ...model import EntryKind
from .operation import Operation

_ACTIVITY = frozenset({EntryKind.ACTIVITY_COMPLETED, EntryKind.ACTIVITY_FAILED, EntryKind.ACTIVITY_CANCELLED})

PATCHED = 'make such a change with `if ctx.patched("..."):`'


def cure(entry: JournalEntry, later: Collection[str], asked: Sequence[Operation]) -> str:
    """Return what the change looks like, and what to do.

    Args:
      entry: the next entry of the journal, which the code does not ask for.
      later: operation ids of the entries after it.
      asked: operations that the code asks for.
    """
    id = entry.operation_id
    if not asked:
        return f"it looks as if {id!r} was removed: {PATCHED}"
    new = next((operation for operation in asked if operation.id not in later), None)
    if new is None:
        return f"it looks as if the order was changed, or {id!r} was removed: {PATCHED}"
    if (renamed := _renamed(entry, new)) is not None:
        return renamed
    return f"it looks as if {new.what} {new.id!r} was added, or {id!r} was removed: {PATCHED}"


def _renamed(entry: JournalEntry, new: Operation) -> str | None:
    """Return the cure if the operation is called by a name that nothing in this process has any more."""
    old: str | None
    if entry.kind in _ACTIVITY and new.what == "activity":
        old, decorator = _name(entry.operation_id), "activity"
        is_known = old is not None and registry.find_activity(old) is not None
    elif isinstance(entry.payload, ChildStarted) and new.what == "child":
        old, decorator = entry.payload.workflow, "workflow"
        is_known = registry.find_workflow(old) is not None
    else:
        return None
    if old is None or is_known:
        return None
    return f"if {(_name(new.id) or new.id)!r} is the new name of {old!r}, keep the old one: @{decorator}(name={old!r})"


def _name(operation_id: str) -> str | None:
    """Return the name in an automatic id, such as ``eu/fetch:1``; None for an id of the user's own."""
    name, separator, count = operation_id.rpartition("/")[2].rpartition(":")
    return name if separator and count.isdigit() else None

"""Recurring: the workflow continues as a new instance, so that a workflow that runs for ever has a short journal."""

from __future__ import annotations

import hashlib

from attrs import evolve

from ..._data.ids import MAX_ID
from ..._data.journal_format import CarryOver
from ..._exceptions import leaves
from ..._storage.sql.chains import Successor
from ..._storage.sql.claims import Claim
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.instances import new_row
from ..._storage.sql.rows import OpenEntryRow, SuccessorRow
from ...model import EntryKind, Status
from ..run.run import InstanceRun

_LONGEST_NUMBER = 12


class Recur(BaseException):
    """Unwinds the workflow function. Not an ``Exception``, so user code that catches those does not catch it."""

    def __init__(self, input_text: str) -> None:
        super().__init__("the workflow goes on as a new instance")
        self.input_text = input_text


def recur_in(error: BaseException) -> Recur | None:
    """Return the :exc:`Recur` that alone ended the function, also from the groups of nurseries."""
    leaf, *others = leaves(error)
    return leaf if type(leaf) is Recur and not others else None


def next_of_chain(run: InstanceRun, recur: Recur) -> tuple[Successor, Claim, JournalEntry]:
    """Return the next instance of the chain, its claim for this worker, and the first entry of its journal."""
    ended, now = run.claim, run.env.clock.now()
    origin = ended.origin or ended.instance_id
    carry_over = CarryOver() if run.used_intake is None else run.used_intake.table.pack()
    claim = evolve(
        ended,
        instance_id=next_id(origin, ended.instance_id),
        status=Status.PENDING,
        input=recur.input_text,
        created_at=now,
        recoveries=0,
        cancel_requested=None,
        origin=origin,
        was_mine=False,
        due_at=None,
    )
    owner = None if run.env.host.is_draining else run.env.journal.lease.worker_id
    row: SuccessorRow = {
        **new_row(claim.instance_id, claim.workflow, claim.input, now, owner=owner, trace=claim.trace),
        "started_after": claim.started_after,
        "origin": origin,
        "continued_from": ended.instance_id,
        "parent_id": claim.parent_id,
    }
    entry: OpenEntryRow = {
        "instance_id": claim.instance_id,
        "seq": 1,
        "operation_id": "",
        "kind": EntryKind.CONTINUED,
        "recorded_at": now,
    }
    return Successor(row, entry, carry_over), claim, JournalEntry(1, "", EntryKind.CONTINUED, carry_over, now)


def next_id(origin: str, instance_id: str) -> str:
    """Return the id of the next instance: ``order`` goes on as ``order#2``, and that as ``order#3``."""
    number = 1 if instance_id == origin else int(instance_id.rpartition("#")[2])
    if len(origin) + _LONGEST_NUMBER > MAX_ID:
        origin = hashlib.sha256(origin.encode()).hexdigest()
    return f"{origin}#{number + 1}"

"""Going on as a new instance: how a workflow that runs for ever keeps its journal short."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrs import evolve

from ..._data.codec import dumps
from ..._data.ids import MAX_ID
from ..._storage.sql.chains import CarryOver, Successor
from ..._storage.sql.claims import Claim
from ..._storage.sql.instances import JournalEntry, new_row
from ..._storage.sql.rows import OpenEntryRow, SuccessorRow
from ...model import Kind, Status

if TYPE_CHECKING:
    from .actor import Actor

_LONGEST_NUMBER = 12


class Recur(BaseException):
    """Unwinds the workflow function. No ``Exception``: what catches those must not keep it."""

    def __init__(self, input_text: str) -> None:
        super().__init__("the workflow goes on as a new instance")
        self.input_text = input_text


def recur_in(error: BaseException) -> Recur | None:
    """What the function has ended with, if that is all: a nursery may have made a group of it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Recur) else None


def succeed(actor: Actor, recur: Recur) -> tuple[Successor, Claim, JournalEntry]:
    """Who goes on, its claim for this worker, and the first entry of its journal."""
    ended, now = actor.claim, actor.clock.now()
    origin = ended.origin or ended.instance_id
    carry_over = CarryOver() if actor.used_waits is None else actor.used_waits.pack()
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
    owner = None if actor.is_draining else actor.journal.lease.worker_id
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
        "kind": Kind.CONTINUED,
        "recorded_at": now,
    }
    return Successor(row, entry, carry_over), claim, JournalEntry(1, "", Kind.CONTINUED, carry_over, now)


def next_id(origin: str, instance_id: str) -> str:
    """``order`` goes on as ``order#2``, and that as ``order#3``."""
    number = 1 if instance_id == origin else int(instance_id.rpartition("#")[2])
    if len(origin) + _LONGEST_NUMBER > MAX_ID:
        origin = hashlib.sha256(origin.encode()).hexdigest()
    return f"{origin}#{number + 1}"


def end_text(claim: Claim) -> str:
    """The payload of the entry that says who goes on."""
    return dumps({"next": claim.instance_id})

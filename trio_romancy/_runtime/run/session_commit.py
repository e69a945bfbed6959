"""Commits the transaction of an activity together with its entry."""

from __future__ import annotations

import trio
from sqlalchemy import Connection

from ..._data.journal_format import from_text
from ..._storage.dialects.errors import is_cut_off, is_transient
from ..._storage.outages import retry_while_away
from ..._storage.session import Session
from ..._storage.sql.entries import JournalEntry, has_entry, insert_entries
from ..._storage.sql.workers import fence
from ...errors import LeaseLostError
from .mailbox import PendingOutcome
from .run import InstanceRun


async def commit_with_entry(run: InstanceRun, session: Session, pending: PendingOutcome) -> JournalEntry | None:
    """Record an outcome in the transaction of its activity, behind the fence.

    Returns None if the database lost or refused the transaction, which undoes all that the attempt did through it.
    ``pending.refusal`` then has the error of a refusal.

    Raises:
      LeaseLostError: if the worker has lost its lease.
      RunGone: if the run was gone before the commit began.
    """
    operation_id, kind, payload = pending.operation.id, pending.kind, pending.payload
    row = run.writer.next_row(operation_id, kind, payload)
    entry = JournalEntry(row["seq"], operation_id, kind, from_text(kind, payload), row["recorded_at"])
    env, effects = run.env, pending.effects

    def write(connection: Connection) -> None:
        insert_entries(connection, [row])
        fence(connection, env.journal.lease, env.clock.now() + env.settings.lease_time)
        if effects is not None:
            effects.address(row["seq"])
            effects.lock(connection, env.clock.now())
            effects.apply(connection, env.clock.now(), None)  # instances in memory are woken through the database

    failure: Exception | None = None
    run.commit = ended = trio.Event()
    # Once the commit has begun, only the answer of the database ends it: the fate of a torn commit is unknown.
    with trio.CancelScope(shield=True):
        try:
            try:
                await session.commit_with(write)
            finally:
                await session.aclose()
        except LeaseLostError:
            ended.set()
            raise
        except Exception as error:
            failure = error
    is_lost = failure is not None and (is_transient(failure) or is_cut_off(failure))
    try:
        is_stored = failure is None or (is_lost and await _is_stored(run, entry))
    finally:
        ended.set()
    if not is_stored:
        pending.refusal = None if is_lost else failure
        return None
    run.writer.committed(row, effects)
    if run.writer.on_probation and not run.is_gone:
        run.writer.clear_probation()
    if effects is not None:
        env.host.effects_stored()
    return entry


async def _is_stored(run: InstanceRun, entry: JournalEntry) -> bool:
    """Return whether a commit whose answer was lost has been made.

    The fence waits for a commit that the server is still making. On a database with one writer the commit has ended,
    and the fence would wait for the transaction of a sibling, which waits for this one to be recorded.
    """
    env = run.env
    if env.database.has_one_writer:
        return await retry_while_away(env.database, env.database.read, has_entry, run.instance_id, entry.seq)

    def has_entry_for_certain(connection: Connection) -> bool:
        fence(connection, env.journal.lease, env.clock.now() + env.settings.lease_time)
        return has_entry(connection, run.instance_id, entry.seq)

    return await retry_while_away(env.database, env.database.run, has_entry_for_certain)

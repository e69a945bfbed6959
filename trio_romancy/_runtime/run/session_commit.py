"""Commits the transaction of an activity together with its entry."""

from __future__ import annotations

from contextlib import suppress

import trio
from sqlalchemy import Connection

from ..._data.journal_format import from_text
from ..._storage.dialects.errors import is_cut_off, is_transient
from ..._storage.journal.effects import Effects
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
    try:
        is_ahead = await _is_ahead(run)
        row = run.writer.next_row(operation_id, kind, payload)
    except BaseException:
        await session.aclose()
        raise
    entry = JournalEntry(row["seq"], operation_id, kind, from_text(kind, payload), row["recorded_at"])
    env, effects = run.env, pending.effects
    holds_back = is_ahead and effects is not None and bool(effects.outbox)

    def write(connection: Connection) -> None:
        insert_entries(connection, [row])
        fence(connection, env.journal.lease, env.clock.now() + env.settings.lease_time)
        if effects is not None:
            effects.address(row["seq"])
            if holds_back:
                effects.hold_back_events(env.clock.now() + env.settings.lease_time)
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
    for permits in () if effects is None else effects.freed:
        permits.is_free = True
    session.notify_committed()
    if run.writer.on_probation and not run.is_gone:
        run.writer.clear_probation()
    if holds_back:
        with suppress(LeaseLostError):  # they become due by themselves then
            env.journal.append_effects(Effects(held_back=[(run.instance_id, row["seq"])]))
    if effects is not None:
        env.host.effects_stored()
    return entry


async def _is_ahead(run: InstanceRun) -> bool:
    """Wait until all earlier entries of the run are on disk. Returns whether this commit comes before them anyway.

    On a database with one writer they cannot be written before the open transaction has ended. What the commit sends to
    the broker is held back then: the journal releases it after the earlier entries, and it is due by itself when other
    workers may take the instance over.

    Raises:
      LeaseLostError: if the worker has lost its lease.
    """
    written = run.writer.batch
    if written is None or written.durable.is_set():
        return False
    if run.env.database.has_one_writer:
        return True
    await run.env.journal.durable(written)
    return False


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

"""Searches instances, in short transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio
from attrs import evolve
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from .._data.conditions import GivenPath, checked_path
from .._data.ids import is_id
from .._data.large import decoded
from .._data.page_tokens import page_token, read_page_token
from .._runtime.run.saga import awaited_by_cancellation
from .._storage.dialects import input_index
from .._storage.outages import retry_while_away
from .._storage.sql.entries import (
    BEGINNING,
    RowPage,
    load_history_page,
    load_page,
    read_entries,
    read_history,
)
from .._storage.sql.instances import get_instance
from .._storage.sql.limits import places
from .._storage.sql.rows import StoredEntry
from .._storage.sql.search import Place, Sought, search_step
from ..clock import from_datetime
from ..errors import DatabaseError, InstanceNotFoundError, InvalidDataError
from ..model import Instance, InstancePage, JournalPage
from .engine import Engine

T = TypeVar("T")

_FIRST_PART = 2_000
"""Instances that the first transaction searches."""
_SMALLEST_PART = 200
"""Fewest instances that one transaction searches."""
_QUICK, _SLOW = 0.1, 0.5
"""Seconds for a transaction. After a quicker one the next searches more instances, after a slower one fewer."""

_POLL_INTERVAL = 0.2
"""Seconds before the next attempt to make an index that another process is making."""


async def newest(engine: Engine, sought: Sought, most: int, after: Place | None = None) -> list[Instance]:
    """Return the newest instances that match. A cancellation is delivered between two transactions.

    Args:
      most: most instances to return.
      after: place of an instance; only older ones are returned.
    """
    parts = (sought.workflow, sought.instance_id, sought.parent)
    if any(part and not is_id(part) for part in parts):
        return []  # no database can store it, and some would refuse the query
    found: list[Instance] = []
    among = _FIRST_PART
    while True:
        begun = trio.current_time()
        seen = await engine.read(search_step, sought, after, among, most - len(found))
        taken = trio.current_time() - begun
        found += seen.instances
        if seen.end is None or len(found) == most:
            return [await with_waits(engine, instance) for instance in found]
        after = seen.end
        if taken < _QUICK:
            among *= 2
        elif taken > _SLOW:
            among = max(among // 4, _SMALLEST_PART)


async def with_waits(engine: Engine, instance: Instance) -> Instance:
    """Return an instance together with what it waits for, if its cancellation was requested."""
    if any(one.limit is not None for one in instance.waits_for):
        found = await engine.read(places, instance.instance_id)
        waits = [evolve(one, limit_place=found.get(one.operation_id)) for one in instance.waits_for]
        instance = evolve(instance, waits_for=waits)
    request = instance.cancel_requested
    if request is None:
        return instance
    try:
        entries = await _load(engine, load_page, read_entries, instance.instance_id)
    except InvalidDataError:  # an instance with a broken journal must still be seen
        return instance
    return evolve(instance, cancel_requested=evolve(request, waits_for=awaited_by_cancellation(entries)))


async def _load(
    engine: Engine,
    load: Callable[[Connection, str, int, int | None], RowPage],
    read: Callable[[Sequence[StoredEntry]], list[T]],
    instance_id: str,
    after: int = BEGINNING,
    most: int | None = None,
) -> list[T]:
    """Load and read a journal page by page, each in a transaction of its own.

    Args:
      after: number of the entry after which to begin.
      most: most entries to load; None: all.
    """
    entries: list[T] = []
    while True:
        left = None if most is None else most - len(entries)
        loaded = await engine.read(load, instance_id, after, left)
        entries += await decoded(loaded.size, partial(read, loaded.rows))
        if loaded.is_last or len(entries) == most:
            return entries
        after = loaded.end


async def page(engine: Engine, sought: Sought, limit: int, token: str | None) -> InstancePage:
    """Return a page of the newest instances that match.

    Args:
      limit: most instances on the page.
      token: token of this page, from the page before; None: the first page.

    Raises:
      InvalidInputError: if the token is not valid.
    """
    after: Any = None if token is None else tuple(read_page_token(token, int, str, of="instances"))
    found = await newest(engine, sought, limit + 1, after)
    if len(found) <= limit:
        return InstancePage(found, None)
    last = found[limit - 1]
    return InstancePage(found[:limit], page_token(from_datetime(last.created_at), last.instance_id))


async def journal_page(engine: Engine, instance_id: str, limit: int | None, token: str | None) -> JournalPage:
    """Return a page of the journal of an instance.

    Args:
      limit: most entries on the page; None: all that follow.
      token: token of this page, from the page before; None: the first page.

    Raises:
      InstanceNotFoundError: if there is no such instance.
      InvalidInputError: if the token is not valid.
    """
    after: Any = BEGINNING
    if token is not None:
        (after,) = read_page_token(token, int, of="entries")
    most = None if limit is None else limit + 1
    entries = await _load(engine, load_history_page, read_history, instance_id, after, most)
    if not entries and await engine.read(get_instance, instance_id) is None:
        raise InstanceNotFoundError(instance_id)
    if limit is None or len(entries) <= limit:
        return JournalPage(entries, None)
    return JournalPage(entries[:limit], page_token(entries[limit - 1].seq))


async def index_input(engine: Engine, given: GivenPath) -> bool:
    """Make an index for a path into inputs. Return whether there is one now.

    Raises:
      InvalidInputError: if the path is not valid.
      DatabaseError: if the database refuses.
    """
    path, database = checked_path(given), engine.database
    while True:
        try:
            made = await retry_while_away(database, database.alter, input_index.create_index, path)
        except DBAPIError as error:
            raise DatabaseError(f"{database.name}: the input cannot be indexed by {path!r}: {error.orig}") from error
        if made is not None:
            return made
        # PostgreSQL offers no way to wait: the process that makes the index waits for the transactions of this one.
        await trio.sleep(_POLL_INTERVAL)

"""Finds instances, in as many short transactions as it takes."""

from __future__ import annotations

import trio
from sqlalchemy.exc import DBAPIError

from .._data.conditions import GivenPath, checked_path
from .._data.ids import is_id
from .._storage import input_index
from .._storage.outages import retry_while_away
from .._storage.sql.search import Place, Sought, look, page_token, read_page_token
from ..clock import from_datetime
from ..errors import DatabaseError
from ..model import Instance, Page
from .engine import Engine

_FIRST_LOOK = 2_000
"""Instances that are looked through in the first transaction."""
_FEWEST = 200
_QUICK, _SLOW = 0.1, 0.5
"""Seconds for a transaction: below, the next one looks through more instances; above, through fewer."""

_LOOK_EVERY = 0.2
"""Seconds between two looks whether somebody else has finished an index."""


async def newest(engine: Engine, sought: Sought, most: int, after: Place | None = None) -> list[Instance]:
    """The newest instances that match. A cancellation is delivered between two transactions.

    Args:
      after: an instance; they are older than that.
    """
    parts = (sought.workflow, sought.instance_id, sought.parent)
    if any(part and not is_id(part) for part in parts):
        return []  # no database can hold it, and some would not even be asked for it
    found: list[Instance] = []
    among = _FIRST_LOOK
    while True:
        begun = trio.current_time()
        seen = await engine.read(look, sought, after, among, most - len(found))
        taken = trio.current_time() - begun
        found += seen.instances
        if seen.end is None or len(found) == most:
            return found
        after = seen.end
        if taken < _QUICK:
            among *= 2
        elif taken > _SLOW:
            among = max(among // 4, _FEWEST)


async def page(engine: Engine, sought: Sought, limit: int, token: str | None) -> Page:
    """The newest instances that match, and what gives those after them.

    Args:
      token: what the page before came with.
    """
    after = None if token is None else read_page_token(token)
    found = await newest(engine, sought, limit + 1, after)
    if len(found) <= limit:
        return Page(found, None)
    last = found[limit - 1]
    return Page(found[:limit], page_token((from_datetime(last.created_at), last.instance_id)))


async def index_input(engine: Engine, given: GivenPath) -> bool:
    """Make an index. Returns whether there is one now.

    Raises:
      DatabaseError: if the database refuses.
    """
    path, database = checked_path(given), engine.database
    while True:
        try:
            made = await retry_while_away(database, database.alter, input_index.make_index, path)
        except DBAPIError as error:
            raise DatabaseError(f"{database.name}: the input cannot be indexed by {path!r}: {error.orig}") from error
        if made is not None:
            return made
        await trio.sleep(_LOOK_EVERY)  # PostgreSQL cannot be waited for: whoever makes the index waits for us

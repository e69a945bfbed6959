"""``migrate`` and ``index``."""

from __future__ import annotations

from typing import Annotated

import trio_asyncio
from typer import Argument

from .._storage import migrations
from .._storage.database import open_database
from .._storage.drivers.urls import file_of
from .._storage.outages import retry_while_away_for
from .._storage.sql.tables import REVISION
from .arguments import read_path
from .call import START_TIMEOUT, Call
from .failures import NOTHING, StopError


async def migrate(call: Call) -> None:
    """Make the tables, or bring them up to date. A SQLite file that is not there is made."""
    if file_of(call.database) == "":
        raise StopError("a database in memory is gone when this command ends; name a file or a server")
    async with trio_asyncio.open_loop(), open_database(call.database) as database:
        before = await retry_while_away_for(START_TIMEOUT, database, database.read, migrations.revision)
        await retry_while_away_for(START_TIMEOUT, database, database.run_long, migrations.migrate)
    if before == REVISION:
        said = f"the tables are up to date: revision {REVISION}"
    elif before is None:
        said = f"the tables are made: revision {REVISION}"
    else:
        said = f"the tables are brought from revision {before} to {REVISION}"
    call.answer({"from": before, "to": REVISION, "changed": before != REVISION}, lambda: call.screen.line(said))


async def index(
    call: Call,
    path: Annotated[str, Argument(help="Where in the input, such as customer.id.", metavar="PATH")],
) -> int:
    """Make an index over a value in the inputs, so that find is fast by it. On a large table it takes a while."""
    keys = read_path(path)
    async with call.open_app() as app:
        indexed = await app.index_input(keys)
    said = f"find is fast by {path} now" if indexed else f"this database cannot make an index for {path}"
    call.answer({"path": path, "indexed": indexed}, lambda: call.screen.line(said))
    return 0 if indexed else NOTHING

"""``migrate``: the tables."""

from __future__ import annotations

from ..._storage import migrations
from ..._storage.drivers.urls import file_of
from ..._storage.open import open_database
from ..._storage.outages import retry_while_away_for
from ..._storage.sql.tables import REVISION
from ..call import START_TIMEOUT, Call
from ..failures import StopError


async def migrate(call: Call) -> None:
    """Create the tables, or bring them up to date. A SQLite file that does not exist is created."""
    if file_of(call.database) == "":
        raise StopError("a database in memory is gone when this command ends; name a file or a server")
    async with open_database(call.database) as database:
        before = await retry_while_away_for(START_TIMEOUT, database, database.read, migrations.revision)
        await retry_while_away_for(START_TIMEOUT, database, database.run_long, migrations.migrate)
    if before == REVISION:
        said = f"the tables are up to date: revision {REVISION}"
    elif before is None:
        said = f"the tables are created: revision {REVISION}"
    else:
        said = f"the tables are upgraded from revision {before} to {REVISION}"
    call.answer({"from": before, "to": REVISION, "changed": before != REVISION}, lambda: call.screen.line(said))

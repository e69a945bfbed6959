"""``bench``: throughput on this machine and database."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from typer import Option

from ..call import VARIABLE, Call
from ..failures import StopError
from ..terminal.wording import count


async def bench(
    call: Call,
    seconds: Annotated[float, Option(help="Seconds for each number of clients.", min=0.01, metavar="SECONDS")] = 3.0,
    yes: Annotated[bool, Option("--yes", help="Measure also if the database has instances.")] = False,
) -> None:
    """Measure workflows of three activities per second, at 1, 20 and 200 clients.

    Without a database it uses a temporary SQLite file. On any other database, the measured instances are removed.
    """
    from ..measuring import CLIENTS, Rate, measure, reason_to_refuse
    from ..terminal.progress import open_bar

    with ExitStack() as exits:
        is_temporary = not (call.given_database or os.environ.get(VARIABLE))
        if is_temporary:
            directory = exits.enter_context(TemporaryDirectory(prefix="trio-romancy-"))
            database = str(Path(directory) / "bench.db")
        else:
            database = call.existing_database()
        if not is_temporary and (reason := await reason_to_refuse(database, is_meant=yes)) is not None:
            raise StopError(f"{reason}: nothing was measured")
        advance = exits.enter_context(open_bar(seconds * len(CLIENTS)))
        rates: list[Rate] = []
        for number, clients in enumerate(CLIENTS):
            advance(seconds * number, count(clients, "client"))
            rates.append(await measure(database, clients, seconds, is_ours=is_temporary))
    name = "a temporary SQLite file" if is_temporary else call.shown_database

    def show() -> None:
        call.screen.line(f"workflows of three activities, in {name}")
        rows = [(f"{rate.clients}", f"{rate.per_second:,.0f}", f"{rate.workflows:,}") for rate in rates]
        call.screen.table(("clients", "per second", "measured"), rows)

    call.answer({"database": name, "seconds": seconds, "rates": rates}, show)

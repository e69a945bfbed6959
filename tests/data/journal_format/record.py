"""Record journals with the installed version of trio_romancy: a program, to be run with the version to record.

    python -m tests.data.journal_format.record journals.json

It brings instances to every stage on a SQLite file, notes the rows, and then lets the same version bring them to
their end, so that a later version can be held to it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

import trio_romancy
from trio_romancy import App

from .workflows import begin, finish

TABLES = ("instances", "history", "history_archive", "channels", "messages", "waits")


ROOTS = (Path(trio_romancy.__file__).parents[1], Path(__file__).parents[3], sys.prefix, sys.base_prefix)


def rows_of(file: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of the tables that instances need, with paths as they are everywhere."""
    with sqlite3.connect(file) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [everywhere(dict(row)) for row in connection.execute(f"SELECT * FROM romancy_{table} ORDER BY 1, 2")]
            for table in TABLES
        }


def everywhere(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the places of files on this machine, which tracebacks tell."""
    for name, value in row.items():
        if isinstance(value, str):
            for root in ROOTS:
                value = value.replace(f"{root}/", "")
            row[name] = value
    return row


async def record(file: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"worker_id": "recorder", "idle_timeout": 0.1}
    with trio.fail_after(60):
        await begin(partial(App, str(file), **options), partial(App, str(file), worker=False))
    now = time.time_ns() // 1000
    rows = rows_of(file)
    with trio.fail_after(60):
        async with App(str(file), **options) as app:
            endings = await finish(app)
    return {"recorded_at": now, "rows": rows, "endings": endings}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        recorded = trio.run(record, Path(directory) / "romancy.db")
    rows = {table: ",\n".join(map(json.dumps, rows)) for table, rows in recorded.pop("rows").items()}
    tables = ",\n".join(f'"{table}": [\n{text}\n]' for table, text in rows.items())
    rest = json.dumps(recorded, indent=1)[1:-2]
    Path(sys.argv[1]).write_text(f'{{"rows": {{\n{tables}\n}},{rest}\n}}\n')


if __name__ == "__main__":
    main()

"""New, empty databases for the measurements."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.servers import open_new_database, open_private_server, open_server

from .server_durability import refusal

NAMES = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}
"""Names of the databases, by the word that chooses each."""

FILES = "files"
"""Place of SQLite databases: the current directory."""

_SETTINGS = {
    "mariadb": {"innodb-buffer-pool-size": "128M", "innodb-log-file-size": "96M"},
    "postgresql": {"shared_buffers": "128MB"},
}
"""Default settings of servers that the tests reduce."""


@contextmanager
def open_place(kind: str) -> Iterator[str]:
    """Yield a place for databases of a kind: :data:`FILES`, or the URL of a server.

    It is the server of the tests if its commits wait for the disk, and otherwise a private one whose commits do.

    Raises:
      ServerMissingError: if no such server is available.
    """
    if kind == "sqlite":
        yield FILES
        return
    with ExitStack() as exits:
        place = exits.enter_context(open_server(kind))
        if refusal(place) is not None:
            exits.close()
            place = exits.enter_context(open_private_server(kind, settings=_SETTINGS[kind])).url()
        yield place


@contextmanager
def open_new(place: str) -> Iterator[str]:
    """Yield a new database: a file name, or a URL. A database on a server is dropped when the block ends."""
    if place == FILES:
        yield f"{secrets.token_hex(8)}.db"
    else:
        with open_new_database(place) as url:
            yield url

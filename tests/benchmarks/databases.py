"""Where every measurement gets a new, empty database from."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from server_durability import refusal

from tests.support.servers import open_new_database, open_private_server, open_server

NAMES = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}
"""What there is, by the word by which it is chosen."""

FILES = "files"
"""The place of SQLite's databases: the current directory."""

_SETTINGS = {
    "mariadb": {"innodb-buffer-pool-size": "128M", "innodb-log-file-size": "96M"},
    "postgresql": {"shared_buffers": "128MB"},
}
"""What servers have by default, where those of the tests have less."""


@contextmanager
def open_place(kind: str) -> Iterator[str]:
    """Where databases of that kind are made: :data:`FILES`, or the URL of a server.

    It is the server of the tests if its commits wait for the disk, else a private one whose commits do.

    Raises:
      ServerMissingError: if there is none.
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
    """A new database: a file name, or a URL. One on a server is dropped when the block ends."""
    if place == FILES:
        yield f"{secrets.token_hex(8)}.db"
    else:
        with open_new_database(place) as url:
            yield url

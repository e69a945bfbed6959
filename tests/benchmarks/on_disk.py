"""A new database on which every commit waits for the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import server_durability
from .databases import FILES, open_new
from .durability import watched


@contextmanager
def open_durable(place: str, *, force: bool) -> Iterator[str]:
    """Yield a new database: a file name, or a URL. A database on a server is dropped when the block ends.

    Args:
      force: whether to make connections to SQLite wait for the disk. Otherwise the system must do so itself.

    Raises:
      RuntimeError: when the block ends, if a commit may not have waited for the disk.
    """
    with open_new(place) as database:
        if place == FILES:
            with watched(force=force):
                yield database
            return
        yield database
        if (refusal := server_durability.refusal(database)) is not None:
            raise RuntimeError(refusal)

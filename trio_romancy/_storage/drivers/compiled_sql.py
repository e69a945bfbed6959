"""The compiled SQL of all engines of this process, shared by those whose databases are of one kind and version.

To compile all statements takes longer than to open a database. By itself, each engine compiles them again: for each app
that a process opens, and twice for one app on a server, where the journal has an engine of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sqlalchemy.engine.interfaces import Compiled
from sqlalchemy.util import LRUCache

CAPACITY = 1000
"""Number of statements that are kept, at least. SQLAlchemy keeps half as many for each engine."""


class SharedCache(MutableMapping[Any, Compiled]):
    """A cache for SQLAlchemy's option ``compiled_cache`` that tells dialects apart by what their SQL depends on.

    The keys of SQLAlchemy begin with the dialect, and each engine has a dialect of its own.
    """

    __slots__ = ("_compiled",)

    def __init__(self) -> None:
        self._compiled: LRUCache[Any, Compiled] = LRUCache(CAPACITY)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._compiled.get(_shared(key), default)

    def __getitem__(self, key: Any) -> Compiled:
        return self._compiled[_shared(key)]

    def __setitem__(self, key: Any, compiled: Compiled) -> None:
        self._compiled[_shared(key)] = compiled

    def __delitem__(self, key: Any) -> None:
        del self._compiled[_shared(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


def _shared(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the key with what the SQL depends on instead of the dialect.

    All engines are made with the same options. So the SQL depends on the driver, and on what SQLAlchemy has asked the
    server for: its version, and how it reads quotation marks and backslashes.
    """
    dialect, *rest = key
    return (
        type(dialect),
        dialect.server_version_info,
        getattr(dialect, "is_mariadb", None),
        dialect.identifier_preparer.initial_quote,
        getattr(dialect, "_backslash_escapes", None),
        *rest,
    )


COMPILED: dict[str, Any] = {"compiled_cache": SharedCache()}
"""Execution options for engines that share their compiled SQL."""

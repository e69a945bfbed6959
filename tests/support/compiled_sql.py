"""Compiled SQL that all engines of a test process share.

Each app makes engines of its own, and each of them would compile the same statements again. That is a sixth of the CPU
of a short test on a server. SQL depends on the kind of the database, its driver and its version, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import define
from sqlalchemy import Dialect, Engine
from sqlalchemy.util import LRUCache

Key = tuple[Any, ...]
"""Begins with the dialect of one engine."""

_KEPT = 2000
"""Statements."""


@define(eq=False)
class SharedStatements(MutableMapping[Key, Any]):
    """What an engine takes for its own cache."""

    _compiled: MutableMapping[Key, Any]
    """By keys that begin with what the SQL depends on."""

    def __getitem__(self, key: Key) -> Any:
        return self._compiled[_shared(key)]

    def __setitem__(self, key: Key, value: Any) -> None:
        self._compiled[_shared(key)] = value

    def __delitem__(self, key: Key) -> None:
        del self._compiled[_shared(key)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


def _shared(key: Key) -> Key:
    dialect: Dialect
    dialect, *statement = key
    return type(dialect), dialect.server_version_info, getattr(dialect, "is_mariadb", None), *statement


@contextmanager
def shared_statements() -> Iterator[None]:
    """Let all engines share what they compile in the block."""
    shared = SharedStatements(LRUCache(_KEPT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_compiled_cache", property(lambda _: shared, lambda _, own: None), raising=False)
        yield

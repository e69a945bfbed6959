"""The databases that tests run on: one of each kind for each test process, emptied for each test."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import pytest
from attrs import define, field

from .servers import PRODUCTS, ServerMissingError, execute, open_new_database, open_server

T = TypeVar("T")

KINDS = ("sqlite", *PRODUCTS)
"""``sqlite`` is in memory."""

SHARED_KINDS = ("file", *PRODUCTS)
"""What several apps can open at once. A test takes them by ``parametrize("kind", SHARED_KINDS, indirect=True)``."""

ALL_KINDS = ("sqlite", *SHARED_KINDS)

missing: dict[str, str] = {}
"""What could not be tested on, and why."""


def opened(servers: dict[str, T], kind: str, open: Callable[[], T]) -> T:
    """The server of that kind, opened if it has not been. If there is none to be had, the test is skipped, or fails."""
    if kind not in servers and kind not in missing:
        try:
            servers[kind] = open()
        except ServerMissingError as error:
            missing[kind] = str(error)
    if kind in missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing[kind])
        pytest.skip(missing[kind])
    return servers[kind]


EMPTY_POSTGRESQL = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
        IF name NOT LIKE 'romancy@_%' ESCAPE '@' THEN
            EXECUTE format('DROP TABLE %I', name);
        ELSIF name NOT LIKE '%alembic@_version' ESCAPE '@' THEN
            EXECUTE format('DELETE FROM %I', name);
        END IF;
    END LOOP;
    FOR name IN SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() LOOP
        IF name LIKE 'ix@_romancy@_input@_%' ESCAPE '@' THEN
            EXECUTE format('DROP INDEX %I', name);
        END IF;
    END LOOP;
END $$
"""
"""On one connection, because to open one takes longer than all the rest."""


def _empty_mariadb(url: str) -> None:
    found = execute(url, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
    tables = [name for (name,) in found]
    kept = [name for name in tables if name.startswith("romancy_") and not name.endswith("alembic_version")]
    dropped = [name for name in tables if not name.startswith("romancy_")]
    if kept:
        looks = [f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in kept]
        filled = [name for (name,) in execute(url, " UNION ALL ".join(looks))]
        if filled:
            execute(url, "BEGIN", *[f"DELETE FROM {name}" for name in filled], "COMMIT")
    if dropped:
        execute(url, *[f"DROP TABLE {name}" for name in dropped])


@define
class Databases:
    """One database on each server, emptied for each test; and new ones."""

    _exits: ExitStack
    _servers: dict[str, str] = field(factory=dict)
    _urls: dict[str, str] = field(factory=dict)

    def server(self, kind: str) -> str:
        """The URL of a server of that kind, without a database. The test is skipped if there is none."""
        return opened(self._servers, kind, lambda: self._exits.enter_context(open_server(kind, prefers_private=True)))

    def new(self, kind: str) -> str:
        """The URL of a database that nobody has used. It is dropped when all tests have ended."""
        if kind == "sqlite":
            return ":memory:"
        return self._exits.enter_context(open_new_database(self.server(kind)))

    def empty(self, kind: str) -> str:
        """The URL of a database without instances, which other tests may have used before."""
        if kind == "sqlite":
            return ":memory:"
        if kind not in self._urls:
            self._urls[kind] = self.new(kind)
            return self._urls[kind]
        url = self._urls[kind]
        if kind == "postgresql":
            execute(url, EMPTY_POSTGRESQL)
        else:
            _empty_mariadb(url)
        return url


def query(database: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement on the database of that URL, or in that file, and return its rows."""
    if "://" in database:
        return execute(database, sql)
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()

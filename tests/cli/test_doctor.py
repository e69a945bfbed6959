"""What is wrong is found, and what to do about it is said."""

from __future__ import annotations

import secrets
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from trio_romancy import App
from trio_romancy._storage.dialects import mysql
from trio_romancy._storage.sql import tables as schema
from trio_romancy.cli.checks import Finding, Verdict, examine
from trio_romancy.clock import Clock

from ..support.databases import SHARED_KINDS, Databases
from ..support.servers import PRODUCTS, execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock]


async def made(database: str) -> str:
    """Make the tables there."""
    async with App(database, worker=False):
        return database


def of(findings: list[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def problems(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.found for finding in findings if finding.verdict is Verdict.PROBLEM}


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_sound_database_has_no_problems_and_is_left_as_it_was(kind: str, database: str) -> None:
    await made(database)
    findings = await examine(database)
    assert problems(findings) == {}
    assert of(findings, "tables").found == f"they are up to date: revision {schema.REVISION}"
    assert [finding.found for finding in findings if finding.check == "rights"] == [
        "all tables can be read and written",
        "tables can be created",
    ]
    if kind != "file":
        names = execute(database, "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'romancy%'")
        assert {name for (name,) in names} >= {*schema.metadata.tables, "romancy_alembic_version"}
        assert not [name for (name,) in names if "doctor" in name]


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_looking_makes_no_tables(kind: str, databases: Databases, tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    url = str(file) if kind == "file" else databases.new(kind)
    for _ in range(2):
        assert problems(await examine(url)) == {"tables": "there are no tables of trio_romancy"}


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=PRODUCTS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def stranger(kind: str, database: str) -> Iterator[str]:
    """The URL of a user who may do nothing yet, on a database with tables."""
    name = f"romancy_test_{secrets.token_hex(4)}"
    if kind == "mariadb":
        execute(database, f"CREATE USER {name}@'%' IDENTIFIED BY 'secret'")
        gone = [f"DROP USER {name}@'%'"]
    else:
        execute(database, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        gone = [f"DROP OWNED BY {name}", f"DROP ROLE {name}"]
    try:
        yield make_url(database).set(username=name, password="secret").render_as_string(hide_password=False)
    finally:
        execute(database, *gone)


def grant(database: str, stranger: str, kind: str, rights: str, *tables: str) -> None:
    name = make_url(stranger).username
    for table in tables:
        execute(database, f"GRANT {rights} ON {table} TO {name}" + ("@'%'" if kind == "mariadb" else ""))


async def test_each_right_that_is_missing_is_named(kind: str, database: str, stranger: str) -> None:
    await made(database)
    every = (*schema.metadata.tables, "romancy_alembic_version")
    grant(database, stranger, kind, "SELECT, INSERT, UPDATE, DELETE", *(name for name in every if "outbox" not in name))
    grant(database, stranger, kind, "SELECT, INSERT", "romancy_outbox")
    findings = await examine(stranger)
    assert problems(findings) == {"rights": "UPDATE and DELETE on romancy_outbox refused"}
    (missing,) = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    assert missing.todo == "GRANT UPDATE, DELETE ON romancy_outbox to the user of the database URL"
    notes = [finding.found for finding in findings if finding.verdict is Verdict.NOTE and finding.check == "rights"]
    assert notes == ["tables cannot be created: another user must migrate after an upgrade"]


async def test_a_user_without_any_right_is_told(kind: str, database: str, stranger: str) -> None:
    await made(database)
    findings = await examine(stranger)
    (check, found), *_ = problems(findings).items()
    assert check == {"mariadb": "connection", "postgresql": "tables"}[kind]
    assert "denied" in found
    assert all(finding.todo for finding in findings if finding.verdict is Verdict.PROBLEM)


@pytest.mark.parametrize(("revision", "todo"), [("0001", "run trio-romancy migrate"), ("9999", "install the version")])
async def test_tables_of_another_version_are_told(kind: str, database: str, revision: str, todo: str) -> None:
    await made(database)
    change = "UPDATE romancy_alembic_version SET version_num = '{}'"
    execute(database, change.format(revision))
    try:
        found = of(await examine(database), "tables")
    finally:
        execute(database, change.format(schema.REVISION))
    assert found.verdict is Verdict.PROBLEM
    assert f"revision {revision}" in found.found
    assert found.todo is not None
    assert found.todo.startswith(todo)


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)  # PostgreSQL may trust whoever comes from this machine
async def test_a_wrong_password_is_a_problem_of_the_connection(kind: str, database: str, stranger: str) -> None:
    wrong = make_url(stranger).set(password="dont-tell").render_as_string(hide_password=False)
    found = problems(await examine(wrong))
    assert "Access denied" in found["connection"]
    assert "dont-tell" not in found["connection"]


# -- clocks, settings, disks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("behind", "words"), [(7, "behind the server"), (-7, "ahead of the server")])
async def test_a_clock_that_differs_is_told(
    kind: str, database: str, behind: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(database)
    now = Clock.now
    monkeypatch.setattr(Clock, "now", lambda clock: now(clock) - behind * 1_000_000)
    findings = await examine(database)
    assert words in problems(findings)["clock"]
    assert of(findings, "clock").todo == "set both clocks by NTP"


async def test_settings_that_forget_are_told(kind: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(database)
    if kind == "postgresql":
        execute(database, f"ALTER DATABASE {make_url(database).database} SET synchronous_commit = off")
        try:
            found = of(await examine(database), "settings")
        finally:
            execute(database, f"ALTER DATABASE {make_url(database).database} RESET synchronous_commit")
        off = [name for name in ("fsync", "full_page_writes") if execute(database, f"SHOW {name}") != [("on",)]]
        unsafe = ", ".join(f"{name} = on" for name in [*off, "synchronous_commit"])
        assert found.todo == f"set {unsafe}, unless other machines have a copy"
    else:
        monkeypatch.setattr(mysql, "unsafe_settings", lambda _: ["innodb_flush_log_at_trx_commit = 1"])
        found = of(await examine(database), "settings")
    assert found.verdict is Verdict.NOTE


async def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await made(str(tmp_path / "some.db"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    found = of(await examine(database), "file")
    assert (found.verdict, found.todo) == (
        Verdict.PROBLEM,
        "free some space: SQLite cannot write to a full disk",
    )


# -- what is left lying ------------------------------------------------------------------------------------------------


def instance(instance_id: str, **values: Any) -> str:
    row = {"instance_id": instance_id, "workflow": "order", "status": "pending", "input": "{}", "recoveries": 0}
    row |= {"created_at": 1, "updated_at": 1, "started_after": 0} | values
    return f"INSERT INTO romancy_instances ({', '.join(row)}) VALUES ({', '.join(map(repr, row.values()))})"


async def test_work_that_nobody_takes_is_a_problem(kind: str, database: str) -> None:
    await made(database)
    execute(database, instance("a", wake_at=1), instance("b", wake_at=2), instance("later", wake_at=2**62))
    found = problems(await examine(database))
    assert found["instances"] == "due for more than 60 s, and no worker takes them: 2 of 'order'"
    assert found["workers"].startswith("none is alive")


async def test_a_worker_that_is_alive_is_no_problem(kind: str, database: str) -> None:
    async with App(database, worker_id="busy"):
        findings = await examine(database)
    assert problems(findings) == {}
    assert of(findings, "workers").found == "1 worker alive"

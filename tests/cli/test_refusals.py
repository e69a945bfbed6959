"""What means nothing is refused in one sentence, with exit code 2, and nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_romancy._storage.sql import tables
from trio_romancy.cli.main import run

from .terminal import MODULE

pytestmark = pytest.mark.long


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """A database with tables, that the environment names."""
    database = str(tmp_path / "empty.db")
    monkeypatch.setenv("TRIO_ROMANCY_DATABASE", database)
    assert run(["migrate"]) == 0
    capfd.readouterr()
    return database


DEEP = "[" * 5_000 + "]" * 5_000

BAD = {
    ("list", "--status", "done"): "'done' is not one of",
    ("list", "--limit", "0"): "--limit",
    ("list", "--since", "yesterday"): "a time looks like 2026-01-31T12:00, or like 2h (two hours ago), not like",
    ("list", "--page-token", "zz"): "$.page_token: it is not the token of a page",
    ("list", "--nope"): "--nope",
    ("find",): "Missing argument",
    ("find", "customer.id"): "a condition looks like PATH=VALUE, such as customer.id=42, not like 'customer.id'",
    ("find", "=1"): "not like '=1'",
    ("find", '["a"]:1'): "a condition looks like PATH=VALUE",
    ("index", '["a"]=1'): "'=1' is too much",
    ("find", "[1=2"): "a path as a list looks like",
    ("find", "a=1", "a=2"): "the path of 'a=2' is given twice",
    ("start", "cli_order", "{}"): "name the module that defines it with --module",
    ("start", "nope", "{}", "--module", MODULE): "there is no workflow 'nope' here: defined are: ",
    ("start", "x", "{"): "the input is not JSON",
    ("start", "x", "[NaN]"): "the input is not JSON (JSON has no NaN)",
    ("start", "x", '{"a": 1, "a": 2}'): "an object has the key 'a' twice",
    ("event", "e", DEEP): "nested more than 100 levels deep",
    ("find", f"a={DEEP}"): "nested more than 100 levels deep",
    ("find", DEEP): "a path as a list looks like",
    ("find", f"a={'[' * 101}{']' * 101}"): "expected text, a number, true, false or null",
    ("find", "a=\udcff"): "the value of 'a=\\udcff' is not text",
    ("show", "a", "b", "--watch"): "--watch shows one instance",
    ("list", "mysql://me:dont-tell@here/db"): "(mysql://***@here/db)",
    ("start", "x", "{}", "--module", "tests.cli.nope"): "there is no module 'tests.cli.nope' in",
    ("start", "x", "{}", "--module", "shop.py"): "'shop.py' is a file name; name the module as Python does: shop",
    ("event", "e", "paid"): "the data is not JSON",
    ("event", ""): "type",
    ("publish", "news", "1", "--metadata", "{"): "--metadata is not JSON",
    ("publish", "news", "1", "--metadata", "[1]"): "metadata",
    ("purge", "--older-than", "30"): "a duration is a number with a unit, such as 90s, 15m, 12h, 30d or 2w, not '30'",
    ("purge", "--older-than", "30d"): "nothing is deleted without a confirmation: give --yes",
    ("outbox", "retry"): "name an event, or give --all",
    ("outbox", "retry", "id", "--all"): "name an event, or give --all",
    ("outbox", "list", "--status", "lost"): "'lost' is not one of",
    ("worker", "shop"): "an app is named as MODULE:APP, such as orders:app, not as 'shop'",
    ("worker", "tests.cli.nope:app"): "there is no module 'tests.cli.nope' in",
    ("worker", f"{MODULE}:nope"): f"module '{MODULE}' has no 'nope'",
    ("worker", f"{MODULE}:not_an_app"): "is not a trio_romancy.App, nor a function that returns one, but int",
    ("worker", f"{MODULE}:client"): "is a client: it was made with worker=False",
    ("worker", f"{MODULE}:fails"): "cannot be called: RuntimeError: no configuration; --traceback shows where",
    ("--database", "x.db", "worker", f"{MODULE}:make"): "leave --database away",
    ("nope",): "No such command 'nope'; see trio-romancy --help",
    (): "Missing command; see trio-romancy --help",
}


@pytest.mark.parametrize("arguments", BAD, ids=lambda arguments: ascii(" ".join(arguments)[:60]))
def test_bad_arguments(arguments: tuple[str, ...], empty: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert BAD[arguments] in said.err
    assert said.err.startswith("trio-romancy: ")
    assert said.err.count("\n") == 1
    assert "dont-tell" not in said.err
    assert len(said.err) < 1000


NOT_THERE = {
    ("show", "nope"): "there is no instance 'nope'",
    ("cancel", "nope"): "there is no instance 'nope'",
    ("resume", "nope"): "there is no instance 'nope'",
    ("event", "e", "--to", "nope"): "there is no instance 'nope'",
    ("publish", "news", "--to", "nope"): "there is no instance 'nope'",
}


@pytest.mark.parametrize("arguments", NOT_THERE, ids=" ".join)
def test_what_is_not_there_has_exit_code_1(
    arguments: tuple[str, ...], empty: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--json",)):
        assert run([*arguments, *more]) == 1
        said = capfd.readouterr()
        assert said.out == ""
        assert NOT_THERE[arguments] in said.err


# -- databases ---------------------------------------------------------------------------------------------------------


def test_a_database_must_be_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRIO_ROMANCY_DATABASE", raising=False)
    assert run(["list"]) == 2
    assert "Give --database, or set TRIO_ROMANCY_DATABASE" in capfd.readouterr().err


def test_looking_makes_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for url in (str(tmp_path / "no.db"), f"sqlite:///{tmp_path}/no.db"):
        for command in ("list", "workers", "bench"):
            assert run([command, "--database", url]) == 2
            assert "trio-romancy migrate creates one" in capfd.readouterr().err
        assert run(["doctor", "--database", url]) == 1
        assert "run trio-romancy migrate" in capfd.readouterr().out
    assert not (tmp_path / "no.db").exists()


def test_a_database_without_tables_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.db").touch()
    for command in ("list", "workers", "bench"):
        assert run([command, "--database", str(tmp_path / "empty.db")]) == 2
        said = capfd.readouterr().err
        assert "the database has no tables of trio_romancy" in said
        assert "or run trio-romancy migrate" in said
    assert run(["doctor", "--database", str(tmp_path / "empty.db")]) == 1
    assert "there are no tables of trio_romancy" in capfd.readouterr().out


def test_a_database_in_memory_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for command, code in (("list", 2), ("migrate", 2), ("bench", 2), ("doctor", 1)):
        for url in (":memory:", "sqlite://"):
            assert run([command, "--database", url]) == code
            assert "in memory" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("oracle://me:dont-tell@here/db", "the scheme of a database URL is one of"),
        ("mysql://me:dont-tell@here", "the URL names no database"),
        ("mysql://me:dont-tell@here:x/db", "the database URL cannot be parsed"),
    ],
)
def test_a_url_that_is_none(url: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    for command, code in (("list", 2), ("migrate", 2), ("doctor", 1)):
        assert run([command, "--database", url]) == code
        said = "".join(capfd.readouterr())
        assert problem in said
        assert "dont-tell" not in said


def test_a_file_that_is_no_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("buy milk")
    for command, code in (("list", 2), ("migrate", 2), ("doctor", 1)):
        assert run([command, "--database", str(tmp_path / "notes.txt")]) == code
        assert "cannot be used as a SQLite database" in "".join(capfd.readouterr())


# -- options -----------------------------------------------------------------------------------------------------------


def test_common_options_may_stand_before_the_command(
    empty: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRIO_ROMANCY_DATABASE")
    for arguments in (["--database", empty, "--json", "workers"], ["workers", "--database", empty, "--json"]):
        assert run(arguments) == 0
        assert capfd.readouterr().out == '{\n  "workers": []\n}\n'
    assert run(["--database", "elsewhere.db", "workers", "--database", empty]) == 0, "what is behind it counts"


def test_tracebacks_are_shown_on_demand(
    empty: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    target = f"{MODULE}:fails"
    assert run(["worker", target, "--traceback"]) == 2
    assert 'raise RuntimeError("no configuration")' in capfd.readouterr().err
    monkeypatch.setenv("TRIO_ROMANCY_TRACEBACK", "1")
    assert run(["worker", target]) == 2
    assert 'raise RuntimeError("no configuration")' in capfd.readouterr().err


def test_a_mistake_of_ours_is_one_sentence_too(
    empty: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables.instances, "c", None)
    assert run(["workers"]) == 1
    assert "trio-romancy: unexpected AttributeError:" in capfd.readouterr().err


def test_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out.startswith("trio-romancy 0.")

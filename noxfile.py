"""Everything that a change must pass. ``nox`` runs all of it, ``nox -s lint`` one part, ``nox -l`` lists the parts.

``nox -s ci`` runs the same checks in a single environment. ``.ci/run`` and the workflow in ``.github`` call only that.
"""

import json
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "lint", "types", "pyright", "layers", "docs"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

LINT = (["ruff", "check", "."], ["ruff", "format", "--check", "."])
TYPES = (["mypy"],)
EXTRAS = ".[cli,postgresql,web,otel]"
LOWEST_TOOLS = (
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "sybil",
    "trustme",
    "h11",
    "hypercorn",
    "opentelemetry-sdk",
    "django",
    "psycopg[binary]",
    "aiosqlite",
    "uvicorn",
    "pydantic",
    "msgspec",
)
"""What the tests need besides the package, in versions that do not matter to users."""
LOWEST_TESTS = (
    *(f"tests/{folder}" for folder in ("cli", "client", "data", "definitions", "portal", "storage", "tasks", "web")),
    *(f"tests/runtime/test_{name}.py" for name in ("activities", "children", "left_generators", "session", "timers")),
)
"""Tests of what depends on other packages. Those that are left out depend on the ones that are here."""
LAYERS = (["lint-imports", "--no-cache"],)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests and the blocks of the docs, on each installed Python. ``-- -n 4 --all`` adds the long ones."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run tests on SQLite with the lowest versions of what the package needs, in a few minutes."""
    session.install("uv")
    python = str(Path(session.bin) / "python")
    session.run("uv", "pip", "install", "--python", python, "--resolution=lowest-direct", "-e", EXTRAS)
    session.run("uv", "pip", "install", "--python", python, *LOWEST_TOOLS)
    # An old version warns of what a new one of its own dependencies has deprecated.
    on_sqlite = ("-W", "default::DeprecationWarning", "-k", "not mariadb and not postgresql")
    session.run("python", "-m", "pytest", "-n", "2", *on_sqlite, *(session.posargs or LOWEST_TESTS))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("-e", ".[lint]")
    _run(session, LINT)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of package and tests with mypy --strict."""
    session.install("-e", ".[test,lint]")
    _run(session, TYPES)


@nox.session
def pyright(session: nox.Session) -> None:
    """Check the package with pyright, and that at least 99 % of its public names have known types."""
    session.install("-e", ".[lint,postgresql]")
    _run_pyright(session)


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point down, those for type checkers included."""
    session.install("-e", ".[lint]")
    _run(session, LAYERS)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages into ``docs/_build``."""
    session.install("-e", ".[docs]")
    _build_docs(session, "docs/_build")


@nox.session
def ci(session: nox.Session) -> None:
    """Run all tests and all checks in one environment."""
    session.install("-e", ".[test,lint,docs]")
    session.run("python", "-m", "pytest", "-n", "4", "--all", *session.posargs)
    _run(session, LINT + TYPES + LAYERS)
    _run_pyright(session)
    _build_docs(session, str(session.cache_dir / "docs"))


@nox.session
def coverage(session: nox.Session) -> None:
    """Print the branch coverage of the tests, with the lines and branches that no test reaches."""
    session.install("-e", ".[test]", "pytest-cov")
    options = ("--cov=trio_romancy", "--cov-branch", "--cov-report=term-missing:skip-covered")
    session.run("python", "-m", "pytest", "-n", "4", *options, *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example, and compare its output with the one that it documents."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, freeze and cut off worker processes. ``TRIO_ROMANCY_CHAOS=seconds`` makes it longer."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-s", "tests/chaos", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the speed, beside other systems. Takes minutes; ``-- --quick`` takes less."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


def _run(session: nox.Session, commands: tuple[list[str], ...]) -> None:
    for command in commands:
        session.run(*command)


def _run_pyright(session: nox.Session) -> None:
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # a newer pyright is no finding, and breaks the report
    session.run("pyright")
    verify = ("pyright", "--ignoreexternal", "--outputjson", "--verifytypes", "trio_romancy")
    report = session.run(*verify, silent=True, success_codes=[0, 1])
    completeness = json.loads(str(report))["typeCompleteness"]["completenessScore"]
    session.log(f"type completeness: {completeness:.1%}")
    if completeness < 0.99:
        session.error("run `pyright --ignoreexternal --verifytypes trio_romancy` to see which types are not known")


def _build_docs(session: nox.Session, directory: str) -> None:
    session.run("sphinx-build", "-q", "-W", "-b", "html", "docs", directory)

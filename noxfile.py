"""All that a change must pass. ``nox`` runs it; ``nox -s lint`` runs one part."""

import nox

nox.options.sessions = ["tests", "lint", "types", "layers", "examples", "docs"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The tests, among them every block of the docs, on each Python that is installed. All of them: -- --all."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the package."""
    session.install("-e", ".[lint]")
    session.run("mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Imports point down only."""
    session.install("-e", ".[lint]")
    session.run("lint-imports")


@nox.session
def examples(session: nox.Session) -> None:
    """Every example prints what it promises."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, into docs/_build."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build")


@nox.session
def chaos(session: nox.Session) -> None:
    """Worker processes that are killed, frozen and cut off. TRIO_ROMANCY_CHAOS=seconds makes it longer."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-s", "tests/chaos", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """How fast it is, beside others. Takes minutes, and is not run by default."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)

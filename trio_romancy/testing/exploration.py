"""Running a scenario under virtual time: undisturbed, and once for each place where it could crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from attrs import field, frozen
from sqlalchemy import Connection, select

from .._storage.database import Database
from .._storage.sql.instances import get_instance, load_history
from .._storage.sql.tables import instances
from ..app import App
from ..model import Entry, Instance, Kind
from .crashes import Crash, CrashingDatabase, How
from .guarantees import broken_guarantees

R = TypeVar("R")

Scenario = Callable[[App], Awaitable[Any]]
"""Starts workflows on the app, waits for them, and returns what every run must return alike."""


def run(fn: Callable[..., Awaitable[R]], *args: Any) -> R:
    """Run an async function under virtual time, which jumps ahead whenever everything waits."""
    return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


@frozen
class Run:
    """What became of one run of a scenario."""

    result: Any
    """What the scenario returned."""
    instances: list[Instance]
    histories: dict[str, list[Entry]]
    """By instance id."""
    commits: int
    """How many commits there were."""
    reached: set[int]
    """The commits of those crashes that happened."""

    @property
    def broken_guarantees(self) -> list[str]:
        """A sentence for each guarantee that a journal breaks."""
        return [p for i in self.instances for p in broken_guarantees(i, self.histories[i.instance_id])]

    def difference_from(self, other: Run) -> str | None:
        """How it ended differently from another run; None if it did not."""
        if self.result != other.result:
            return f"it returned {self.result!r} instead of {other.result!r}"
        ours, theirs = self._outcomes(), other._outcomes()
        return None if ours == theirs else f"it recorded {ours} instead of {theirs}"

    def _outcomes(self) -> list[tuple[str, list[tuple[str, str]]]]:
        return sorted(
            (
                instance.status,
                sorted(
                    (entry.operation_id, entry.kind)
                    for entry in self.histories[instance.instance_id]
                    if entry.kind is not Kind.ATTEMPT_FAILED
                ),
            )
            for instance in self.instances
        )


@frozen
class Exploration:
    """What an exploration has tried. All of it went well: a failing point is raised."""

    commits: int
    """Of the undisturbed run."""
    points: int
    """How many crashes happened, each in a run of its own."""
    reference: Run = field(repr=False)
    """The undisturbed run."""


def _in_memory() -> str:
    return ":memory:"


def run_with_crashes(
    scenario: Scenario,
    crashes: Iterable[Crash] = (),
    *,
    new_database: Callable[[], str] = _in_memory,
    **app_options: Any,
) -> Run:
    """Run a scenario on a new app, under virtual time, with these crashes.

    Args:
      new_database: gives the URL of a database without instances; by default one in memory.
      app_options: for the :class:`~trio_romancy.App`.
    """
    return run(_run, scenario, new_database(), {crash.commit: crash.how for crash in crashes}, app_options)


def explore_crashes(
    scenario: Scenario,
    *,
    hows: Sequence[How] = tuple(How),
    new_database: Callable[[], str] = _in_memory,
    **app_options: Any,
) -> Exploration:
    """Run a scenario undisturbed, then once for each of its commits and each thing that can go wrong there.

    Every run must return the same, end every instance with the same status and the same outcomes, and keep every
    guarantee. The scenario is the client: it survives the crashes, as somebody at another machine would.

    Args:
      hows: what to let go wrong.
      new_database: gives the URL of a database without instances for each run; by default one in memory.
      app_options: for the :class:`~trio_romancy.App`.

    Raises:
      AssertionError: naming every crash after which a run did not converge, and how it differs.
    """
    reference = run_with_crashes(scenario, new_database=new_database, **app_options)
    failures = [f"undisturbed: {problem}" for problem in reference.broken_guarantees]
    points = 0
    for how in hows:
        commit = 1
        # A crash can make a run longer than the undisturbed one; go on until one is never reached.
        while True:
            crash = Crash(commit, how)
            attempt = run_with_crashes(scenario, [crash], new_database=new_database, **app_options)
            if commit not in attempt.reached:
                break
            points += 1
            failures += [f"{crash}: {problem}" for problem in attempt.broken_guarantees]
            if (difference := attempt.difference_from(reference)) is not None:
                failures.append(f"{crash}: {difference}")
            commit += 1
    if failures:
        raise AssertionError(f"{len(failures)} of {points} crashes did no good:\n" + "\n".join(failures))
    return Exploration(reference.commits, points, reference)


async def _run(scenario: Scenario, database_url: str, crashes: dict[int, How], app_options: dict[str, Any]) -> Run:
    app = _CrashingApp(database_url, crashes, app_options)
    async with app:
        database = app.database
        assert database is not None
        database.worker = app._require_engine().worker
        result = await scenario(app)
        commits, database.worker = database.commits, None
        found, histories = await database.read(_read_all)
    return Run(result, found, histories, commits, database.reached)


class _CrashingApp(App):
    def __init__(self, database_url: str, crashes: dict[int, How], options: dict[str, Any]) -> None:
        super().__init__(database_url, **options)
        self._crashes = crashes
        self.database: CrashingDatabase | None = None

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return self._open_crashing_database()

    @asynccontextmanager
    async def _open_crashing_database(self) -> AsyncIterator[Database]:
        async with super()._open_database() as inner:
            self.database = CrashingDatabase(inner, self._crashes)
            yield self.database


def _read_all(connection: Connection) -> tuple[list[Instance], dict[str, list[Entry]]]:
    ids = connection.execute(select(instances.c.instance_id).order_by(instances.c.instance_id)).scalars().all()
    found = [instance for id in ids if (instance := get_instance(connection, id)) is not None]
    return found, {id: load_history(connection, id) for id in ids}

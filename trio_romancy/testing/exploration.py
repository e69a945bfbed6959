"""Crash exploration: runs of a scenario under virtual time, one without crashes and one for each possible crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from attrs import field, frozen
from sqlalchemy import Connection, select

from .._storage.database import Database
from .._storage.sql.entries import load_history
from .._storage.sql.instances import get_instance
from .._storage.sql.limits import list_limits
from .._storage.sql.tables import instances, permits
from ..app import App
from ..model import Entry, EntryKind, Instance
from .crashes import Crash, CrashingDatabase, How
from .guarantees import broken_guarantees

R = TypeVar("R")

Scenario = Callable[[App], Awaitable[Any]]
"""Starts workflows on the app, waits for them, and returns a value that must be the same in every run."""


def run(fn: Callable[..., Awaitable[R]], *args: Any) -> R:
    """Run an async function in trio under virtual time, which jumps ahead when all tasks wait."""
    return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


@frozen
class Run:
    """Result of one run of a scenario."""

    result: Any
    """Return value of the scenario."""
    instances: list[Instance]
    histories: dict[str, list[Entry]]
    """Journals by instance id."""
    commits: int
    """Number of commits."""
    reached: set[int]
    """Commits of the crashes that happened."""
    leaks: list[str] = field(factory=list)
    """One sentence for each permit of a limit that is still taken, and for each wait, although all instances ended."""

    @property
    def broken_guarantees(self) -> list[str]:
        """One sentence for each guarantee that a journal breaks, or that the limits break."""
        broken = [p for i in self.instances for p in broken_guarantees(i, self.histories[i.instance_id])]
        return [*broken, *(self.leaks if all(one.status.is_final for one in self.instances) else ())]

    def difference_from(self, other: Run) -> str | None:
        """Return how this run ended differently from another one; None if it ended alike."""
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
                    if entry.kind is not EntryKind.ATTEMPT_FAILED
                ),
            )
            for instance in self.instances
        )


@frozen
class Exploration:
    """Result of a successful exploration."""

    commits: int
    """Number of commits of the run without crashes."""
    points: int
    """Number of crashes, each in a run of its own."""
    reference: Run = field(repr=False)
    """The run without crashes."""


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
      scenario: starts workflows, waits for them, and returns a value.
      crashes: the crashes. One at a commit that is never reached has no effect.
      new_database: returns the URL of a database without instances; by default one in memory.
      app_options: options of the :class:`~trio_romancy.App`. ``check_arguments`` is True by default.
    """
    return run(_run, scenario, new_database(), {crash.commit: crash.how for crash in crashes}, app_options)


def explore_crashes(
    scenario: Scenario,
    *,
    hows: Sequence[How] = tuple(How),
    new_database: Callable[[], str] = _in_memory,
    **app_options: Any,
) -> Exploration:
    """Run a scenario without crashes, and then once for each of its commits and each kind of crash.

    Every run must return the same value, end every instance with the same status and the same outcomes, and keep every
    guarantee. The scenario is the client: it survives the crashes, as a client on another machine does. Each replay
    must pass the same arguments to activities, so a scenario whose workflow draws ``uuid.uuid4()`` does not pass.

    Args:
      scenario: starts workflows, waits for them, and returns a value.
      hows: the kinds of crashes.
      new_database: returns the URL of a database without instances for each run; by default one in memory.
      app_options: options of the :class:`~trio_romancy.App`. ``check_arguments`` is True by default.

    Raises:
      AssertionError: with a line for each run that ended differently or broke a guarantee.
    """
    reference = run_with_crashes(scenario, new_database=new_database, **app_options)
    failures = [f"without crashes: {problem}" for problem in reference.broken_guarantees]
    points = 0
    for how in hows:
        commit = 1
        # A crash can add commits to a run. The exploration ends at the first commit that is not reached.
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
        raise AssertionError(f"{len(failures)} of {points} crashes changed the outcome:\n" + "\n".join(failures))
    return Exploration(reference.commits, points, reference)


async def _run(scenario: Scenario, database_url: str, crashes: dict[int, How], app_options: dict[str, Any]) -> Run:
    app = _CrashingApp(database_url, crashes, app_options)
    async with app:
        database = app.database
        assert database is not None
        database.worker = app._require_engine("run_with_crashes").worker
        result = await scenario(app)
        commits, database.worker = database.commits, None
        found, histories = await database.read(_read_all)
        leaks = await database.read(_leaks)
    return Run(result, found, histories, commits, database.reached, leaks)


class _CrashingApp(App):
    def __init__(self, database_url: str, crashes: dict[int, How], options: dict[str, Any]) -> None:
        checked: dict[str, Any] = {"check_arguments": True}
        super().__init__(database_url, **checked | options)
        self._crashes = crashes
        self.database: CrashingDatabase | None = None

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return self._open_crashing_database()

    @asynccontextmanager
    async def _open_crashing_database(self) -> AsyncIterator[Database]:
        async with super()._open_database() as inner:
            self.database = CrashingDatabase(inner, self._crashes)
            yield self.database


def _leaks(connection: Connection) -> list[str]:
    uses = list_limits(connection)
    held = connection.execute(select(permits.c.instance_id, permits.c.operation_id, permits.c.name)).all()
    return [
        *(f"{row.operation_id} of {row.instance_id!r} holds a permit of limit {row.name!r}" for row in held),
        *(f"limit {use.limit.name!r}: {use.taken} is taken and held by nothing" for use in uses if use.taken),
        *(f"limit {use.limit.name!r}: {use.waiting} attempts wait in vain" for use in uses if use.waiting),
    ]


def _read_all(connection: Connection) -> tuple[list[Instance], dict[str, list[Entry]]]:
    ids = connection.execute(select(instances.c.instance_id).order_by(instances.c.instance_id)).scalars().all()
    found = [instance for id in ids if (instance := get_instance(connection, id)) is not None]
    return found, {id: load_history(connection, id) for id in ids}

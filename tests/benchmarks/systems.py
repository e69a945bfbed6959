"""The systems that are compared, and how each is run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import trio
from attrs import frozen


def _on_trio(run: Callable[..., Any], *arguments: object) -> Any:
    return trio.run(run, *arguments)


def _on_asyncio(run: Callable[..., Any], *arguments: object) -> Any:
    return asyncio.run(run(*arguments))


def _on_uvloop(run: Callable[..., Any], *arguments: object) -> Any:
    import uvloop

    return uvloop.run(run(*arguments))


@frozen
class System:
    """One system, and the module that has the workload for it."""

    name: str
    module: str
    distribution: str
    """What must be installed."""
    in_loop: Callable[..., Any]
    """Runs the workload in the event loop that the system is made for."""
    sets_pragmas: bool = False
    """Whether it sees by itself that its commits are on disk."""

    def run(self, database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
        """Run ``total`` workflows on a new database, so many at a time.

        Returns the seconds that it took, and the seconds from start to result of each that completed.
        """
        outcome: tuple[float, list[float]] = self.in_loop(import_module(self.module).run, database, concurrency, total)
        return outcome

    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


SYSTEMS = {
    system.name: system
    for system in (
        System("bare", "bare", "trio_romancy", _on_trio, sets_pragmas=True),
        System("ours", "ours", "trio_romancy", _on_trio, sets_pragmas=True),
        System("dbos", "dbos_peer", "dbos", _on_asyncio),
        System("edda", "edda_peer", "edda-framework", _on_uvloop),
    )
}

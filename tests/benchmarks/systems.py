"""The systems that are compared, and how each is run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import trio
from attrs import frozen
from databases import NAMES


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
    in_loop: Callable[..., Any]
    """Runs the workload in the event loop that the system is made for."""
    databases: tuple[str, ...]
    """The kinds of databases it can use."""
    is_peer: bool = True
    """Whether it is somebody else's."""
    needs: tuple[str, ...] = ()
    """Distributions that must be installed, too."""
    mail: str | None = None
    """The module that sends to workflows that wait; None: it is not compared in that."""

    def run(self, database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
        """Run ``total`` workflows, so many at a time, on a new database: a file name, or the URL of one on a server.

        Returns the seconds that it took, and the seconds from start to result of each that completed.
        """
        outcome: tuple[float, list[float]] = self.in_loop(import_module(self.module).run, database, concurrency, total)
        return outcome

    def call_mail(self, function: str, *arguments: object) -> Any:
        """Run a function of the module that sends to workflows that wait."""
        assert self.mail is not None
        return self.in_loop(getattr(import_module(self.mail), function), *arguments)

    def missing(self) -> str | None:
        """The first distribution that it needs and that is not installed."""
        return next((name for name in (self.distribution, *self.needs) if version(name) is None), None)


def version(distribution: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


SYSTEMS = {
    system.name: system
    for system in (
        System("bare", "bare", "trio_romancy", _on_trio, tuple(NAMES), is_peer=False),
        System("ours", "ours", "trio_romancy", _on_trio, tuple(NAMES), is_peer=False, mail="ours_mail"),
        System("dbos", "dbos_peer", "dbos", _on_asyncio, ("sqlite", "postgresql"), mail="dbos_mail"),
        System("edda", "edda_peer", "edda-framework", _on_uvloop, tuple(NAMES), mail="edda_mail"),
        System("absurd", "absurd_peer", "absurd-sdk", _on_uvloop, ("postgresql",), needs=("absurdctl",)),
    )
}

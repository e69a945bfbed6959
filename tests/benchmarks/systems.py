"""The systems that are compared, and how each runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import trio
from attrs import frozen

from .databases import NAMES


def _on_trio(run: Callable[..., Any], *arguments: object) -> Any:
    return trio.run(run, *arguments)


def _on_asyncio(run: Callable[..., Any], *arguments: object) -> Any:
    return asyncio.run(run(*arguments))


def _on_uvloop(run: Callable[..., Any], *arguments: object) -> Any:
    import uvloop

    return uvloop.run(run(*arguments))


@frozen
class System:
    """One system, and the modules with its workloads."""

    name: str
    module: str
    distribution: str
    in_loop: Callable[..., Any]
    """Runs the workload in the event loop that the system is made for."""
    databases: tuple[str, ...]
    """Kinds of databases that it supports."""
    is_peer: bool = True
    """Whether it is a system other than trio_romancy."""
    needs: tuple[str, ...] = ()
    """Further distributions that must be installed."""
    mail: str | None = None
    """Module of the workload with waiting workflows; None if that is not compared."""

    def run(self, database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
        """Run ``total`` workflows, ``concurrency`` at a time, on a new database: a file name, or a URL.

        Returns the seconds for all, and the seconds from start to result of each that completed.
        """
        outcome: tuple[float, list[float]] = self.in_loop(
            import_module(f".{self.module}", __package__).run, database, concurrency, total
        )
        return outcome

    def call_mail(self, function: str, *arguments: object) -> Any:
        """Run a function of the module :attr:`mail`."""
        assert self.mail is not None
        return self.in_loop(getattr(import_module(f".{self.mail}", __package__), function), *arguments)

    def missing(self) -> str | None:
        """Return the first distribution that is needed and not installed; None if all are."""
        return next((name for name in (self.distribution, *self.needs) if version(name) is None), None)


def version(distribution: str) -> str | None:
    """Return the installed version; None if it is not installed."""
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

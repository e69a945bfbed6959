"""The program: every command, and the options that typer gives it."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import Annotated, Any

import typer

from .call import VARIABLE, AsJson, Command, Database, Traceback, runnable
from .commands.bench import bench
from .commands.cancel import cancel
from .commands.doctor import doctor
from .commands.event import event
from .commands.find import find
from .commands.index import index
from .commands.list import list_instances
from .commands.migrate import migrate
from .commands.outbox import list_events, retry_events
from .commands.publish import publish
from .commands.purge import purge
from .commands.resume import resume
from .commands.retry import retry
from .commands.show import show
from .commands.start import start
from .commands.terminate import terminate
from .commands.worker import worker
from .commands.workers import list_workers

_COMMANDS: dict[str, Command] = {
    "list": list_instances,
    "find": find,
    "show": show,
    "start": start,
    "event": event,
    "publish": publish,
    "cancel": cancel,
    "terminate": terminate,
    "resume": resume,
    "retry": retry,
    "purge": purge,
    "workers": list_workers,
    "index": index,
    "migrate": migrate,
    "doctor": doctor,
    "bench": bench,
}
_OUTBOX: dict[str, Command] = {"list": list_events, "retry": retry_events}


def make_program() -> typer.Typer:
    """Return the typer application with all commands."""
    # Without this its help is never narrower than 50 columns.
    wide = {"terminal_width": min(shutil.get_terminal_size().columns, 100)}
    options: dict[str, Any] = {
        "add_completion": False,
        "rich_markup_mode": None,
        "pretty_exceptions_enable": False,
        "context_settings": {"help_option_names": ["-h", "--help"], **wide},
    }
    program = typer.Typer(**options)
    program.callback()(_begin)
    program.command("worker", context_settings=wide)(runnable(worker, has_database=False))
    for name, command in _COMMANDS.items():
        program.command(name, context_settings=wide)(runnable(command))
    events = typer.Typer(**options, help="The events on their way to the broker.")
    for name, command in _OUTBOX.items():
        events.command(name, context_settings=wide)(runnable(command))
    program.add_typer(events, name="outbox")
    return program


def _show_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"trio-romancy {version('trio_romancy')}")
        raise typer.Exit


def _begin(
    ctx: typer.Context,
    database: Database = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Durable workflows for trio: look at instances, and steer them.

    Exit codes: 0 success; 1 not found, nothing to do, or a problem found; 2 bad arguments, or a database that cannot
    be used.
    """
    ctx.meta[VARIABLE], ctx.meta["--json"] = database, as_json

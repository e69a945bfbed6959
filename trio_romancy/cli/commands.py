"""All commands, and what typer makes of them."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import Annotated, Any

import typer

from . import finding, outbox, sending, showing, steering, tables, workers
from .bench import bench
from .call import VARIABLE, AsJson, Command, Database, Traceback, runnable
from .doctor import doctor
from .worker import worker

_COMMANDS: dict[str, Command] = {
    "list": finding.list_instances,
    "find": finding.find,
    "show": showing.show,
    "start": sending.start,
    "event": sending.event,
    "publish": sending.publish,
    "cancel": steering.cancel,
    "resume": steering.resume,
    "retry": steering.retry,
    "purge": steering.purge,
    "workers": workers.list_workers,
    "index": tables.index,
    "migrate": tables.migrate,
    "doctor": doctor,
    "bench": bench,
}
_OUTBOX: dict[str, Command] = {"list": outbox.list_events, "retry": outbox.retry_events}


def make_commands() -> typer.Typer:
    """The program."""
    # Otherwise its help would be 50 columns wide at the least.
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
    """Durable workflows for trio: see what they do, and steer them.

    Exit codes: 0 all is well; 1 not found, nothing done, or a problem found; 2 bad arguments, or the database cannot be
    used.
    """
    ctx.meta[VARIABLE], ctx.meta["--json"] = database, as_json

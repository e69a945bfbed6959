"""The program: every command, and the options that typer gives it."""

from __future__ import annotations

import shutil
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from attrs import frozen
from typer.core import TyperGroup

from .call import VARIABLE, AsJson, Command, Database, Traceback, runnable


@frozen
class _Command:
    """A command that is imported when it is called: what it needs takes longer than what it does."""

    module: str
    function: str
    help: str
    """First sentence of its help, for the list of all commands."""

    def load(self) -> Command:
        """Import the command."""
        command: Command = getattr(import_module(f".commands.{self.module}", __package__), self.function)
        return command


COMMANDS = {
    "worker": _Command("worker", "worker", "Run a worker until SIGTERM or Ctrl-C."),
    "list": _Command("list", "list_instances", "List instances, the newest first."),
    "find": _Command("find", "find", "Find instances by the values in their input."),
    "show": _Command("show", "show", "Show an instance, and its journal as a timeline."),
    "start": _Command("start", "start", "Start an instance."),
    "event": _Command("event", "event", "Send an event to every instance that waits for its type, now or later."),
    "publish": _Command("publish", "publish", "Publish a message to a channel."),
    "cancel": _Command("cancel", "cancel", "Ask for the cancellation of an instance."),
    "terminate": _Command("terminate", "terminate", "End an instance at once, whatever its code does."),
    "resume": _Command("resume", "resume", "Let a stuck instance go on, or run failed compensations again."),
    "retry": _Command("retry", "retry", "Run a failed instance again from what failed, and keep what succeeded."),
    "purge": _Command("purge", "purge", "Delete instances that have ended, with their journals."),
    "workers": _Command("workers", "list_workers", "List the workers, with their leases and the number of instances."),
    "limits": _Command(
        "limits", "list_limits", "List the limits, what of each is taken, and how many attempts wait for it."
    ),
    "set-limit": _Command("limits", "set_limit", "Change a limit for all workers, from now on."),
    "index": _Command("index", "index", "Make an index over a value in the inputs, so that find is fast by it."),
    "migrate": _Command("migrate", "migrate", "Create the tables, or bring them up to date."),
    "doctor": _Command("doctor", "doctor", "Look for problems, and say what to do about each."),
    "bench": _Command("bench", "bench", "Measure workflows of three activities per second, at 1, 20 and 200 clients."),
}


@frozen
class _Group:
    """Commands about one thing, all of one module."""

    help: str
    commands: dict[str, str]
    """Names of the functions, by those of the commands."""


GROUPS = {
    "outbox": _Group("The events on their way to the broker.", {"list": "list_events", "retry": "retry_events"}),
    "schedules": _Group(
        "The schedules: what is due when, and what was skipped.",
        {
            "list": "list_schedules",
            "next": "show_next",
            "skipped": "show_skipped",
            "pause": "pause",
            "resume": "resume",
            "trigger": "trigger",
            "backfill": "backfill",
            "skip": "skip",
            "delete": "delete",
        },
    ),
}


class _Commands(TyperGroup):
    """All commands, which are not imported to be listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        made = _new_typer()
        if cmd_name in GROUPS:
            module = import_module(f".commands.{cmd_name}", __package__)
            for name, function in GROUPS[cmd_name].commands.items():
                made.command(name, context_settings=_width())(runnable(getattr(module, function)))
            made.info.help = GROUPS[cmd_name].help
        elif cmd_name in COMMANDS:
            command = COMMANDS[cmd_name].load()
            made.command(cmd_name, context_settings=_width())(runnable(command, has_database=cmd_name != "worker"))
        else:
            return None
        loaded = typer.main.get_command(made)
        loaded.name = cmd_name
        return loaded

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.help) for commands in (COMMANDS, GROUPS) for name, command in commands.items()]
            )


def _width() -> dict[str, Any]:
    # Without this the help is never narrower than 50 columns.
    return {"terminal_width": min(shutil.get_terminal_size().columns, 100)}


def _new_typer(cls: type[TyperGroup] | None = None, *, completes: bool = False) -> typer.Typer:
    return typer.Typer(
        cls=cls,
        add_completion=completes,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], **_width()},
    )


def make_program() -> typer.Typer:
    """Return the typer application with all commands."""
    program = _new_typer(_Commands, completes=True)
    program.callback()(_begin)
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

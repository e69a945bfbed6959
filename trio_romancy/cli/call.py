"""One call of a command: its database, and the way it answers."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer
from attrs import define

from .._storage.drivers.urls import file_of, shown_url
from ..app import App
from .documents import to_document
from .failures import NoReaderError, StopError

if TYPE_CHECKING:
    from .screen import Screen

VARIABLE = "TRIO_ROMANCY_DATABASE"
"""The environment variable that names the database if no option does."""

START_TIMEOUT = 5.0
"""Seconds that the database may be away when a command begins."""

Database = Annotated[
    str | None,
    typer.Option(help=f"A file or a URL. Without it, {VARIABLE} says which.", metavar="URL", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on standard output.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]

Command = Callable[..., Coroutine[Any, Any, int | None]]
"""An async function of a call, and of what typer shall make of the command's arguments. Returns the exit code."""


@define(eq=False, slots=False)
class Call:
    """One call of a command."""

    given_database: str | None
    as_json: bool

    @cached_property
    def screen(self) -> Screen:
        """Where to write for people. Not to be used when they want JSON."""
        from .screen import Screen  # only now: what JSON asks for needs no rich

        return Screen()

    @property
    def database(self) -> str:
        """The database.

        Raises:
          StopError: if neither the option nor the environment says which.
        """
        database = self.given_database or os.environ.get(VARIABLE)
        if not database:
            raise StopError(f"which database? Give --database, or set {VARIABLE}: a file, or a URL")
        return database

    @property
    def shown_database(self) -> str:
        """The database as it may be shown, without a password."""
        return shown_url(self.database)

    def existing_database(self) -> str:
        """The database, which is not made by looking at it.

        Raises:
          StopError: if there is none.
        """
        file = file_of(self.database)
        if file == "":
            raise StopError("a database in memory is seen by its own process only; name a file or a server")
        if file is not None and not os.path.exists(file):
            raise StopError(f"there is no file {file}; trio-romancy migrate makes one")
        return self.database

    @asynccontextmanager
    async def open_app(self) -> AsyncIterator[App]:
        """A client of the database, which must be there, with its tables."""
        app = App(self.existing_database(), worker=False, auto_migrate=False, start_timeout=START_TIMEOUT)
        async with app:
            # From here on an outage is waited for, and whoever waits is to be told.
            logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="trio-romancy: %(message)s")
            yield app

    def answer(self, document: Any, show: Callable[[], object]) -> None:
        """Give the answer of a command, once.

        Args:
          document: it for machines: values of the model, and what JSON can hold.
          show: shows it to people.
        """
        if self.as_json:
            print(json.dumps(to_document(document), indent=2))
        else:
            show()

    def add_line(self, document: Any) -> None:
        """Write one of many answers, as one line of JSON."""
        print(json.dumps(to_document(document)), flush=True)


def runnable(command: Command, *, has_database: bool = True) -> Callable[..., int]:
    """What typer calls for a command: it also takes the options that all commands have, and runs it in trio."""
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()  # without the call

    def run(ctx: typer.Context, as_json: bool, traceback: bool, database: str | None = None, **arguments: Any) -> int:
        # They may stand before the name of the command, too. Whether to show tracebacks main knows without being told.
        call = Call(database or ctx.meta.get(VARIABLE), as_json or ctx.meta.get("--json", False))
        logging.getLogger("trio_romancy").addHandler(logging.NullHandler())
        try:
            return trio.run(partial(command, call, **arguments)) or 0
        except BrokenPipeError as error:
            raise NoReaderError from error  # typer would exit by itself

    common: list[tuple[str, Any, Any]] = [("as_json", AsJson, False), ("traceback", Traceback, False)]
    if has_database:
        common.insert(0, ("database", Database, None))
    named = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=named) for parameter in own]
    parameters += [inspect.Parameter(name, named, default=value, annotation=hint) for name, hint, value in common]
    parameters.append(inspect.Parameter("ctx", named, annotation=typer.Context))
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=int)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    return run

"""One call of a command: its database, and the form of its answer."""

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

import typer
from attrs import define

from .documents import to_document
from .failures import NoReaderError, StopError, writing
from .terminal.wording import count

if TYPE_CHECKING:
    from ..app import App
    from ..model import SendResult
    from .terminal.screen import Screen

VARIABLE = "TRIO_ROMANCY_DATABASE"
"""Environment variable that names the database if no option does."""

START_TIMEOUT = 5.0
"""Seconds that the database may be away when a command begins."""

Database = Annotated[
    str | None,
    typer.Option(help=f"A file or a URL. {VARIABLE} has the default.", metavar="URL", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on standard output.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]

Command = Callable[..., Coroutine[Any, Any, int | None]]
"""An async function that takes a call and the command's arguments as typer parses them. Returns the exit code."""


@define(eq=False, slots=False)
class Call:
    """One call of a command."""

    given_database: str | None
    as_json: bool

    @cached_property
    def screen(self) -> Screen:
        """Output for people. Not to be used if the answer is JSON."""
        from .terminal.screen import Screen  # rich is imported only if there is something to show

        return Screen()

    @property
    def database(self) -> str:
        """The file name or URL of the database.

        Raises:
          StopError: if neither the option nor the environment names one.
        """
        database = self.given_database or os.environ.get(VARIABLE)
        if not database:
            raise StopError(f"which database? Give --database, or set {VARIABLE}: a file, or a URL")
        return database

    @property
    def shown_database(self) -> str:
        """The database without its password."""
        from .._storage.drivers.urls import shown_url

        return shown_url(self.database)

    def existing_database(self) -> str:
        """Return the database, which must exist: a command that reads does not create a file.

        Raises:
          StopError: if it is in memory, or if its file does not exist.
        """
        from .._storage.drivers.urls import file_of

        file = file_of(self.database)
        if file == "":
            raise StopError("a database in memory exists only in its own process; name a file or a server")
        if file is not None and not os.path.exists(file):
            raise StopError(f"there is no file {file}; trio-romancy migrate creates one")
        return self.database

    @asynccontextmanager
    async def open_app(self) -> AsyncIterator[App]:
        """Open a client of the database. The database and its tables must exist."""
        from ..app import App  # only now: to list the commands needs neither it nor a database

        app = App(self.existing_database(), worker=False, auto_migrate=False, start_timeout=START_TIMEOUT)
        async with app:
            # From here on the app waits for the end of an outage. The log tells the user why nothing happens. What
            # happens to instances is the answer of the command, and is not told twice.
            handler = logging.StreamHandler(sys.stderr)
            handler.addFilter(lambda record: record.name != "trio_romancy.supervisor")
            logging.basicConfig(level=logging.WARNING, handlers=[handler], format="trio-romancy: %(message)s")
            yield app

    def answer(self, document: Any, show: Callable[[], object]) -> None:
        """Write the answer of a command. To be called once.

        Args:
          document: the answer for machines: values of the model, and JSON data.
          show: writes the answer for people.
        """
        with writing():
            if self.as_json:
                print(json.dumps(to_document(document), indent=2))
            else:
                show()

    def answer_one(self, document: Any, show: Callable[[], object]) -> None:
        """Write one of several answers, for machines as one line of JSON."""
        if self.as_json:
            self.add_line(document)
        else:
            with writing():
                show()
                sys.stdout.flush()

    def answer_sent(self, sent: SendResult) -> None:
        """Write the answer of a command that has sent an event or a message."""
        said = "it was accepted before, and is not sent again"
        if not sent.is_duplicate:
            said = f"{count(sent.waiting, 'instance')} waited for it"

        def show() -> None:
            self.screen.line(sent.id)
            self.screen.line(said)

        self.answer(sent, show)

    def add_line(self, document: Any) -> None:
        """Write one of several answers, as one line of JSON."""
        with writing():
            print(json.dumps(to_document(document)), flush=True)


def runnable(command: Command, *, has_database: bool = True) -> Callable[..., int]:
    """Return the function that typer calls for a command. It takes the options of all commands, and runs trio."""
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()  # without the call

    def run(ctx: typer.Context, as_json: bool, traceback: bool, database: str | None = None, **arguments: Any) -> int:
        # The options may stand before the command's name, too. `main` looks for --traceback itself.
        call = Call(database or ctx.meta.get(VARIABLE), as_json or ctx.meta.get("--json", False))
        logging.getLogger("trio_romancy").addHandler(logging.NullHandler())
        try:
            import trio

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

"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..model import Status

InstanceIds = Annotated[list[str], Argument(metavar="ID...", help="The id of an instance; several may be given.")]

WithWorkflow = Annotated[str | None, Option(help="A part of the workflow's name.", metavar="TEXT")]

WithStatus = Annotated[
    list[Status] | None,
    Option("--status", help=f"The status; may be repeated: {', '.join(Status)}.", metavar="STATUS"),
]

PageToken = Annotated[str | None, Option(help="The token at the end of the previous page.", metavar="TOKEN")]

DataArgument = Annotated[str, Argument(help="The data as JSON; - reads standard input.", metavar="DATA_JSON")]

WithReceiver = Annotated[str | None, Option(help="The one instance that receives it.", metavar="ID")]

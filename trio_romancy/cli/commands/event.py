"""``event``: an event for the instances that wait for its type."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..._storage.outgoing import DEFAULT_SOURCE
from ..arguments import read_json
from ..call import Call
from ..options import DataArgument, WithReceiver


async def event(
    call: Call,
    type: Annotated[str, Argument(help="The type of the event.", metavar="TYPE")],
    data_json: DataArgument = "null",
    source: Annotated[str, Option(help="The sender.", metavar="TEXT")] = DEFAULT_SOURCE,
    event_id: Annotated[
        str | None, Option("--id", help="The id. A second event of this source and id is dropped.", metavar="TEXT")
    ] = None,
    subject: Annotated[str | None, Option(help="The thing that the event is about.", metavar="TEXT")] = None,
    to: WithReceiver = None,
) -> None:
    """Send an event to every instance that waits for its type, now or later."""
    data = read_json(data_json, "the data")
    async with call.open_app() as app:
        sent = await app.send_event(type, data, source=source, id=event_id, subject=subject, to=to)
    call.answer_sent(sent)

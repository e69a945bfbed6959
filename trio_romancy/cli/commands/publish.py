"""``publish``: a message to a channel."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..arguments import read_json
from ..call import Call
from ..options import DataArgument, WithReceiver


async def publish(
    call: Call,
    channel: Annotated[str, Argument(help="The name of the channel.", metavar="CHANNEL")],
    data_json: DataArgument = "null",
    metadata: Annotated[str | None, Option(help="The metadata, as a JSON object.", metavar="JSON")] = None,
    to: WithReceiver = None,
) -> None:
    """Publish a message to a channel."""
    data = read_json(data_json, "the data")
    parsed = None if metadata is None else read_json(metadata, "--metadata")
    async with call.open_app() as app:
        sent = await app.publish(channel, data, metadata=parsed, to=to)
    call.answer_sent(sent)

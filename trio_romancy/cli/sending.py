"""``start``, ``event`` and ``publish``."""

from __future__ import annotations

import math
from typing import Annotated

import trio
from typer import Argument, Option

from .._definitions.registry import registry
from .._storage.outgoing import DEFAULT_SOURCE
from ..errors import InstanceNotFoundError, WorkflowError
from ..model import Sent, Status
from .arguments import read_json
from .call import Call
from .failures import NOTHING, StopError
from .modules import import_module
from .wording import count

DataArgument = Annotated[str, Argument(help="As JSON; a dash reads it from standard input.", metavar="DATA_JSON")]


async def start(
    call: Call,
    workflow: Annotated[str, Argument(help="The name of the workflow.", metavar="WORKFLOW")],
    input_json: Annotated[
        str, Argument(help="Its input; a dash reads it from standard input.", metavar="INPUT_JSON")
    ] = "{}",
    modules: Annotated[
        list[str] | None, Option("--module", help="Where workflows are defined; may be repeated.", metavar="MODULE")
    ] = None,
    instance_id: Annotated[
        str | None, Option("--id", help="An id of your own: to start it once.", metavar="ID")
    ] = None,
    wait: Annotated[bool, Option("--wait", help="Wait until it has ended, and show its result.")] = False,
    timeout: Annotated[
        float, Option(help="The most seconds to wait.", min=0, metavar="SECONDS", show_default=False)
    ] = math.inf,
) -> int:
    """Start an instance. It is durable once its id is printed; a worker runs it.

    Its input is checked against the workflow, so it must be defined where --module says.
    """
    input = read_json(input_json, "the input")
    for module in modules or ():
        import_module(module)
    if registry.find_workflow(workflow) is None:
        known = ", ".join(sorted(registry.workflow_names())) or "none"
        where = "name the module that defines it with --module" if not modules else f"defined are: {known}"
        raise StopError(f"there is no workflow {workflow!r} here: {where}")
    async with call.open_app() as app:
        handle = await app.start(workflow, input, id=instance_id)
        if not wait:
            answer = {"instance_id": handle.instance_id}
            call.answer(answer, lambda: call.screen.line(handle.instance_id))
            return 0
        with trio.move_on_after(timeout):
            try:
                await handle.result()
            except WorkflowError:
                pass  # what the instance says of it is shown below
        instance = await app.get_instance(handle.instance_id)
    if instance is None:
        raise InstanceNotFoundError(handle.instance_id)

    def show() -> None:
        from .instances import show_instance

        show_instance(call.screen, instance, in_full=False)

    call.answer({"instance_id": handle.instance_id, "instance": instance}, show)
    return 0 if instance.status in (Status.COMPLETED, Status.RECURRED) else NOTHING


async def event(
    call: Call,
    type: Annotated[str, Argument(help="What has happened.", metavar="TYPE")],
    data_json: DataArgument = "null",
    source: Annotated[str, Option(help="Who says so.", metavar="TEXT")] = DEFAULT_SOURCE,
    event_id: Annotated[
        str | None, Option("--id", help="One of this source and id is accepted once.", metavar="TEXT")
    ] = None,
    subject: Annotated[str | None, Option(help="What it has happened to.", metavar="TEXT")] = None,
    to: Annotated[str | None, Option(help="The one instance that it is for.", metavar="ID")] = None,
) -> None:
    """Send an event to every instance that waits for its type, or will."""
    data = read_json(data_json, "the data")
    async with call.open_app() as app:
        sent = await app.send_event(type, data, source=source, id=event_id, subject=subject, to=to)
    call.answer(sent, lambda: _show_sent(call, sent))


async def publish(
    call: Call,
    channel: Annotated[str, Argument(help="Where.", metavar="CHANNEL")],
    data_json: DataArgument = "null",
    metadata: Annotated[str | None, Option(help="What goes with it, as a JSON object.", metavar="JSON")] = None,
    to: Annotated[str | None, Option(help="The one instance that it is for.", metavar="ID")] = None,
) -> None:
    """Publish a message to a channel."""
    data = read_json(data_json, "the data")
    with_it = None if metadata is None else read_json(metadata, "--metadata")
    async with call.open_app() as app:
        sent = await app.publish(channel, data, metadata=with_it, to=to)
    call.answer(sent, lambda: _show_sent(call, sent))


def _show_sent(call: Call, sent: Sent) -> None:
    call.screen.line(sent.id)
    if sent.is_duplicate:
        call.screen.line("it was accepted before, and is not sent again")
    else:
        call.screen.line(f"{count(sent.waiting, 'instance')} waited for it")

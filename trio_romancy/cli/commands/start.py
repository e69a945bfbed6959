"""``start``: a new instance."""

from __future__ import annotations

import math
from typing import Annotated

import trio
from typer import Argument, Option

from ..._definitions.registry import registry
from ...errors import InstanceNotFoundError, WorkflowError
from ...model import Status
from ..arguments import read_json, read_limit
from ..call import Call
from ..failures import NOTHING, StopError
from ..modules import import_module


async def start(
    call: Call,
    workflow: Annotated[str, Argument(help="The name of the workflow.", metavar="WORKFLOW")],
    input_json: Annotated[
        str, Argument(help="Its input as JSON; - reads standard input.", metavar="INPUT_JSON")
    ] = "{}",
    modules: Annotated[
        list[str] | None, Option("--module", help="A module that defines workflows; may be repeated.", metavar="MODULE")
    ] = None,
    instance_id: Annotated[
        str | None, Option("--id", help="The id of the instance. A second start with it changes nothing.", metavar="ID")
    ] = None,
    wait: Annotated[bool, Option("--wait", help="Wait until it has ended, and show its result.")] = False,
    timeout: Annotated[
        str | None, Option(help="How long to wait at most: 30 (seconds), 15m, PT1H.", metavar="DURATION")
    ] = None,
) -> int:
    """Start an instance. It is durable once its id is printed; a worker runs it.

    Its input is checked against the workflow, so one of the modules given by --module must define it.
    """
    input = read_json(input_json, "the input")
    limit = math.inf if timeout is None else read_limit(timeout)
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
        with trio.move_on_after(limit):
            try:
                await handle.result()
            except WorkflowError:
                pass  # the instance that is shown below has the error
        instance = await app.get_instance(handle.instance_id)
    if instance is None:
        raise InstanceNotFoundError(handle.instance_id)

    def show() -> None:
        from ..terminal.instances import show_instance

        show_instance(call.screen, instance, in_full=False)

    call.answer({"instance_id": handle.instance_id, "instance": instance}, show)
    return 0 if instance.status in (Status.COMPLETED, Status.RECURRED) else NOTHING

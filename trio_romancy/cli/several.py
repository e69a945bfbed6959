"""Commands about several instances: one after another, each with an answer of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..errors import InstanceNotFoundError, RomancyError
from .call import Call
from .failures import NOTHING, explain, say


async def steer_each(
    call: Call, ids: Sequence[str], done: str, steer: Callable[[str], Awaitable[bool]], *, yes: str, no: str
) -> int:
    """Steer each instance, and return the exit code: that there was nothing to do if it was so for one of them.

    Args:
      done: the field of the answer for machines that says whether it was done.
      steer: returns whether it was done.
      yes: the answer for people if it was done.
      no: the answer for people if there was nothing to do.
    """

    async def one(instance_id: str) -> tuple[Any, Callable[[], object], int]:
        was_done = await steer(instance_id)
        said = yes if was_done else no
        line = said if len(ids) == 1 else f"{instance_id}: {said}"
        document = {"instance_id": instance_id, done: was_done}
        return document, lambda: call.screen.line(line), 0 if was_done else NOTHING

    return await for_each(call, ids, one)


async def for_each(
    call: Call, ids: Sequence[str], one: Callable[[str], Awaitable[tuple[Any, Callable[[], object], int]]]
) -> int:
    """Answer for each instance, and return the highest exit code. One that fails is named, and the others are done.

    Args:
      one: returns the answer for machines, what writes the answer for people, and the exit code.
    """
    if len(ids) == 1:
        document, show, code = await one(ids[0])
        call.answer(document, show)
        return code
    highest = 0
    for id in ids:
        try:
            document, show, code = await one(id)
        except RomancyError as error:
            sentence, code = explain(error)
            if code != NOTHING:  # the database, or an argument that holds for all of them
                raise
            say(sentence if isinstance(error, InstanceNotFoundError) else f"{id}: {sentence}")
        else:
            call.answer_one(document, show)
        highest = max(highest, code)
    return highest

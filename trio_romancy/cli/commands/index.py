"""``index``: an index over a value in the inputs."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from ..arguments import read_path
from ..call import Call
from ..failures import NOTHING


async def index(
    call: Call,
    path: Annotated[str, Argument(help="A path in the input, such as customer.id.", metavar="PATH")],
) -> int:
    """Make an index over a value in the inputs, so that find is fast by it. On a large table it takes a while."""
    keys = read_path(path)
    async with call.open_app() as app:
        indexed = await app.index_input(keys)
    said = f"find is fast by {path} now" if indexed else f"this database cannot make an index for {path}"
    call.answer({"path": path, "indexed": indexed}, lambda: call.screen.line(said))
    return 0 if indexed else NOTHING

"""``limits`` and ``set-limit``: how many attempts of activities may run, and begin in a period."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Option

from ...limits import Rate
from ...model import LimitInfo
from ..call import Call
from ..failures import StopError
from ..terminal.wording import Styled, ago

_RATE = re.compile(r"(\d{1,15})/(\d{1,9}(?:\.\d{1,6})?)", re.ASCII)


async def list_limits(call: Call) -> None:
    """List the limits, what of each is taken, and how many attempts wait for it."""
    async with call.open_app() as app:
        found = await app.limits()
    call.answer({"limits": found}, lambda: _show(call, found))


async def set_limit(
    call: Call,
    name: Annotated[str, Argument(help="The name of the limit.", metavar="NAME")],
    concurrent: Annotated[
        str | None, Option(help="Most attempts at the same time: a number, 0 to hold all back, or any.", metavar="N")
    ] = None,
    rate: Annotated[
        str | None, Option(help="How many may begin in how many seconds, such as 100/60.", metavar="N/SECONDS")
    ] = None,
) -> None:
    """Change a limit for all workers, from now on. What the code says about it does not count any more."""
    if concurrent is None and rate is None:
        raise StopError("give --concurrent, --rate, or both")
    async with call.open_app() as app:
        await app.set_limit(name, concurrent=_read_number(concurrent), rate=_read_rate(rate))
        found = [one for one in await app.limits() if one.name == name]
    call.answer({"limits": found}, lambda: _show(call, found))


def _read_number(text: str | None) -> float | None:
    if text is None:
        return None
    if text == "any":
        return math.inf
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise StopError(f"--concurrent is a whole number or any, not {text!r}")
    return int(text)


def _read_rate(text: str | None) -> Rate | None:
    if text is None:
        return None
    if (match := _RATE.fullmatch(text)) is None:
        raise StopError(f"--rate is a number per seconds, such as 100/60, not {text!r}")
    return Rate(int(match[1]), per=float(match[2]))


def _show(call: Call, limits: list[LimitInfo]) -> None:
    now = datetime.now(UTC)
    rows: list[tuple[Styled, ...]] = [
        (
            limit.name,
            "any" if limit.concurrent is None else f"{limit.concurrent:,}",
            "any" if limit.rate is None else f"{limit.rate[0]:,} in {limit.rate[1].total_seconds():g} s",
            f"{limit.taken:,}",
            f"{limit.waiting:,}",
            "" if limit.waiting_since is None else ago(limit.waiting_since, now),
            "set" if limit.is_set else "code",
        )
        for limit in limits
    ]
    if not rows:
        call.screen.line("no limits")
        return
    call.screen.table(("limit", "at once", "rate", "taken", "waiting", "since", "by"), rows)

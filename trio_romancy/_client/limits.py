"""Lists limits, and changes them while workers run."""

from __future__ import annotations

from datetime import timedelta
from math import inf
from typing import Any

from .._data.readable import readable_time
from .._storage.sql import limits as sql
from ..errors import DataProblem, DefinitionError, InvalidInputError
from ..limits import Rate, checked_concurrent
from ..model import LimitInfo
from .engine import Engine


async def stored_limits(engine: Engine) -> list[LimitInfo]:
    """Return all limits."""
    return [_info(use) for use in await engine.read(sql.list_limits)]


async def set_limit(engine: Engine, name: str, concurrent: float | None, rate: Rate | None) -> None:
    """Change a limit, and call the attempts that may begin now.

    Raises:
      InvalidInputError: if no worker has stored a limit of that name.
      DefinitionError: if an argument is not valid.
    """
    changes: dict[str, Any] = {}
    if concurrent is not None:
        changes["concurrent"] = None if concurrent == inf else checked_concurrent(name, concurrent, least=0)
    if rate is not None:
        if not isinstance(rate, Rate):
            raise DefinitionError(f"limit {name!r}: its rate must be a Rate, {rate!r} is not")
        changes |= {"rate": rate.n, "period": rate.period, "burst": rate.burst}
    if not await engine.write(sql.set_limit, name, changes, engine.clock.now()):
        problem = DataProblem("$.name", f"no limit {name!r}: the first worker that uses a limit stores it")
        raise InvalidInputError("the limit cannot be set", [problem])
    after: str | None = None
    while (after := await engine.write(sql.call_waiting, name, after, engine.clock.now())) is not None:
        pass


def _info(use: sql.LimitUse) -> LimitInfo:
    limit = use.limit
    return LimitInfo(
        name=limit.name,
        concurrent=limit.concurrent,
        rate=None if not limit.rate or not limit.period else (limit.rate, timedelta(microseconds=limit.period)),
        burst=limit.burst or 1,
        is_set=limit.is_set,
        taken=use.taken,
        waiting=use.waiting,
        waiting_since=None if use.oldest is None else readable_time(use.oldest)[0],
    )

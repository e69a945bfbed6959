"""SQL that finds instances, the newest first.

No index serves every filter. What none serves is looked for among so many instances at a time, so that a transaction is
short however many there are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Executable, and_, literal, or_, select, union_all

from ..._data.conditions import Condition
from ..._data.ids import is_id
from ...clock import Microseconds
from ...errors import InvalidInputError, Problem
from ...model import Instance, Status
from ..dialects.input_index import indexed_key, indexed_paths, scalar_key
from ..dialects.input_keys import UNREADABLE
from ..dialects.sql import contains
from .instances import to_instance
from .rows import StoredInstance, fetch_all, fetch_first
from .tables import instances

Place = tuple[Microseconds, str]
"""Creation and id of an instance, by which instances are ordered."""

_CANDIDATES = 50
"""The least number of instances that are read to see whether their inputs match."""


@frozen
class Sought:
    """What instances must match: all of it."""

    workflow: str | None = None
    instance_id: str | None = None
    """Parts of these."""
    statuses: Sequence[Status] = ()
    """Any of these; none means all."""
    parent: str | None = None
    created_from: Microseconds | None = None
    created_before: Microseconds | None = None
    conditions: Sequence[Condition] = ()


@frozen
class Look:
    """What there is among some of the instances."""

    instances: list[Instance]
    end: Place | None
    """The last of those that were looked at; None: there are no more."""


def look(connection: Connection, sought: Sought, after: Place | None, among: int, most: int) -> Look:
    """Look through the next instances, the newest first.

    Args:
      after: where the look before has ended.
      among: how many to look through, if no index leads to all that is sought.
      most: how many to find.
    """
    leading = None if sought.parent is not None else _indexed(connection, sought.conditions)
    ranges = [_within(sought, after, *each) for each in (_keys(connection, leading) if leading else [[]])]
    filters = _filters(sought, leading)
    end = None
    if filters:
        last = fetch_first(connection, _Placed, _newest(_place, ranges, [], most=1, skip=among - 1))
        if last is not None:
            end = _place_of(last)
            filters.append(_not_older(end))
    # Some of what the database finds may not match: that is not to take a query for each.
    wanted = max(most, _CANDIDATES) if sought.conditions else most
    rows = fetch_all(connection, StoredInstance, _newest([instances], ranges, filters, most=wanted))
    if len(rows) == wanted:
        end = _place_of(rows[-1])
    found: list[Instance] = []
    for row in rows:
        instance = to_instance(row)
        if all(each.holds(instance.input) for each in sought.conditions):
            found.append(instance)
            if len(found) == most:
                return Look(found, _place_of(row))
    return Look(found, end)


def _indexed(connection: Connection, conditions: Sequence[Condition]) -> Condition | None:
    """The condition that an index serves best; None if there is none."""
    if not conditions:
        return None
    paths = indexed_paths(connection, {each.path for each in conditions})
    # Many instances have the same truth in one place, fewer the same number, and few the same text.
    kinds = (str, float, int, bool, type(None))
    ordered = sorted(conditions, key=lambda each: kinds.index(type(each.value)))
    return next((each for each in ordered if each.path in paths), None)


def _keys(connection: Connection, condition: Condition) -> list[list[ColumnElement[bool]]]:
    """For each key that the index may have for the value: that an instance has that key, and none of those before."""
    key = indexed_key(connection, condition.path)
    keys = [*map(scalar_key, condition.texts), literal(UNREADABLE)]
    # PostgreSQL has one key for 10000000000000000 and 1e+16.
    return [[key == one, *(one != before for before in keys[:place])] for place, one in enumerate(keys)]


def _within(sought: Sought, after: Place | None, *key: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    """A range of an index, in order; of the children of an instance, all."""
    conditions = [*key]
    if sought.parent is not None:
        conditions.append(instances.c.parent_id == sought.parent)
    if sought.created_from is not None:
        conditions.append(instances.c.created_at >= sought.created_from)
    if sought.created_before is not None:
        conditions.append(instances.c.created_at < sought.created_before)
    if after is not None:
        conditions.append(older(after))
    return conditions


def _filters(sought: Sought, leading: Condition | None) -> list[ColumnElement[bool]]:
    """What no index serves."""
    filters: list[ColumnElement[bool]] = []
    if sought.workflow is not None:
        filters.append(contains(instances.c.workflow, sought.workflow))
    if sought.instance_id is not None:
        filters.append(contains(instances.c.instance_id, sought.instance_id))
    if sought.statuses:
        filters.append(instances.c.status.in_(sought.statuses))
    # What is found is compared with the value itself. This leaves out most of what does not match, and asks no
    # database what it makes of JSON.
    for each in sought.conditions:
        if each is not leading:
            filters.append(or_(*(contains(instances.c.input, part) for part in each.parts)))
    return filters


class _Placed(NamedTuple):
    created_at: Microseconds
    instance_id: str


def _place_of(row: _Placed | StoredInstance) -> Place:
    return row.created_at, row.instance_id


_place = (instances.c.created_at, instances.c.instance_id)


def _newest(
    columns: Sequence[Any],
    ranges: Sequence[Sequence[ColumnElement[bool]]],
    filters: Sequence[ColumnElement[bool]],
    *,
    most: int,
    skip: int = 0,
) -> Executable:
    """The newest of what is in several ranges. Each part is read in the order of its index, and no further."""
    parts = [
        select(*columns).where(*each, *filters).order_by(instances.c.created_at.desc(), instances.c.instance_id.desc())
        for each in ranges
    ]
    if len(parts) == 1:
        return parts[0].limit(most).offset(skip)
    every = union_all(*(select(part.limit(most + skip).subquery()) for part in parts)).subquery()
    return select(every).order_by(every.c.created_at.desc(), every.c.instance_id.desc()).limit(most).offset(skip)


def older(place: Place) -> ColumnElement[bool]:
    """That an instance comes after a place in the list."""
    # Not as "older, or as old and ...": of that, PostgreSQL would make no range of the index.
    created_at, instance_id = place
    earlier = or_(instances.c.created_at < created_at, instances.c.instance_id < instance_id)
    return and_(instances.c.created_at <= created_at, earlier)


def newer(place: Place) -> ColumnElement[bool]:
    """That an instance comes before a place in the list."""
    created_at, instance_id = place
    later = or_(instances.c.created_at > created_at, instances.c.instance_id > instance_id)
    return and_(instances.c.created_at >= created_at, later)


def _not_older(place: Place) -> ColumnElement[bool]:
    created_at, instance_id = place
    later = or_(instances.c.created_at > created_at, instances.c.instance_id >= instance_id)
    return and_(instances.c.created_at >= created_at, later)


def page_token(place: Place) -> str:
    """What stands for the place after that instance."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_page_token(token: str) -> Place:
    """What a page token says.

    Raises:
      InvalidInputError: if it is none.
    """
    try:
        created_at, instance_id = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
        if type(created_at) is int and 0 <= created_at < 2**63 and is_id(instance_id):
            return created_at, instance_id
    except (ValueError, TypeError, AttributeError):
        pass
    raise InvalidInputError(
        "the instances cannot be listed", [Problem("$.page_token", "it is none that a page of instances came with")]
    )

"""SQL that searches instances, the newest first.

No index serves every filter. For the other filters a query reads a limited number of instances, so that a transaction
is short however many instances there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from attrs import evolve, frozen
from sqlalchemy import ColumnElement, Connection, Executable, and_, literal, or_, select, union_all

from ..._data.conditions import Condition
from ...clock import Microseconds
from ...model import Instance, Status
from ..dialects.input_index import indexed_key, indexed_paths, scalar_key
from ..dialects.input_keys import UNREADABLE
from ..dialects.sql import contains
from .instances import to_instance
from .rows import StoredInstance, fetch_all, fetch_first
from .tables import IS_RARE, instances

Place = tuple[Microseconds, str]
"""Time of creation and id of an instance, by which instances are ordered."""

_CANDIDATES = 50
"""The least number of instances to read when their inputs are compared."""


@frozen
class Sought:
    """Conditions on instances, all of which must hold."""

    workflow: str | None = None
    instance_id: str | None = None
    """A part of the instance id. Likewise ``workflow`` is a part of the name."""
    statuses: Sequence[Status] = ()
    """Statuses of which an instance has one; empty for all."""
    parent: str | None = None
    created_from: Microseconds | None = None
    created_before: Microseconds | None = None
    conditions: Sequence[Condition] = ()


@frozen
class SearchStep:
    """The instances that one transaction has found."""

    instances: list[Instance]
    end: Place | None
    """The last instance that was considered; None if there are no more."""


def search_step(connection: Connection, sought: Sought, after: Place | None, among: int, most: int) -> SearchStep:
    """Search the next instances, the newest first.

    Args:
      after: end of the step before; None at the first step.
      among: how many instances to consider, unless indexes serve all conditions.
      most: the most instances to return.
    """
    leading = None if sought.parent is not None else _indexed(connection, sought.conditions)
    by_status = leading is None and sought.parent is None and _are_rare(sought.statuses)
    parts = _keys(connection, leading) if leading else _with_status(sought.statuses) if by_status else [[]]
    ranges = [_within(sought, after, *each) for each in parts]
    filters = _filters(evolve(sought, statuses=()) if by_status else sought, leading)
    end = None
    if filters:
        last = fetch_first(connection, _Placed, _newest(_place, ranges, [], most=1, skip=among - 1))
        if last is not None:
            end = _place_of(last)
            filters.append(_not_older(end))
    # Some of what the database finds may not match. Read enough to do without a query for each.
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
                return SearchStep(found, _place_of(row))
    return SearchStep(found, end)


def _indexed(connection: Connection, conditions: Sequence[Condition]) -> Condition | None:
    """Return the condition that an index serves best; None if no index serves one."""
    if not conditions:
        return None
    paths = indexed_paths(connection, {each.path for each in conditions})
    # Many instances have the same boolean in one place, fewer the same number, and few the same text.
    kinds = (str, float, int, bool, type(None))
    ordered = sorted(conditions, key=lambda each: kinds.index(type(each.value)))
    return next((each for each in ordered if each.path in paths), None)


def _keys(connection: Connection, condition: Condition) -> list[list[ColumnElement[bool]]]:
    """Return conditions for each key that the index may have for the value: to have that key, and none before it."""
    key = indexed_key(connection, condition.path)
    keys = [*map(scalar_key, condition.texts), literal(UNREADABLE)]
    # PostgreSQL has one key for 10000000000000000 and 1e+16.
    return [[key == one, *(one != before for before in keys[:place])] for place, one in enumerate(keys)]


def _are_rare(statuses: Sequence[Status]) -> bool:
    """Return whether the index of statuses holds all instances that have one of these."""
    return bool(statuses) and Status.RUNNING not in statuses and Status.COMPLETED not in statuses


def _with_status(statuses: Sequence[Status]) -> list[list[ColumnElement[bool]]]:
    """Return conditions for each of several statuses that the index of statuses serves."""
    # Part of the statement, so that the database can tell that the index holds all instances with the status.
    texts = dict.fromkeys(map(str, statuses))
    return [[instances.c.status == literal(text, literal_execute=True), IS_RARE] for text in texts]


def _within(sought: Sought, after: Place | None, *key: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    """Return the conditions that an index serves."""
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
    """Return the conditions that no index serves."""
    filters: list[ColumnElement[bool]] = []
    if sought.workflow is not None:
        filters.append(contains(instances.c.workflow, sought.workflow))
    if sought.instance_id is not None:
        filters.append(contains(instances.c.instance_id, sought.instance_id))
    if sought.statuses:
        # A better index is used. The expression keeps the database from walking through that of statuses.
        status = instances.c.status if leading is None and sought.parent is None else instances.c.status + ""
        filters.append(status.in_(sought.statuses))
    # The inputs that are found are decoded and compared. These filters leave out most of the others, and do not depend
    # on how the database reads JSON.
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
    """Query the newest instances of several ranges. Each part is read in the order of its index, and no further."""
    parts = [
        select(*columns).where(*each, *filters).order_by(instances.c.created_at.desc(), instances.c.instance_id.desc())
        for each in ranges
    ]
    if len(parts) == 1:
        return parts[0].limit(most).offset(skip)
    every = union_all(*(select(part.limit(most + skip).subquery()) for part in parts)).subquery()
    return select(every).order_by(every.c.created_at.desc(), every.c.instance_id.desc()).limit(most).offset(skip)


def older(place: Place) -> ColumnElement[bool]:
    """Return the condition that an instance comes after a place in the list."""
    # PostgreSQL would make no range of an index of "older, or as old and ...".
    created_at, instance_id = place
    earlier = or_(instances.c.created_at < created_at, instances.c.instance_id < instance_id)
    return and_(instances.c.created_at <= created_at, earlier)


def newer(place: Place) -> ColumnElement[bool]:
    """Return the condition that an instance comes before a place in the list."""
    created_at, instance_id = place
    later = or_(instances.c.created_at > created_at, instances.c.instance_id > instance_id)
    return and_(instances.c.created_at >= created_at, later)


def _not_older(place: Place) -> ColumnElement[bool]:
    created_at, instance_id = place
    later = or_(instances.c.created_at > created_at, instances.c.instance_id >= instance_id)
    return and_(instances.c.created_at >= created_at, later)

"""SQL that finds what is new for an instance with many waits. The cost depends on what is new, not on the waits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, and_, bindparam, select

from .lock_order import chunks
from .messages import last_message
from .rows import StoredMessage, fetch_all
from .tables import messages
from .waits import Match, to_match

_OTHERS = 10
"""The most new messages to read past for each one that may be for the instance."""


class NewMessage(NamedTuple):
    """A message that may be for one of an instance's waits."""

    seq: int
    channel: str
    subject: str | None
    addressee: str
    is_event: bool


_new = (
    select(
        messages.c.seq,
        messages.c.channel,
        messages.c.subject,
        messages.c.addressee,
        messages.c.source.is_not(None).label("is_event"),
    )
    .where(
        messages.c.seq > bindparam("since", type_=BigInteger()),
        messages.c.addressee.in_(["", bindparam("me")]),
        messages.c.taken_by.is_(None),
    )
    .order_by(messages.c.seq)
    .limit(bindparam("most", type_=BigInteger()))
)
_with_numbers = select(messages).where(
    and_(messages.c.seq.in_(bindparam("numbers", expanding=True)), messages.c.taken_by.is_(None))
)


def find_news(connection: Connection, me: str, since: int | None, most: int) -> tuple[int, list[NewMessage] | None]:
    """Find the messages that may be for the waits of an instance, and were not there at its last search.

    Args:
      me: the instance that messages are addressed to.
      since: number of the last message at the last search; None if that is not known.
      most: the most messages to return.

    Returns the number of the last message, and the new ones in order; None instead if there are too many.
    """
    last = last_message(connection)  # a reader that has seen a number sees every smaller one
    if since is None or last - since > _OTHERS * most:
        return last, None
    if last == since:
        return last, []
    new = fetch_all(connection, NewMessage, _new, {"since": since, "me": me, "most": most + 1})
    return last, [*new] if len(new) <= most else None


def read_matches(connection: Connection, numbers: Collection[int]) -> list[Match]:
    """Return the messages with these numbers that are there, in order."""
    found = (fetch_all(connection, StoredMessage, _with_numbers, {"numbers": some}) for some in chunks(numbers))
    return sorted((to_match(row) for rows in found for row in rows), key=lambda match: match.seq)

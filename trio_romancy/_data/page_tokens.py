"""Tokens of pages: the place of the last row of a page as text, for every list alike."""

from __future__ import annotations

import base64
import json

from ..errors import DataProblem, InvalidInputError
from .ids import is_id


def page_token(*place: int | str) -> str:
    """Return the token of the page that begins after a place.

    Args:
      place: the values by which the list is ordered, of the last row of the page before.
    """
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_page_token(token: str, *kinds: type[int] | type[str], of: str) -> list[int | str]:
    """Return the place that a page token stands for.

    Args:
      kinds: the types of its values: numbers up to 63 bits, and ids.
      of: what is listed, for the message.

    Raises:
      InvalidInputError: if the text is not a token of such a list.
    """
    try:
        place = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
        if isinstance(place, list) and len(place) == len(kinds) and all(map(_is_of, place, kinds)):
            return place
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    problem = DataProblem("$.page_token", f"it is not the token of a page of {of}")
    raise InvalidInputError(f"the {of} cannot be listed", [problem])


def _is_of(value: object, kind: type[int] | type[str]) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    return is_id(value)

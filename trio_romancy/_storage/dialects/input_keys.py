"""The key of a stored input at a path: what all databases share of it.

The key of an instance is the start of the JSON text at a path of its input. Equal values have equal keys, whatever a
database makes of JSON. Unequal values may have equal keys too, so a search compares the values of what it finds by key.
That is why no quirk of a database makes it find more or less than another:

* No database sees an escape or a character outside ASCII: see :func:`plain`. Some databases refuse ``\\u0000`` and lone
  surrogates, or change them, and could not even store an instance with such an input.
* A key is short, because no database indexes megabytes.
* An input that the database cannot read (MariaDB reads no more than 32 levels) has the key :data:`UNREADABLE`, and a
  search looks at every such input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice, product

from ..._data.codec import dumps
from ..._data.conditions import Path, is_index
from .sql import ExactString

KEY = ExactString(200)
"""Type of a key."""

UNREADABLE = "?"
"""The key of an input that the database cannot read. No JSON text starts like this."""

MOST_READINGS = 16
"""The most readings of a path that an index covers."""

_CHANGES = {"\\\\": "\\u005c", '\\"': "\\u0022", "~": "\\u007e", "\\": "~"}
"""Replacements, made one after the other. After the first, each backslash starts an escape."""


def plain(json_text: str) -> str:
    r"""Replace each backslash of JSON text with a ``~``, so that what was an escape is plain text.

    ``"a\u00e9\"~"`` becomes ``"a~u00e9~u0022~u007e"``. Different texts stay different. :func:`plain_sql` does the same.
    """
    for old, new in _CHANGES.items():
        json_text = json_text.replace(old, new)
    return json_text


def plain_sql(document: str, literal: Callable[[str], str]) -> str:
    """Return SQL for what :func:`plain` makes of a document.

    Args:
      document: SQL for the JSON text.
      literal: the database's :meth:`.Dialect.literal`.
    """
    for old, new in _CHANGES.items():
        document = f"REPLACE({document}, {literal(old)}, {literal(new)})"
    return document


def plain_key(key: str) -> str:
    """Return a key of a path as it stands in a plain document, without quotes."""
    return plain(dumps(key))[1:-1]


def readings(path: Path) -> list[str]:
    """Return all that a path can mean, as JSON paths: ``"0"`` is a key of an object or a place in an array.

    At most one of them leads to a value, except that MariaDB takes a value that is not an array for the only element
    of one. So the reading as a key comes first. A path with more than :data:`MOST_READINGS` is cut off after one more.
    """
    steps = [[f'."{plain_key(key)}"', f"[{key}]"] if is_index(key) else [f'."{plain_key(key)}"'] for key in path]
    return ["$" + "".join(reading) for reading in islice(product(*steps), MOST_READINGS + 1)]


def first_key(document: str, values: Sequence[str], literal: Callable[[str], str]) -> str:
    """Return SQL for the key of the first value that is not NULL. For databases that have ``JSON_VALID``.

    Args:
      document: SQL for the plain document that the values are read from.
      values: SQL for each of them.
      literal: the database's :meth:`.Dialect.literal`.
    """
    found = values[0] if len(values) == 1 else f"COALESCE({', '.join(values)})"
    return f"CASE WHEN JSON_VALID({document}) THEN SUBSTR({found}, 1, {KEY.length}) ELSE {literal(UNREADABLE)} END"


def index_name(path: Path) -> str:
    """Return the name of the index over a path. Only a digest of the path is part of it."""
    return f"ix_romancy_{column_name(path)}"


def column_name(path: Path) -> str:
    """Return the name of the generated column that holds the key, where an index needs one."""
    return f"input_{hashlib.sha256(dumps(path).encode()).hexdigest()[:16]}"

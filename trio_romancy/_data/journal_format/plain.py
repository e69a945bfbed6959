"""Entries that record only that something has happened, and when."""

from __future__ import annotations

from typing import Any, Self

from ..._tasks.fast_frozen import frozen


@frozen
class Plain:
    """An entry with nothing in its payload. Each such kind is a class made of this one."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry. There is nothing to read."""
        return cls()

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return "null"

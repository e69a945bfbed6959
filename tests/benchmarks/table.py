"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def render(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its title. The first column is aligned to the left, the others to the right.

    An empty row becomes an empty line.
    """
    widths = [max(map(len, column)) for column in zip(heads, *(row for row in rows if row), strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
        return "  ".join([cells[0].ljust(widths[0]), *aligned[1:]]) if cells else ""

    return "\n".join([title, "", line(heads), line(["-" * width for width in widths]), *map(line, rows)])

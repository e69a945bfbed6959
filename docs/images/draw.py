"""Draw the pictures of the docs: ``python docs/images/draw.py`` writes the SVG files beside this one.

Each picture has a panel of its own, light or dark as the reader's system asks, so it can be read on any page. The plot
takes its numbers from the table in ``docs/explanation/performance.md``.
"""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parent / "explanation" / "performance.md"

STYLE = """
    .panel { fill: #ffffff; stroke: #d0d7de }
    .box { fill: #f3f6fa; stroke: #8c98a8 }
    .run { fill: #dcebfb; stroke: #3b78b5 }
    .ok { fill: #ddf3e1; stroke: #3a8a52 }
    .bad { fill: #fbe0de; stroke: #c0453c }
    .undo { fill: #fdebcf; stroke: #b97a1a }
    .ours { fill: #3b78b5; stroke: none }
    .bare { fill: #a9b4c0; stroke: none }
    .dbos { fill: #c0453c; stroke: none }
    .edda { fill: #b97a1a; stroke: none }
    .absurd { fill: #7a5bb0; stroke: none }
    .line { stroke: #57606a; fill: none; stroke-width: 1.5 }
    .grid { stroke: #d8dee4; stroke-width: 1 }
    .dash { stroke-dasharray: 5 4 }
    .kill { stroke: #c0453c; stroke-width: 3 }
    .head { fill: #57606a; stroke: none }
    text { font: 14px system-ui, sans-serif; fill: #1f2328 }
    .small { font-size: 12px; fill: #57606a }
    .strong { font-weight: 600 }
    .code { font-family: ui-monospace, monospace; font-size: 13px }
    .mid { text-anchor: middle }
    .end { text-anchor: end }
    @media (prefers-color-scheme: dark) {
      .panel { fill: #16191d; stroke: #3a424c }
      .box { fill: #22272e; stroke: #77818d }
      .run { fill: #17314c; stroke: #5b9bd8 }
      .ok { fill: #173523; stroke: #55b072 }
      .bad { fill: #46211f; stroke: #e0716a }
      .undo { fill: #43300f; stroke: #d9a043 }
      .ours { fill: #5b9bd8 }
      .bare { fill: #6b7683 }
      .dbos { fill: #e0716a }
      .edda { fill: #d9a043 }
      .absurd { fill: #a58bdb }
      .line { stroke: #aab4bf }
      .grid { stroke: #30363d }
      .kill { stroke: #e0716a }
      .head { fill: #aab4bf }
      text { fill: #e6edf3 }
      .small { fill: #aab4bf }
    }
"""


class Picture:
    """An SVG picture with a title and a description for readers who cannot see it."""

    def __init__(self, name: str, width: int, height: int, title: str, description: str) -> None:
        self.path = HERE / f"{name}.svg"
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="title desc">',
            f'  <title id="title">{escape(title)}</title>',
            f'  <desc id="desc">{escape(description)}</desc>',
            f"  <style>{STYLE}  </style>",
            '  <marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="head" d="M0 0 L10 5 L0 10 z"/></marker>',
        ]
        self.box(0.5, 0.5, width - 1, height - 1, "panel", radius=10)

    def box(self, x: float, y: float, width: float, height: float, kind: str, radius: float = 6) -> None:
        self._lines.append(
            f'  <rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self._lines.append(f'  <text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def labelled(
        self, x: float, y: float, width: float, height: float, kind: str, *lines: str, style: str = ""
    ) -> None:
        """Draw a box with centred lines of text; the first line is strong."""
        self.box(x, y, width, height, kind)
        top = y + height / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            weight = "strong" if number == 0 else "small"
            self.text(x + width / 2, top + 18 * number, line, f"mid {weight} {style}".strip())

    def line(self, *points: tuple[float, float], kind: str = "", tip: bool = True) -> None:
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self._lines.append(f'  <path class="{f"line {kind}".strip()}" d="{path}"{end}/>')

    def cross(self, x: float, y: float) -> None:
        """Draw a red cross: here a process is killed."""
        self.line((x - 7, y - 7), (x + 7, y + 7), kind="kill", tip=False)
        self.line((x - 7, y + 7), (x + 7, y - 7), kind="kill", tip=False)

    def dot(self, x: float, y: float, kind: str) -> None:
        self._lines.append(f'  <circle class="{kind}" cx="{x:g}" cy="{y:g}" r="5"/>')

    def ruler(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._lines.append(f'  <path class="grid" d="M{x1:g} {y1:g} L{x2:g} {y2:g}"/>')

    def __str__(self) -> str:
        return "\n".join([*self._lines, "</svg>", ""])


def floors() -> Picture:
    picture = Picture(
        "floors",
        760,
        700,
        "The four floors of the runtime",
        "From top to bottom: the worker claims instances and supervises actors; an actor runs one instance; operations "
        "are its durable steps; the run holds what an operation may touch. Below these floors is the storage: the "
        "journal, which commits to the database. Calls go down. Up come an Exit from the actor, outcomes from "
        "operations, and Committed from the journal. The worker asks the database what is due.",
    )
    floors = [
        ("worker", "lease, claims, supervisor, services", "knows instances, not what they do"),
        ("actor", "runs one instance from claim to exit", "owns its phase: replaying, live, closing ..."),
        ("operations", "activity, timer, wait, channel, child ...", "one file for each kind of step"),
        ("run", "cursor, sequencer, messages, entry writer", "what an operation may touch"),
    ]
    down = ["one claimed or new instance", "the steps that the workflow asks for", "lookups and new entries"]
    up = ["Exit: ended, released, recurred ...", "outcomes, one at a time", "recorded entries"]
    x, width, height = 220, 320, 70
    for number, (name, what, more) in enumerate(floors):
        y = 24 + number * 110
        picture.labelled(x, y, width, height, "run", name, what, more)
        if number < 3:
            picture.line((x + 130, y + height), (x + 130, y + 110))
            picture.line((x + 190, y + 110), (x + 190, y + height))
            picture.text(x + 118, y + height + 24, down[number], "small end")
            picture.text(x + 202, y + height + 24, up[number], "small")
    end = 24 + 3 * 110 + height
    picture.ruler(24, 462, 736, 462)
    picture.text(72, 452, "runtime", "strong")
    picture.text(72, 482, "storage", "strong")
    journal, database = 504, 614
    picture.line((x + 160, end), (x + 160, journal))
    picture.text(x + 148, 488, "entries and their effects", "small end")
    writes = "writes what all actors append,", "one transaction for a batch"
    picture.labelled(x, journal, width, 70, "box", "journal", *writes)
    picture.line((x + 160, journal + 70), (x + 160, database))
    picture.text(x + 148, journal + 94, "commits", "small end")
    picture.labelled(x, database, width, 60, "box", "database", "SQLite, MariaDB, MySQL or PostgreSQL")
    picture.line((x + width, journal + 35), (680, journal + 35), (680, 59), (x + width, 59))
    picture.text(672, 292, "Committed:", "small end")
    picture.text(672, 310, "what is durable,", "small end")
    picture.text(672, 328, "and which instances", "small end")
    picture.text(672, 346, "are to be woken", "small end")
    picture.line((x, database + 30), (60, database + 30), (60, 59), (x, 59), kind="dash")
    picture.text(68, 292, "what is due:", "small")
    picture.text(68, 310, "the worker asks", "small")
    picture.text(68, 328, "the database", "small")
    return picture


def replay() -> Picture:
    picture = Picture(
        "replay",
        760,
        330,
        "A crash and its replay",
        "Time runs to the right. Process 1 runs reserve and charge, each of which leaves an entry in the journal, and "
        "is killed while ship runs. Process 2 runs the workflow function again from the top. It takes the results of "
        "reserve and charge from the journal without running them, runs ship, and completes.",
    )
    picture.text(24, 62, "process 1", "strong")
    picture.text(24, 172, "journal", "strong")
    picture.text(24, 270, "process 2", "strong")
    picture.ruler(110, 300, 736, 300)
    picture.text(736, 318, "time", "small end")
    picture.labelled(110, 36, 106, 44, "run", "reserve", "runs")
    picture.labelled(236, 36, 106, 44, "run", "charge", "runs")
    picture.labelled(362, 36, 60, 44, "bad", "ship", "runs")
    picture.line((216, 58), (236, 58))
    picture.line((342, 58), (362, 58))
    picture.cross(442, 58)
    picture.text(460, 54, "killed", "strong")
    picture.text(460, 71, "ship is not recorded", "small")
    picture.line((163, 80), (163, 146))
    picture.line((289, 80), (289, 146))
    picture.labelled(110, 146, 106, 44, "ok", "1 reserve:1", "completed")
    picture.labelled(236, 146, 106, 44, "ok", "2 charge:1", "completed")
    picture.line((216, 168), (236, 168))
    picture.line((342, 168), (622, 168))
    picture.line((163, 190), (163, 218), (423, 218), (423, 244), kind="dash")
    picture.line((289, 190), (289, 206), (549, 206), (549, 244), kind="dash")
    picture.text(172, 234, "recorded outcomes", "small")
    picture.labelled(370, 244, 106, 44, "box", "reserve", "from the journal")
    picture.labelled(496, 244, 106, 44, "box", "charge", "from the journal")
    picture.labelled(622, 244, 110, 44, "run", "ship", "runs")
    picture.line((476, 266), (496, 266))
    picture.line((602, 266), (622, 266))
    picture.line((677, 244), (677, 190))
    picture.labelled(622, 146, 110, 44, "ok", "3 ship:1", "completed")
    picture.text(358, 271, "replay", "small end")
    return picture


def rollback() -> Picture:
    picture = Picture(
        "rollback",
        760,
        270,
        "A rollback",
        "Three steps run in order: reserve and charge complete, ship fails. Then the compensations of the completed "
        "steps run in reverse order: refund, which undoes charge, and release, which undoes reserve. The instance ends "
        "as failed.",
    )
    for y, direction, first, second in (
        (50, "forward", "each outcome is recorded,", "the first step first"),
        (170, "back", "each compensation is recorded,", "the last completed step first"),
    ):
        picture.text(24, y + 12, direction, "strong")
        picture.text(24, y + 32, first, "small")
        picture.text(24, y + 48, second, "small")
    picture.labelled(230, 50, 130, 56, "ok", "reserve", "completed")
    picture.labelled(400, 50, 130, 56, "ok", "charge", "completed")
    picture.labelled(570, 50, 130, 56, "bad", "ship", "failed for good")
    picture.line((360, 78), (400, 78))
    picture.line((530, 78), (570, 78))
    picture.line((700, 78), (730, 78), (730, 198), (530, 198))
    picture.text(720, 142, "the workflow fails", "small end")
    picture.labelled(400, 170, 130, 56, "undo", "refund", "undoes charge")
    picture.labelled(230, 170, 130, 56, "undo", "release", "undoes reserve")
    picture.line((400, 198), (360, 198))
    picture.line((465, 106), (465, 170), kind="dash", tip=False)
    picture.line((295, 106), (295, 170), kind="dash", tip=False)
    picture.line((24, 252), (60, 252), kind="dash", tip=False)
    picture.text(68, 256, "joins a step and its compensation", "small")
    return picture


SERIES = [("bare", 2), ("ours", 3), ("dbos", 4), ("edda", 5), ("absurd", 6)]


def benchmark_rows() -> tuple[list[str], list[tuple[str, int, list[int | None]]]]:
    """Return the names of the series, and for each row of the table database, clients and workflows per second."""
    lines = TABLE.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| database | clients |"))
    names = [cell.strip() for cell in lines[start].split("|")[1:-1]]
    rows, database = [], ""
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        database = cells[0] or database
        values = [int(cells[column].replace(",", "")) if cells[column] else None for _, column in SERIES]
        rows.append((database, int(cells[1]), values))
    return [re.sub(r" [\d.]+$", "", names[column]) for _, column in SERIES], rows


def benchmark() -> Picture:
    names, rows = benchmark_rows()
    text = "; ".join(
        f"{database}, {clients} client{'s' if clients > 1 else ''}: "
        + ", ".join(f"{name} {value:,}" for name, value in zip(names, values, strict=True) if value is not None)
        for database, clients, values in rows
    )
    left, right, top, line, gap = 190, 700, 96, 15, 10
    shown = sum(value is not None for *_, values in rows for value in values)
    bottom = top + shown * line + len(rows) * gap
    picture = Picture(
        "benchmark",
        760,
        bottom + 88,
        "Workflows of three activities per second, on a logarithmic scale",
        f"Workflows per second. {text}.",
    )

    def across(value: float) -> float:
        return left + (math.log10(value) - 1) / 3 * (right - left)

    picture.text(24, 30, "workflows of three activities per second (logarithmic)", "strong")
    x = 24.0
    for (kind, _), name in zip(SERIES, names, strict=True):
        picture.dot(x + 5, 49, kind)
        picture.text(x + 16, 53, name, "small")
        x += 34 + 7 * len(name)
    for value in (10, 100, 1_000, 10_000):
        picture.ruler(across(value), top - 8, across(value), bottom)
        picture.text(across(value), top - 14, f"{value:,}", "small mid")
    y = float(top)
    for database, clients, values in rows:
        if clients == 1:
            picture.ruler(24, y, right, y)
            picture.text(24, y + gap + 9, database, "strong")
        y += gap
        picture.text(left - 8, y + 9, f"{clients} client{'s' if clients > 1 else ''}", "small end")
        for (kind, _), number in zip(SERIES, values, strict=True):
            if number is not None:
                picture.dot(across(number), y + 5, kind)
                picture.text(across(number) + 10, y + 9, f"{number:,}", "small")
                y += line
    picture.ruler(24, y, right, y)
    for number, note in enumerate(
        (
            "bare journal: writes the same rows with no runtime on top",
            "DBOS does not run on MariaDB; Absurd runs on PostgreSQL only",
            "every commit on disk, 2 cores, CPython 3.11; further right is better",
        )
    ):
        picture.text(24, bottom + 28 + 20 * number, note, "small")
    return picture


def pictures() -> list[Picture]:
    return [floors(), replay(), rollback(), benchmark()]


if __name__ == "__main__":
    for picture in pictures():
        picture.path.write_text(str(picture), "utf-8")

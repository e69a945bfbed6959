"""Write the file map of the package into the docs: ``python docs/file_map.py``.

The line of a file is the first paragraph of its module's docstring, so to improve the line, improve the docstring. The
line of a folder is the docstring of its ``__init__.py``, or is given here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "trio_romancy"
PAGE = DOCS / "explanation" / "architecture.md"
HEADING = "## File map\n"

FOLDERS = {
    "_client": "The client half of an app.",
    "_context": "What workflow code and activity code may call.",
    "_data": "Values as JSON, and the data that several floors share.",
    "_definitions": "Workflows, activities and compensations as they are defined.",
    "_observe": "Hooks and logging.",
    "_outbox": "Events on their way to a broker.",
    "_runtime/actor": "One instance from its claim to its exit.",
    "_runtime/operations": "The durable steps of a workflow, by kind.",
    "_runtime/run": "What an operation may touch.",
    "_runtime/worker": "One worker and its services.",
    "_schedules": "When schedules are due, and what happens then.",
    "_storage/drivers": "Connections to each kind of database.",
    "_storage/journal": "The writer of the journal.",
    "_storage/migrations/versions": "One file for each revision of the tables.",
    "_storage/sql": "SQL as plain functions over a connection.",
    "_tasks": "Tools for trio tasks.",
}


def first_paragraph(path: Path) -> str:
    """Return the first paragraph of the module's docstring as one line of Markdown."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    text = " ".join(docstring.split("\n\n")[0].split())
    text = re.sub(r":\w+:`[~.]*([^`]+)`", r"``\1``", text)
    return text.replace("``", "`").replace("|", "\\|")


def has_code(path: Path) -> bool:
    """Whether a module holds more than a docstring."""
    return any(not isinstance(statement, ast.Expr) for statement in ast.parse(path.read_text("utf-8")).body)


def file_map() -> str:
    """Return the tables of all folders."""
    lines = []
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")}):
        name = folder.relative_to(PACKAGE).as_posix()
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or has_code(path)]
        lines += ["", f"### `trio_romancy{'' if name == '.' else '/' + name}`", ""]
        if folder / "__init__.py" not in files:
            lines += [FOLDERS.get(name) or first_paragraph(folder / "__init__.py"), ""]
        if files:
            lines += ["| File | Holds |", "|---|---|"]
            lines += [f"| `{path.name}` | {first_paragraph(path)} |" for path in files]
        else:
            lines.pop()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, heading, after = PAGE.read_text("utf-8").partition(HEADING)
    introduction = after.partition("\n### ")[0].rstrip("\n")
    PAGE.write_text(f"{before}{heading}{introduction}\n{file_map()}", "utf-8")

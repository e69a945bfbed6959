"""The version of the code: the same for the same workflows, whatever else differs."""

from __future__ import annotations

import subprocess
import sys

from trio_romancy import workflow
from trio_romancy._definitions.code_version import code_version
from trio_romancy._definitions.registry import registry

SAME = """
from trio_romancy import workflow
from trio_romancy._definitions.code_version import code_version

@workflow
async def first(ctx, number: int) -> int:
    return number + 1 if number in {"a", "b", "c", 4, 5} else await second.function(ctx)
"""


def version_of(code: str) -> str:
    """In a process of its own, whose hashes differ from those of others."""
    program = SAME + code + "\nprint(code_version())"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_it_is_the_same_in_every_process() -> None:
    two = "@workflow\nasync def second(ctx) -> int:\n    # {}\n    return 2"
    assert version_of(two.format("")) == version_of("\n\n" + two.format("a comment"))


def test_it_changes_with_the_code_of_any_workflow() -> None:
    versions = set()
    bodies = ("return 1", "return 2", "def inner(): return 1\n    return inner()", "return ctx.now()")
    for body in bodies:
        with registry.scoped():
            exec(f"@workflow\nasync def some(ctx) -> int:\n    {body}", {"workflow": workflow})
            versions.add(code_version())
    assert len(versions) == len(bodies)

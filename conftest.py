"""Runs what ``README.md`` and ``docs/`` show.

Each ``python`` block is executed, those of one page in one namespace. An ``output`` block is compared with what the
Python block before it has printed.
"""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from trio_romancy import define

PRINTED = "__printed__"
OTHERS = "__definitions_of_others__"

_execute = PythonEvaluator()


def begin_page(namespace: dict[str, Any]) -> None:
    """Each page is a program of its own, so its definitions do not meet those of other pages and of the tests."""
    namespace["__name__"] = "__main__"
    namespace[OTHERS] = dict(define._registry)
    define._registry.clear()


def end_page(namespace: dict[str, Any]) -> None:
    define._registry.clear()
    define._registry.update(namespace[OTHERS])


def execute(example: Example) -> None:
    with redirect_stdout(StringIO()) as printed:
        _execute(example)
    example.namespace[PRINTED] = printed.getvalue()


def compare(example: Example) -> None:
    assert example.namespace[PRINTED].strip() == example.parsed.strip()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", execute), CodeBlockParser("output", compare)],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=begin_page,
    teardown=end_page,
).pytest()

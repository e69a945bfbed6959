"""Runs what ``README.md`` and ``docs/`` show.

Each ``python`` block is executed, those of one page in one namespace. An ``output`` block is compared with what the
Python block before it has printed.
"""

from contextlib import redirect_stdout
from io import StringIO

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

PRINTED = "__printed__"

_execute = PythonEvaluator()


def execute(example: Example) -> None:
    example.namespace["__name__"] = "__main__"  # as in a script; without it, classes would claim to be builtins
    with redirect_stdout(StringIO()) as printed:
        _execute(example)
    example.namespace[PRINTED] = printed.getvalue()


def compare(example: Example) -> None:
    assert example.namespace[PRINTED].strip() == example.parsed.strip()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", execute), CodeBlockParser("output", compare)],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
).pytest()

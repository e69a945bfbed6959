"""Leaves out the longest tests unless asked for them, and runs what ``README.md`` and ``docs/`` show.

Each ``python`` block is executed, those of one page in one namespace. An ``output`` block is compared with what the
Python block before it has printed. Of a page whose blocks are spread over several processes, each process executes all
that come before its own.
"""

import gc
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

import trio_romancy._tasks.quiet_trio_asyncio  # noqa: F401  # before test modules import trio-asyncio, which patches
from trio_romancy._definitions.registry import registry

pytest_plugins = ["tests.support.time_limit"]

# A run starts hundreds of processes that import the same modules. Without this, each of them would compile all of them
# again where the environment says so, as that of many containers does.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked as long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names_none = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if names_none and not config.option.all:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_collection_finish() -> None:
    # Modules and tests are there until the end, and each full collection of garbage would examine them again.
    gc.collect()
    gc.freeze()


PRINTED = "__printed__"
SCOPE = "__scope_of_definitions__"
EVALUATED = "__evaluated__"

_execute = PythonEvaluator()


def begin_page(namespace: dict[str, Any]) -> None:
    """Each page is a program of its own, so its definitions do not meet those of other pages and of the tests."""
    namespace["__name__"] = "__main__"
    namespace[EVALUATED] = set()
    namespace[SCOPE] = registry.scoped()
    namespace[SCOPE].__enter__()


def end_page(namespace: dict[str, Any]) -> None:
    namespace[SCOPE].__exit__(None, None, None)


def catch_up(example: Example) -> None:
    """Evaluate what comes before it on its page, as far as another process has done that."""
    evaluated = example.namespace[EVALUATED]
    for earlier in example.document.examples():
        if earlier.start < example.start and earlier.start not in evaluated:
            earlier.evaluate()
    evaluated.add(example.start)


def execute(example: Example) -> None:
    catch_up(example)
    with redirect_stdout(StringIO()) as printed:
        _execute(example)
    example.namespace[PRINTED] = printed.getvalue()


def compare(example: Example) -> None:
    catch_up(example)
    assert example.namespace[PRINTED].strip() == example.parsed.strip()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", execute), CodeBlockParser("output", compare)],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=begin_page,
    teardown=end_page,
).pytest()

"""The apps for asyncio and for synchronous code have the methods of the app for trio, signature by signature."""

from __future__ import annotations

import ast
import inspect
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any, get_overloads

import pytest

from trio_romancy import App, WorkflowHandle, aio, sync
from trio_romancy._client.transaction import TransactionSession
from trio_romancy._outbox.view import Outbox

ROOT = Path(__file__).parent.parent.parent
FACES: dict[str, ModuleType] = {"aio": aio, "sync": sync}


@pytest.mark.parametrize("name", FACES)
def test_what_is_committed_is_what_the_script_makes(name: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "faces.py"))["Face"](name).text()
    committed = (ROOT / "trio_romancy" / f"{name}.py").read_text("utf-8")
    assert contents(committed) == contents(made), "run python docs/faces.py"


def contents(text: str) -> tuple[set[str], list[str]]:
    """What a module imports and what it says, whatever its format."""
    imported = set()
    rest = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{'.' * node.level}{node.module}.{each.name} {each.asname}" for each in node.names}
        else:
            rest.append(ast.dump(node))
    return imported, rest


def public(cls: type) -> dict[str, Any]:
    return {
        name: member
        for owner in reversed(cls.__mro__[:-1])
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


def signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("AbstractAsyncContextManager", "AbstractContextManager")


IN_TRIO_ONLY = {
    *("start_prepared", "send_prepared", "prepare_start_in", "prepare_send_event_in", "prepare_cancel_in"),
    *("lost", "is_open", "has_begun", "has_ended", "apart", "end", "finish", "flush_all"),
    *("commit_with", "notify_committed", "after_commit", "aclose"),
}
"""What the parts of the package call."""
WITHOUT_A_SERVER = {"asgi", "lifespan"}
"""What an ASGI server calls, of which there is none for synchronous code."""


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("cls", [App, WorkflowHandle, Outbox, TransactionSession])
def test_the_three_have_the_same_members(name: str, cls: type) -> None:
    copy = getattr(FACES[name], cls.__name__)
    ours = public(cls).keys() - IN_TRIO_ONLY | {field for field in cls.__annotations__ if not field.startswith("_")}
    assert public(copy).keys() ^ ours <= (WITHOUT_A_SERVER if name == "sync" else set())


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("cls", [App, WorkflowHandle, Outbox, TransactionSession])
def test_the_three_have_the_same_signatures(name: str, cls: type) -> None:
    copy = getattr(FACES[name], cls.__name__)
    compared = 0
    for method, ours in public(cls).items():
        theirs = public(copy).get(method)
        if not inspect.isfunction(ours) or method in WITHOUT_A_SERVER | IN_TRIO_ONLY:
            continue
        assert theirs is not None
        assert signature(theirs) == signature(ours), method
        assert [signature(each) for each in get_overloads(theirs)] == [signature(each) for each in get_overloads(ours)]
        assert not inspect.iscoroutinefunction(theirs) or name == "aio"
        assert inspect.iscoroutinefunction(theirs) or name == "sync" or not inspect.iscoroutinefunction(ours)
        compared += 1
    assert compared
    assert str(inspect.signature(copy)) == str(inspect.signature(cls)) or cls is not App

"""Write the apps for asyncio and for synchronous code, from that for trio: ``python docs/faces.py``.

The methods of :class:`trio_romancy.App` and what they return are copied with their signatures and docstrings. Their
bodies call the method in the thread of the app. A test compares the files with what this script makes.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_overloads

import attrs

from trio_romancy._client.handle import WorkflowHandle
from trio_romancy._client.schedules import Schedules
from trio_romancy._client.transaction import TransactionSession
from trio_romancy._client.watch import InstanceChanges
from trio_romancy._outbox.view import Outbox
from trio_romancy.app import App

PACKAGE = Path(__file__).parent.parent / "trio_romancy"

COPIED = (InstanceChanges, WorkflowHandle, Outbox, Schedules, TransactionSession, App)
"""Classes that each of the modules has. Their instances are wrapped where a method returns them."""

WRITTEN = "asgi", "hurry", "lifespan"
"""Members that are no calls in the thread of the app. They are in :data:`INHERITED`, or nowhere."""

INTERNAL = (
    *("start_prepared", "send_prepared", "prepare_start_in", "prepare_send_event_in", "prepare_cancel_in"),
    *("lost", "is_open", "has_begun", "has_ended", "apart", "end", "finish", "flush_all"),
    *("commit_with", "notify_committed", "after_commit", "aclose"),
)
"""Members for other parts of the package."""

IN_PLACE = "start_in", "send_event_in", "cancel_in"
"""Methods whose write is made where they are called, on the connection of the caller."""

INHERITED = {"aio": "AsyncioApp", "sync": "BlockingApp"}
"""Base classes of the apps, which are written by hand: how an app is opened and closed, and what it has besides."""

ASYNC_BLOCK, BLOCK = "AbstractAsyncContextManager", "AbstractContextManager"

EXPORTED = {"aio": ["call_asyncio"], "sync": []}
"""What else can be imported."""

HEADS = {
    "aio": """Runs durable workflows in one database, for a program on asyncio. Used as ``async with App(...) as app``.

It is a :class:`trio_romancy.App` in a thread of its own, where workflows and activities run under trio. Its methods
can be called in every event loop of the process. If a task that awaits a call is cancelled, so is the call, and the
task goes on when the call has ended. The app can be entered again after its block has ended.""",
    "sync": """Runs durable workflows in one database, for synchronous code. Used as ``with App(...) as app``.

It is a :class:`trio_romancy.App` in a thread of its own, where workflows and activities run under trio. Its methods
can be called in every other thread of the process, which they block. Ctrl-C ends a call at once, and cancels it.
The app can be entered again after its block has ended.""",
}

ITERATION = {
    "aio": """
def __aiter__(self) -> InstanceChanges:
    return self

async def __anext__(self) -> Instance:
    instance = await self.next_change()
    if instance is None:
        raise StopAsyncIteration
    return instance
""",
    "sync": """
def __iter__(self) -> InstanceChanges:
    return self

def __next__(self) -> Instance:
    instance = self.next_change()
    if instance is None:
        raise StopIteration
    return instance
""",
}
"""How an iterator is one, which has no docstring to copy."""

FIRST_LINES = {
    "aio": '"""The app for programs on asyncio. Made from the app for trio by ``docs/faces.py``."""',
    "sync": '"""The app for synchronous programs. Made from the app for trio by ``docs/faces.py``."""',
}


class Source:
    """A module that is copied from: its names, and where they come from."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.origins: dict[str, tuple[str, str]] = {}
        self.plain: set[str] = set()
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom):
                package = module.__name__.rsplit(".", node.level)[0] + "." if node.level else ""
                for alias in node.names:
                    self.origins[alias.asname or alias.name] = (f"{package}{node.module or ''}".rstrip("."), alias.name)
            elif isinstance(node, ast.Import):
                self.plain |= {alias.name for alias in node.names}

    def origin(self, name: str) -> tuple[str, str]:
        return self.origins.get(name, (self.module.__name__, name))


class Face:
    """One of the modules that are written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name == "aio"
        self.prefix = "Asyncio" if self.is_async else "Blocking"
        self.imports: set[tuple[str, str]] = set()
        self.for_checkers: set[str] = set()

    def text(self) -> str:
        """Return the module."""
        classes = [self.copied(cls) for cls in COPIED]
        lines = [FIRST_LINES[self.name], "", "from __future__ import annotations", ""]
        portal = "asyncio_portal" if self.is_async else "blocking_portal"
        block = "asyncio_block" if self.is_async else "blocking_block"
        base = "asyncio_app" if self.is_async else "blocking_app"
        kind = f"{self.prefix}Portal"
        self.imports |= {("typing", "Any"), ("typing", "Generic"), ("typing", "ParamSpec"), ("typing", "TypeVar")}
        lines += [f"from {origin} import {name}" for origin, name in sorted(self.imports) if "." not in origin[:1]]
        lines += [
            f"from .{origin.removeprefix('.')} import {name}" for origin, name in self.imports if origin[0] == "."
        ]
        lines += [f"from .{self.module_of(cls)} import {cls.__name__} as _{cls.__name__}" for cls in COPIED]
        lines += [f"from ._portal.{block} import {self.prefix}Block, {self.prefix}BlockPortal"]
        lines += [f"from ._portal.{portal} import {kind}", f"from ._portal.{base} import {INHERITED[self.name]}", ""]
        exported = sorted([*(cls.__name__ for cls in COPIED), *EXPORTED[self.name]])
        names = ", ".join(f'"{name}"' for name in exported)
        lines += [f"from ._portal.{portal} import {name}" for name in EXPORTED[self.name]]
        if self.for_checkers:
            longest = [
                name for name in self.for_checkers if not any(o.startswith(f"{name}.") for o in self.for_checkers)
            ]
            lines += ["if TYPE_CHECKING:", *(f"    import {name}" for name in sorted(longest)), ""]
        lines += [f"__all__ = [{names}]", "", 'P = ParamSpec("P")', 'R = TypeVar("R")', ""]
        return "\n".join([*lines, *classes]) + "\n"

    @staticmethod
    def module_of(cls: type) -> str:
        return cls.__module__.removeprefix("trio_romancy.")

    def copied(self, cls: type) -> str:
        """Return the copy of a class."""
        name = cls.__name__
        kind = f"{self.prefix}BlockPortal" if cls is TransactionSession else f"{self.prefix}Portal"
        self.app_portal = "self._portal.app_portal" if cls is TransactionSession else "self._portal"
        if cls is App:
            head, inner = f"class App({INHERITED[self.name]}):", "self._portal.app"
            _, _, rest = self.docstring(cls).partition("\n\n")
            doc = f"{HEADS[self.name]}\n\n{rest}"
            start = ""
        else:
            generic = "[R]" if getattr(cls, "__parameters__", ()) else ""
            head, inner = f"class {name}{'(Generic[R])' if generic else ''}:", "self._inner"
            doc = self.docstring(cls)
            start = textwrap.dedent(
                f"""
                def __init__(self, portal: {kind}, inner: _{name}{generic}) -> None:
                    self._portal = portal
                    self._inner = inner
                """
            )
        parts = [quoted(doc), start]
        if cls is App:
            parts.append(self.constructor(cls))
        if attrs.has(cls):
            shown = [field.name for field in attrs.fields(cls) if not field.name.startswith("_")]
            values = ", ".join(f"{field}={{self.{field}!r}}" for field in shown)
            parts.append(f'def __repr__(self) -> str:\n    return f"{name}({values})"\n' if shown else "")
            parts += [self.field(cls, field, inner) for field in shown]
        parts += [self.member(owner, member, inner) for owner, member in members(cls)]
        if cls is InstanceChanges:
            parts.append(ITERATION[self.name])
        return head + "\n" + textwrap.indent("\n".join(parts), "    ")

    def constructor(self, cls: type) -> str:
        node = parsed(cls.__init__)  # type: ignore[misc]
        self.take_names(cls, node)
        return (
            f"def __init__({ast.unparse(node.args)}) -> None:\n"
            f"    super().__init__(lambda: _{cls.__name__}({passed(node)}))\n"
        )

    def field(self, cls: type, field: str, inner: str) -> str:
        annotation = cls.__annotations__[field]
        return f"@property\ndef {field}(self) -> {annotation}:\n    return {inner}.{field}\n"

    def member(self, owner: type, name: str, inner: str) -> str:
        """Return the copy of a property or a method."""
        member = owner.__dict__[name]
        if isinstance(member, property):
            node = parsed(member.fget)
            self.take_names(owner, node)
            value = self.wrapped(node, f"{inner}.{name}")
            return f"@property\n{self.definition(node, is_async=False, body=f'return {value}')}"
        node = parsed(member)
        self.take_names(owner, node)
        given = passed(node)
        target, before = f"{inner}.{name}", ""
        overloads = ""
        for overload in get_overloads(member):
            signature = parsed(overload)
            self.take_names(owner, signature)
            is_async = self.is_async and self.crosses(signature)
            overloads += f"@overload\n{self.definition(signature, is_async=is_async, body='...', document=False)}"
            self.imports.add(("typing", "overload"))
        is_generic = "E" in {part.id for part in ast.walk(node.args) if isinstance(part, ast.Name)}
        if overloads or is_generic:
            target, before = name, f"{name}: Any = {inner}.{name}\n"
        if (opened := block_of(node)) is not None:
            body = f"return self._portal.nested({inner}.{name})"
            if opened != "None":
                body = f"return {self.prefix}Block(self._portal, {inner}.{name}, {opened})"
            return self.definition(node, is_async=False, body=body)
        if name in IN_PLACE:
            return overloads + self.definition(node, is_async=self.is_async, body=self.in_place(node, inner))
        if not self.crosses(node):
            return overloads + self.definition(
                node, is_async=False, body=f"{before}return {self.wrapped(node, f'{target}({given})')}"
            )
        call = "call" if isinstance(node, ast.AsyncFunctionDef) else "call_sync"
        value = f"{'await ' if self.is_async else ''}self._portal.{call}({target}{', ' if given else ''}{given})"
        is_none = node.returns is not None and ast.unparse(node.returns) == "None"
        body = before + (value if is_none else f"return {self.wrapped(node, value)}")
        if is_generic and node.returns is not None:
            body = f"{before}found: {ast.unparse(node.returns)} = {value}\nreturn found"
        return overloads + self.definition(node, is_async=self.is_async, body=body)

    def in_place(self, node: ast.FunctionDef | ast.AsyncFunctionDef, inner: str) -> str:
        """Return the body of a method that makes a write on the connection of the caller."""
        make = f"{'await ' if self.is_async else ''}self._portal.make"
        if node.name != "start_in":
            return f"return {make}({inner}.prepare_{node.name}({passed(node)}))"
        return (
            f"joined, started, instance_id = {inner}.prepare_start_in(connection, workflow, args, kwargs)\n"
            f"{make}(joined)\n"
            f"return WorkflowHandle(self._portal, {inner}.handle(instance_id, started))"
        )

    @staticmethod
    def crosses(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether a method is called in the thread of the app. Those that only make a handle are not."""
        return isinstance(node, ast.AsyncFunctionDef) or copied_in(node) is None

    def wrapped(self, node: ast.FunctionDef | ast.AsyncFunctionDef, value: str) -> str:
        cls = copied_in(node)
        return value if cls is None else f"{cls}({self.app_portal}, {value})"

    def definition(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        *,
        is_async: bool,
        body: str,
        document: bool = True,
    ) -> str:
        returns = "None" if node.returns is None else ast.unparse(node.returns)
        if not self.is_async:
            returns = returns.replace(ASYNC_BLOCK, BLOCK)
        doc = ast.get_docstring(node)
        lines = [quoted(self.adapted(doc))] if document and doc else []
        return (
            f"{'async ' if is_async else ''}def {node.name}({ast.unparse(node.args)}) -> {returns}:\n"
            + textwrap.indent("\n".join([*lines, body]), "    ")
            + "\n"
        )

    def docstring(self, cls: type) -> str:
        return self.adapted(inspect.cleandoc(cls.__doc__ or ""))

    def adapted(self, doc: str) -> str:
        return doc if self.is_async else doc.replace("async with", "with").replace("async for", "for")

    def take_names(self, owner: type, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Import the names of a signature."""
        source = Source(importlib.import_module(owner.__module__))
        parts: list[ast.AST] = [node.args, *([node.returns] if node.returns else [])]
        for part in parts:
            for name in ast.walk(part):
                if not isinstance(name, ast.Name) or hasattr(builtins, name.id) or name.id in ("P", "R"):
                    continue
                if name.id in {cls.__name__ for cls in COPIED}:
                    continue
                if plain := {each for each in source.plain if each.partition(".")[0] == name.id}:
                    self.for_checkers |= plain  # the annotations are not evaluated
                    self.imports.add(("typing", "TYPE_CHECKING"))
                    continue
                module, original = source.origin(name.id)
                assert original == name.id, f"{name.id} of {owner.__module__} has another name where it is defined"
                if original == ASYNC_BLOCK and not self.is_async:
                    original = BLOCK
                inside = module.removeprefix("trio_romancy")
                self.imports.add((inside if inside != module else module, original))


Function = Callable[..., Any]


def members(cls: type) -> Iterator[tuple[type, str]]:
    """Yield the public members of a class and its bases, with the class that defines each of them."""
    for owner in reversed(cls.__mro__[:-1]):
        if not owner.__module__.startswith("trio_romancy"):
            continue
        for name, member in owner.__dict__.items():
            is_code = isinstance(member, property) or inspect.isfunction(member)
            if is_code and not name.startswith("_") and name not in (*WRITTEN, *INTERNAL):
                yield owner, name


def parsed(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Return the definition of a function."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return node


def passed(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the arguments with which a function passes on what it was given."""
    given = node.args
    positional = [argument.arg for argument in (*given.posonlyargs, *given.args)][1:]
    if given.vararg is not None:
        positional.append(f"*{given.vararg.arg}")
    named = [f"{argument.arg}={argument.arg}" for argument in given.kwonlyargs]
    if given.kwarg is not None:
        named.append(f"**{given.kwarg.arg}")
    return ", ".join([*positional, *named])


def block_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """Return what the block gives that a method returns; None: it returns something else."""
    returns = node.returns
    if isinstance(returns, ast.Subscript) and ast.unparse(returns.value) == ASYNC_BLOCK:
        return ast.unparse(returns.slice)
    return None


def copied_in(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """Return the name of the copied class that a method returns; None: it returns something else."""
    if node.returns is None:
        return None
    outer = node.returns.value if isinstance(node.returns, ast.Subscript) else node.returns
    name = ast.unparse(outer)
    names = {cls.__name__ for cls in COPIED}
    if name in names:
        return name
    mentioned = {part.id for part in ast.walk(node.returns) if isinstance(part, ast.Name)} & names
    assert not mentioned, f"{node.name} returns {ast.unparse(node.returns)}, which this script cannot wrap"
    return None


def quoted(doc: str) -> str:
    return f'"""{doc}\n"""' if "\n" in doc else f'"""{doc}"""'


def formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff"]
    for options in (["check", "--fix", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        name = ["--stdin-filename", str(PACKAGE / "aio.py"), "-"]
        text = subprocess.run(
            [*command, *options, *name], input=text, capture_output=True, text=True, check=True
        ).stdout
    return text


if __name__ == "__main__":
    for face in ("aio", "sync"):
        (PACKAGE / f"{face}.py").write_text(formatted(Face(face).text()), "utf-8")

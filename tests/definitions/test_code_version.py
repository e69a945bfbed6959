"""The version of the code: the same for the same workflows, whatever else differs."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from trio_romancy import WorkflowContext, activity, workflow
from trio_romancy._data.codec import codec
from trio_romancy._definitions import code_version as module
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


def test_a_type_that_many_workflows_name_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def counted(annotation: object) -> object:
        asked.append(annotation)
        return codec(annotation)

    monkeypatch.setattr(module, "codec", counted)
    code = "@workflow(name='{0}')\nasync def some(ctx) -> int:\n    raise ValueError"
    with registry.scoped():
        for number in range(5):
            exec(code.format(number), {"workflow": workflow, "ValueError": ValueError})
        code_version()
    assert asked.count(ValueError) == 1


SHOP = """
from __future__ import annotations

import enum
import types
from dataclasses import dataclass, field
from typing import NamedTuple, NotRequired, TypedDict

import attrs
from trio_romancy import activity, compensation, workflow

class Method(enum.Enum):
    CARD = "card"
    CASH = "cash"

@attrs.define
class Item:
    sku: str
    parts: list[Item] = attrs.field(factory=list)

@dataclass
class Receipt:
    number: int
    items: list[Item] = field(default_factory=list)

class Place(NamedTuple):
    street: str
    number: int

class Options(TypedDict):
    gift: NotRequired[bool]

data = types.ModuleType("data")
data.Method = Method

@compensation
async def refund(amount: float, result: Receipt) -> None:
    pass

@activity(compensation=refund)
async def charge(amount: float, note: str = "") -> Receipt:
    return Receipt(1)

def define():
    class Signature(enum.Enum):
        INK = 1

    @workflow
    async def order(ctx, item: Item, place: Place, options: Options | None = None) -> Receipt:
        receipt = await charge(1.0)
        await ctx.wait_event("paid", data_type=data.Method)
        def sign():
            return ctx.wait_event("signed", data_type=Signature)
        await sign()
        return receipt

define()
"""


def _version_of_shop(*changes: tuple[str, str]) -> str:
    code = SHOP
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    module = sys.modules["shop_of_versions"] = types.ModuleType("shop_of_versions")  # postponed annotations need it
    try:
        with registry.scoped():
            exec(compile(code, "shop.py", "exec", dont_inherit=True), module.__dict__)
            return code_version()
    finally:
        del sys.modules["shop_of_versions"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("@activity(comp", "@activity(name='old', comp"),
        ("@compensation", "@compensation(name='old')"),
        ("@workflow", "@workflow(name='old')"),
        ("@compensation", "@activity\nasync def pack() -> None:\n    pass\n\n@compensation"),
        ("(compensation=refund)", ""),
        ("async def refund(amount: float, ", "async def refund("),
        ("result: Receipt)", "result: Receipt = None)"),
        ("    number: int\n    items", "    number: str\n    items"),
        ("    number: int\n    items", "    number: int = 0\n    items"),
        ("    sku: str", "    sku: str\n    colour: str = ''"),
        ("parts: list[Item]", "parts: list[str]"),
        ("    number: int\n\nclass", "    number: str\n\nclass"),
        ("gift: NotRequired[bool]", "gift: bool"),
        ("gift: NotRequired[bool]", "gift: NotRequired[int]"),
        ("place: Place, options", "site: Place, options"),
        ("options: Options | None = None", "options: Options | None"),
        ("options: Options | None = None", "options: Options | None = None, express: bool = False"),
        ('CASH = "cash"', ""),
        ('CASH = "cash"', 'CASH = "coins"'),
        ("INK = 1", "INK = 2"),
    ],
)
def test_it_changes_with_what_journals_hold_of_definitions(before: str, after: str) -> None:
    assert _version_of_shop((before, after)) != _version_of_shop()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return Receipt(1)", "return Receipt(2)"),
        ('note: str = ""', 'note: str = "-", more: int = 0'),
        ("class Place(", "class Address(NamedTuple):\n    pass\n\nclass Place("),
        ("    pass\n\n@activity", "    return\n\n@activity"),
    ],
)
def test_it_stays_with_the_bodies_of_activities_and_what_is_not_stored(before: str, after: str) -> None:
    assert _version_of_shop((before, after)) == _version_of_shop()


def test_a_new_name_of_a_class_does_not_change_it() -> None:
    """Only in annotations: the code of a workflow that names the class has changed."""
    assert _version_of_shop(("Receipt", "Slip")) == _version_of_shop()


def test_an_activity_under_another_name_is_another_version_though_the_definition_before_is_still_there() -> None:
    def deploy(decorator: str) -> str:
        code = f"""
{decorator}
async def charge_card():
    pass

@workflow
async def order(ctx):
    await charge_card()
"""
        exec(code, namespace)
        return code_version()

    namespace: dict[str, object] = {"workflow": workflow, "activity": activity}
    with registry.scoped():
        deploy("@activity(name='charge')")
        renamed = deploy("@activity")
        assert deploy("@activity(name='charge')") != renamed


def test_a_name_that_is_not_defined_yet_and_a_class_that_resists_do_no_harm() -> None:
    class Resists(type):
        def __hash__(cls) -> int:
            raise RuntimeError("no hash")

    class Strange(metaclass=Resists):
        pass

    with registry.scoped():

        @workflow
        async def some(ctx: WorkflowContext) -> None:
            print(Strange, later)

        version = code_version()
        later = 1
        assert code_version() == version

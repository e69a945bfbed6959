"""Definitions: the decorators, their mistakes, and how a workflow's input is stored and read."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import re
import runpy
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import attrs
import pytest
import trio

from trio_romancy import (
    Activity,
    Compensation,
    DefinitionError,
    InvalidInputError,
    RetryPolicy,
    RomancyError,
    Workflow,
    WorkflowContext,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._definitions.registry import registry

if TYPE_CHECKING:
    from nowhere import Undefined  # type: ignore[import-not-found]


@attrs.define
class Item:
    sku: str
    quantity: int = 1


@attrs.define
class Order:
    order_id: str
    items: list[Item] = attrs.field(factory=list)


@dataclasses.dataclass
class Address:
    street: str


class Row(TypedDict):
    key: str


NO_CONTEXT: Any = None
"""In place of the context, for functions that do not look at it."""


# -- the decorators ----------------------------------------------------------------------------------------------------


@compensation
async def bare_compensation(order_id: str) -> str:
    return f"undone {order_id}"


@compensation(name="define.undo", retry=RetryPolicy.no_retry(), timeout=timedelta(seconds=1.5))
def compensation_with_options(order_id: str, result: int) -> str:
    return f"undone {order_id}"


@activity
async def bare_activity(order_id: str, note: str = "") -> int:
    """Does it."""
    return len(order_id + note)


@activity
def bare_sync_activity(order_id: str) -> int:
    return len(order_id)


@activity(
    name="define.do",
    compensation=compensation_with_options,
    retry=RetryPolicy.fixed(3, 0.5),
    timeout=2,
    cancellable=True,
)
async def activity_with_options(order_id: str) -> int:
    return len(order_id)


@workflow
async def bare_workflow(ctx: WorkflowContext, order: Order) -> int:
    return await bare_activity(order.order_id)


@workflow(name="define.orders")
async def workflow_with_options(ctx: WorkflowContext, order: Order) -> int:
    return 3


@pytest.mark.parametrize(
    ("definition", "kind", "name"),
    [
        (bare_compensation, Compensation, "bare_compensation"),
        (compensation_with_options, Compensation, "define.undo"),
        (bare_activity, Activity, "bare_activity"),
        (activity_with_options, Activity, "define.do"),
        (bare_workflow, Workflow, "bare_workflow"),
        (workflow_with_options, Workflow, "define.orders"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_definition_has_the_name_of_its_function_or_the_one_it_is_given(
    definition: Any, kind: type, name: str
) -> None:
    assert (type(definition), definition.name) == (kind, name)


def test_a_bare_definition_leaves_everything_to_the_app() -> None:
    assert (bare_activity.retry, bare_activity.timeout, bare_activity.compensation) == (None, None, None)
    assert (bare_activity.cancellable, bare_activity.is_async, bare_sync_activity.is_async) == (False, True, False)
    assert (bare_compensation.retry, bare_compensation.timeout) == (None, None)


def test_a_definition_keeps_its_options() -> None:
    assert activity_with_options.retry == RetryPolicy.fixed(3, 0.5)
    assert activity_with_options.timeout == 2.0
    assert activity_with_options.compensation is compensation_with_options
    assert activity_with_options.cancellable
    assert compensation_with_options.retry == RetryPolicy.no_retry()
    assert compensation_with_options.timeout == 1.5


def test_workflows_are_found_by_name() -> None:
    assert registry.find_workflow("bare_workflow") is bare_workflow
    assert registry.find_workflow("define.orders") is workflow_with_options
    assert registry.find_workflow("workflow_with_options") is None
    assert registry.find_workflow("bare_activity") is None
    assert {"bare_workflow", "define.orders"} <= set(registry.workflow_names())


def test_an_activity_and_a_workflow_may_have_the_same_name() -> None:
    @activity(name="define.shared")
    async def do() -> None: ...

    @workflow(name="define.shared")
    async def orchestrate(ctx: WorkflowContext) -> None: ...

    assert registry.find_workflow("define.shared") is orchestrate


async def test_called_outside_a_workflow_an_async_activity_is_its_plain_function() -> None:
    assert await bare_activity("four", note="!") == 5
    assert await activity_with_options("four") == 4
    assert await bare_activity.options(id="x", retry=RetryPolicy.no_retry(), timeout=1)("four") == 4


async def test_called_outside_a_workflow_a_sync_activity_is_its_plain_function() -> None:
    result: Any = bare_sync_activity("four")
    assert result == 4


async def test_called_directly_a_compensation_is_its_plain_function() -> None:
    assert await bare_compensation("1") == "undone 1"
    assert compensation_with_options("1", 2) == "undone 1"


async def test_called_directly_a_workflow_is_its_plain_function() -> None:
    assert await bare_workflow(NO_CONTEXT, Order("four")) == 4
    assert await bare_workflow.options(id="x")(NO_CONTEXT, order=Order("four")) == 4


async def test_called_outside_a_workflow_an_activity_raises_what_its_function_raises() -> None:
    @activity
    async def failing() -> None:
        raise KeyError("original")

    with pytest.raises(KeyError, match="original"):
        await failing()


async def test_current_activity_says_what_to_do_where_there_is_none() -> None:
    @activity
    async def asks() -> int:
        return current_activity().attempt

    with pytest.raises(RomancyError, match="a unit test of the plain function has none"):
        await asks()


# -- .options() --------------------------------------------------------------------------------------------------------


def test_options_make_a_copy_and_leave_the_definition_alone() -> None:
    retry = RetryPolicy.no_retry()
    bound = bare_activity.options(id="a:1", retry=retry, timeout=timedelta(seconds=3))
    assert (bound.id, bound.retry, bound.timeout) == ("a:1", retry, 3.0)
    assert (bound.name, bound.function) == (bare_activity.name, bare_activity.function)
    assert (bare_activity.id, bare_activity.retry, bare_activity.timeout) == (None, None, None)


def test_options_that_are_not_given_stay_as_they_are() -> None:
    bound = activity_with_options.options(id="a:1").options(timeout=5)
    assert (bound.id, bound.timeout) == ("a:1", 5.0)
    assert bound.retry == RetryPolicy.fixed(3, 0.5)
    assert bound.compensation is compensation_with_options
    assert bound.cancellable


def test_options_of_a_workflow_name_the_instance() -> None:
    assert bare_workflow.options(id="order-1").id == "order-1"
    assert bare_workflow.id is None


@pytest.mark.parametrize("definition", [bare_activity, bare_workflow], ids=["activity", "workflow"])
@pytest.mark.parametrize("id", ["", "x" * 256, 3], ids=["empty", "too long", "no text"])
def test_a_bad_id_is_refused_where_it_is_given(definition: Any, id: Any) -> None:
    with pytest.raises(ValueError, match="an id is a string of 1 to 255 characters"):
        definition.options(id=id)
    assert definition.options(id="x" * 255).id == "x" * 255


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0)], ids=str)
def test_a_bad_timeout_is_refused_where_it_is_given(timeout: Any) -> None:
    with pytest.raises(DefinitionError, match=r"'bare_activity'.*timeout"):
        bare_activity.options(timeout=timeout)


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def one(order_id: str) -> int:
    return 1


async def two(order_id: str) -> int:
    return 2


async def three(ctx: WorkflowContext) -> int:
    return 3


async def four(ctx: WorkflowContext) -> int:
    return 4


@pytest.mark.parametrize(
    ("decorator", "first", "second"), [(activity, one, two), (compensation, one, two), (workflow, three, four)]
)
def test_a_name_that_is_taken_is_refused(decorator: Any, first: Any, second: Any) -> None:
    name = f"define.taken_{decorator.__name__}"
    decorator(name=name)(first)
    with pytest.raises(DefinitionError) as caught:
        decorator(name=name)(second)
    assert str(caught.value) == (
        f"{decorator.__name__} {__name__}.{second.__qualname__}: the name {name!r} is taken by "
        f"{__name__}.{first.__qualname__}; give one of them another, with @{decorator.__name__}(name=...)"
    )


Define = Callable[[], object]
WRONG: dict[str, tuple[Define, str]] = {}
"""What is wrong, a function that does it, and what the error says behind ``activity <module>.<function>: ``."""


def wrong(case: str, message: str) -> Callable[[Define], Define]:
    def add(define: Define) -> Define:
        WRONG[case] = define, message
        return define

    return add


@wrong(
    "parameter of a compensation of an unsupported type", "compensation refund: its parameter 'amount': complex cannot"
)
def _() -> None:
    @compensation
    async def refund(order_id: str, amount: complex) -> None: ...


@wrong("result of an unsupported type", "activity charge: its result: complex cannot be stored as JSON")
def _() -> None:
    @activity
    async def charge(order_id: str) -> complex:
        return 1j


@wrong(
    "result of a class from elsewhere",
    "activity watch: its result: Event cannot be stored as JSON: an annotation in it cannot be resolved: name 'Task'",
)
def _() -> None:
    @activity
    async def watch() -> trio.Event:
        return trio.Event()


def _unresolved(kind: str) -> Any:
    """Return a class of that kind, with an annotation of a name that its module does not have."""
    if kind == "TypedDict":
        make: Any = TypedDict
        return make("Unresolved", {"part": "Nowhere"})
    cls = type("Unresolved", (), {"__annotations__": {"part": "sys.Nowhere" if kind == "attribute" else "Nowhere"}})
    return dataclasses.dataclass(cls) if kind == "dataclass" else attrs.define(cls)


@pytest.mark.parametrize("kind", ["dataclass", "attrs", "TypedDict", "attribute"])
@pytest.mark.parametrize("inside", [False, True], ids=["", "in a list"])
def test_a_type_whose_annotations_cannot_be_resolved_is_refused(kind: str, inside: bool) -> None:
    async def order(ctx: WorkflowContext, lot: Any) -> None: ...

    unresolved = _unresolved(kind)
    order.__annotations__["lot"] = types.GenericAlias(list, unresolved) if inside else unresolved
    with pytest.raises(DefinitionError, match=r"order: its parameter 'lot': .*Unresolved.* resolved: .*'Nowhere'"):
        workflow(order)


@wrong("parameter of a workflow of an unsupported type", "workflow order: its parameter 'amounts': complex cannot")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext, amounts: list[complex]) -> None: ...


@wrong("parameter of an optional unsupported type", "workflow order: its parameter 'amount': complex cannot")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext, amount: complex | None = None) -> None: ...


@wrong("result of a workflow of an unsupported type", "workflow order: its result: complex cannot be stored as JSON")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> dict[str, complex]:
        return {}


@wrong(
    "compensation takes what the activity does not",
    "activity charge: its compensation 'refund' takes 'card', which the activity does not; take one of order_id, "
    "amount, result",
)
def _() -> None:
    @compensation
    async def refund(order_id: str, card: str) -> None: ...

    @activity(compensation=refund)
    async def charge(order_id: str, amount: float) -> None: ...


@wrong("compensation takes another type", "activity charge: its compensation 'refund' takes 'amount' as <class 'str'>")
def _() -> None:
    @compensation
    async def refund(amount: str) -> None: ...

    @activity(compensation=refund)
    async def charge(amount: float) -> None: ...


@wrong(
    "compensation takes another result", "activity charge: its compensation 'refund' takes 'result' as <class 'str'>"
)
def _() -> None:
    @compensation
    async def refund(result: str) -> None: ...

    @activity(compensation=refund)
    async def charge(amount: float) -> int:
        return 1


@wrong("compensation is a plain function", "activity charge: its compensation must be made with @compensation")
def _() -> None:
    async def refund(amount: float) -> None: ...

    @activity(compensation=refund)  # type: ignore[call-overload, untyped-decorator]
    async def charge(amount: float) -> None: ...


@wrong("compensation is an activity", "activity charge: its compensation must be made with @compensation")
def _() -> None:
    @activity(compensation=bare_activity)  # type: ignore[call-overload, untyped-decorator]
    async def charge(amount: float) -> None: ...


@wrong("workflow without a parameter", "workflow order: its first parameter must take the WorkflowContext")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    async def order() -> None: ...


@wrong("context by keyword only", "workflow order: its first parameter must take the WorkflowContext")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    async def order(*, ctx: WorkflowContext) -> None: ...


@wrong("context is something else", "workflow order: its first parameter must take the WorkflowContext")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    async def order(order: Order, urgent: bool) -> None: ...


@wrong("workflow that is not async", "workflow order: it must be an async def")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    def order(ctx: WorkflowContext) -> None: ...


@wrong("workflow with *args", "workflow order: its parameter '*items: 'str'' has no name that could be stored")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext, *items: str) -> None: ...


@wrong("workflow with **kwargs", "workflow order: its parameter '**items: 'str'' has no name that could be stored")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    async def order(ctx: WorkflowContext, **items: str) -> None: ...


@wrong(
    "workflow with a parameter by position only", "workflow order: its parameter 'item' must be accepted by position"
)
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext, item: str, /) -> None: ...


@wrong("workflow with a parameter by name only", "workflow order: its parameter 'item' must be accepted by position")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext, *, item: str) -> None: ...


@wrong("compensation with *args", "compensation refund: its parameter '*items: 'str'' has no name that could be stored")
def _() -> None:
    @compensation
    async def refund(*items: str) -> None: ...


@wrong("generator as an activity", "activity charge: a generator cannot be run durably; return a list instead")
def _() -> None:
    @activity
    def charge() -> Iterator[int]:
        yield 1


@wrong("async generator as an activity", "activity charge: a generator cannot be run durably; return a list instead")
def _() -> None:
    @activity
    async def charge() -> AsyncIterator[int]:
        yield 1


@wrong("async generator as a workflow", "workflow order: a generator cannot be run durably; return a list instead")
def _() -> None:
    @workflow  # type: ignore[arg-type]
    async def order(ctx: WorkflowContext) -> AsyncIterator[int]:
        yield 1


@wrong("annotation that is not defined", "activity charge: 'Undefined' in its annotations is not defined here")
def _() -> None:
    @activity
    async def charge(amount: Undefined) -> None: ...


@wrong("annotation that is not defined, of a workflow", "workflow order: 'Undefined' in its annotations is not defined")
def _() -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> Undefined: ...


@wrong("annotation that cannot be evaluated", "activity charge: its annotations cannot be evaluated")
def _() -> None:
    @activity
    async def charge(amount: int[3]) -> None: ...  # type: ignore[type-arg, valid-type]


@wrong("empty name", "activity charge: its name must be a string of 1 to 255 characters, not ''")
def _() -> None:
    @activity(name="")
    async def charge() -> None: ...


@wrong("long name", "workflow order: its name must be a string of 1 to 255 characters, not 'xxx")
def _() -> None:
    @workflow(name="x" * 256)
    async def order(ctx: WorkflowContext) -> None: ...


@wrong("name that is no text", "compensation refund: its name must be a string of 1 to 255 characters, not 3")
def _() -> None:
    @compensation(name=3)  # type: ignore[call-overload, untyped-decorator]
    async def refund() -> None: ...


@wrong("class", "@activity is for functions, not for <class ")
def _() -> None:
    activity(Item)


@wrong("activity of an activity", "@activity is for functions, not for <activity")
def _() -> None:
    activity(bare_activity)


@wrong("partial", "@workflow is for functions, not for functools.partial(")
def _() -> None:
    workflow(functools.partial(three))


@wrong("timeout of zero", "'charge': a timeout is longer than zero seconds, not 0")
def _() -> None:
    @activity(timeout=0)
    async def charge() -> None: ...


@wrong("negative timeout", "'refund': a timeout is longer than zero seconds, not -1.5")
def _() -> None:
    @compensation(timeout=-1.5)
    async def refund() -> None: ...


@wrong("timeout too long to be stored", "'charge'.*timeout.*10000.*math.inf")
def _() -> None:
    @activity(timeout=1e15)
    async def charge() -> None: ...


@wrong("timeout that is no number", "'charge'.*timeout.*'10'")
def _() -> None:
    @activity(timeout="10")  # type: ignore[call-overload, untyped-decorator]
    async def charge() -> None: ...


@wrong("retry that is no policy", "charge.*RetryPolicy.*3")
def _() -> None:
    @activity(retry=3)  # type: ignore[call-overload, untyped-decorator]
    async def charge() -> None: ...


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_refused_when_the_module_is_imported_naming_function_and_parameter(case: str) -> None:
    define, expected = WRONG[case]
    with pytest.raises(DefinitionError) as caught:
        define()
    message = str(caught.value).replace(f"{__name__}._.<locals>.", "")
    if ".*" in expected:
        assert re.search(expected, message)
    else:
        assert message.startswith(expected)


def test_a_compensation_may_take_the_result_and_a_part_of_the_arguments_in_any_order() -> None:
    @compensation
    async def undo(result: list[int], b: str) -> None: ...

    @activity(compensation=undo)
    async def do(a: int, b: str, c: datetime) -> list[int]:
        return [1]

    assert do.compensation is undo


def test_a_compensation_without_annotations_takes_anything() -> None:
    @compensation
    async def undo(a, result):  # type: ignore[no-untyped-def]
        pass

    @activity(compensation=undo)
    async def do(a: int) -> str:
        return ""

    assert do.compensation is undo


# -- defined again -----------------------------------------------------------------------------------------------------

MODULE = """
from trio_romancy import WorkflowContext, activity, compensation, workflow

@compensation
async def reloaded_undo() -> None: ...

@activity(compensation=reloaded_undo)
async def reloaded_do() -> int:
    return {number}

@workflow
async def reloaded_orders(ctx: WorkflowContext) -> int:
    return {number}
"""


async def test_a_module_can_be_reloaded_and_the_new_code_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "reloaded_definitions.py"
    path.write_text(MODULE.format(number=1))
    module: Any = importlib.import_module("reloaded_definitions")
    path.write_text(MODULE.format(number=22))
    importlib.reload(module)
    reloaded = module.reloaded_orders
    assert await reloaded(NO_CONTEXT) == 22
    assert registry.find_workflow("reloaded_orders") is reloaded


def test_a_script_can_be_imported_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "script_with_definitions.py"
    path.write_text(MODULE.format(number=1).replace("reloaded", "script"))
    script = runpy.run_path(str(path), run_name="__main__")
    run = registry.find_workflow("script_orders")
    assert run is script["script_orders"]
    assert run is not importlib.import_module("script_with_definitions").script_orders


def test_the_same_name_in_another_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("one_with_definitions", "other_with_definitions"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(number=1).replace("reloaded", "double"))
    importlib.import_module("one_with_definitions")
    with pytest.raises(DefinitionError, match=r"'double_undo' is taken by one_with_definitions\.double_undo"):
        importlib.import_module("other_with_definitions")


def test_a_cell_of_a_notebook_can_run_again_and_the_new_code_counts() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, file in enumerate(("ipykernel_1234/1034892.py", "<ipython-input-2-a1b2c3>", "ipykernel_1234/7.py")):
        exec(compile(MODULE.format(number=number).replace("reloaded", "cell"), file, "exec"), names)
        assert registry.find_workflow("cell_orders") is names["cell_orders"]
    with pytest.raises(DefinitionError, match="is taken by __main__"):
        exec(
            compile(MODULE.format(number=9).replace("reloaded", "cell"), "billing.py", "exec"), {"__name__": "billing"}
        )


def test_a_function_inside_another_is_defined_anew_on_each_call() -> None:
    def define(number: int) -> Workflow[[], int]:
        @workflow(name="define.local")
        async def orchestrate(ctx: WorkflowContext) -> int:
            return number

        return orchestrate

    first, second = define(1), define(2)
    assert registry.find_workflow("define.local") is second is not first


def test_annotations_may_name_what_is_local_where_the_function_is_defined() -> None:
    @attrs.define
    class Local:
        number: int

    @workflow
    async def takes_local(ctx: WorkflowContext, value: Local) -> Local:
        return value

    text, values = takes_local.input.encode((Local(1),), {})
    assert (text, values) == ('{"number":1}', [Local(1)])


# -- the input ---------------------------------------------------------------------------------------------------------


@workflow
async def takes_order(ctx: WorkflowContext, order: Order) -> None: ...


@workflow
async def takes_address(ctx: WorkflowContext, address: Address) -> None: ...


@workflow
async def takes_row(ctx: WorkflowContext, row: Row) -> None: ...


@workflow
async def takes_mapping(ctx: WorkflowContext, counts: Mapping[str, int]) -> None: ...


@workflow
async def takes_text(ctx: WorkflowContext, order_id: str) -> None: ...


@workflow
async def takes_list(ctx: WorkflowContext, items: list[Item]) -> None: ...


@workflow
async def takes_optional(ctx: WorkflowContext, order: Order | None) -> None: ...


@workflow
async def takes_anything(ctx, value): ...  # type: ignore[no-untyped-def]


@workflow
async def takes_many(ctx: WorkflowContext, order: Order, when: datetime, urgent: bool = False) -> None: ...


@workflow
async def takes_defaults(ctx: WorkflowContext, order_id: str = "none", count: int = 1) -> None: ...


@workflow
async def takes_a_default_order(ctx: WorkflowContext, order: Order = Order("default")) -> None: ...  # noqa: B008


@workflow
async def takes_nothing(ctx: WorkflowContext) -> None: ...


NOON = datetime(2026, 1, 1, 12)

INPUTS: list[Any] = [
    pytest.param(
        takes_order, (Order("1", [Item("a")]),), {}, {"order_id": "1", "items": [{"sku": "a", "quantity": 1}]}
    ),
    pytest.param(takes_order, (), {"order": Order("1")}, {"order_id": "1", "items": []}),
    pytest.param(takes_address, (Address("a"),), {}, {"street": "a"}),
    pytest.param(takes_row, ({"key": "a"},), {}, {"key": "a"}),
    pytest.param(takes_mapping, ({"a": 1},), {}, {"a": 1}),
    pytest.param(takes_text, ("1",), {}, {"order_id": "1"}),
    pytest.param(takes_list, ([Item("a")],), {}, {"items": [{"sku": "a", "quantity": 1}]}),
    pytest.param(takes_optional, (None,), {}, {"order": None}),
    pytest.param(takes_optional, (Order("1"),), {}, {"order": {"order_id": "1", "items": []}}),
    pytest.param(takes_anything, ({"a": [1]},), {}, {"value": {"a": [1]}}),
    pytest.param(
        takes_many,
        (Order("1"), NOON),
        {},
        {"order": {"order_id": "1", "items": []}, "when": "2026-01-01T12:00:00", "urgent": False},
    ),
    pytest.param(
        takes_many,
        (Order("1"),),
        {"urgent": True, "when": NOON},
        {"order": {"order_id": "1", "items": []}, "when": "2026-01-01T12:00:00", "urgent": True},
    ),
    pytest.param(takes_defaults, (), {}, {"order_id": "none", "count": 1}),
    pytest.param(takes_defaults, (), {"count": 2}, {"order_id": "none", "count": 2}),
    pytest.param(takes_a_default_order, (), {}, {"order_id": "default", "items": []}),
    pytest.param(takes_nothing, (), {}, {}),
]


@pytest.mark.parametrize(("taker", "args", "kwargs", "stored"), INPUTS, ids=lambda part: getattr(part, "name", ""))
def test_an_input_is_stored_as_one_object_and_read_back_the_same(
    taker: Workflow[..., None], args: tuple[Any, ...], kwargs: dict[str, Any], stored: object
) -> None:
    bound = inspect.signature(taker.function).bind(None, *args, **kwargs)
    bound.apply_defaults()
    expected = list(bound.arguments.values())[1:]
    text, restored = taker.input.encode(args, kwargs)
    assert json.loads(text) == stored
    assert restored == expected
    assert taker.input.decode(text) == expected


@pytest.mark.parametrize(("taker", "args", "kwargs", "stored"), INPUTS, ids=lambda part: getattr(part, "name", ""))
def test_plain_json_of_the_stored_form_is_the_same_input(
    taker: Workflow[..., None], args: tuple[Any, ...], kwargs: dict[str, Any], stored: object
) -> None:
    assert taker.input.check(stored) == taker.input.encode(args, kwargs)


@pytest.mark.parametrize(
    ("taker", "raw", "stored"),
    [
        (takes_order, {"order_id": "1"}, {"order_id": "1", "items": []}),
        (takes_defaults, {}, {"order_id": "none", "count": 1}),
        (takes_defaults, {"count": 2}, {"order_id": "none", "count": 2}),
        (
            takes_many,
            {"when": "2026-01-01T12:00:00", "order": {"order_id": "1"}},
            {"order": {"order_id": "1", "items": []}, "when": "2026-01-01T12:00:00", "urgent": False},
        ),
    ],
)
def test_plain_json_gets_the_defaults(taker: Workflow[..., None], raw: object, stored: object) -> None:
    assert json.loads(taker.input.check(raw)[0]) == stored


def test_a_mutable_default_is_not_shared_between_instances() -> None:
    _, (first,) = takes_a_default_order.input.encode((), {})
    first.items.append(Item("a"))
    _, (second,) = takes_a_default_order.input.encode((), {})
    assert second == Order("default")


def problems_of(call: Callable[[], object]) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert "workflow 'takes_" in str(caught.value)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("taker", "args", "kwargs", "problems"),
    [
        (takes_order, (), {}, ["$: missing a required argument: 'order'"]),
        (takes_order, (Order("1"), 2), {}, ["$: too many positional arguments"]),
        (takes_order, (Order("1"),), {"order": Order("1")}, ["$: multiple values for argument 'order'"]),
        (takes_nothing, (1,), {}, ["$: too many positional arguments"]),
        (takes_many, (Order("1"), NOON, True, 1), {}, ["$: too many positional arguments"]),
        (takes_text, (), {"id": "1"}, None),
        (takes_order, ({"order_id": "1"},), {}, ["$: expected Order, got {'order_id': '1'}"]),
        (takes_order, (Order("1", [Item("a", "two")]),), {}, ["$.items[0].quantity: expected int, got 'two'"]),  # type: ignore[arg-type]
        (takes_text, (1,), {}, ["$.order_id: expected str, got 1"]),
        (takes_list, ([Item(1)],), {}, ["$.items[0].sku: expected str, got 1"]),  # type: ignore[arg-type]
        (takes_anything, ((1,),), {}, ["$.value: JSON has no tuple; annotate its type, got (1,)"]),
        (
            takes_many,
            (Order(1), "noon"),  # type: ignore[arg-type]
            {"urgent": 1},
            [
                "$.order.order_id: expected str, got 1",
                "$.when: expected datetime, got 'noon'",
                "$.urgent: expected bool, got 1",
            ],
        ),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_arguments_that_do_not_fit_are_refused_with_every_bad_place(
    taker: Workflow[..., None], args: tuple[Any, ...], kwargs: dict[str, Any], problems: list[str] | None
) -> None:
    found = problems_of(lambda: taker.input.encode(args, kwargs))
    assert found == problems or (problems is None and len(found) == 1 and "argument" in found[0])


@pytest.mark.parametrize(
    ("taker", "raw", "problems"),
    [
        (takes_order, None, ["$: expected Order, got None"]),
        (takes_order, [], ["$: expected Order, got []"]),
        (takes_order, {"id": "1"}, ["$.order_id: missing", "$.id: unknown field"]),
        (
            takes_order,
            {"order_id": 1, "items": [{"sku": "a", "quantity": "two"}]},
            ["$.order_id: expected str, got 1", "$.items[0].quantity: expected int, got 'two'"],
        ),
        (takes_text, "1", ["$: expected an object, got str"]),
        (takes_nothing, None, ["$: expected an object, got NoneType"]),
        (takes_text, {"order_id": 1}, ["$.order_id: expected str, got 1"]),
        (takes_nothing, {"a": 1}, ["$.a: unknown field"]),
        (takes_many, {"urgent": True}, ["$.order: missing", "$.when: missing"]),
        (
            takes_many,
            {"order": {}, "color": "red", "urgent": 1},
            [
                "$.order.order_id: missing",
                "$.when: missing",
                "$.urgent: expected bool, got 1",
                "$.color: unknown field",
            ],
        ),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_plain_json_that_does_not_fit_is_refused_with_every_bad_place(
    taker: Workflow[..., None], raw: object, problems: list[str]
) -> None:
    assert sorted(problems_of(lambda: taker.input.check(raw))) == sorted(problems)


@pytest.mark.parametrize(
    ("taker", "text", "problem"),
    [
        (takes_order, '{"order_id":1}', "$.order_id: expected str, got 1"),
        (takes_many, '{"order":{"order_id":"1","items":[]},"urgent":false}', "$.when: missing"),
        (takes_text, '{"order_id":1}', "$.order_id: expected str, got 1"),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_an_input_stored_by_other_code_is_refused_with_its_place(
    taker: Workflow[..., None], text: str, problem: str
) -> None:
    assert problems_of(lambda: taker.input.decode(text)) == [problem]

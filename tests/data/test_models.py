"""Pydantic models and msgspec structs, where the program has imported those packages."""

from __future__ import annotations

import subprocess
import sys
import types
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trio_romancy import App, InvalidDataError, InvalidInputError, WorkflowContext, activity, workflow
from trio_romancy._data.codec import codec, dumps, is_structured
from trio_romancy._definitions.registry import registry

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def list_of(cls: Any) -> Any:
    return types.GenericAlias(list, (cls,))


def _pydantic() -> tuple[Any, Any]:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        sku: str
        count: int = 1

    class Order(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        number: str
        placed_at: datetime
        wait: timedelta
        items: list[Item] = []  # noqa: RUF012

    Order.model_rebuild(_types_namespace={"Item": Item, "datetime": datetime, "timedelta": timedelta})
    return Order, Item


def _msgspec() -> tuple[Any, Any]:
    msgspec = pytest.importorskip("msgspec")
    item = msgspec.defstruct("Item", [("sku", str), ("count", int, 1)])
    order = msgspec.defstruct(
        "Order", [("number", str), ("placed_at", datetime), ("wait", timedelta), ("items", list_of(item), [])]
    )
    return order, item


@pytest.fixture(params=[_pydantic, _msgspec], ids=["pydantic", "msgspec"])
def classes(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A class of orders, and the class of their items."""
    found: tuple[Any, Any] = request.param()
    return found


def test_a_model_survives_alone_and_in_other_types(classes: tuple[Any, Any]) -> None:
    order_class, item_class = classes
    order = order_class(number="1", placed_at=WHEN, wait=timedelta(minutes=1), items=[item_class(sku="a", count=2)])
    text, restored = codec(order_class).encode(order)
    assert restored == order
    assert type(restored.items[0]) is item_class
    assert '"wait":"PT' in text
    for annotation, value in (
        (list_of(order_class), [order]),
        (types.GenericAlias(dict, (str, order_class)), {"a": order}),
    ):
        assert codec(annotation).encode(value)[1] == value
    assert codec(order_class | None).encode(None) == ("null", None)
    assert is_structured(order_class)


def test_data_that_do_not_fit_are_named_by_path(classes: tuple[Any, Any]) -> None:
    order_class, _ = classes
    data = {"number": "1", "placed_at": "2026-01-02T03:04:00Z", "wait": "PT1M", "items": [{"sku": "a", "count": "x"}]}
    with pytest.raises(InvalidDataError) as caught:
        codec(order_class).decode(data)
    (problem,) = caught.value.problems
    assert (problem.path, "int" in problem.message) == ("$.items[0].count", True)
    with pytest.raises(InvalidDataError, match=r"\$: expected Order, got"):
        codec(order_class).encode(data)
    not_objects: list[Any] = [None, 3, [], "text", {}]
    for wrong in not_objects:
        with pytest.raises(InvalidDataError):
            codec(order_class).decode(wrong)


async def test_a_workflow_takes_and_returns_them(classes: tuple[Any, Any]) -> None:
    order_class, item_class = classes
    with registry.scoped():

        async def pack(order):  # type: ignore[no-untyped-def]
            return order.items[0]

        pack.__annotations__ = {"order": order_class, "return": item_class}

        async def ship(ctx, order):  # type: ignore[no-untyped-def]
            item = await packing(order)
            event = await ctx.wait_event("more", data_type=item_class)
            return [item, event.data]

        ship.__annotations__ = {
            "ctx": WorkflowContext,
            "order": order_class,
            "return": types.GenericAlias(list, (item_class,)),
        }
        packing: Any = activity(name="models_pack")(pack)
        shipping: Any = workflow(name="models_ship")(ship)
        order = order_class(number="1", placed_at=WHEN, wait=timedelta(minutes=1), items=[item_class(sku="a")])
        async with App(":memory:") as app:
            handle = await app.start(shipping.options(id="x"), order)
            await app.send_event("more", item_class(sku="b", count=3))
            assert await handle.result() == [item_class(sku="a"), item_class(sku="b", count=3)]
            assert (await app.find_instances({"items.0.sku": "a"}))[0].instance_id == "x"
            with pytest.raises(InvalidInputError, match=r"\$\.placed_at|\$\.number"):
                await app.start("models_ship", {"placed_at": dumps("no")})


def test_neither_package_is_imported() -> None:
    code = "import sys, trio_romancy; sys.exit(bool({'pydantic', 'msgspec'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)

"""What is stored is what comes back: the same value of the same type, or an error that says where it is not.

No postponed evaluation of annotations here: the classes below are to be seen as they are. ``Postponed*`` are those
of a module that postpones it.
"""

import collections
import dataclasses
import enum
import math
import operator
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_romancy._data.codec import codec, dumps, is_structured, loads
from trio_romancy.errors import InvalidDataError

from ..support.strange import STRANGE

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    GREEN = 2


class Twin(enum.Enum):
    NUMBER = 1
    TEXT = "1"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.define
class Item:
    sku: str
    quantity: int = 1


@attrs.frozen
class Order:
    order_id: str
    items: list[Item]
    placed: datetime | None = None
    extra: Any = None


@attrs.define
class Card:
    number: str


@attrs.define
class Cash:
    amount: Decimal


@attrs.define
class Everything:
    """Has a field of each kind that is stored as something else than what it is."""

    items: list[Item] = attrs.field(factory=list)
    tags: set[str] = attrs.field(factory=set)
    when: datetime = datetime(2026, 1, 1)
    pay: Card | Cash | None = None
    colour: Colour = Colour.RED
    blob: bytes = b""
    amount: float = 0.0
    flag: bool = False
    extra: Any = None
    by_name: dict[str, Item] = attrs.field(factory=dict)


@attrs.define
class Shelf:
    place: tuple[int, str] = (1, "a")
    items: list[Item] = attrs.field(factory=list)


@attrs.define
class Rows:
    by_number: dict[int, dict[int, Item]]


@attrs.frozen
class Place:
    row: int
    shelf: str


@attrs.define
class Node:
    name: str
    children: "list[Node]" = attrs.field(factory=list)
    by_name: "dict[str, Node]" = attrs.field(factory=dict)


@attrs.define
class Box(Generic[T]):
    content: T


@attrs.define(eq=False)
class Identity:
    number: int
    parts: "list[Identity]" = attrs.field(factory=list)


@attrs.define
class Private:
    _secret: int
    shown: int = attrs.field(alias="visible")
    counted: int = attrs.field(init=False, default=0)


@attrs.define
class SpecialItem(Item):
    gift: bool = False


@dataclasses.dataclass
class Address:
    street: str
    lines: list[str] = dataclasses.field(default_factory=list)
    parent: "Address | None" = None


@dataclasses.dataclass(eq=False)
class Ticket:
    seat: tuple[str, int]


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(TypedDict):
    key: str
    value: NotRequired[list[int]]


class Totals(TypedDict):
    by_year: dict[int, Decimal]


PostponedPoint = NamedTuple("PostponedPoint", [("x", "int"), ("items", "list[Item]")])  # noqa: UP014
PostponedRow = TypedDict("PostponedRow", {"key": "str", "items": "list[Item]"})  # noqa: UP013
PostponedOptionalRow = TypedDict("PostponedOptionalRow", {"key": "str", "value": "NotRequired[int]"})  # noqa: UP013

UserId = NewType("UserId", int)


class Unsupported:
    pass


class UnsupportedWithoutRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def assert_same(one: object, other: object) -> None:
    """Equal, and of equal types through and through, also where classes have no ``__eq__``."""
    assert type(one) is type(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        assert_same(sorted(one, key=repr), sorted(other, key=repr))
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        assert len(one) == len(other)
        for part, other_part in zip(one, other, strict=True):
            assert_same(part, other_part)
    elif isinstance(one, (set, frozenset)) and isinstance(other, (set, frozenset)):
        assert_same(sorted(one, key=repr), sorted(other, key=repr))
    elif attrs.has(type(one)) or dataclasses.is_dataclass(one):
        fields: Any = attrs.fields if attrs.has(type(one)) else dataclasses.fields
        for name in [field.name for field in fields(type(one))]:
            assert_same(getattr(one, name), getattr(other, name))
    else:
        assert one == other
        if isinstance(one, float):
            assert math.copysign(1.0, one) == math.copysign(1.0, other)  # type: ignore[arg-type]


def assert_survives(annotation: Any, value: object) -> str:
    """Returns the text."""
    text, restored = codec(annotation).encode(value)
    assert text.isascii()
    assert_same(restored, value)
    assert_same(codec(annotation).decode(loads(text)), value)
    return text


def problems_of(annotation: Any, value: object) -> list[str]:
    with pytest.raises(InvalidDataError) as caught:
        codec(annotation).encode(value)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


# -- what survives -----------------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")

SURVIVORS: dict[str, tuple[Any, object]] = {
    "text": (str, "order"),
    "empty text": (str, ""),
    "emoji": (str, "\N{PILE OF POO} caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
    "NUL": (str, "a\0b"),
    "lone surrogate": (str, "\ud800 and \udfff"),
    "quotes and control characters": (str, "\"'\\\n\r\t\x1b\x7f\u2028"),
    "NUL, emoji and lone surrogate in plain JSON": (Any, {"\0": ["\N{PILE OF POO}", "\ud800"]}),
    "true": (bool, True),
    "int": (int, -1),
    "big int": (int, 10**100),
    "big int in plain JSON": (Any, [10**100]),
    "float": (float, 0.1),
    "tiny float": (float, 5e-324),
    "huge float": (float, 1.7976931348623157e308),
    "whole float": (float, 1e100),
    "negative zero": (float, -0.0),
    "none": (type(None), None),
    "plain JSON": (Any, {"a": [1, 2.5, None, True, "x", {}], "b": {"c": []}}),
    "datetime, naive": (datetime, datetime(2026, 3, 1, 12, 30, 15, 123456)),
    "datetime, UTC": (datetime, datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    "datetime, odd offset": (
        datetime,
        datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=5, minutes=53, seconds=28))),
    ),
    "datetime, first": (datetime, datetime.min),
    "datetime, last": (datetime, datetime.max),
    "date": (date, date(2026, 2, 28)),
    "time, naive": (time, time(23, 59, 59, 999999)),
    "time, aware": (time, time(1, tzinfo=timezone(-timedelta(hours=3)))),
    "timedelta": (timedelta, timedelta(days=3, microseconds=1)),
    "timedelta, negative": (timedelta, timedelta(microseconds=-1)),
    "timedelta, longest": (timedelta, timedelta.max),
    "bytes": (bytes, bytes(range(256))),
    "no bytes": (bytes, b""),
    "Decimal": (Decimal, Decimal("1.10")),
    "Decimal, long": (Decimal, Decimal("-123456789012345678901234567890.000000000000000000001")),
    "Decimal, infinite": (Decimal, Decimal("-Infinity")),
    "UUID": (UUID, UUID("12345678-1234-5678-1234-567812345678")),
    "Path": (Path, Path("/var/lib/orders.db")),
    "enum": (Colour, Colour.RED),
    "enum of another value type": (Colour, Colour.GREEN),
    "int enum": (Level, Level.HIGH),
    "str enum": (Size, Size.SMALL),
    "flag": (Access, Access.READ | Access.WRITE),
    "enum in a list": (list[Level], [Level.LOW, Level.HIGH]),
    "literal": (Literal["a", 1], 1),
    "Annotated": (Annotated[int, "units"], 3),
    "Annotated, unhashable": (Annotated[list[int], []], [3]),
    "NewType": (UserId, UserId(7)),
    "attrs class": (Order, Order("1", [Item("a"), Item("b", 2)], datetime(2026, 1, 1), {"a": [1]})),
    "attrs class with private, aliased and uninitialised fields": (Private, Private(secret=1, visible=2)),
    "attrs class with every kind of field": (
        Everything,
        Everything([Item("a")], {"x"}, pay=Cash(Decimal("0.10")), blob=b"\0", by_name={"a": Item("a")}),
    ),
    "dataclass": (Address, Address("Main Street", ["1", "2"])),
    "recursive dataclass": (Address, Address("a", parent=Address("b", parent=Address("c")))),
    "recursive attrs class": (Node, Node("a", [Node("b"), Node("c", [Node("d")])], {"e": Node("e")})),
    "attrs class with eq=False": (Identity, Identity(1, [Identity(2), Identity(3, [Identity(4)])])),
    "classes with eq=False in containers": (dict[str, list[Identity]], {"a": [Identity(1)]}),
    "dataclass with eq=False": (Ticket, Ticket(("A", 1))),
    "generic class": (Box[list[date]], Box([date(2026, 1, 1)])),
    "generic class in a generic class": (Box[Box[bytes]], Box(Box(b"\xff"))),
    "TypedDict": (Row, {"key": "a", "value": [1]}),
    "TypedDict without an optional key": (Row, {"key": "a"}),
    "TypedDict, postponed": (PostponedRow, {"key": "a", "items": [Item("a")]}),
    "TypedDict, postponed, without an optional key": (PostponedOptionalRow, {"key": "a"}),
    "NamedTuple": (Point, Point(1, 2)),
    "NamedTuple in a list": (list[Point], [Point(1), Point(2, 3)]),
    "NamedTuple, postponed": (PostponedPoint, PostponedPoint(1, [Item("a")])),
    "optional": (Optional[Item], Item("a")),  # noqa: UP045
    "optional, none": (Item | None, None),
    "optional of what is text": (datetime | None, datetime(2026, 1, 1)),
    "union of scalars": (list[int | str | float | bool | None], [1, "1", 1.0, True, None]),
    "union of classes": (list[Card | Cash], [Card("4711"), Cash(Decimal(1))]),
    "union of classes and none": (Union[Card, Cash, None], None),  # noqa: UP007
    "union of class and scalar": (list[Card | int], [Card("4711"), 4]),
    "union of list and scalar": (list[list[int] | int], [[1], 2]),
    "list": (list[int], [1, 2]),
    "bare list": (list, [1, "a", None]),
    "Sequence": (Sequence[int], [1, 2]),
    "set": (set[int], {1, 2}),
    "set of tuples": (set[tuple[int, str]], {(1, "a"), (2, "b")}),
    "frozenset": (frozenset[str], frozenset("ab")),
    "frozenset as a set's element": (set[frozenset[int]], {frozenset({1, 2}), frozenset()}),
    "deque": (collections.deque[int], collections.deque([1, 2])),
    "tuple": (tuple[int, str, None], (1, "a", None)),
    "tuple of any length": (tuple[Item, ...], (Item("a"), Item("b"))),
    "empty tuple": (tuple[()], ()),
    "bare tuple": (tuple, (1, "a")),
    "dict": (dict[str, int], {"a": 1, "b c": 2, "": 3}),
    "Mapping": (Mapping[str, Item], {"a": Item("a")}),
    "dict by UUID": (dict[UUID, int], {UUID(int=1): 1}),
    "dict by date": (dict[date, int], {date(2026, 1, 1): 1}),
    "dict by enum": (dict[Size, int], {Size.LARGE: 1}),
    "dict by an enum of text and numbers": (dict[Colour, int], {Colour.GREEN: 1, Colour.RED: 2}),
    "dict by an int enum": (Mapping[Level, int], {Level.HIGH: 1}),
    "dict by a flag": (dict[Access, int], {Access.READ | Access.WRITE: 1}),
    "dict by int": (dict[int, str], {1: "a", -(10**30): "b"}),
    "dict by float": (dict[float, int], {0.1: 1, -0.0: 2}),
    "dict by bool": (dict[bool, int], {True: 1, False: 2}),
    "dict by int or bool": (dict[int | bool, int], {True: 1, 0: 2}),
    "dict by int or none": (dict[int | None, int], {None: 1, 1: 2}),
    "dict by timedelta": (dict[timedelta, int], {timedelta(days=1): 1}),
    "dict by bytes": (dict[bytes, int], {b"": 1, b"\xff": 2}),
    "dict by Decimal": (dict[Decimal, int], {Decimal("1.10"): 1}),
    "dict by datetime": (dict[datetime, int], {datetime(2026, 1, 1, tzinfo=UTC): 1}),
    "dict by literal": (dict[Literal["all", 1, None], int], {"all": 1, 1: 2, None: 3}),
    "dict by text or literal": (dict[str | Literal["all"], int], {"all": 1, "b": 2}),
    "dict by tuple": (dict[tuple[int, str], int], {(1, "a"): 1, (1, "b"): 2}),
    "dict by NamedTuple": (dict[Point, int], {Point(1, 2): 1}),
    "dict by frozenset": (dict[frozenset[date], int], {frozenset({date(2026, 1, 1)}): 1}),
    "dict by class": (dict[Place, int], {Place(1, "a"): 1}),
    "dict by NewType": (dict[UserId, int], {UserId(7): 1}),
    "dict by Annotated": (dict[Annotated[int, "units"], int], {7: 1}),
    "defaultdict": (
        collections.defaultdict[int, list[int]],
        collections.defaultdict(list, {1: [2]}),
    ),
    "defaultdict of what may be none": (
        collections.defaultdict[int, int | None],
        collections.defaultdict(lambda: None, {1: None}),
    ),
    "Counter": (collections.Counter[int], collections.Counter([1, 1, 2])),
    "OrderedDict": (collections.OrderedDict[int, int], collections.OrderedDict({2: 1, 1: 2})),
    "dict by int in a field": (Rows, Rows({1: {2: Item("a")}})),
    "dict by int in a TypedDict": (Totals, {"by_year": {2026: Decimal("1.10")}}),
    "dict by int in a union": (list[dict[int, int] | str | None], [{1: 1}, "1", None]),
    "nested containers": (
        dict[str, list[tuple[set[int], dict[str, Item | None]]]],
        {"a": [({1}, {"b": None, "c": Item("c")}), (set(), {})]},
    ),
    "the same list twice": (Any, [shared := [1], shared]),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_a_value_comes_back_the_same(name: str) -> None:
    annotation, value = SURVIVORS[name]
    assert_survives(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, "caf\N{LATIN SMALL LETTER E WITH ACUTE}\0", '"caf\\u00e9\\u0000"'),
        (datetime, datetime(2026, 3, 1, 12, tzinfo=UTC), '"2026-03-01T12:00:00+00:00"'),
        (date, date(2026, 3, 1), '"2026-03-01"'),
        (time, time(12, 30), '"12:30:00"'),
        (timedelta, timedelta(seconds=1.5), '"PT1.5S"'),
        (bytes, b"\0\xff", '"AP8="'),
        (Decimal, Decimal("1.10"), '"1.10"'),
        (UUID, UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Path, Path("a/b"), '"a/b"'),
        (Colour, Colour.RED, '"red"'),
        (Point, Point(1, 2), "[1,2]"),
        (frozenset[int], frozenset({1}), "[1]"),
        (dict[int, str], {1: "a"}, '{"1":"a"}'),
        (dict[Colour, int], {Colour.RED: 1, Colour.GREEN: 2}, '{"red":1,"2":2}'),
        (
            Order,
            Order("1", [Item("a")]),
            '{"order_id":"1","items":[{"sku":"a","quantity":1}],"placed":null,"extra":null}',
        ),
        (Row, {"key": "a"}, '{"key":"a"}'),
    ],
    ids=lambda part: None if isinstance(part, str) else getattr(part, "__name__", None),
)
def test_the_text_is_the_plain_json_that_people_expect(annotation: Any, value: object, text: str) -> None:
    assert codec(annotation).encode(value)[0] == text


def test_an_aware_datetime_comes_back_as_the_same_moment_with_its_offset() -> None:
    summer = datetime(2026, 7, 1, 12, tzinfo=BERLIN)
    _, restored = codec(datetime).encode(summer)
    assert (restored, restored.utcoffset()) == (summer, timedelta(hours=2))


@pytest.mark.parametrize("fold", [0, 1])
def test_a_datetime_in_the_hour_that_comes_twice_can_be_stored(fold: int) -> None:
    """Python calls such a datetime unequal to any in another zone, whatever moment it means."""
    twice = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN)
    _, restored = codec(datetime).encode(twice)
    assert restored.astimezone(UTC) == twice.astimezone(UTC)
    assert restored.utcoffset() == timedelta(hours=2 - fold)


@pytest.mark.parametrize("fold", [0, 1])
def test_a_datetime_in_the_hour_that_comes_twice_can_be_a_key(fold: int) -> None:
    twice = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN)
    _, restored = codec(dict[datetime, int]).encode({twice: 1})
    assert [moment.astimezone(UTC) for moment in restored] == [twice.astimezone(UTC)]


def test_an_int_where_a_float_is_expected_is_that_float() -> None:
    text, restored = codec(float).encode(3)
    assert_same(restored, 3.0)
    assert_same(codec(float).decode(loads(text)), 3.0)


def test_the_caller_goes_on_with_a_copy_and_not_with_what_it_gave() -> None:
    given = {"a": [1]}
    _, restored = codec(Any).encode(given)
    restored["a"].append(2)
    assert given == {"a": [1]}


# -- what is refused ---------------------------------------------------------------------------------------------------


def contains_itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def node_contains_itself() -> Node:
    node = Node("a")
    node.children.append(node)
    return node


UNEXPECTED: dict[str, tuple[Any, object, list[str]]] = {
    "NaN": (float, math.nan, ["$: JSON has no nan"]),
    "Infinity": (float, math.inf, ["$: JSON has no inf"]),
    "NaN in a list": (list[float], [0.0, math.nan, -math.inf], ["$[1]: JSON has no nan", "$[2]: JSON has no -inf"]),
    "NaN in plain JSON": (Any, {"a": [math.nan]}, ["$.a[0]: JSON has no nan"]),
    "NaN in a class": (Everything, Everything(amount=math.nan), ["$.amount: JSON has no nan"]),
    "int as str": (int, "3", ["$: expected int, got '3'"]),
    "bool as int": (bool, 1, ["$: expected bool, got 1"]),
    "int as bool": (int, True, ["$: expected int, got True"]),
    "float as bool": (float, True, ["$: expected float, got True"]),
    "int as float": (int, 3.0, ["$: expected int, got 3.0"]),
    "str as int": (str, 3, ["$: expected str, got 3"]),
    "str as none": (str, None, ["$: expected str, got None"]),
    "none as int": (type(None), 0, ["$: expected nothing, got 0"]),
    "optional": (int | None, "x", ["$: expected int, got 'x'"]),
    "enum as its value": (Colour, "red", ["$: expected Colour, got 'red'"]),
    "str enum as no value": (Size, "huge", ["$: expected Size, got 'huge'"]),
    "int enum as no value": (Level, 7, ["$: expected Level, got 7"]),
    "class as dict": (Item, {"sku": "a"}, ["$: expected Item, got {'sku': 'a'}"]),
    "class as another": (Item, Card("1"), ["$: expected Item, got Card(number='1')"]),
    "class as none": (Item, None, ["$: expected Item, got None"]),
    "class in a list as text": (list[Item], [Item("a"), "b"], ["$[1]: expected Item, got 'b'"]),
    "class in a dict as text": (dict[str, Item], {"a": "b"}, ["$.a: expected Item, got 'b'"]),
    "field": (Item, Item("a", "two"), ["$.quantity: expected int, got 'two'"]),  # type: ignore[arg-type]
    "field of an item": (
        Order,
        Order("1", [Item("a", "two"), Item("b"), Item(3)]),  # type: ignore[arg-type]
        ["$.items[0].quantity: expected int, got 'two'", "$.items[2].sku: expected str, got 3"],
    ),
    "field beside a tuple": (
        Shelf,
        Shelf(items=[Item("a", "two")]),  # type: ignore[arg-type]
        ["$.items[0].quantity: expected int, got 'two'"],
    ),
    "item of a field": (Order, Order("1", [Item("a"), "b"]), ["$.items[1]: expected Item, got 'b'"]),  # type: ignore[list-item]
    "field under a key that is no name": (
        Everything,
        Everything(by_name={"a b": Item("a", None)}),  # type: ignore[arg-type]
        ["$.by_name['a b'].quantity: expected int, got None"],
    ),
    "field that is a datetime": (
        Everything,
        Everything(when="2026-01-01"),  # type: ignore[arg-type]
        ["$.when: expected datetime, got '2026-01-01'"],
    ),
    "field that is an enum": (
        Everything,
        Everything(colour="red"),  # type: ignore[arg-type]
        ["$.colour: expected Colour, got 'red'"],
    ),
    "field that is bytes": (Everything, Everything(blob="x"), ["$.blob: expected bytes, got 'x'"]),  # type: ignore[arg-type]
    "field that is a tuple": (
        Shelf,
        Shelf(place=(1, 2)),  # type: ignore[arg-type]
        ["$.place[1]: expected str, got 2"],
    ),
    "field that is optional": (
        Order,
        Order("1", [Item("a", 1)], placed=3),  # type: ignore[arg-type]
        ["$.placed: expected datetime, got 3"],
    ),
    "key": (dict[str, int], {1: 1}, ["$: expected str as a key, got 1"]),
    "key in plain JSON": (
        Any,
        {"a": [{1: 2}]},
        ["$.a[0]: expected str as a key, got 1; use str, or annotate the keys, as in dict[int, ...]"],
    ),
    "key of a bare dict": (
        dict,
        {UUID(int=1): 2},
        [
            "$: expected str as a key, got UUID('00000000-0000-0000-0000-000000000001'); "
            "use str, or annotate the keys, as in dict[UUID, ...]"
        ],
    ),
    "key of any type": (
        dict[Any, int],
        {None: 2},
        ["$: expected str as a key, got None; use str, or annotate the keys, as in dict[None, ...]"],
    ),
    "bool as a key that is an int": (dict[int, int], {True: 1}, ["$: expected int as a key, got True"]),
    "int as a key that is a bool": (dict[bool, int], {1: 1}, ["$: expected bool as a key, got 1"]),
    "text as a key that is an int": (dict[int, int], {"1": 1}, ["$: expected int as a key, got '1'"]),
    "value of an enum as a key": (dict[Colour, int], {2: 1}, ["$: expected Colour as a key, got 2"]),
    "value of a Counter": (
        collections.Counter[int],
        collections.Counter({1: (2,)}),
        ["$['1']: JSON has no tuple; annotate its type, got (2,)"],
    ),
    "value under a key that is an int": (
        dict[int, dict[int, int]],
        {1: {2: "a"}},
        ["$['1']['2']: expected int, got 'a'"],
    ),
    "key of a field": (
        Everything,
        Everything(by_name={1: Item("a")}),  # type: ignore[dict-item]
        ["$.by_name: expected str as a key, got 1"],
    ),
    "set in plain JSON": (Any, {"a": [{1}]}, ["$.a[0]: JSON has no set; annotate its type, got {1}"]),
    "tuple in plain JSON": (Any, {"a": (1, 2)}, ["$.a: JSON has no tuple; annotate its type, got (1, 2)"]),
    "tuple in a plain field": (
        Order,
        Order("1", [], extra=(1,)),
        ["$.extra: JSON has no tuple; annotate its type, got (1,)"],
    ),
    "tuple deep in a plain field": (
        Order,
        Order("1", [], extra={"a": [(1,)]}),
        ["$.extra.a[0]: JSON has no tuple; annotate its type, got (1,)"],
    ),
    "tuple in a plain dict": (dict[str, Any], {"a": (1,)}, ["$.a: JSON has no tuple; annotate its type, got (1,)"]),
    "tuple in a plain list": (list[Any], [1, (1,)], ["$[1]: JSON has no tuple; annotate its type, got (1,)"]),
    "class in plain JSON": (
        Any,
        [Item("a")],
        ["$[0]: JSON has no Item; annotate its type, got Item(sku='a', quantity=1)"],
    ),
    "enum in plain JSON": (Any, Size.SMALL, ["$: JSON has no Size; annotate its type, got <Size.SMALL: 'small'>"]),
    "bytes in plain JSON": (Any, [b"x"], ["$[0]: JSON has no bytes; annotate its type, got b'x'"]),
    "list that contains itself": (Any, contains_itself(), ["$: it contains itself, or is nested too deeply"]),
    "class that contains itself": (Node, node_contains_itself(), ["$: it contains itself, or is nested too deeply"]),
    "object without repr in plain JSON": (
        Any,
        [UnsupportedWithoutRepr()],
        [
            "$[0]: JSON has no UnsupportedWithoutRepr; annotate its type, "
            "got <UnsupportedWithoutRepr whose repr raises RuntimeError>"
        ],
    ),
    "object without repr as a class": (
        Item,
        UnsupportedWithoutRepr(),
        ["$: expected Item, got <UnsupportedWithoutRepr whose repr raises RuntimeError>"],
    ),
    "several at once": (
        Everything,
        Everything(amount="1", flag=0, tags={1}),  # type: ignore[arg-type]
        ["$.tags[0]: expected str, got 1", "$.amount: expected float, got '1'", "$.flag: expected bool, got 0"],
    ),
}


@pytest.mark.parametrize("name", UNEXPECTED)
def test_a_value_that_does_not_fit_is_refused_with_its_path(name: str) -> None:
    annotation, value, problems = UNEXPECTED[name]
    assert problems_of(annotation, value) == problems


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        pytest.param(float, 2**53 + 1, id="int that no float is"),
        pytest.param(float, 10**400, id="int beyond all floats"),
        pytest.param(int, 10**5000, id="int longer than Python prints"),
        pytest.param(Any, [10**5000], id="int longer than Python prints, in plain JSON"),
        pytest.param(str, "\ud83d\udca9", id="two surrogates that JSON would join"),
        pytest.param(Any, ["\ud83d\udca9"], id="two surrogates that JSON would join, in plain JSON"),
        pytest.param(Decimal, Decimal("NaN"), id="Decimal NaN"),
        pytest.param(Decimal, Decimal("sNaN"), id="Decimal signalling NaN"),
        pytest.param(Decimal, 0.1, id="float as a Decimal"),
        pytest.param(Literal[1], True, id="bool as a literal int"),
        pytest.param(Literal["a"], "b", id="another literal"),
        pytest.param(str | bytes, b"a", id="bytes that would be text"),
        pytest.param(str | Size, Size.SMALL, id="enum that would be text"),
        pytest.param(Item, SpecialItem("a", gift=True), id="subclass that would lose its field"),
        pytest.param(list[Item], [SpecialItem("a")], id="subclass in a list"),
        pytest.param(list[int], (1, 2), id="tuple as a list"),
        pytest.param(tuple[int, ...], [1, 2], id="list as a tuple"),
        pytest.param(set[int], [1, 2], id="list as a set"),
        pytest.param(list[str], "ab", id="text as a list"),
        pytest.param(tuple[int, str], (1,), id="tuple too short"),
        pytest.param(tuple[int, str], (1, "a", 2), id="tuple too long"),
        pytest.param(Path, "a", id="text as a Path"),
        pytest.param(UUID, str(UUID(int=1)), id="text as a UUID"),
        pytest.param(datetime, date(2026, 1, 1), id="date as a datetime"),
        pytest.param(date, datetime(2026, 1, 1), id="datetime as a date"),
        pytest.param(timedelta, 3, id="int as a timedelta"),
        pytest.param(Row, {"value": [1]}, id="TypedDict without its key"),
        pytest.param(Row, {"key": "a", "colour": 1}, id="TypedDict with another key"),
        pytest.param(dict[Any, str], {None: "a"}, id="dict by None"),
        pytest.param(dict[float, str], {math.nan: "a"}, id="dict by NaN"),
        pytest.param(dict[float, str], {2**53 + 1: "a"}, id="dict by an int that no float is"),
        pytest.param(dict[int, str], {10**5000: "a"}, id="dict by an int longer than Python prints"),
        pytest.param(dict[str, int], [("a", 1)], id="pairs as a dict"),
        pytest.param(Card | Cash, Item("a"), id="class that is not in the union"),
        pytest.param(int | str, 1.5, id="scalar that is not in the union"),
        pytest.param(Box[int], Box("a"), id="generic class with another content"),
    ],
)
def test_a_value_that_would_come_back_as_another_is_refused(annotation: Any, value: object) -> None:
    assert all(problem.startswith("$") for problem in problems_of(annotation, value))


def test_a_key_that_another_process_could_not_read_is_refused() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        problems_of(dict[int, str], {10**5000: "a"})
    finally:
        sys.set_int_max_str_digits(limit)


def test_a_field_that_would_not_be_read_back_is_refused() -> None:
    private = Private(secret=1, visible=2)
    private.counted = 3
    (problem,) = problems_of(Private, private)
    assert problem.startswith("$: Private(_secret=1, shown=2, counted=3) would be read back as Private(")


def test_a_long_value_is_shortened_in_the_message() -> None:
    (problem,) = problems_of(int, "x" * 10_000)
    assert len(problem) < 120
    assert problem.endswith("...")


# -- reading -----------------------------------------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[Any, object, list[str]]] = {
    "no object": (Order, [], ["$: expected Order, got []"]),
    "missing": (Order, {"order_id": "1"}, ["$.items: missing"]),
    "unknown": (Item, {"sku": "a", "colour": "red", "a b": 1}, ["$['a b']: unknown field", "$.colour: unknown field"]),
    "everything at once": (
        Order,
        {"order_id": 1, "items": [{"sku": "a", "quantity": "two"}, {}, {"sku": "c", "x": 1}, 7], "placed": "soon"},
        [
            "$.order_id: expected str, got 1",
            "$.items[0].quantity: expected int, got 'two'",
            "$.items[1].sku: missing",
            "$.items[2].x: unknown field",
            "$.items[3]: expected Item, got 7",
            "$.placed: expected datetime, got 'soon'",
        ],
    ),
    "dataclass": (Address, {"street": 1, "parent": {}}, ["$.street: expected str, got 1", "$.parent.street: missing"]),
    "TypedDict": (
        Row,
        {"value": [1, "2"], "x": 1},
        ["$.key: missing", "$.value[1]: expected int, got '2'", "$.x: unknown field"],
    ),
    "NamedTuple": (Point, ["1", 2], ["$[0]: expected int, got '1'"]),
    "dict": (
        dict[str, int],
        {"a": "1", "b c": None},
        ["$.a: expected int, got '1'", "$['b c']: expected int, got None"],
    ),
    "dict by int": (
        dict[int, int],
        {"1": 1, "a": 2, "1.0": 3},
        ["$.a: expected int, got 'a'", "$['1.0']: expected int, got 1.0"],
    ),
    "dict by int, twice the same": (dict[int, int], {"1": 1, " 1": 2}, ["$: two of its keys mean the same"]),
    "dict by an enum": (dict[Colour, int], {"red": 1, "3": 2}, ["$['3']: expected Colour, got '3'"]),
    "list": (list[int], {"a": 1}, ["$: expected list[int], got {'a': 1}"]),
    "set": (set[int], [1, "2"], ["$[1]: expected int, got '2'"]),
    "datetime": (datetime, "2026-13-01", ["$: expected datetime, got '2026-13-01'"]),
    "datetime as a number": (datetime, 5, ["$: expected datetime, got 5"]),
    "date": (date, "2026-01-01T00:00:00", ["$: expected date, got '2026-01-01T00:00:00'"]),
    "time": (time, "25:00", ["$: expected time, got '25:00'"]),
    "timedelta": (timedelta, 1.5, ["$: expected timedelta (in ISO 8601, such as 'PT1M30S' or 'P2DT12H'), got 1.5"]),
    "bytes": (bytes, "AP8", ["$: expected bytes, got 'AP8'"]),
    "bytes with something in between": (bytes, "AP!8=", ["$: expected bytes, got 'AP!8='"]),
    "bytes that are no ASCII": (bytes, "\N{PILE OF POO}", ["$: expected bytes, got '\N{PILE OF POO}'"]),
    "Decimal": (Decimal, 1.5, ["$: expected Decimal, got 1.5"]),
    "Decimal as words": (Decimal, "much", ["$: expected Decimal, got 'much'"]),
    "UUID": (UUID, "x", ["$: expected UUID, got 'x'"]),
    "Path": (Path, 3, ["$: expected Path, got 3"]),
    "float": (float, "1", ["$: expected float, got '1'"]),
    "bool": (bool, 0, ["$: expected bool, got 0"]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_data_that_do_not_fit_are_refused_with_every_bad_place(name: str) -> None:
    annotation, raw, problems = UNREADABLE[name]
    with pytest.raises(InvalidDataError) as caught:
        codec(annotation).decode(raw)
    assert [str(problem) for problem in caught.value.problems] == problems


@pytest.mark.parametrize(("annotation", "raw"), [(Colour, "blue"), (Level, 7), (Size, "huge"), (Literal["a"], "b")])
def test_what_is_no_member_is_refused(annotation: Any, raw: object) -> None:
    with pytest.raises(InvalidDataError, match=rf"\$: .*{raw}"):
        codec(annotation).decode(raw)


# -- what cannot be declared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (complex, "complex"),
        (object, "object"),
        (Unsupported, "Unsupported"),
        (list[Unsupported], "Unsupported"),
        (dict[str, Unsupported], "Unsupported"),
        (tuple[int, Unsupported], "Unsupported"),
        (Unsupported | None, "Unsupported"),
        (list[Unsupported | None], "Unsupported"),
        (Box[Unsupported], "Unsupported"),
        (Box[Unsupported | int], "Unsupported"),
        (collections.abc.Callable[[], None], "Callable"),
        (collections.abc.Iterator[int], "Iterator"),
        (T, "T"),
        (list[int] | list[str], "list"),
        (datetime | date, "datetime"),
        (UUID | Decimal, "UUID"),
        (Item | SpecialItem | dict[str, int], "Item"),
        (dict[int | str, int], "keys of JSON objects are text, in which str and int cannot be told apart"),
        (dict[str | None, int], "str and None cannot be told apart"),
        (list[dict[UUID | int, int]], "UUID and int cannot be told apart"),
        (dict[bytes | str, int], "str and bytes cannot be told apart"),
        (dict[str | Size, int], "str and Size cannot be told apart"),
        (dict[Twin, int], "members of Twin are the same"),
        (dict[Item, int], "Item cannot be a key"),
        (dict[list[int], int], "cannot be a key, because it has no hash"),
    ],
    ids=str,
)
def test_a_type_that_cannot_be_stored_or_told_from_another_is_refused_by_name(annotation: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        codec(annotation)


def test_classes_that_their_fields_do_not_tell_apart_are_refused() -> None:
    @attrs.define
    class One:
        number: int

    @attrs.define
    class Other:
        number: int

    with pytest.raises(TypeError, match=r"One.*Other"):
        codec(One | Other)


@pytest.mark.parametrize(
    ("annotation", "structured"),
    [
        (Item, True),
        (Address, True),
        (Row, True),
        (Box[int], True),
        (dict[str, int], True),
        (dict, True),
        (Mapping[str, int], True),
        (list[Item], False),
        (Point, False),
        (str, False),
        (Any, False),
        (Colour, False),
    ],
    ids=str,
)
def test_what_is_stored_as_an_object_is_called_structured(annotation: Any, structured: bool) -> None:
    assert is_structured(annotation) is structured


def test_dumps_refuses_what_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps(math.nan)


# -- properties --------------------------------------------------------------------------------------------------------

Values = tuple[Any, st.SearchStrategy[Any]]
"""An annotation, and values of exactly that type."""

texts = st.text(st.characters(), max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
items = st.builds(Item, texts, st.integers())

hashable: list[Values] = [
    (int, st.integers()),
    (str, texts),
    (bool, st.booleans()),
    (float, st.floats()),
    (datetime, st.datetimes(timezones=st.none() | offsets)),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (bytes, st.binary(max_size=5)),
    (Decimal, st.decimals(allow_nan=False)),
    (UUID, st.uuids()),
    (Path, st.text(st.sampled_from("a./ \N{PILE OF POO}"), max_size=5).map(Path)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Size, st.sampled_from(Size)),
    (Point, st.builds(Point, st.integers(), st.integers())),
    (int | None, st.none() | st.integers()),
    (Access, st.sampled_from(Access)),
    (Place, st.builds(Place, st.integers(), texts)),
    (tuple[int, str], st.tuples(st.integers(), texts)),
]
leaves: list[Values] = [
    *hashable,
    (type(None), st.none()),
    (Decimal, st.decimals()),
    (Any, plain),
    (Item, items),
    (Identity, st.builds(Identity, st.integers(), st.lists(st.builds(Identity, st.integers()), max_size=2))),
    (Address, st.builds(Address, texts, st.lists(texts, max_size=2), st.none() | st.builds(Address, texts))),
    (Row, st.fixed_dictionaries({"key": texts}, optional={"value": st.lists(st.integers(), max_size=2)})),
    (Card | Cash | None, st.none() | st.builds(Card, texts) | st.builds(Cash, st.decimals(allow_nan=False))),
]


def extended(inner: st.SearchStrategy[Values]) -> st.SearchStrategy[Values]:
    generic: Any = operator.getitem
    few: Any = {"max_size": 3}
    any_hashable = st.sampled_from(hashable)
    return st.one_of(
        inner.map(lambda of: (generic(list, of[0]), st.lists(of[1], **few))),
        inner.map(lambda of: (generic(dict, (str, of[0])), st.dictionaries(texts, of[1], **few))),
        inner.map(lambda of: (generic(tuple, (of[0], ...)), st.lists(of[1], **few).map(tuple))),
        inner.map(lambda of: (generic(Box, of[0]), st.builds(Box, of[1]))),
        st.tuples(inner, inner).map(lambda of: (generic(tuple, (of[0][0], of[1][0])), st.tuples(of[0][1], of[1][1]))),
        st.tuples(any_hashable, inner).map(
            lambda of: (generic(dict, (of[0][0], of[1][0])), st.dictionaries(of[0][1], of[1][1], **few))
        ),
        any_hashable.map(lambda of: (generic(set, of[0]), st.sets(of[1], **few))),
        any_hashable.map(lambda of: (generic(frozenset, of[0]), st.frozensets(of[1], **few))),
    )


annotated = st.recursive(st.sampled_from(leaves), extended, max_leaves=4)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_value_comes_back_the_same_or_is_refused(data: st.DataObject) -> None:
    annotation, values = data.draw(annotated)
    value = data.draw(values)
    try:
        text, restored = codec(annotation).encode(value)
    except InvalidDataError as error:
        assert error.problems
        assert all(problem.path.startswith("$") for problem in error.problems)
    else:
        assert text.isascii()
        assert_same(restored, value)
        assert_same(codec(annotation).decode(loads(text)), value)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_value_of_any_other_type_is_equal_when_it_comes_back_or_is_refused(data: st.DataObject) -> None:
    annotation, _ = data.draw(annotated)
    _, values = data.draw(annotated)
    value = data.draw(values)
    try:
        text, restored = codec(annotation).encode(value)
    except InvalidDataError as error:
        assert error.problems
    else:
        assert text.isascii()
        if restored != value:
            assert_same(restored, value)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_json_is_read_as_the_declared_type_or_refused(data: st.DataObject) -> None:
    annotation, _ = data.draw(annotated)
    raw = data.draw(plain)
    try:
        value = codec(annotation).decode(raw)
    except InvalidDataError as error:
        assert error.problems
        assert all(problem.path.startswith("$") for problem in error.problems)
    else:
        assert_same(codec(annotation).encode(value)[1], value)


# -- classes whose exceptions raise when they are looked at ------------------------------------------------------------


@attrs.frozen
class Strange:
    name: str
    number: int = 1

    def __attrs_post_init__(self) -> None:
        if self.number < 0:
            raise STRANGE[self.name]()


@pytest.mark.parametrize("name", STRANGE)
def test_an_exception_of_a_class_is_told_as_a_problem_whatever_it_is(name: str) -> None:
    value = Strange(name)
    object.__setattr__(value, "number", -1)
    for call in (
        lambda: codec(Strange).encode(value),
        lambda: codec(Strange).decode({"name": name, "number": -1}),
        lambda: codec(list[Strange]).decode([{"name": name, "number": -1}]),
    ):
        with pytest.raises(InvalidDataError) as caught:
            call()
        assert len(str(caught.value)) < 10_000

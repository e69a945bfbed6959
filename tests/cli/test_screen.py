"""On a screen of any width nothing is cut off, and nothing sticks out."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from trio_romancy import CancelRequest, Entry, EntryKind, ErrorInfo, Instance, Status
from trio_romancy._data.log_fields import visible
from trio_romancy.cli.documents import to_document
from trio_romancy.cli.terminal.instances import show_instance, show_instances
from trio_romancy.cli.terminal.screen import Screen
from trio_romancy.cli.terminal.timeline import Timeline
from trio_romancy.cli.terminal.wording import ago, lasting

pytestmark = pytest.mark.long

BEGUN = datetime(2026, 1, 31, 12, tzinfo=UTC)

NARROW, WIDE = 40, 80

texts = st.text(max_size=120)
ids = st.text(st.characters(categories=("L", "N"), include_characters="-_/:."), min_size=30, max_size=36)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def screen_of(width: int, monkeypatch: pytest.MonkeyPatch, term: str = "dumb") -> tuple[Screen, io.StringIO]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    return Screen(stream), stream


@pytest.fixture(params=[NARROW, WIDE])
def width(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def packed(text: str) -> str:
    return "".join(text.split())


def test_a_table_has_its_colours_however_wide_it_is(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, stream = screen_of(width, monkeypatch, term="xterm")
    for long in ("", "x" * WIDE):
        screen.table(("id", "status", "note"), [("a", ("failed", "red"), long)])
    assert stream.getvalue().count("\x1b[31mfailed\x1b[0m") == 2


@given(rows=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4))
@pytest.mark.parametrize("columns", [NARROW, WIDE])
def test_a_table_fits_and_loses_nothing(columns: int, rows: list[tuple[str, str, str]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, stream = screen_of(columns, monkeypatch)
        screen.table(("id", "name", "state"), rows)
    written = stream.getvalue()
    assert all(cell_len(line) <= columns for line in written.splitlines())
    for row in rows:
        for cell in row:
            assert packed(visible(cell)) in packed(written)


@given(id=ids, value=ids)
def test_an_id_of_36_characters_is_in_one_piece_even_in_a_narrow_column(id: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, stream = screen_of(NARROW, monkeypatch)
        screen.table(("instance", "workflow", "parent"), [(id, "w" * 30, value)])
        screen.facts([("continues", value)])
    for line in (id, value):
        if cell_len(line) <= 36:
            assert line in stream.getvalue()


def test_text_of_others_is_neither_markup_nor_obeyed(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, stream = screen_of(width, monkeypatch)
    screen.line("[bold]x[/bold] :smile: \x1b[2J\x07\u202e\x9b")
    assert packed(stream.getvalue()) == r"[bold]x[/bold]:smile:\x1b[2J\x07\u202e\x9b"


def test_lines_in_a_file_are_not_broken() -> None:
    stream = io.StringIO()
    Screen(stream).table(("id", "text"), [("i", "word " * 100 + "end")])
    assert stream.getvalue().splitlines()[1] == "i   " + "word " * 100 + "end"


# -- timelines ---------------------------------------------------------------------------------------------------------


def entry(kind: str, operation_id: str = "step:1", payload: Any = None, after: float = 1) -> Entry:
    return Entry("i", 1, operation_id, kind, payload, BEGUN + timedelta(seconds=after))  # type: ignore[arg-type]


def timeline(width: int, monkeypatch: pytest.MonkeyPatch, *entries: Entry, in_full: bool = False) -> list[str]:
    screen, stream = screen_of(width, monkeypatch)
    Timeline(screen, BEGUN, in_full=in_full).add(entries)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("kind", [*EntryKind, "of_a_later_version", "x" * 32])
def test_every_kind_has_its_line_also_a_new_one(kind: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = timeline(width, monkeypatch, entry(kind, payload={"any": "thing " * 30}))
    assert all(len(line) <= width for line in lines)
    assert kind in packed("".join(lines))
    assert "step:1" in "\n".join(lines)


@pytest.mark.parametrize(
    ("kind", "operation_id", "mark"),
    [
        (EntryKind.ACTIVITY_COMPLETED, "a:1", "✓"),
        (EntryKind.ACTIVITY_FAILED, "a:1", "✗"),
        (EntryKind.ATTEMPT_FAILED, "a:1", "✗"),
        (EntryKind.WAIT_TIMED_OUT, "a:1", "✗"),
        (EntryKind.EVENT_RECEIVED, "a:1", "·"),
        (EntryKind.COMPENSATION_COMPLETED, "a:1/compensation", "↩"),
        (EntryKind.COMPENSATION_FAILED, "a:1/compensation", "↩"),
        (EntryKind.ATTEMPT_FAILED, "a:1/compensation", "↩"),
    ],
)
def test_marks_tell_without_colours(
    kind: EntryKind, operation_id: str, mark: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = timeline(width, monkeypatch, entry(kind, operation_id))
    assert first.split()[1] == mark


def test_a_long_operation_id_is_told_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "branch/" * 30 + "step:12"
    lines = timeline(width, monkeypatch, entry(EntryKind.ACTIVITY_COMPLETED, name, {"result": 1}))
    assert all(len(line) <= width for line in lines)
    assert name in packed("".join(lines))


def test_a_payload_is_shortened_unless_all_is_asked_for(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done = entry(EntryKind.ACTIVITY_COMPLETED, payload={"result": list(range(1000))})
    assert len(timeline(width, monkeypatch, done)) <= 3
    assert "998,999]" in packed("".join(timeline(width, monkeypatch, done, in_full=True)))


def test_what_failed_is_told_with_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = {"error_type": "ConnectionError", "message": "no\nanswer", "attempts": 2, "traceback": "", "verdict": ""}
    (line,) = timeline(WIDE, monkeypatch, entry(EntryKind.ATTEMPT_FAILED, payload=payload))
    assert line.endswith("attempt 2: ConnectionError: no answer")


# -- wording -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.000s"),
        (0.0125, "0.013s"),
        (59.9, "59.900s"),
        (60, "1m00s"),
        (3599.9, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (40 * 86400 + 7200, "40d02h"),
    ],
)
def test_a_duration_is_told_in_two_units(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


def test_how_long_ago_is_told_in_one_unit() -> None:
    for passed, words in ((0.5, "0s"), (59, "59s"), (61, "1m"), (7200, "2h"), (86400 * 3, "3d"), (-5, "0s")):
        assert ago(BEGUN, BEGUN + timedelta(seconds=passed)) == f"{words} ago"


# -- instances that are to end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (None, "running"),
        (CancelRequest("why", None, False, []), "running, cancel requested"),
        (CancelRequest(None, BEGUN, False, ["ship:1", "pay:2"]), "waits for ship:1, pay:2"),
        (CancelRequest("it hangs", BEGUN, True, []), "termination requested"),
    ],
)
def test_a_request_to_end_an_instance_is_shown_with_what_it_waits_for(
    request_: CancelRequest | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance(
        "order-1", "sell", Status.RUNNING, {}, None, None, BEGUN, BEGUN, None, "w", None, None, None, request_
    )
    screen, stream = screen_of(200, monkeypatch)
    show_instances(screen, [instance])
    assert said in stream.getvalue()
    screen, stream = screen_of(200, monkeypatch)
    show_instance(screen, instance, in_full=False)
    shown = stream.getvalue()
    assert ("ending" in shown) == (request_ is not None)
    if request_ is not None and request_.reason:
        assert request_.reason in shown


def test_a_request_to_end_an_instance_is_in_the_json_of_it() -> None:
    request = CancelRequest("why", BEGUN, False, ["ship:1"])
    assert to_document(request) == {
        "reason": "why",
        "requested_at": "2026-01-31T12:00:00+00:00",
        "terminates": False,
        "waits_for": ["ship:1"],
    }


# -- errors ------------------------------------------------------------------------------------------------------------


def test_the_details_of_an_error_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ErrorInfo("shop.CardError", "no money", details={"code": "card_expired"})
    instance = Instance("order-1", "sell", Status.FAILED, {}, None, error, BEGUN, BEGUN, BEGUN, "w", None, None, None)
    screen, stream = screen_of(200, monkeypatch)
    show_instance(screen, instance, in_full=False)
    assert "card_expired" in stream.getvalue()

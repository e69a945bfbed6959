"""``find``, ``index``, ``retry``, ``purge``, and ``list --parent``: on both terminals, and with JSON."""

from __future__ import annotations

import os

import pytest

from ..support.fork_server import Process
from .shop import UUID
from .terminal import WIDTHS, fill, flat, on_both, on_terminal, through_pipe, with_json

pytestmark = pytest.mark.long


def test_find(shop: str) -> None:
    wide, narrow = on_both(shop, "find", "order_id=u", "is_good=true")
    assert UUID in wide.text
    assert UUID in narrow.lines
    found = with_json(shop, "find", '["note"]="für [bold]Ännchen[/bold]"', "--workflow", "cli_order")
    assert isinstance(found, dict)
    assert [one["instance_id"] for one in found["instances"]] == ["order-good"]


def test_find_has_exit_code_1_if_there_is_none(shop: str) -> None:
    assert with_json(shop, "find", "is_good=1", code=1) == {"instances": [], "next_page_token": None}, "1 is not true"
    answer = on_terminal(40, shop, "find", "order_id=nobody")
    assert (answer.code, flat(answer)) == (1, "no instance has that in its input")


def test_find_says_when_there_may_be_more(shop: str) -> None:
    answer = through_pipe(shop, "find", "is_good=true", "--limit", "1")
    option, token = answer.lines[-1].removeprefix("more: ").split()
    found = with_json(shop, "find", "is_good=true", "--limit", "1", option, token)
    assert isinstance(found, dict)
    assert found["instances"][0]["instance_id"] not in answer.text


def test_list_the_children_of_an_instance(shop: str) -> None:
    for answer in on_both(shop, "list", "--parent", "order-good"):
        assert answer.text == "no instances\n"
    assert with_json(shop, "list", "--parent", "order-good") == {"instances": [], "next_page_token": None}


def test_index(shop: str) -> None:
    for answer in on_both(shop, "index", "order_id"):
        assert answer.text == "find is fast by order_id now\n"
    assert with_json(shop, "index", "customer.id") == {"path": "customer.id", "indexed": True}


def test_retry(shop: str) -> None:
    for answer in on_both(shop, "retry", "failed-{}"):
        assert flat(answer) == "it goes on from where it failed"
    assert with_json(shop, "retry", "failed-{}") == {"instance_id": "failed-json", "retried": True}
    assert through_pipe(shop, "show", "failed-json", "--json").document["instance"]["finished_at"] is None


def test_retry_refuses_what_was_undone_and_what_has_not_failed(shop: str) -> None:
    for answer in on_both(shop, "retry", "order-bad", code=1):
        assert answer.text.startswith("trio-romancy: ")
    assert with_json(shop, "retry", "order-good", code=1) == {"instance_id": "order-good", "retried": False}
    assert through_pipe(shop, "retry", "nope").code == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_purge_asks_on_a_terminal(width: int, shop: str) -> None:
    def say_no(process: Process, terminal: int) -> None:
        os.write(terminal, b"n\n")

    answer = on_terminal(width, shop, "purge", "--older-than", "0s", when_shown={"[y/N]": say_no})
    assert answer.code == 1
    assert "nothing was deleted" in flat(answer)
    assert through_pipe(shop, "show", "order-good").code == 0


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_purge(kind: str, database: str) -> None:
    fill(database)
    failed = on_terminal(80, database, "purge", "--older-than", "0s", "--status", "failed", "--yes")
    assert (failed.code, failed.lines[-1]) == (0, "5 instances deleted")
    assert through_pipe(database, "purge", "--older-than", "0s", "--yes", "--json").document == {"purged": 2}
    none = on_terminal(40, database, "purge", "--older-than", "0s", "--yes")
    assert (none.code, none.lines[-1]) == (1, "nothing to delete")
    left = through_pipe(database, "list", "--json").document["instances"]
    assert {one["workflow"] for one in left} == {"cli_wait"}, "what has not ended stays"

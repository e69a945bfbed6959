"""Every list has pages of one form: a sequence of rows, and the token of the next page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trio_romancy import App, InvalidInputError, WorkflowContext, activity, current_activity, workflow
from trio_romancy.model import Page

COUNT = 5


@activity(name="pages_announce")
async def announce(number: int) -> None:
    current_activity().send_event("announced", number)


@workflow(name="pages_announcing")
async def announcing(ctx: WorkflowContext, shop: str) -> None:
    for number in range(COUNT - 1):
        await announce(number)


LISTS: dict[str, Callable[..., Awaitable[Page[Any]]]] = {
    "instances": lambda app, **page: app.list_instances(**page),
    "found": lambda app, **page: app.find_instances({"shop": "a"}, **page),
    "entries": lambda app, **page: app.history("w-0", **page),
    "events": lambda app, **page: app.outbox.list(instance_id="w-0", **page),
}


async def start_all(app: App) -> None:
    for number in range(COUNT):
        await (await app.start(announcing.options(id=f"w-{number}"), "a")).result()


@pytest.mark.parametrize("rows_of", LISTS)
async def test_page_after_page_has_each_row_once_and_in_order(rows_of: str, database: str) -> None:
    async with App(database) as app:
        await start_all(app)
        everything = list(await LISTS[rows_of](app))
        assert len(everything) == COUNT - (rows_of == "events")
        for limit in (1, 2, COUNT - 1, COUNT, COUNT + 1):
            rows: list[Any] = []
            token, pages = None, 0
            while pages == 0 or token is not None:
                page = await LISTS[rows_of](app, limit=limit, page_token=token)
                assert 0 < len(page) <= limit
                rows += page
                token, pages = page.next_page_token, pages + 1
            assert rows == everything
            assert pages == -(-len(everything) // limit)


@pytest.mark.parametrize("rows_of", LISTS)
@pytest.mark.parametrize("token", ["", "x", "é", "W10=", "eyJhIjoxfQ==", "WyJhIiwgMV0=", "WzEsIDIsIDMsIDQsIDVd"])
async def test_what_is_no_token_of_such_a_list_is_refused(rows_of: str, token: str) -> None:
    async with App(":memory:") as app:
        await start_all(app)
        with pytest.raises(InvalidInputError, match=r"page_token: it is not the token of a page of"):
            await LISTS[rows_of](app, page_token=token)


@pytest.mark.parametrize("rows_of", LISTS)
async def test_a_limit_that_is_not_positive_is_refused(rows_of: str) -> None:
    async with App(":memory:") as app:
        await start_all(app)
        for limit in (0, -1, 1.5):
            with pytest.raises(ValueError, match="limit is a whole number, at least 1"):
                await LISTS[rows_of](app, limit=limit)


async def test_a_page_is_a_sequence_of_its_rows() -> None:
    async with App(":memory:") as app:
        await start_all(app)
        page = await app.history("w-0")
        assert page.next_page_token is None
        assert (list(page), page[0], page[-2:]) == (page.entries, page.entries[0], page.entries[-2:])
        assert page.entries[3] in page
        assert list(reversed(page)) == page.entries[::-1]
        assert not await app.list_instances(workflow="nothing")

"""The bearer token keeps everybody else out, and is shown to nobody."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from trio_romancy import App, WebSettings

from .serving import EVENT, NOTHING, STRUCTURED, call, client, stored

TOKEN = "s3cret-~!token"


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer wrong"],
        [b"Bearer s3cret-~!toke"],
        [b"Bearer s3cret-~!token2"],
        [b"Bearer S3CRET-~!TOKEN"],
        [b"Basic s3cret-~!token"],
        [b"s3cret-~!token"],
        [b"Bearer s3cret-~!token", b"Bearer s3cret-~!token"],
        [b"Bearer \xff"],
        [b"Bearer s3cret-~!token, Basic x"],
    ],
)
@pytest.mark.parametrize("path", ["/", "/cancel/a", "/nothing", "/health"])
async def test_nobody_gets_in_without_the_token(path: str, authorization: list[bytes]) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app:
        headers = [(b"content-type", b"application/cloudevents+json")]
        headers += [(b"authorization", value) for value in authorization]

        answer = await call(app, "POST", path, headers, [b"x"] * 1000)
        assert answer is not None
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert TOKEN.encode() not in answer.body
        assert await stored(app) == NOTHING


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_lets_in(scheme: str) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app) as http:
        headers = STRUCTURED | {"authorization": f"{scheme} {TOKEN}"}
        assert (await http.post("/", json=EVENT, headers=headers)).status_code == 202


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_needs_no_token(path: str) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app) as http:
        assert (await http.get(path)).status_code == 200


async def test_without_a_token_everybody_gets_in() -> None:
    async with App(":memory:") as app, client(app, "whatever") as http:
        assert (await http.post("/", json=EVENT, headers=STRUCTURED)).status_code == 202


async def test_the_token_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        assert (await http.post("/", content=b"{", headers=STRUCTURED)).status_code == 400
        assert TOKEN not in repr(app) + repr(app.asgi) + repr(vars(app.asgi)["router"].routes)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("token", ["", " ", "two words", "t\xf6ken", "line\n", 3, b"bytes"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: Any) -> None:
    with pytest.raises(ValueError, match="token is a string of ASCII characters") as caught:
        App(":memory:", web=WebSettings(token=token))
    if token not in ("", " ", 3):
        assert str(token) not in "".join(traceback.format_exception_only(caught.value))

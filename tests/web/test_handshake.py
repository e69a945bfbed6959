"""``OPTIONS /``: the handshake of CloudEvents webhooks."""

from __future__ import annotations

from typing import Any

import pytest

from trio_romancy import App, WebSettings

from .serving import EVENT, STRUCTURED, client

ASKED = {"webhook-request-origin": "Sender.example.com", "webhook-request-rate": "120"}


@pytest.mark.parametrize("origins", [["sender.example.com"], {"other", "SENDER.example.com"}, ["*"]])
@pytest.mark.parametrize("token", [None, "token"])
async def test_a_sender_that_is_allowed_may_deliver(origins: Any, token: str | None) -> None:
    async with App(":memory:", web=WebSettings(token=token, webhook_origins=origins)) as app, client(app) as http:
        answer = await http.options("/", headers=ASKED)
        assert answer.status_code == 200
        assert answer.headers["webhook-allowed-origin"] == "Sender.example.com"
        assert answer.headers["webhook-allowed-rate"] == "*"
        assert answer.headers["allow"] == "POST, OPTIONS"


async def test_another_sender_is_told_no() -> None:
    async with App(":memory:", web=WebSettings(webhook_origins=["sender.example.com"])) as app, client(app) as http:
        for origin in ("x.sender.example.com", "*", ""):
            answer = await http.options("/", headers=ASKED | {"webhook-request-origin": origin})
            assert (answer.status_code, answer.json()["error_type"]) == (403, "OriginNotAllowed")
            assert "webhook-allowed-origin" not in answer.headers


async def test_a_question_without_an_origin_allows_nothing() -> None:
    async with App(":memory:", web=WebSettings(webhook_origins=["*"])) as app, client(app) as http:
        answer = await http.options("/")
        assert (answer.status_code, answer.headers["allow"]) == (200, "POST, OPTIONS")
        assert "webhook-allowed-origin" not in answer.headers


async def test_without_allowed_senders_there_is_no_handshake() -> None:
    async with App(":memory:") as app, client(app) as http:
        answer = await http.options("/", headers=ASKED)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert "webhook-allowed-origin" not in answer.headers


async def test_only_the_handshake_needs_no_token() -> None:
    async with App(":memory:", web=WebSettings(token="token", webhook_origins=["*"])) as app, client(app) as http:
        assert (await http.post("/", json=EVENT, headers=STRUCTURED | ASKED)).status_code == 401
        assert (await http.options("/cancel/a", headers=ASKED)).status_code == 405


@pytest.mark.parametrize("origins", ["sender.example.com", [1], [""], ["a b"], ["a\nb"], ["\N{PILE OF POO}"], None])
def test_names_that_no_header_can_carry_are_refused(origins: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="webhook_origins"):
        WebSettings(webhook_origins=origins)

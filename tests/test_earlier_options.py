"""Options of an app are taken under the names that they had before they were grouped, with a warning."""

from __future__ import annotations

from typing import Any

import pytest

from trio_romancy import App, Limits
from trio_romancy._earlier_options import EARLIER

GIVEN: dict[str, Any] = {
    "max_payload": 1_000,
    "max_recoveries": 7,
    "broker_headers": {"x-shop": "1"},
    "broker_content_mode": "binary",
    "outbox_max_attempts": 2,
    "outbox_max_age": 60.0,
    "web_token": "a" * 32,
    "web_body_limit": 2_000,
    "web_timeout": 3.0,
}


def app_with(**options: Any) -> App:
    return App(":memory:", broker_url="http://127.0.0.1:1/", **options)


def test_each_earlier_option_is_known() -> None:
    assert GIVEN.keys() == EARLIER.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_an_earlier_option_means_the_one_in_a_group(name: str) -> None:
    group, now = EARLIER[name]
    with pytest.warns(DeprecationWarning, match=rf"App\({name}=...\) is App\({group}=\w+\({now}=...\)\) now") as warned:
        app = app_with(**{name: GIVEN[name]})
    assert warned[0].filename == __file__
    parts = (app._settings, app._limits, app._relay_settings, app._web)
    found = [getattr(part, now) for part in parts if hasattr(part, now)]
    assert GIVEN[name] in found


def test_earlier_options_join_a_group() -> None:
    with pytest.warns(DeprecationWarning):
        app = app_with(limits=Limits(threads=3), max_recoveries=2, broker_headers=None)
    assert (app._limits.threads, app._limits.max_recoveries) == (3, 2)


def test_an_unknown_option_is_refused_as_by_any_function() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_paylod'"):
        app_with(max_paylod=1)

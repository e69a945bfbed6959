"""Options of an app under the names that they had before they were grouped, for programs that still use these."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

from attrs import evolve

from ._settings import Limits, OutboxSettings, WebSettings, checked_group

P = ParamSpec("P")

_GROUPS = {"limits": Limits, "outbox": OutboxSettings, "web": WebSettings}
EARLIER = {
    "max_payload": ("limits", "max_payload"),
    "max_recoveries": ("limits", "max_recoveries"),
    "broker_headers": ("outbox", "headers"),
    "broker_content_mode": ("outbox", "content_mode"),
    "outbox_max_attempts": ("outbox", "max_attempts"),
    "outbox_max_age": ("outbox", "max_age"),
    "web_token": ("web", "token"),
    "web_body_limit": ("web", "body_limit"),
    "web_timeout": ("web", "timeout"),
}
"""The group that an option belongs to now, and its name there."""


def takes_earlier_options(init: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor with groups of options take the earlier ones, too. Each leads to a DeprecationWarning."""

    @functools.wraps(init)
    def taking(*args: P.args, **kwargs: P.kwargs) -> None:
        given: dict[str, Any] = kwargs
        for earlier in [name for name in given if name in EARLIER]:
            group, name = EARLIER[earlier]
            kind = _GROUPS[group]
            message = f"App({earlier}=...) is App({group}={kind.__name__}({name}=...)) now"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            value = given.pop(earlier)
            present = checked_group(group, given.get(group), kind)
            given[group] = evolve(present, **{name: {} if earlier == "broker_headers" and value is None else value})
        init(*args, **kwargs)

    return taking

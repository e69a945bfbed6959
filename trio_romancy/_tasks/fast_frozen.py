"""A :func:`frozen` that only the type checker insists on.

A frozen class of attrs sets each attribute of a new object by a call, which takes several times as long as an
assignment. For objects of which every workflow needs some that counts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as frozen
else:
    from attrs import define

    frozen = partial(define, unsafe_hash=True)

"""Names the code of all workflows that are defined in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import CodeType

from .registry import registry


def code_version() -> str:
    """Return a digest of all workflow functions: 16 hexadecimal digits.

    It is the same in every process with the same workflow functions on the same version of Python. Functions that a
    workflow calls do not count in it, and neither do comments and the place of a function.
    """
    digest = hashlib.sha256()
    for workflow in sorted(registry.all_workflows(), key=lambda workflow: workflow.name):
        digest.update(workflow.name.encode() + b"\0")
        for part in _parts(getattr(workflow.function, "__code__", None)):
            digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _parts(constant: object) -> Iterator[str]:
    if isinstance(constant, CodeType):
        yield constant.co_code.hex()
        yield " ".join((*constant.co_names, *constant.co_varnames, *constant.co_freevars))
        for inner in constant.co_consts:
            yield from _parts(inner)
    elif isinstance(constant, frozenset):
        yield from sorted(map(repr, constant))  # the order of a frozenset differs from process to process
    else:
        yield repr(constant)

"""A name for the code of all workflows that are defined in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import CodeType

from .decorators import all_workflows


def code_version() -> str:
    """The same in every process with the same workflow functions, on the same version of Python.

    What a workflow function calls does not count, and neither do comments, or where a function is.
    """
    digest = hashlib.sha256()
    for workflow in sorted(all_workflows(), key=lambda workflow: workflow.name):
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
        yield from sorted(map(repr, constant))  # whose own order differs from process to process
    else:
        yield repr(constant)

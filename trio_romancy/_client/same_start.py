"""Tells whether a start that meets a taken id is a repetition."""

from __future__ import annotations

from typing import Any

from .._data.codec import dumps
from .._definitions.values import Workflow
from .._storage.sql.instances import ANOTHER_INPUT
from ..errors import InstanceExistsError
from ..model import Instance


def is_same_start(workflow: Workflow[..., Any], text: str, held: Instance | None, refusal: InstanceExistsError) -> bool:
    """Return whether the instance that holds the id was started with the same arguments.

    They have another text after a parameter was added, and sets have one in each process.

    Args:
      workflow, text: the workflow, and its input as JSON text.
      held: the instance that holds the id; None: it is gone.
      refusal: the error of the start.
    """
    if refusal.difference != ANOTHER_INPUT or held is None:
        return False
    return workflow.input.is_same(text, dumps(held.input))

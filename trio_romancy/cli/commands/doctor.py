"""``doctor``: problems of a database and its workers, each with its cure."""

from __future__ import annotations

from ..call import Call
from ..checks import Finding, Verdict, examine
from ..failures import NOTHING
from ..terminal.wording import Styled, count

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.PROBLEM: "bold red"}


async def doctor(call: Call) -> int:
    """Look for problems, and say what to do about each. Nothing is changed."""
    findings = await examine(call.database)
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in findings)
    document = {"database": call.shown_database, "problems": problems, "checks": findings}
    call.answer(document, lambda: _show(call, findings, problems))
    return NOTHING if problems else 0


def _show(call: Call, findings: list[Finding], problems: int) -> None:
    screen = call.screen
    screen.line((call.shown_database, "bold"))
    column = max(len(verdict) for verdict in Verdict) + 1
    for finding in findings:
        verdict: Styled = (finding.verdict.ljust(column), _STYLES[finding.verdict])
        screen.line(verdict, f"{finding.check}: {finding.found}", hang=column)
        if finding.todo is not None:
            screen.line(f"do: {finding.todo}", indent=column, hang=4)
    screen.line((f"{count(problems, 'problem')}" if problems else "all is well", "bold"))

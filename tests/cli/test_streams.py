"""Standard streams that are closed, full, or whose reader has gone: a documented exit code, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.fork_server import ROOT

pytestmark = pytest.mark.long


def ends(command: str, database: str) -> tuple[int, str, str]:
    """Run a command of the shell in which ``romancy`` is the program. Return its exit code and both outputs."""
    environment = os.environ | {"TRIO_ROMANCY_DATABASE": database, "PYTHONPATH": str(ROOT)}
    shell = f'romancy() {{ {sys.executable} -m trio_romancy "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", ["list", "list --json", "show long --full", "--help"])
def test_a_reader_that_is_gone_is_no_error(arguments: str, shop: str) -> None:
    # The pipe is closed before the program starts.
    code, _, err = ends(f"set -o pipefail; {{ sleep 0.5; romancy {arguments}; }} | true", shop)
    assert (code, err) == (141, "") if arguments != "show long --full" else code in (1, 141)


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_like_one_that_leads_nowhere(stream: str, shop: str) -> None:
    before = Path(shop).read_bytes()
    code, _, err = ends(f"romancy list {stream}", shop)
    assert (code, err) == (0, "")
    code, out, _ = ends(f"romancy nope {stream}", shop)
    assert (code, out) == (2, "")
    assert Path(shop).read_bytes() == before


def test_a_full_disk_is_one_sentence(shop: str) -> None:
    for arguments in ("list", "list --json", "--help"):
        code, _, err = ends(f"romancy {arguments} >/dev/full", shop)
        assert (code, err) == (2, "trio-romancy: the output cannot be written: No space left on device\n")
    assert ends("romancy nope 2>/dev/full", shop) == (2, "", "")


def test_bytes_on_standard_input_that_are_no_text_are_refused(shop: str) -> None:
    code, _, err = ends("printf '\"\\377\"' | romancy event e -", shop)
    assert code == 2
    assert "the data is not JSON" in err

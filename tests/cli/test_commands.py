"""Every command, as a process: on a terminal of 80 columns, on one of 40, and with JSON through a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trio_romancy.cli.main import run

from ..support.fork_server import ROOT, Process
from .shop import UUID
from .terminal import (
    COMMAND,
    MODULE,
    WIDTHS,
    environment,
    fill,
    flat,
    on_both,
    on_terminal,
    through_pipe,
    with_json,
)

pytestmark = pytest.mark.long

# -- looking -----------------------------------------------------------------------------------------------------------


def test_list(shop: str) -> None:
    wide, narrow = on_both(shop, "list", "--workflow", "order")
    assert re.search(rf"^{UUID}  cli_order  completed  \d+[smh] ago$", wide.text, re.MULTILINE)
    assert UUID in narrow.lines
    assert "  status    completed" in narrow.lines
    found = with_json(shop, "list", "--workflow", "order", "--status", "failed", "--since", "1h", "--limit", "5")
    assert isinstance(found, dict)
    assert [one["instance_id"] for one in found["instances"]] == ["order-bad"]
    assert found["next_page_token"] is None


def test_pages_of_a_list_are_walked_by_their_token(shop: str) -> None:
    first = through_pipe(shop, "list", "--json", "--limit", "12").document
    token = first["next_page_token"]
    second = through_pipe(shop, "list", "--json", "--limit", "12", "--page-token", token).document
    assert second["next_page_token"] is None
    ids = [one["instance_id"] for page in (first, second) for one in page["instances"]]
    assert len(ids) == len(set(ids)) == 23
    shown = on_terminal(40, shop, "list", "--limit", "12")
    assert shown.lines[-1] == f"more: --page-token {token}", "it is one line, to be copied"


def test_show(shop: str) -> None:
    for answer in on_both(shop, "show", "order-bad"):
        said = flat(answer)
        assert "status failed" in said
        assert "journal: 5 entries" in said
        assert "PAY-bad" in said
        assert "(undone by cli" in said
        assert "attempt 1: ConnectionError" in said
        assert "attempt 2: ConnectionError" in said
        assert re.search(r"\+\d+\.\d{3}s ↩ compensation_completed cli_charge:1/compensation", said)
    shown = with_json(shop, "show", "order-bad")
    assert isinstance(shown, dict)
    assert shown["instance"]["status"] == "failed"
    assert [entry["kind"] for entry in shown["history"]] == [
        "activity_completed",
        "attempt_failed",
        "activity_failed",
        "workflow_failed",
        "compensation_completed",
    ]


def test_show_tells_input_and_output_as_they_are(shop: str) -> None:
    for answer in on_both(shop, "show", "order-good"):
        assert '"note": "für [bold]Ännchen[/bold]"' in flat(answer)
        assert 'output "TRACK-good"' in flat(answer)


def test_workers(shop: str) -> None:
    for answer in on_both(shop, "workers"):
        said = flat(answer)
        assert "worker-that-died" in said
        assert re.search(r"expired \d+d ago", said)
        assert "far-away" in said
        assert "2024-06-01" in said
    found = with_json(shop, "workers")
    assert isinstance(found, dict)
    assert [(one["worker_id"], one["pid"], one["is_alive"]) for one in found["workers"]] == [
        ("worker-that-died", 7, False)
    ]


def test_doctor(shop: str) -> None:
    for answer in on_both(shop, "doctor", code=1):
        said = flat(answer)
        assert re.search(r"problem stuck: stuck: .*stuck-once", said)
        assert "do: find out why (trio-romancy show ID), fix the cause, then trio-romancy resume ID" in said
        assert re.search(r"problem outbox: \d events? failed", said)
        assert "ok rights: all tables can be read and written" in said
        assert re.search(r"\d problems$", said)
    found = with_json(shop, "doctor", code=1)
    assert isinstance(found, dict)
    verdicts = {check["check"]: check["verdict"] for check in found["checks"]}
    assert (verdicts["tables"], verdicts["stuck"], verdicts["outbox"]) == ("ok", "problem", "problem")
    assert all(check["todo"] for check in found["checks"] if check["verdict"] == "problem")


# -- sending -----------------------------------------------------------------------------------------------------------


def test_start(shop: str) -> None:
    order = '{"order_id": "{}"}'.replace("{}", "n")
    for width, answer in zip(
        WIDTHS, on_both(shop, "start", "cli_order", order, "--module", MODULE, "--id", "new-{}"), strict=True
    ):
        assert answer.lines == [f"new-{width}"]
    assert with_json(shop, "start", "cli_order", order, "--module", MODULE, "--id", "new-{}") == {
        "instance_id": "new-json"
    }
    again = through_pipe(shop, "start", "cli_order", "-", "--module", MODULE, "--id", "new-80", input=order)
    assert (again.code, again.text) == (0, "new-80\n")


def test_event(shop: str) -> None:
    arguments = ("event", "order.paid", '"bank"', "--subject", "wait-{}", "--id", "payment-{}", "--source", "/bank")
    for width, answer in zip(WIDTHS, on_both(shop, *arguments), strict=True):
        assert answer.lines == [f"payment-{width}", "1 instance waited for it"]
    assert with_json(shop, *arguments) == {"id": "payment-json", "is_duplicate": False, "waiting": 1}
    assert with_json(shop, *arguments) == {"id": "payment-json", "is_duplicate": True, "waiting": 0}


def test_publish(shop: str) -> None:
    arguments = ("publish", "news", '["hello"]', "--metadata", '{"language": "en"}', "--to", "order-good")
    for answer in on_both(shop, *arguments):
        assert answer.lines[1] == "0 instances waited for it"
    sent = with_json(shop, *arguments)
    assert isinstance(sent, dict)
    assert sent["waiting"] == 0


# -- steering ----------------------------------------------------------------------------------------------------------


def test_cancel(shop: str) -> None:
    for answer in on_both(shop, "cancel", "cancel-{}", "--reason", "nobody wants it"):
        assert answer.text == "it will end as cancelled, or has\n"
    assert with_json(shop, "cancel", "cancel-{}") == {"instance_id": "cancel-json", "cancelled": True}
    assert with_json(shop, "cancel", "order-good", code=1) == {"instance_id": "order-good", "cancelled": False}


def test_terminate(shop: str) -> None:
    for answer in on_both(shop, "terminate", "hang-{}", "--reason", "it hangs", "--compensate"):
        assert flat(answer) == "it is terminated, or will be by its worker"
    assert with_json(shop, "terminate", "hang-{}") == {"instance_id": "hang-json", "terminated": True}
    assert with_json(shop, "terminate", "order-good", code=1) == {"instance_id": "order-good", "terminated": False}


def test_resume(shop: str) -> None:
    for answer in on_both(shop, "resume", "stuck-{}"):
        assert answer.text == "it goes on\n"
    assert with_json(shop, "resume", "stuck-{}") == {"instance_id": "stuck-json", "resumed": True}
    assert with_json(shop, "resume", "order-good", code=1) == {"instance_id": "order-good", "resumed": False}


def test_outbox(shop: str) -> None:
    found = with_json(shop, "outbox", "list", "--id", "order-good")
    assert isinstance(found, dict)
    (event,) = found["events"]
    assert event["data"] == {"order_id": "good"}
    for answer in on_both(shop, "outbox", "list", "--status", "failed"):
        assert "order.charged" in answer.text
        assert "the broker answers 503" in flat(answer)
        assert event["event_id"] in answer.text, "it is in one piece"
    assert with_json(shop, "outbox", "retry", event["event_id"]) == {"retried": 1}
    wide = on_terminal(80, shop, "outbox", "retry", "--all")
    assert (wide.code, wide.text) == (0, "2 events to be sent again\n")
    narrow = on_terminal(40, shop, "outbox", "retry", "--all")
    assert (narrow.code, narrow.text) == (1, "nothing to send again\n")


# -- the database ------------------------------------------------------------------------------------------------------


def test_migrate_makes_the_tables_once(tmp_path: Path) -> None:
    database = str(tmp_path / "new.db")
    first = through_pipe(database, "migrate", "--json").document
    assert first == {"from": None, "to": first["to"], "changed": True}
    for answer in on_both(database, "migrate"):
        assert flat(answer) == f"the tables are up to date: revision {first['to']}"


def test_bench_measures_on_a_file_of_its_own_without_a_database() -> None:
    for width in WIDTHS:
        answer = on_terminal(width, None, "bench", "--seconds", "0.1")
        assert answer.code == 0
        clients = re.findall(r"^(\d+) +[\d,]+ +[\d,]+$", answer.text.replace("\r", "\n"), re.MULTILINE)
        assert clients == ["1", "20", "200"]


def test_bench_refuses_a_database_with_instances(shop: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--seconds", "0.1", "--database", shop]) == 2
    assert "there are instances in the database" in capfd.readouterr().err


def test_bench_leaves_nothing_in_a_database_with_instances(shop: str) -> None:
    before = through_pipe(shop, "list", "--json", "--limit", "100").text
    measured = through_pipe(shop, "bench", "--seconds", "0.5", "--yes", "--json")
    assert [rate["clients"] for rate in measured.document["rates"]] == [1, 20, 200]
    assert all(rate["per_second"] > 0 for rate in measured.document["rates"])
    assert through_pipe(shop, "list", "--json", "--limit", "100").text == before


# -- working -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with tables, where a worker does not disturb the other tests."""
    database = str(tmp_path_factory.mktemp("cli") / "workplace.db")
    assert run(["migrate", "--database", database]) == 0
    return database


@pytest.mark.parametrize("width", WIDTHS)
def test_a_worker_works_until_ctrl_c(workplace: str, width: int) -> None:
    def end(process: Process, terminal: int) -> None:
        process.send_signal(signal.SIGINT)

    answer = on_terminal(width, workplace, "worker", f"{MODULE}:make", when_shown={"has begun": end})
    assert answer.code == 0
    assert "worker worker-of-the-shop has ended" in answer.text


def test_a_worker_says_in_json_when_it_works_and_what_watches_sees_what_it_does(workplace: str) -> None:
    started = through_pipe(workplace, "start", "cli_order", '{"order_id": "w"}', "--module", MODULE, "--id", "watched")
    assert started.code == 0
    pipe = subprocess.PIPE
    watch = [*COMMAND, "show", "watched", "--watch", "--json", "--interval", "0.05"]
    with subprocess.Popen(watch, stdout=pipe, cwd=ROOT, env=environment(workplace), text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["instance"]["status"] == "pending"
        work = [*COMMAND, "worker", f"{MODULE}:make", "--json", "--log-level", "error"]
        with subprocess.Popen(work, stdout=pipe, cwd=ROOT, env=environment(workplace), text=True) as working:
            seen = [json.loads(line) for line in watching.stdout]
            working.send_signal(signal.SIGTERM)
            said, _ = working.communicate()
    assert [json.loads(line)["works"] for line in said.splitlines()] == [True, False]
    assert working.returncode == watching.returncode == 0
    kinds = [one["entry"]["kind"] for one in seen if "entry" in one]
    assert kinds == ["activity_completed", "activity_completed", "workflow_completed"]
    assert seen[-1]["instance"]["status"] == "completed"


def test_watching_on_a_terminal_ends_with_the_instance(shop: str) -> None:
    for answer in on_both(shop, "show", "order-bad", "--watch"):
        assert "↩ compensation_completed" in answer.text
        assert answer.text.count("status") == 1


# -- on servers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ("mariadb", "postgresql"))
def test_it_works_on_servers(kind: str, database: str) -> None:
    assert through_pipe(database, "migrate").code == 0
    fill(database)
    assert UUID in on_terminal(40, database, "list", "--id", "0198").lines
    found = through_pipe(database, "doctor", "--json")
    assert found.code == 1
    checks = {check["check"]: check["verdict"] for check in found.document["checks"]}
    assert {check: checks[check] for check in ("connection", "clock", "rights", "tables", "stuck")} == {
        "connection": "ok",
        "clock": "ok",
        "rights": "ok",
        "tables": "ok",
        "stuck": "problem",
    }


def test_a_password_is_never_shown() -> None:
    url = "postgresql://me:dont-tell@127.0.0.1:1/nowhere"
    for command in ("doctor", "list"):
        answer = through_pipe(url, command)
        assert answer.code in (1, 2)
        assert "dont-tell" not in answer.text + answer.errors
        assert "127.0.0.1:1" in answer.text + answer.errors


# -- the program itself ------------------------------------------------------------------------------------------------


def test_help_fits_the_terminal() -> None:
    for width in WIDTHS:
        answer = on_terminal(width, None, "list", "--help")
        assert answer.code == 0
        assert max(map(len, answer.lines)) <= width
        assert "--page-token" in answer.text


def test_colours_are_for_terminals_that_want_them(shop: str) -> None:
    red = "\x1b[31m"
    assert red in on_terminal(80, shop, "list", styled=True).text
    assert red not in on_terminal(80, shop, "list", styled=True, NO_COLOR="1").text


def test_who_reads_may_stop_reading(shop: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "list", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env=environment(shop), check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_without_the_extra_it_says_what_to_install() -> None:
    # As if they were not installed: what is None among the modules cannot be found.
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('typer', 'rich') else find(name, *rest)\n"
        "from trio_romancy.cli.main import main; main(['list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr == "trio-romancy: the command line needs typer and rich: pip install 'trio_romancy[cli]'\n"


def test_several_instances_are_steered_and_shown_one_after_another(shop: str) -> None:
    answer = through_pipe(shop, "cancel", "order-good", "nobody", "stuck-80")
    assert answer.code == 1
    assert answer.lines[0] == "order-good: nothing to cancel: its workflow function had ended"
    assert answer.lines[1].startswith("stuck-80: ")
    assert "there is no instance 'nobody'" in answer.errors
    answer = through_pipe(shop, "retry", "order-good", "nobody", "--json")
    assert (answer.code, answer.document) == (1, {"instance_id": "order-good", "retried": False})
    answer = through_pipe(shop, "show", "order-good", "nobody", "order-bad", "--json")
    assert answer.code == 1
    assert [json.loads(line)["instance"]["instance_id"] for line in answer.lines] == ["order-good", "order-bad"]
    answer = through_pipe(shop, "show", "order-good", "order-bad")
    assert (answer.code, [line for line in answer.lines if line in ("order-good", "order-bad")]) == (
        0,
        ["order-good", "order-bad"],
    )

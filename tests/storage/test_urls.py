"""A URL of a database server means the same as for the database's own clients, and nothing else is accepted."""

from __future__ import annotations

import importlib.util
import os
import secrets
import ssl
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio_asyncio
import trustme
from sqlalchemy import text
from sqlalchemy.engine import make_url

from trio_romancy import App, DatabaseError, WorkflowContext, workflow
from trio_romancy._storage.drivers import urls
from trio_romancy._storage.drivers.urls import Server, file_of, parse_server, shown_url
from trio_romancy._storage.open import open_database

from ..support.servers import PRODUCTS, PrivateServer, ServerMissingError, execute, open_private_server


@workflow(name="urls_workflow")
async def quick(ctx: WorkflowContext) -> int:
    return 1


def parse(url: str) -> Server:
    return parse_server(make_url(url), shown_url(url))


def refusal(url: str) -> str:
    """Return the message with which the URL is refused, before any server is asked."""
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


# -- what a URL means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [
        ("mysql", "mysql+aiomysql"),
        ("mariadb", "mysql+aiomysql"),
        ("mysql+aiomysql", "mysql+aiomysql"),
        ("mariadb+aiomysql", "mysql+aiomysql"),
        ("postgres", "postgresql+asyncpg"),
        ("postgresql", "postgresql+asyncpg"),
        ("postgres+asyncpg", "postgresql+asyncpg"),
        ("postgresql+asyncpg", "postgresql+asyncpg"),
    ],
)
def test_each_scheme_has_its_driver(scheme: str, driver: str) -> None:
    server = parse(f"{scheme}://anna:secret@host:1234/orders")
    assert server.url.render_as_string(hide_password=False) == f"{driver}://anna:secret@host:1234/orders"
    assert server.name == f"{scheme}://anna:***@host:1234/orders"
    assert not server.must_encrypt


@pytest.mark.parametrize(("scheme", "argument"), [("mysql", "connect_timeout"), ("postgresql", "timeout")])
def test_connecting_takes_5_seconds_at_most_or_what_the_url_says(scheme: str, argument: str) -> None:
    assert parse(f"{scheme}://host/orders").connect_args[argument] == 5
    assert parse(f"{scheme}://host/orders?connect_timeout=0.5").connect_args[argument] == 0.5


def test_connections_to_mysql_always_use_utf8mb4() -> None:
    assert parse("mysql://host/orders").connect_args["charset"] == "utf8mb4"


@pytest.mark.parametrize(
    ("options", "encrypts", "verifies", "checks_host"),
    [
        ("mysql://host/orders?ssl_mode=REQUIRED", True, False, False),
        ("mysql://host/orders?ssl_mode=verify_ca", True, True, False),
        ("mysql://host/orders?ssl_mode=VERIFY_IDENTITY", True, True, True),
        ("mysql://host/orders?ssl_mode=PREFERRED", False, False, False),
        ("postgres://host/orders?sslmode=require", True, False, False),
        ("postgres://host/orders?sslmode=verify-ca", True, True, False),
        ("postgres://host/orders?sslmode=verify-full", True, True, True),
    ],
)
def test_an_ssl_mode_means_what_it_means_for_the_clients_of_the_database(
    options: str, encrypts: bool, verifies: bool, checks_host: bool
) -> None:
    server = parse(options)
    context = server.connect_args["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert server.must_encrypt is encrypts
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (verifies, checks_host)


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_without_need_of_tls_the_driver_decides(mode: str) -> None:
    assert parse(f"postgres://host/orders?sslmode={mode}").connect_args["ssl"] == mode
    assert "ssl" not in parse("postgres://host/orders").connect_args
    assert "ssl" not in parse("mysql://host/orders?ssl_mode=DISABLED").connect_args


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql+pymysql://anna:secret@host/orders", "the driver for mysql is aiomysql; write mysql://..."),
        (
            "postgresql+psycopg://anna:secret@host/orders",
            "the driver for postgresql is asyncpg; write postgresql://...",
        ),
        (
            "redis://anna:secret@host/0",
            "the scheme of a database URL is one of mariadb, mysql, postgres, postgresql, sq",
        ),
        ("mssql+aioodbc://anna:secret@host/orders", "the scheme of a database URL is one of mariadb, mysql, postgres"),
        ("mysql://anna:secret@host", "the URL names no database; write mysql://user@host/database"),
        ("postgres://anna:secret@host/", "the URL names no database; write postgres://user@host/database"),
        (
            "mysql://anna:secret@host/orders?colour=red",
            "unknown option 'colour'; the options are connect_timeout, ssl_ca, ssl_",
        ),
        (
            "mysql://anna:secret@host/orders?sslmode=require",
            "unknown option 'sslmode'; the options are connect_timeout, ssl_ca",
        ),
        ("mysql://anna:secret@host/orders?charset=latin1", "unknown option 'charset'"),
        (
            "postgres://anna:secret@host/orders?ssl_mode=REQUIRED",
            "unknown option 'ssl_mode'; the options are connect_timeout,",
        ),
        (
            "mysql://anna:secret@host/orders?ssl_mode=maybe",
            "ssl_mode is one of disable, prefer, require, verify-ca, ver",
        ),
        (
            "postgres://anna:secret@host/orders?sslmode=allow",
            "sslmode is one of disable, prefer, require, verify-ca, verify",
        ),
        ("mysql://anna:secret@host/orders?ssl_ca=/no/such/file", "the TLS files (/no/such/file) cannot be used: "),
        ("postgres://anna:secret@host/orders?sslcert=/no/file", "the TLS files (/no/file) cannot be used: "),
        ("mysql://anna:secret@host/orders?connect_timeout=soon", "connect_timeout is a number of seconds, not 'soon'"),
        ("mysql://anna:secret@host/orders?connect_timeout=0", "connect_timeout is a number of seconds, not '0'"),
        ("mysql://anna:secret@host/orders?connect_timeout=-1", "connect_timeout is a number of seconds, not '-1'"),
        ("mysql://anna:secret@host/orders?connect_timeout=nan", "connect_timeout is a number of seconds, not 'nan'"),
        ("postgres://anna:secret@host/orders?connect_timeout=inf", "connect_timeout is a number of seconds, not 'inf'"),
    ],
)
def test_a_wrong_url_is_refused_with_a_reason_and_without_its_password(url: str, problem: str) -> None:
    assert refusal(url).startswith(f"{shown_url(url)}: {problem}")


def test_a_file_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    letter = tmp_path / "letter.pem"
    letter.write_text("Dear Sir or Madam,")
    assert "cannot be used: " in refusal(f"mysql://anna:secret@host/orders?ssl_ca={letter}")
    assert "cannot be used: " in refusal(f"postgres://anna:secret@host/orders?sslcert={letter}")


def test_a_password_in_an_option_is_not_shown() -> None:
    assert "cannot be parsed" in refusal("mysql://anna:secret@host:port/orders")
    refusal("mysql://host/orders?password=secret")


MISTYPED = [
    "postgresql://anna:abc@secret@host:1/orders",
    "mysql://anna:secret@secret@one,two/orders",
    "mysql://anna:abc@secret/x@host/orders",
    "postgresql://anna:abc@x?secret@host/orders",
    "postgresql://anna/secret@host/orders",
    "postgresql:/anna:secret@host/orders",
    "postgresql//anna:secret@host/orders",
    "postgres:anna:secret@host/orders",
    "MySQL+aiomysql:/anna:secret@host/orders",
    " mysql://anna:secret@host/orders",
    "'mysql://anna:secret@host/orders'",
    "anna:secret@host/orders",
    "a:secret@host/orders",
    "postgresql://anna:secret",
]


@pytest.mark.parametrize("url", MISTYPED)
def test_no_part_of_a_mistyped_url_is_shown_or_taken_for_a_file(url: str) -> None:
    assert file_of(url) is None
    assert shown_url(url) == "the database URL"
    with pytest.raises(DatabaseError, match="cannot be parsed") as caught:
        open_database(url)
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown.replace(repr(url), "")


@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_password_may_have_any_characters(kind: str, database: str) -> None:
    user, password = f"romancy_{secrets.token_hex(6)}", "Zoë:日/@?#%"
    made = make_url(database)
    begin: tuple[str, ...]
    end: tuple[str, ...]
    if kind == "postgresql":
        begin = (f"CREATE ROLE {user} LOGIN PASSWORD '{password}'", f"GRANT {made.username} TO {user}")
        end = (f"REASSIGN OWNED BY {user} TO {made.username}", f"DROP ROLE {user}")
    else:
        grant = f"GRANT ALL ON {made.database}.* TO {user}"
        begin, end = (f"CREATE USER {user} IDENTIFIED BY '{password}'", grant), (f"DROP USER {user}",)
    execute(database, *begin)
    try:
        url = made.set(username=user, password=password).render_as_string(hide_password=False)
        async with App(url) as app:
            assert await (await app.start(quick)).result() == 1
    finally:
        execute(database, *end)


def test_names_of_users_that_may_hold_a_password_are_not_shown() -> None:
    assert shown_url("mysql://anna;secret@host/orders") == "the database URL"
    assert shown_url("mysql://Zo%C3%AB%40work:secret@host/orders") == "mysql://Zo%C3%AB%40work:***@host/orders"


@pytest.mark.parametrize("name", ["a.db", "./a:b@c.db", "/tmp/a:b@c.db", "C:\\a@b.db", "c:/a@b.db", "a@b.db", "mysql"])
def test_files_may_have_any_names(name: str) -> None:
    assert file_of(name) == shown_url(name) == name


@pytest.mark.parametrize(
    ("scheme", "driver", "extra"), [("mariadb", "aiomysql", "mysql"), ("postgres", "asyncpg", "postgresql")]
)
def test_a_missing_driver_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str, extra: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(urls, "find_spec", lambda name: None if name == driver else find_spec(name))
    message = refusal(f"{scheme}://anna:secret@host/orders")
    assert message.endswith(f"{driver} is not installed; run: pip install 'trio_romancy[{extra}]'")


# -- TLS ---------------------------------------------------------------------------------------------------------------

NAMES = {"mariadb": ("ssl_mode", "ssl_ca"), "postgresql": ("sslmode", "sslrootcert")}
PREFER = {"mariadb": "PREFERRED", "postgresql": "prefer"}
REQUIRE = {"mariadb": "REQUIRED", "postgresql": "require"}
FULL = {"mariadb": "VERIFY_IDENTITY", "postgresql": "verify-full"}
ENCRYPTED = {
    "mariadb": "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name = 'ssl_cipher'",
    "postgresql": "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Who has signed the certificate of the servers, which is for the name localhost only."""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return ca, path


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of an authority that has signed nothing."""
    path = tmp_path_factory.mktemp("tls") / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def private_servers(authority: tuple[trustme.CA, Path]) -> Iterator[dict[str, PrivateServer]]:
    """Start servers with TLS, each with a database."""
    certificate = authority[0].issue_cert("localhost")
    with ExitStack() as exits:
        servers = {}
        for kind in PRODUCTS:
            try:
                server = exits.enter_context(open_private_server(kind, durable=False))
            except ServerMissingError:
                continue
            # In the server's directory, because it runs as another user. PostgreSQL refuses a key that others can read.
            files = server._directory / "certificate.pem", server._directory / "key.pem"
            certificate.cert_chain_pems[0].write_to_path(files[0])
            certificate.private_key_pem.write_to_path(files[1])
            owner = server._data.stat()
            for file in files:
                file.chmod(0o600)
                if owner.st_uid != file.stat().st_uid:
                    os.chown(file, owner.st_uid, owner.st_gid)
            server.stop()
            if kind == "mariadb":
                server.settings |= {"ssl-cert": files[0], "ssl-key": files[1]}
            else:
                server.settings |= {"ssl": "on", "ssl_cert_file": files[0], "ssl_key_file": files[1]}
            server.start()
            execute(server.url(), "CREATE DATABASE romancy")
            servers[kind] = server
        yield servers


@pytest.fixture(params=PRODUCTS)
def tls(request: pytest.FixtureRequest, private_servers: dict[str, PrivateServer]) -> tuple[str, Any]:
    """Return a kind of database, and a function from a host to the URL of a server with TLS."""
    if request.param not in private_servers:
        pytest.skip(f"{request.param} is not installed")
    server = private_servers[request.param]

    def url(host: str, mode: dict[str, str], ca: Path | None = None) -> str:
        mode_name, ca_name = NAMES[request.param]
        query = {mode_name: mode[request.param]} | ({} if ca is None else {ca_name: str(ca)})
        made = make_url(server.url("romancy")).set(host=host, query=query)
        return made.render_as_string(hide_password=False)

    return request.param, url


async def works(url: str) -> bool:
    async with App(url, start_timeout=0.5) as app:
        return await (await app.start(quick)).result(timeout=60) == 1


@pytest.mark.real_clock
async def test_required_tls_encrypts_and_does_not_check_the_server(tls: tuple[str, Any]) -> None:
    kind, url = tls
    assert await works(url("127.0.0.1", REQUIRE))
    async with trio_asyncio.open_loop(), open_database(url("127.0.0.1", REQUIRE)) as database:
        assert await database.read(lambda connection: connection.execute(text(ENCRYPTED[kind])).scalar())
        async with database.open_writer() as writer:
            assert await writer.run(lambda connection: connection.execute(text(ENCRYPTED[kind])).scalar())


@pytest.mark.real_clock
async def test_the_full_check_passes_the_right_server(tls: tuple[str, Any], authority: tuple[trustme.CA, Path]) -> None:
    _, url = tls
    assert await works(url("localhost", FULL, authority[1]))


@pytest.mark.real_clock
@pytest.mark.parametrize("wrong", ["authority", "host", "no authority"])
async def test_the_full_check_refuses_any_other(
    tls: tuple[str, Any], authority: tuple[trustme.CA, Path], stranger: Path, wrong: str
) -> None:
    _, url = tls
    host = "127.0.0.1" if wrong == "host" else "localhost"
    ca = {"authority": stranger, "host": authority[1], "no authority": None}[wrong]
    with pytest.raises(DatabaseError, match=r"certificate|hostname|IP address") as caught:
        await works(url(host, FULL, ca))
    assert str(caught.value).startswith(shown_url(url(host, FULL, ca)))


@pytest.mark.real_clock
async def test_preferred_tls_encrypts_if_the_server_can(tls: tuple[str, Any]) -> None:
    kind, url = tls
    async with trio_asyncio.open_loop(), open_database(url("127.0.0.1", PREFER)) as database:
        assert await database.read(lambda connection: connection.execute(text(ENCRYPTED[kind])).scalar())
        async with database.open_writer() as writer:
            assert await writer.run(lambda connection: connection.execute(text(ENCRYPTED[kind])).scalar())


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS)
async def test_a_server_without_tls_is_refused_if_the_url_asks_for_it(kind: str) -> None:
    settings: dict[str, dict[str, object]] = {"mariadb": {"skip-ssl": 1}, "postgresql": {"ssl": "off"}}

    def url(mode: str) -> str:
        query = {NAMES[kind][0]: mode}
        return make_url(server.url("romancy")).set(query=query).render_as_string(hide_password=False)

    with open_private_server(kind, settings=settings[kind], durable=False) as server:
        execute(server.url(), "CREATE DATABASE romancy")
        assert await works(server.url("romancy"))
        assert await works(url(PREFER[kind]))
        with pytest.raises(DatabaseError, match=r"does not encrypt|rejected SSL|SSL upgrade") as caught:
            await works(url(REQUIRE[kind]))
        assert str(caught.value).startswith(shown_url(url(REQUIRE[kind])))


def test_options_that_hosts_of_postgresql_hand_out() -> None:
    with pytest.raises(DatabaseError, match="cannot bind channels; write sslmode=verify-full"):
        open_database("postgresql://user@host/name?sslmode=require&channel_binding=require")
    open_database("postgresql://user@host/name?sslmode=require&channel_binding=prefer&pgbouncer=true")

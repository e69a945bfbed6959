"""URLs that name several hosts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_romancy import DatabaseError
from trio_romancy._storage.drivers.urls import Host, parse_server, read_url, shown_url
from trio_romancy._storage.open import open_database


def refusal(url: str) -> str:
    """Return the message with which the URL is refused, before any server is asked."""
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


# -- what such a URL means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "hosts"),
    [
        ("mysql://one/orders", "mysql://one/orders", ()),
        ("mysql://one,two/orders", "mysql://one/orders", (("one", None), ("two", None))),
        ("mysql://one:1,two:2,three/orders", "mysql://one:1/orders", (("one", 1), ("two", 2), ("three", None))),
        ("mysql://anna@one,two/orders", "mysql://anna@one/orders", (("one", None), ("two", None))),
        ("mysql://anna:secret@one,two/orders", "mysql://anna:secret@one/orders", (("one", None), ("two", None))),
        ("mysql://anna:se,cret@one,two/orders", "mysql://anna:se,cret@one/orders", (("one", None), ("two", None))),
        ("mysql://anna:se/cret@one,two/orders", "mysql://anna:se%2Fcret@one/orders", (("one", None), ("two", None))),
        ("mysql://anna:se%40cret@one,two/orders", "mysql://anna:se%40cret@one/orders", (("one", None), ("two", None))),
        ("mysql://[::1],[fe80::2]:5/orders", "mysql://[::1]/orders", (("::1", None), ("fe80::2", 5))),
        ("mysql://127.0.0.1:1,[::1]:2/orders", "mysql://127.0.0.1:1/orders", (("127.0.0.1", 1), ("::1", 2))),
        ("postgres://one,two/orders?sslmode=x", "postgres://one/orders?sslmode=x", (("one", None), ("two", None))),
        ("postgres://one/orders?search=a,b", "postgres://one/orders?search=a%2Cb", ()),
        ("postgres://one,two/a,b", "postgres://one/a%2Cb", (("one", None), ("two", None))),
        ("mysql://an,na:secret@one/orders", "mysql://an%2Cna:secret@one/orders", ()),
        ("mysql://one,two", "mysql://one", (("one", None), ("two", None))),
    ],
)
def test_the_url_of_the_first_host_and_all_hosts_are_returned(text: str, first: str, hosts: tuple[Host, ...]) -> None:
    url, found = read_url(text)
    assert (url.render_as_string(hide_password=False).replace("%2C", ","), found) == (first.replace("%2C", ","), hosts)


def test_the_driver_is_given_the_first_and_the_server_knows_all() -> None:
    text = "mariadb://anna:secret@one:1,two/orders?connect_timeout=2"
    url, hosts = read_url(text)
    server = parse_server(url, shown_url(text), hosts)
    assert server.url.render_as_string(hide_password=False) == "mysql+aiomysql://anna:secret@one:1/orders"
    assert server.hosts == (("one", 1), ("two", None))
    assert server.name == "mariadb://anna:***@one:1,two/orders"
    assert server.connect_args["connect_timeout"] == 2


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://anna:secret@one:1,two:2/orders", "mysql://anna:***@one:1,two:2/orders"),
        ("mysql://anna:secret@one,two/orders?ssl_ca=secret", "mysql://anna:***@one,two/orders"),
        ("mysql://anna@[::1]:3,two/orders", "mysql://anna@[::1]:3,two/orders"),
        ("mysql://one,two/orders", "mysql://one,two/orders"),
        ("mysql://anna:secret@one,two/one", "mysql://anna:***@one,two/one"),
        ("mysql://anna:secret@one,two/telephones", "mysql://anna:***@one,two/telephones"),
        ("mysql://one:secret@one,two/orders", "mysql://one:***@one,two/orders"),
        ("mysql://anna:two@one,two/orders", "mysql://anna:***@one,two/orders"),
        ("mysql://anna:secret@one,two", "mysql://anna:***@one,two"),
        ("mysql://anna:secret@one,two:many/orders", "the database URL"),
        ("mysql://anna:secret@one,/orders", "the database URL"),
    ],
)
def test_all_hosts_are_shown_and_no_password(text: str, shown: str) -> None:
    assert shown_url(text) == shown


NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True)
PORTS = st.none() | st.integers(1, 65535)


@settings(max_examples=50, deadline=None)
@given(
    hosts=st.lists(st.tuples(NAMES, PORTS), min_size=2, max_size=4),
    user=NAMES,
    password=st.from_regex(r"[A-Z!,;:$]{4,9}", fullmatch=True),
    database=NAMES,
)
def test_hosts_with_any_names_are_parsed_and_shown(hosts: list[Host], user: str, password: str, database: str) -> None:
    listed = ",".join(name if port is None else f"{name}:{port}" for name, port in hosts)
    text = f"mysql://{user}:{password}@{listed}/{database}"
    url, found = read_url(text)
    assert found == tuple(hosts)
    assert (url.username, url.password, url.host, url.port) == (user, password, *hosts[0])
    assert url.database == database
    assert shown_url(text) == f"mysql://{user}:***@{listed}/{database}"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [
        ",",
        "one,",
        ",two",
        "one,,two",
        "one,two:",
        "one,two:many",
        "one:many,two",
        "one,two:1:2",
        "one,two:-1",
        "one,two:0",
        "one,two:65536",
        "one:99999,two",
        "one, two",
        "one ,two",
        "one,two words",
        "::1,two",
        "[::1,two",
        "one,[]",
    ],
)
@pytest.mark.parametrize("scheme", ["mysql", "postgres"])
def test_a_malformed_list_of_hosts_is_refused(scheme: str, hosts: str) -> None:
    assert "cannot be parsed" in refusal(f"{scheme}://anna:secret@{hosts}/orders")


def test_several_hosts_need_a_database_as_one_host_does() -> None:
    assert "names no database" in refusal("mysql://anna:secret@one,two")
    assert "names no database" in refusal("postgres://anna:secret@one,two/")
    refusal("mysql://anna@one,two?password=secret")


def test_sqlite_has_no_hosts() -> None:
    assert "three slashes" in refusal("sqlite://one,two/orders.db")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://anna:secret@one,two/orders?unix_socket=/run/mysqld.sock",
        "postgres://anna:secret@one,two/orders?host=three",
        "postgres://anna:secret@one,two/orders?port=3",
    ],
)
def test_an_option_that_names_another_host_is_refused(url: str) -> None:
    assert refusal(url).startswith(shown_url(url))

"""The HTTP client that sources share: its connections, its proxies, and what it reads."""

import asyncio
import base64
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest
import trustme

from app.client import Client
from app.connection import MAX_ANSWER, ClientError, Response
from tests.conftest import free_port
from tests.upstream import Request, Upstream, answering, http_answer, reset, sending

Upstreams = Callable[..., Upstream]


async def get(url: str, headers: dict[str, str], certificates: str | None) -> Response:
    client = Client(certificates)
    try:
        return await client.get(url, headers)
    finally:
        client.close()


def asked(url: str, headers: dict[str, str] | None = None, certificates: str | None = None) -> Response:
    """Return the answer that a new client gets."""
    return asyncio.run(get(url, headers or {}, certificates))


# Requests and answers


def test_an_answer_has_status_headers_and_body_whatever_the_status(upstream: Upstreams) -> None:
    source = upstream(answering(b"no", 404, {"X-Reason": "none"}))
    response = asked(f"{source.url}/8.8.8.8?fields=a,b", {"Authorization": "Bearer sesame"})
    assert (response.status, response.headers["x-reason"], response.body) == (404, "none", b"no")
    (request,) = source.requests
    assert request.target == "/8.8.8.8?fields=a,b"
    assert request.headers == {
        "host": source.url.removeprefix("http://"),
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "geoip",
        "authorization": "Bearer sesame",
    }


def test_an_answer_may_have_64_kib_and_not_a_byte_more(upstream: Upstreams) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    fits = MAX_ANSWER - len(head % 10000)
    for size in (fits, fits + 1):
        source = upstream(sending(head % size, bytes(size)))
        if size == fits:
            assert len(asked(source.url).body) == size
        else:
            with pytest.raises(ClientError, match="more than"):
                asked(source.url)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/a b", {}),
        ("/ä", {}),
        ("/", {"X": "a\r\nY: b"}),
        ("/", {"X\n": "a"}),
        ("/", {"X": "a\x00"}),
        ("/", {"X": "ä"}),
    ],
)
def test_a_request_that_could_be_read_as_another_one_is_not_sent(
    path: str, headers: dict[str, str], upstream: Upstreams
) -> None:
    source = upstream(answering({}))
    with pytest.raises(ClientError):
        asked(source.url + path, headers)
    assert not source.accepted


@pytest.mark.parametrize("encoding", ["gzip", "br", "DEFLATE", "identity, gzip"])
def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str, upstream: Upstreams) -> None:
    with pytest.raises(ClientError, match="compressed"):
        asked(upstream(answering({}, headers={"Content-Encoding": encoding})).url)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_the_encoding_identity_is_accepted(encoding: str, upstream: Upstreams) -> None:
    assert asked(upstream(answering({}, headers={"Content-Encoding": encoding})).url).body == b"{}"


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"]
)
def test_an_error_holds_no_url(answer: bytes, upstream: Upstreams) -> None:
    with pytest.raises(ClientError) as error:
        asked(f"{upstream(sending(answer)).url}/?key=sesame")
    assert "sesame" not in str(error.value)
    assert "://" not in str(error.value)


def test_an_answer_over_tls_is_verified(upstream: Upstreams, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    source = upstream(answering({}), tls=context)
    assert asked(source.url, certificates=str(tmp_path / "ca.pem")).status == 200
    with pytest.raises(ClientError, match="CERTIFICATE_VERIFY_FAILED"):
        asked(source.url)


def test_tls_that_breaks_after_a_request_is_a_fault_of_the_server_and_not_of_the_way_to_it(
    upstream: Upstreams, tmp_path: Path
) -> None:
    def break_off(connection: socket.socket, _: Request) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as below:
            below.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody can decrypt
            below.recv(1000)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    for source, fault in ((upstream(break_off, tls=context), "server"), (upstream(reset, tls=None), "connection")):
        with pytest.raises(ClientError) as error:
            asked(source.url.replace("http:", "https:"), certificates=str(tmp_path / "ca.pem"))
        assert error.value.fault == fault


BUNDLE = Path(certifi.where()).read_bytes()
END = b"-----END CERTIFICATE-----\n"
CERTIFICATE = BUNDLE[BUNDLE.index(b"-----BEGIN") : BUNDLE.index(END) + len(END)].decode()


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no certificate"),
        (b"x", "holds no certificate"),
        (BUNDLE.replace(b"MII", b"MI", 1), "holds no certificate in PEM format, or a damaged one"),
        (BUNDLE.replace(b"MII", b"NII", 1), "holds no certificate in PEM format, or a damaged one"),
        (BUNDLE[:500], "holds no certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nMC4CAQA=\n-----END PRIVATE KEY-----\n", "holds no certificate"),
        (ssl.PEM_cert_to_DER_cert(CERTIFICATE), "holds no certificate in PEM format"),
    ],
)
def test_a_ca_bundle_that_cannot_be_used_is_named(contents: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"^SSL_CERT_FILE: {path} {reason}"):
        Client(str(path))


# Proxies


@pytest.fixture
def proxy(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """An upstream that is the environment's proxy for HTTP."""
    proxy = upstream()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return proxy


def test_a_proxy_of_the_environment_is_asked_for_the_whole_url(proxy: Upstream) -> None:
    assert asked("http://upstream.example/8.8.8.8").status == 200
    assert [request.target for request in proxy.requests] == ["http://upstream.example/8.8.8.8"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_without_a_scheme_is_an_http_proxy(
    variable: str, upstream: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = upstream()
    monkeypatch.setenv(variable, proxy.url.removeprefix("http://"))
    assert asked("http://upstream.example/8.8.8.8").status == 200
    assert len(proxy.requests) == 1


def test_a_proxy_gets_its_credentials(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = upstream()
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:p%40ss%3Aword@"))
    assert asked("http://upstream.example/8.8.8.8").status == 200
    kind, _, credentials = proxy.requests[0].headers["proxy-authorization"].partition(" ")
    assert (kind, base64.b64decode(credentials)) == ("Basic", b"me:p@ss:word")


def test_a_proxy_on_an_ipv6_address(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = upstream()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://[::1]:{port}")

        async def accepted() -> bytes:
            asking = asyncio.create_task(get("http://upstream.example/8.8.8.8", {}, None))
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                request = await asyncio.to_thread(connection.recv, 1000)
                connection.sendall(http_answer({}))
                assert (await asking).status == 200
                return request

        assert asyncio.run(accepted()).startswith(b"GET http://upstream.example/8.8.8.8 HTTP/1.1\r\n")
    assert not proxy.requests


@pytest.mark.parametrize(
    ("host", "target"),
    [("upstream.example", "upstream.example:443"), ("[2001:db8::1]:8443", "[2001:db8::1]:8443")],
)
def test_https_goes_through_a_tunnel(
    host: str, target: str, upstream: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = upstream(answering(b"", 403))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(ClientError, match="HTTP status 403, through HTTPS_PROXY"):
        asked(f"https://{host}/?key=sesame")
    assert [(request.target, request.headers["host"]) for request in proxy.requests] == [(target, target)]


def test_a_host_that_needs_no_proxy_is_asked_directly(proxy: Upstream, upstream: Upstreams) -> None:
    direct = upstream()
    assert asked(f"{direct.url}/8.8.8.8").status == 200
    assert (len(direct.requests), len(proxy.requests)) == (1, 0)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_an_error_names_the_variable_of_a_proxy_that_cannot_be_reached(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://me:sesame@127.0.0.1:{free_port()}")
    with pytest.raises(ClientError, match=rf", through {variable}$") as error:
        asked("http://upstream.example/8.8.8.8")
    assert "sesame" not in str(error.value)


def test_an_error_without_a_proxy_names_none(proxy: Upstream) -> None:
    with pytest.raises(ClientError) as error:
        asked(f"http://127.0.0.1:{free_port()}/8.8.8.8")
    assert "PROXY" not in str(error.value)
    assert not proxy.requests


def test_a_proxy_for_another_protocol_does_not_matter(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTP_PROXY", "nonsense://me:sesame@127.0.0.1:9")
    monkeypatch.setenv("SOCKS_PROXY", "socks5://127.0.0.1:9")
    assert asked(upstream().url).status == 200


def test_a_proxy_that_no_request_would_use_does_not_matter(proxy: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert asked("http://upstream.example/8.8.8.8").status == 200


def test_the_host_of_an_ipv6_address_has_brackets(upstream: Upstreams) -> None:
    with Upstream(answering({}), host="::1") as source:
        assert asked(f"{source.url}/8.8.8.8").status == 200
        assert source.requests[0].headers["host"] == source.url.removeprefix("http://")


@pytest.mark.parametrize(
    "url",
    [
        "socks5://me:sesame@127.0.0.1:9",
        "nonsense://sesame",
        "http://",
        "http://sesame:x",
        "http://[sesame",
        "http://a:99999",
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_refused_by_its_name(
    variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(ValueError, match=f"^{variable}: ") as error:
        Client()
    assert "sesame" not in str(error.value)


def test_connections_by_way_of_a_proxy_are_kept(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = upstream(keeping)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)

    async def ask_twice() -> None:
        client = Client()
        for _ in range(2):
            await client.get("http://upstream.example/8.8.8.8", {})
        client.close()

    asyncio.run(ask_twice())
    assert proxy.accepted == 1


# Connections


def keeping(connection: socket.socket, _: Request) -> None:
    """Answer on one connection until no request has come for half a second."""
    while True:
        connection.sendall(http_answer({}, headers={"Connection": "keep-alive"}))
        if not select.select([connection], [], [], 0.5)[0]:
            break
        if not connection.recv(65536):
            return
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)  # until the client closes it as well


def test_connections_that_the_upstream_gave_up_are_closed_while_another_is_in_use(upstream: Upstreams) -> None:
    at_once = 5

    def together(connection: socket.socket, request: Request) -> None:
        source.wait(at_once)
        keeping(connection, request)

    source = upstream(together)

    async def ask() -> None:
        client = Client()
        await asyncio.gather(*(client.get(source.url, {}) for _ in range(at_once)))
        deadline = time.monotonic() + 10
        while source.open > 1:
            assert time.monotonic() < deadline, f"{source.open} connections are open"
            await client.get(source.url, {})
            await asyncio.sleep(0.05)
        assert source.accepted == at_once
        client.close()

    asyncio.run(ask())


def test_a_connection_that_was_closed_is_skipped_for_an_older_one(upstream: Upstreams) -> None:
    def answer(connection: socket.socket, request: Request) -> None:
        if request.target == "/closing":
            source.wait(2)
            time.sleep(0.1)  # so that its answer is the last one
            connection.sendall(http_answer({}))
        else:
            keeping(connection, request)

    source = upstream(answer)

    async def ask() -> None:
        client = Client()
        await asyncio.gather(client.get(f"{source.url}/keeping", {}), client.get(f"{source.url}/closing", {}))
        assert (await client.get(f"{source.url}/keeping", {})).status == 200
        client.close()

    asyncio.run(ask())
    assert source.accepted == 2

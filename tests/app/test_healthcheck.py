"""The health check: an orchestrator kills what it calls unhealthy, and runs it every few seconds."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from app.healthcheck import healthcheck
from app.settings import load_settings
from tests.conftest import ROOT, Service, environment, free_port

Serve = Callable[..., Service]
Answer = Callable[[socket.socket], None]

WELL = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n"


def check(tmp_path: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run it as a container's engine does."""
    return subprocess.run(
        [sys.executable, "-m", "app", "healthcheck"],
        env=environment(PYTHONPATH=ROOT, **settings),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


@contextmanager
def listening(answer: Answer, bind: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server of one connection; its port."""
    with socket.create_server((bind, port), family=socket.AF_INET6 if ":" in bind else socket.AF_INET) as listener:
        listener.settimeout(5)

        def behave() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    answer(connection)

        thread = threading.Thread(target=behave)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def saying(*parts: bytes, pause: float = 0) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)

    return answer


def silent(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


# The address


def test_it_is_0_while_the_service_serves_and_1_when_it_does_not(serve: Serve, tmp_path: Path) -> None:
    service = serve()
    assert check(tmp_path, PORT=service.port).returncode == 0
    service.process.terminate()
    service.process.wait(5)
    process = check(tmp_path, PORT=service.port)
    assert (process.returncode, process.stdout, process.stderr) == (1, "", "")


all_of_127 = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all addresses of 127.0.0.0/8")


@pytest.mark.parametrize(
    ("bind", "setting"),
    [
        ("127.0.0.1", None),
        ("127.0.0.1", ""),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "127.0.0.1"),
        pytest.param("127.0.0.2", "127.0.0.2", marks=all_of_127),
        ("::1", "::1"),
        ("::1", "::"),
        *(("127.0.0.1", any_) for any_ in ("::", "::0", "0:0:0:0:0:0:0:0")),  # a host without IPv6, or without ::1
    ],
)
def test_it_asks_at_every_address_where_the_service_may_listen(
    bind: str, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEOIP_BIND", raising=False)
    if setting is not None:
        monkeypatch.setenv("GEOIP_BIND", setting)
    with listening(saying(WELL), bind) as port:
        monkeypatch.setenv("PORT", str(port))
        assert healthcheck() == 0


def test_the_port_is_8080_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout <= 0.5
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.delenv("GEOIP_BIND", raising=False)
    for value in (None, ""):
        monkeypatch.delenv("PORT", raising=False) if value is None else monkeypatch.setenv("PORT", value)
        assert healthcheck() == 1
    assert asked == [("127.0.0.1", 8080)] * 2


@pytest.mark.parametrize(
    "variables",
    [
        {"port": "{port}"},
        {"Port": "{port}", "geoip_bind": "127.0.0.1"},
        {"port": "{port}", "PORT": "", "GEOIP_BIND": ""},
        {"PORT": "1", "port": "{port}"},
        {"PORT": " {port} "},
        {"PORT": "0{port}"},
    ],
    ids=str,
)
def test_it_reads_variables_as_the_service_does(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(saying(WELL)) as port:
        monkeypatch.setattr("os.environ", {name: value.format(port=port) for name, value in variables.items()})
        assert load_settings().port == port
        assert healthcheck() == 0


@pytest.mark.parametrize("setting", [{"PORT": "tcp://10.0.0.1:80"}, {"PORT": "99999999"}, {"GEOIP_BIND": "no address"}])
def test_a_setting_that_the_service_would_refuse_is_1(setting: dict[str, str], tmp_path: Path) -> None:
    process = check(tmp_path, **({"PORT": free_port()} | setting))
    assert (process.returncode, process.stdout, process.stderr) == (1, "", "")


def test_it_reads_where_the_service_listens_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame")
    service = serve(GEOIP_SOURCES="ipify", GEOIP_IPIFY_KEY_FILE=key)
    key.unlink()
    (tmp_path / ".env").write_bytes(b"GEOIP_TIMEOUT=\xff\nPORT=1\n")
    settings = {
        "GEOIP_SOURCES": "nobody",
        "GEOIP_IPIFY_KEY_FILE": key,
        "GEOIP_IPINFO_KEY": "se same",
        "GEOIP_TIMEOUT": "soon",
        "GEOIP_TRUSTED_PROXIES": "10.0.0.1/8",
        "GEOIP_CACHE_URL": "http://nowhere",
        "SSL_CERT_FILE": "/nowhere.pem",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "socks5://127.0.0.1:9",
    }
    process = check(tmp_path, PORT=service.port, **settings)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


# The answers


@pytest.mark.parametrize(
    "parts", [[WELL], [WELL[:3], WELL[3:15], WELL[15:]], [b"HTTP/1.1 204 \r\n"], [bytes([byte]) for byte in WELL]]
)
def test_any_204_is_well(parts: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(saying(*parts)) as port:
        monkeypatch.setenv("PORT", str(port))
        assert healthcheck() == 0


@pytest.mark.parametrize(
    "answer",
    [
        saying(),
        saying(b"HTTP/1.1 500 Oh\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\n\r\n"),
        saying(b"junk"),
        saying(b"junk\r\n"),
        saying(b"HTTP/1.1 204 No Con"),
        saying(*[b"H"] * 100, pause=0.1),
        silent,
    ],
    ids=["nothing", "500", "200", "junk", "a line of junk", "half a line", "bit by bit", "silence"],
)
def test_anything_else_is_1_however_long_it_lasts(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(answer) as port:
        monkeypatch.setenv("PORT", str(port))
        started = time.monotonic()
        assert healthcheck() == 1
        assert time.monotonic() - started < 5  # it takes half a second, and the longest answer ten


def test_an_address_that_is_silent_leaves_no_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(silent, "::1", free_port()) as port, listening(saying(WELL), "127.0.0.1", port):
        monkeypatch.setenv("PORT", str(port))
        monkeypatch.setenv("GEOIP_BIND", "::")
        assert healthcheck() == 1


# The cost


def modules(*arguments: str, **settings: object) -> set[str]:
    """The modules that a run of Python imports, by its own account."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        env=environment(PYTHONPATH=ROOT, **settings),
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return {line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time:")}


def test_it_imports_next_to_nothing() -> None:
    imported = modules("-m", "app", "healthcheck", PORT=free_port()) - modules("-c", "pass")
    assert {name for name in imported if name.startswith("app.")} == {"app.healthcheck"}
    # Python 3.15 has a module that is missing from its own list.
    known = sys.stdlib_module_names | {"_missing_stdlib_info"}
    assert {name.partition(".")[0] for name in imported} - known == {"app"}
    if sys.version_info[:2] == (3, 14):
        imported -= {"dataclasses"}  # argparse and logging of Python 3.14 import it, for the colours of a terminal
    assert not {"ssl", "_ssl", "asyncio", "http", "email", "json", "ipaddress", "dataclasses", "typing"} & imported
    assert len(imported) < 80

"""A lock is read whole, in each of its forms, or it is refused."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from scripts.own import FROZEN, OwnError, requirements
from tests.own.conftest import docker, own

UV_LOCK = """
version = 1
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "tzdata" }]
dev-dependencies = { dev = [{ name = "six" }] }
[package.metadata]
requires-dist = [{ name = "tzdata" }]

[[package]]
name = "tzdata"
version = "2026.6"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/tzdata-2026.6-py2.py3-none-any.whl", hash = "sha256:ONE" }]

[[package]]
name = "six"
version = "1.17.0"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/six-1.17.0-py2.py3-none-any.whl", hash = "sha256:TWO" }]
""".replace("ONE", "1" * 64).replace("TWO", "2" * 64)

PYLOCK = """
lock-version = "1.0"
created-by = "pip"

[[packages]]
name = "tzdata"
version = "2026.6"
marker = "sys_platform != 'win32'"
sdist = { name = "tzdata-2026.6.tar.gz", hashes = { sha256 = "ONE" } }
wheels = [{ name = "tzdata-2026.6-py2.py3-none-any.whl", hashes = { sha256 = "TWO" } }]

[[packages]]
name = "shop"
directory = { path = "." }
""".replace("ONE", "1" * 64).replace("TWO", "2" * 64)


def test_uv_lock_is_read_without_development_dependencies(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["tzdata"]\n'
        '[dependency-groups]\ndev = ["six"]\n'
    )
    (tmp_path / "uv.lock").write_text(UV_LOCK)
    lock = requirements(tmp_path)
    assert lock.splitlines()[0].startswith("tzdata==2026.6")
    assert f"--hash=sha256:{'1' * 64}" in lock
    assert "six" not in lock and "shop" not in lock and "index.invalid" not in lock


def test_pylock_is_read_with_its_markers(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(PYLOCK)
    lock = requirements(tmp_path)
    assert lock.startswith("tzdata==2026.6 ; sys_platform != 'win32' \\\n")
    assert f"--hash=sha256:{'2' * 64}" in lock and f"--hash=sha256:{'1' * 64}" in lock
    assert "shop" not in lock


def test_a_damaged_uv_lock(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text("version = ")
    with pytest.raises(OwnError, match=r"uv\.lock cannot be read"):
        requirements(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e ./libs/shop",
        "./libs/shop",
        "shop @ git+https://example.org/shop@0123456",
        "shop[web] @ file:///home/zoe/shop",
        "git+https://example.org/shop",
    ],
)
def test_a_folder_or_a_repository_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"six==1.17.0 --hash=sha256:0\n{line} ; python_version > '3'\n")
    with pytest.raises(OwnError) as refused:
        requirements(tmp_path)
    assert f"has no hash: {line} (uv export --no-emit-project leaves the project itself out" in str(refused.value)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("directory = { path = './libs/shop' }", "-e ./libs/shop"),
        ("vcs = { type = 'git', url = 'https://example.org/shop' }", "shop @ git+https://example.org/shop"),
        ("archive = { path = 'shop.whl' }", "shop @ file:"),
    ],
)
def test_a_folder_or_a_repository_in_a_pylock_is_refused(tmp_path: Path, package: str, line: str) -> None:
    (tmp_path / "pylock.toml").write_text(f"[[packages]]\nname = 'shop'\n{package}\n")
    with pytest.raises(OwnError) as refused:
        requirements(tmp_path)
    assert f"has no hash: {line} (" in str(refused.value)


def test_a_pylock_may_name_a_wheel_by_its_url(tmp_path: Path) -> None:
    url = "https://example.org/shop-1-py3-none-any.whl"
    archive = f"{{ url = '{url}', hashes = {{ sha256 = '{'3' * 64}' }} }}"
    (tmp_path / "pylock.toml").write_text(f"[[packages]]\nname = 'shop'\narchive = {archive}\n")
    assert requirements(tmp_path) == f"shop @ {url} \\\n    --hash=sha256:{'3' * 64}\n"


@pytest.mark.parametrize(
    ("marker", "taken"),
    [
        ('"default" in dependency_groups', True),
        ("'default' in dependency_groups and python_version > '3'", True),
        ("'default' in dependency_groups and python_version < '3'", False),
        ("'dev' in dependency_groups", False),
        ("'dev' in dependency_groups or 'web' in extras", False),
    ],
)
def test_of_a_pylocks_groups_those_by_default_are_taken(tmp_path: Path, marker: str, taken: bool) -> None:
    package = f"[[packages]]\nname = 'shop'\nversion = '1'\nmarker = {json.dumps(marker)}\n"
    (tmp_path / "pylock.toml").write_text(f"default-groups = ['default']\n{package}")
    written = Requirement(requirements(tmp_path).strip()).marker
    assert written is not None and written.evaluate() == taken


@pytest.fixture
def wheel(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of a wheel of the private package own-shop, on an index on loopback, and its hash."""
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        archive.writestr("own_shop.py", "NAME = 'Zoë'\n")
        archive.writestr("own_shop-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: own-shop\nVersion: 1.0\n")
        archive.writestr("own_shop-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("own_shop-1.0.dist-info/RECORD", "")
    folder = tmp_path / "index/own-shop"
    folder.mkdir(parents=True)
    (folder / "own_shop-1.0-py3-none-any.whl").write_bytes(content.getvalue())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "index"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/own-shop/own_shop-1.0-py3-none-any.whl"
    yield url, f"--hash=sha256:{hashlib.sha256(content.getvalue()).hexdigest()}"
    server.shutdown()
    thread.join()
    server.server_close()


def sells(folder: Path, lock: str, code: str = "from own_shop import NAME") -> Path:
    """A project that imports own-shop."""
    path = folder / "own-locked"
    path.mkdir()
    (path / "requirements.txt").write_text(lock)
    (path / "main.py").write_text(f"{code}\nimport time\ntime.sleep(60)\n")
    return path


def test_a_private_index_is_a_secret_of_the_build(tmp_path: Path, wheel: tuple[str, str]) -> None:
    url, digest = wheel
    index = url.partition("/own-shop")[0]
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nextra-index-url = {index}\n")
    path = sells(tmp_path, f"own-shop==1.0 {digest}\n")
    options = f"--network=host --secret id=pip.conf,src={configuration}"
    result = own(path, "main", "slim", BUILD_OPTIONS=options)
    assert result.returncode == 0, result.stderr
    history = docker("history", "--no-trunc", "own-locked:slim")
    docker("image", "rm", "own-locked:slim")
    assert index not in history


@pytest.mark.parametrize("base", ["slim", *FROZEN])
def test_a_wheel_that_the_lock_names_by_its_url(tmp_path: Path, base: str, wheel: tuple[str, str]) -> None:
    url, digest = wheel
    result = own(sells(tmp_path, f"own-shop @ {url} {digest}\n"), "main", base, BUILD_OPTIONS="--network=host")
    assert result.returncode == 0, result.stderr
    docker("image", "rm", f"own-locked:{base}")


def test_whole_takes_a_package_by_its_name_in_the_lock(tmp_path: Path, wheel: tuple[str, str]) -> None:
    """The app's own module named freeze does not get in the way of the spec's."""
    url, digest = wheel
    code = "import freeze, importlib\nassert freeze.NAME\nimportlib.import_module('own_' + 'shop')"
    path = sells(tmp_path, f"own-shop @ {url} {digest}\n", code)
    (path / "freeze.py").write_text("NAME = 'ours'\n")
    result = own(path, "main", "distroless", WHOLE="own-shop", BUILD_OPTIONS="--network=host")
    assert result.returncode == 0, result.stderr
    docker("image", "rm", "own-locked:distroless")

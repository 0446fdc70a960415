"""How `make` installs from the locks: with which Python, with which pip, and whatever was published since."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from shutil import copy, copytree, which

import pytest
import yaml

from tests.conftest import ROOT, environment

LOCKS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
BASE = Path(os.path.realpath(sys.executable))

# The pip of the first release of each Python, and that of Python 3.11.7. "" is the pip that this Python brings.
PIPS = {11: ["22.3", "23.2.1", ""], 12: ["23.2.1", ""], 13: ["24.2", ""], 14: ["25.2", ""]}.get(
    sys.version_info.minor, [""]
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that `make` needs to install, in a folder with a space in its name and without `.git`."""
    folder = tmp_path / "a checkout"
    copytree(ROOT / "requirements", folder / "requirements")
    (folder / "scripts").mkdir()
    (folder / "docker").mkdir()
    for name in ("Makefile", "docker/images.toml", "scripts/venv"):
        copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *words: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run `make` as a new user would: with no variable of the `make` or the environment that runs the tests."""
    kept = {name: value for name, value in environment().items() if not name.startswith(("BUILDX", "MAKE", "PYTHON"))}
    kept |= {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        ["make", *words], cwd=folder, env=kept, text=True, capture_output=True, timeout=500, check=False
    )


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Write a package that holds nothing; its line in a lock."""
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: toml"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


def run_pip(checkout: Path, *words: str) -> str:
    command = [".venv/bin/python", "-m", "pip", *words]
    return subprocess.run(command, cwd=checkout, text=True, stdout=subprocess.PIPE, timeout=120, check=True).stdout


def make_environment(checkout: Path, pip: str) -> None:
    """Make an environment with this release of pip, or with the one that Python brings."""
    assert make(checkout, ".venv/pip", f"PYTHON={BASE}").returncode == 0
    if pip:
        run_pip(checkout, "install", "--quiet", "--disable-pip-version-check", f"pip=={pip}")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of the PATH with a `python3` that is too old, and one of pyenv's programs that run nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    old = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])"
    program(folder / "python3", f"""exec '{BASE}' -c '{old}' "$2" """)
    program(folder / "python3.15", "echo 'pyenv: python3.15: command not found' >&2", "exit 127")
    for version in ("3.13", "3.12", "3.11"):
        program(folder / f"python{version}", "exit 127")
    return folder


def test_the_newest_python_is_taken_where_python3_is_too_old(checkout: Path, programs: Path) -> None:
    (programs / "python3.14").symlink_to(BASE)
    (programs / "python3.12").unlink()
    (programs / "python3.12").symlink_to(BASE)
    done = make(checkout, ".venv/pip", PATH=f"{programs}:/usr/bin:/bin")
    version = ".".join(map(str, sys.version_info[:3]))
    assert done.stdout == f"Installing the packages of requirements/ into .venv, with Python {version} ({BASE})\n"
    assert Path(os.path.realpath(checkout / ".venv/bin/python")) == BASE


def test_where_no_python_is_new_enough_one_line_says_what_to_do(checkout: Path, programs: Path) -> None:
    program(programs / "python3.14", "exit 127")
    done = make(checkout, "run", PATH=f"{programs}:/usr/bin:/bin")
    line, of_make = done.stderr.splitlines()
    assert line.startswith("There is no Python 3.11 or newer with venv. Install one (")
    assert "make PYTHON=" in line
    assert of_make.startswith("make: ***")
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_named_is_the_one_or_none(checkout: Path, programs: Path) -> None:
    done = make(checkout, "run", f"PYTHON={programs}/python3")
    assert done.returncode == 2
    assert done.stderr.startswith(f"PYTHON={programs}/python3 is not Python 3.11 or newer with venv.")


def test_a_read_only_home_is_not_written_to(checkout: Path, programs: Path) -> None:
    """As buildx does, this docker needs a folder of its own, by default below the home folder."""
    program(programs / "docker", 'mkdir -p "${BUILDX_CONFIG:-$HOME/.docker/buildx}"')
    (checkout / "app").mkdir()
    copy(ROOT / "app/__init__.py", checkout / "app")
    copy(ROOT / "docker/alpine.Dockerfile", checkout / "docker")
    done = make(checkout, "image-alpine", PATH=f"{programs}:/usr/bin:/bin", HOME="/dev/null/home")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv/buildx").is_dir()


@pytest.mark.parametrize(
    ("python", "made_with", "words"),
    [
        ("/usr/local/bin/python3.10-was-here", f"{BASE} 3.11.0", []),
        (BASE, "/usr/bin/python3.10 3.10.13", [f"PYTHON={BASE}"]),
    ],
    ids=["lost its Python", "another Python is named"],
)
def test_a_stale_environment_is_made_anew_once(checkout: Path, python: Path, made_with: str, words: list[str]) -> None:
    (checkout / "requirements/app.txt").write_text("")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(python)
    (checkout / ".venv/pip").write_text(made_with)
    (checkout / ".venv/app.lock").touch()
    first, second = (make(checkout, ".venv/app.lock", *words) for _ in range(2))
    assert "Installing requirements/app.txt\n" in first.stdout, first.stderr
    assert run_pip(checkout, "freeze") == ""
    assert "Installing" not in second.stdout


def test_a_profile_changes_neither_what_runs_nor_where_it_is_installed(checkout: Path, tmp_path: Path) -> None:
    (checkout / "requirements/app.txt").write_text(wheel(tmp_path, "plugin", "1.0"))
    (checkout / "app").mkdir()
    (checkout / "app/__main__.py").write_text("from importlib.metadata import version\nprint(version('plugin'))\n")
    profile = {"PYTHONHOME": tmp_path, "PYTHONPATH": tmp_path, "PYTHONSAFEPATH": 1, "PYTHONWARNINGS": "error"}
    profile |= {"PIP_TARGET": tmp_path / "a", "PIP_PREFIX": tmp_path / "b", "PIP_ROOT": tmp_path / "c"}
    profile |= {"PIP_USER": 1, "PIP_DRY_RUN": 1, "PIP_CONSTRAINT": "/none", "PIP_NO_BINARY": ":all:"}
    done = make(
        checkout, "run", PIP_NO_INDEX=1, PIP_FIND_LINKS=tmp_path.as_uri(), PIP_CONFIG_FILE=os.devnull, **profile
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n1.0\n")


@pytest.mark.parametrize("pip", [pytest.param(pip, marks=pytest.mark.slow) if pip else pip for pip in PIPS])
def test_a_newer_release_of_a_locked_package_changes_nothing(checkout: Path, tmp_path: Path, pip: str) -> None:
    """Before release 24, pip looks for the newest release of what is required with an extra."""
    offered = tmp_path / "offered"
    offered.mkdir()
    lock = wheel(offered, "coverage", "7.10.6") + wheel(offered, "plugin", "1.0", "coverage[toml]>=7.10.6")
    wheel(offered, "coverage", "7.10.7")
    (checkout / "requirements/app.txt").write_text(lock)
    make_environment(checkout, pip)
    offer = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": 1, "PIP_FIND_LINKS": offered.as_uri(), "PIP_CONSTRAINT": ""}
    done = make(checkout, ".venv/app.lock", **offer)
    assert done.returncode == 0, done.stderr
    assert run_pip(checkout, "freeze") == "coverage==7.10.6\nplugin==1.0\n"


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_every_lock_is_complete_and_installs_with_the_oldest_pip(checkout: Path, tmp_path: Path, lock: str) -> None:
    """From the index that is configured, while a newer release of every locked package is on offer."""
    names = re.findall(r"^([a-z0-9._-]+)==", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
    offered = tmp_path / "offered"
    offered.mkdir()
    for name in names:
        wheel(offered, name.replace("-", "_"), "9999")
    make_environment(checkout, PIPS[0])
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {offered.as_uri()}".strip()
    done = make(checkout, f".venv/{lock}.lock", PIP_FIND_LINKS=links)
    assert done.returncode == 0, done.stderr
    assert "==9999" not in run_pip(checkout, "freeze")
    run_pip(checkout, "check")


def test_every_install_from_a_lock_does_without_the_resolver() -> None:
    files = [ROOT / "Makefile", ROOT / ".ci/run", *ROOT.glob("docker/*.Dockerfile"), *ROOT.glob(".github/workflows/*")]
    files += [path for path in ROOT.glob("tests/**/*") if path.is_file() and path.suffix in ("", ".sh", ".Dockerfile")]
    lines = [
        (path.name, line) for path in files for line in path.read_text().splitlines() if "--require-hashes" in line
    ]
    assert len(lines) >= 2
    assert [(name, line) for name, line in lines if "--no-deps" not in line] == []


def test_make_alone_lists_every_task_that_has_a_line_of_help() -> None:
    tasks = re.findall(r"^([^#\s]+):.* ## ", (ROOT / "Makefile").read_text().replace("%", "NAME"), re.MULTILINE)
    assert re.findall(r"^  make (\S+)", make(ROOT).stdout, re.MULTILINE) == tasks


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    (line,) = re.findall(r"^PYTHONS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pythons = line.split()[::-1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    assert workflow["jobs"]["python"]["strategy"]["matrix"]["python"] == pythons
    assert project["project"]["requires-python"] == f">={pythons[0]}"
    assert project["tool"]["mypy"]["python_version"] == pythons[0]


@pytest.mark.skipif(not which("git"), reason="git is not installed")
def test_a_checkout_of_git_for_windows_has_the_same_line_ends(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    for path in (ROOT / ".gitattributes", ROOT / ".ci/run", ROOT / "app/page.html"):
        copy(path, origin)
    # Neither the developer's configuration of git, nor the repository whose hook may have started the tests.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    kept |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for command in (
        "git init --quiet origin",
        "git -C origin add .",
        "git -C origin -c user.name=test -c user.email=test@example.com commit --quiet --message test",
        "git clone --quiet --config core.autocrlf=true origin clone",
    ):
        subprocess.run(command.split(), cwd=tmp_path, env=kept, timeout=60, check=True)
    assert [name for name in ("run", "page.html") if b"\r" in (clone / name).read_bytes()] == []

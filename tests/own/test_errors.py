"""A project that cannot work is refused with status 2 and one line that says what to do, and leaves no named image."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.own import OwnError, check_module, explain, project_name, stage
from tests.conftest import ROOT
from tests.own.conftest import docker, own

TZDATA = (ROOT / "examples/pillow-worker/requirements.txt").read_text().partition("tzdata==")
LOCK = f"tzdata=={TZDATA[2]}"
SERVES = "import time\nwhile True:\n    time.sleep(1)\n"


def project(folder: Path, lock: str | None = LOCK, code: str = SERVES) -> Path:
    """A project of one module, `main`."""
    path = folder / "own-refused"
    path.mkdir()
    (path / "main.py").write_text(code)
    if lock is not None:
        (path / "requirements.txt").write_text(lock)
    return path


def refusal(path: Path, module: str = "main", base: str = "slim") -> str:
    """The line that refuses this project."""
    result = own(path, module, base)
    assert result.returncode == 2, result.stdout + result.stderr
    assert docker("image", "ls", "--quiet", "own-refused") == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("lock", [None, "tzdata==2026.6\n"], ids=["none", "no hashes"])
def test_without_a_lock(tmp_path: Path, lock: str | None) -> None:
    assert "no lock with hashes" in (line := refusal(project(tmp_path, lock)))
    assert "uv pip compile --universal --generate-hashes" in line


@pytest.mark.parametrize("module", ["../main", "main'", "main.py/", ".main"])
def test_what_cannot_be_a_module(tmp_path: Path, module: str) -> None:
    assert "is not the name of a module" in refusal(project(tmp_path), module)


@pytest.mark.parametrize("module", ["shop", "main.web", "main.py"])
def test_a_module_that_does_not_exist(tmp_path: Path, module: str) -> None:
    assert "no module" in refusal(project(tmp_path), module)


def test_a_base_that_does_not_exist(tmp_path: Path) -> None:
    assert refusal(project(tmp_path), "main", "alpine").endswith("slim, distroless-python, distroless, scratch")


def test_a_project_that_does_not_exist(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "nowhere")


def test_a_hash_that_does_not_match(tmp_path: Path) -> None:
    lock = LOCK.splitlines()[0] + f"\n    --hash=sha256:{'0' * 64}\n"
    assert refusal(project(tmp_path, lock)).startswith("tzdata==")


def test_a_package_that_no_index_has(tmp_path: Path) -> None:
    lock = f"own-private-shop==1.0 \\\n    --hash=sha256:{'0' * 64}\n"
    line = refusal(project(tmp_path, lock))
    assert line.startswith("own-private-shop==1.0 has no wheel") and "if it is a private package" in line


def test_a_lock_that_is_not_utf_8(tmp_path: Path) -> None:
    path = project(tmp_path)
    (path / "requirements.txt").write_text(LOCK, "utf-16")
    assert refusal(path) == f"{path}/requirements.txt is not UTF-8: save it as UTF-8"


def test_a_damaged_pyproject(tmp_path: Path) -> None:
    path = project(tmp_path)
    (path / "pyproject.toml").write_text("[project")
    assert refusal(path).startswith(f"{path}/pyproject.toml cannot be read: ")


def test_an_interrupt_ends_it_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.own", str(project(tmp_path)), "main", "slim"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("docker build")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130


def test_a_package_without_a_hash(tmp_path: Path) -> None:
    assert refusal(project(tmp_path, LOCK + "six==1.17.0\n")).startswith("six==1.17.0")


def test_a_package_without_a_wheel_for_musl(tmp_path: Path) -> None:
    lock = f"torch==2.9.0 \\\n    --hash=sha256:{'0' * 64}\n"
    line = refusal(project(tmp_path, lock), "main", "scratch")
    assert line.startswith("torch==2.9.0 has no wheel for musl (try BASE=distroless)")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def main():\n    pass\n", "let the module start the app"),
        ("import shop\n", "ModuleNotFoundError: No module named 'shop' (it is not in the lock"),
        ("import os\nos.environ['SECRET']\n", "KeyError: 'SECRET' (RUN='--env NAME=value'"),
        (
            "class UnsetError(Exception): pass\nraise UnsetError('1 error\\nSECRET\\n  missing')",
            "1 error SECRET missing (",
        ),
        ("open('/srv/state', 'w')\n", "Read-only file system"),
    ],
    ids=["nothing", "missing", "setting", "settings", "read-only"],
)
def test_a_module_that_ends_at_once(tmp_path: Path, code: str, said: str) -> None:
    assert said in refusal(project(tmp_path, code=code))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RUN": "--unknown"}, "main does not start: unknown flag: --unknown"),
        ({"RUN": "--env 'A=1"}, "RUN cannot be read: No closing quotation"),
        ({"BUILD_OPTIONS": "--build-arg 'A=1"}, "BUILD_OPTIONS cannot be read: No closing quotation"),
        ({"ENGINE": "no-engine"}, "there is no program 'no-engine': install it, or name another with ENGINE=podman"),
    ],
    ids=["run", "run quotation", "build quotation", "engine"],
)
def test_a_variable_that_is_wrong(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    result = own(project(tmp_path), "main", "slim", **variables)
    assert (result.returncode, result.stderr) == (2, f"{said}\n")


def test_whole_names_a_package_that_is_not_there(tmp_path: Path) -> None:
    result = own(project(tmp_path), "main", "distroless", WHOLE="shop")
    assert result.returncode == 2
    assert result.stderr.startswith("ValueError: WHOLE names shop, which is neither a module nor a package of the lock")


def test_a_job_may_end_at_once(tmp_path: Path) -> None:
    path = project(tmp_path, code="print('done')\n")
    try:
        assert own(path, "main", "slim", JOB="1").returncode == 0
    finally:
        docker("image", "rm", "own-refused:slim")


def test_a_frozen_module_without_a_guard_is_not_run_by_its_build(tmp_path: Path) -> None:
    path = project(tmp_path, code=SERVES)
    try:
        assert own(path, "main", "distroless").returncode == 0
    finally:
        docker("image", "rm", "own-refused:distroless")


FAILED = """
#8 ERROR: process "/bin/sh -c step" did not complete successfully: exit code: 1
  31 | >>>     pyinstaller --log-level ERROR --distpath /image freezing/app.spec
ERROR: failed to build: failed to solve: process "/bin/sh -c step" did not complete successfully: exit code: 1
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#12 0.935 AttributeError: no attribute 'entry'", "AttributeError: no attribute 'entry'"),
        ("#8 74.10 E: Unable to locate package binutils", "E: Unable to locate package binutils"),
    ],
)
def test_a_step_that_fails_is_explained_by_what_it_said(line: str, said: str) -> None:
    assert explain(line + FAILED, "distroless") == said


def test_make_says_how_it_is_called() -> None:
    result = subprocess.run(["make", "own", "BASE=scratch"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: make own APP=path/to/project MODULE=package.module BASE=")


def test_a_base_without_time_zones_needs_tzdata(tmp_path: Path) -> None:
    path = project(tmp_path, "# empty: --hash=\n", f"from zoneinfo import ZoneInfo\nZoneInfo('Asia/Tokyo')\n{SERVES}")
    result = own(path, "main", "scratch")
    assert result.returncode == 2
    assert "\nnot found: tzdata, without which no time zone is known" in result.stdout
    assert "No time zone found with key Asia/Tokyo" in result.stderr


@pytest.mark.parametrize(
    ("file", "module"), [("shop.py", "shop"), ("shop/__main__.py", "shop"), ("src/shop/web.py", "shop.web")]
)
def test_a_module_is_found_where_python_finds_it(tmp_path: Path, file: str, module: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    check_module(tmp_path, module)
    with pytest.raises(OwnError, match="no module"):
        check_module(tmp_path, f"{module}s")


def test_an_image_has_the_projects_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "My_Shop.Web"\n')
    assert project_name(tmp_path) == "my-shop-web"


def test_secrets_and_environments_stay_out(tmp_path: Path) -> None:
    path = project(tmp_path)
    for name in (".env", ".env.production", ".git/config", ".venv/bin/python", "server.key", "build/old"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("secret")
    stage(path, "main", "scratch", path / "build/own/staged")
    staged = {str(file.relative_to(path / "build/own/staged")) for file in (path / "build/own/staged").rglob("*")}
    assert staged == {
        *("main.py", "requirements.txt", "Dockerfile", ".dockerignore"),
        *("freezing", "freezing/app.spec", "freezing/freeze.py", "freezing/freeze.txt"),
    }


def test_an_allowlist_lets_in_what_is_added(tmp_path: Path) -> None:
    path = project(tmp_path)
    (path / ".dockerignore").write_text("*\n!main.py")
    assert own(path, "main", "slim").returncode == 0
    docker("image", "rm", "own-refused:slim")


def test_the_projects_own_spec_is_used(tmp_path: Path) -> None:
    path = project(tmp_path)
    (path / "freezing").mkdir()
    (path / "freezing/app.spec").write_text("# ours")
    stage(path, "main", "distroless", tmp_path / "staged")
    assert (tmp_path / "staged/freezing/app.spec").read_text() == "# ours"


def test_podman_lets_a_step_read_what_it_mounts(tmp_path: Path) -> None:
    engine = tmp_path / "podman"
    engine.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/arguments\nexit 1\n')
    engine.chmod(0o755)
    assert own(project(tmp_path), "main", "slim", ENGINE=str(engine)).returncode == 2
    assert " --security-opt label=disable " in (tmp_path / "arguments").read_text()

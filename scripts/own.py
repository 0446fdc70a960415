"""Pack any Python project as an image: python -m scripts.own ../shop shop.web scratch

Its options are the variables RUN, WHOLE, JOB, BUILD_OPTIONS and ENGINE: docs/your-own-app.md explains them.

build/own/NAME-BASE holds all that the image is built from, so that `docker build` alone builds it again: the project,
its lock as a requirements.txt, and the recipe of docker/own/ with the name of the module.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "docker/own"
BASES = ("slim", "distroless-python", "distroless", "scratch")
FROZEN = ("distroless", "scratch")
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
TRIAL = 5  # seconds for which an app has to run
LIMIT = 900  # seconds for a build


class OwnError(Exception):
    """Why there is no image, and what to do about it, in one line."""


def run(*command: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit)


def project_name(project: Path) -> str:
    """The name in pyproject.toml, or else the folder's, in characters that the name of an image may have."""
    file = project / "pyproject.toml"
    name = tomllib.loads(file.read_text()).get("project", {}).get("name") if file.exists() else None
    return re.sub(r"[^a-z0-9]+", "-", (name or project.name).lower()).strip("-") or "app"


def requirements(project: Path) -> str:
    """The project's lock as a requirements.txt with hashes. OwnError if it has none."""
    file = project / "requirements.txt"
    if file.exists() and "--hash=" in file.read_text():
        return file.read_text()
    if (project / "uv.lock").exists():
        command = "export --quiet --frozen --no-dev --no-emit-project --no-header --no-annotate"
        command += " --format requirements-txt --directory"
        exported = run(shutil.which("uv") or str(ROOT / ".venv/bin/uv"), *command.split(), str(project))
        if exported.returncode:
            raise OwnError(f"{project}/uv.lock cannot be read: {last_line(exported.stdout)}")
        return exported.stdout
    if (project / "pylock.toml").exists():
        packages = tomllib.loads((project / "pylock.toml").read_text()).get("packages", [])
        return "\n".join(pinned(package) for package in packages if "directory" not in package) + "\n"
    raise OwnError(
        f"{project} has no lock with hashes (requirements.txt, uv.lock or pylock.toml): "
        "uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt writes one"
    )


def pinned(package: dict[str, Any]) -> str:
    """A package of a pylock.toml as a line of a requirements.txt."""
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    hashes = [f"--hash=sha256:{file['hashes']['sha256']}" for file in files]
    marker = f" ; {package['marker']}" if "marker" in package else ""
    return " \\\n    ".join([f"{package['name']}=={package['version']}{marker}", *hashes])


def check_module(project: Path, module: str) -> None:
    """OwnError if `python -m module` cannot run it."""
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise OwnError(f"MODULE={module} is not the name of a module: write it as package.module")
    path = module.replace(".", "/")
    files = [project / source / f"{path}{end}" for source in ("", "src") for end in (".py", "/__main__.py")]
    if not any(file.is_file() for file in files):
        looked = " or ".join(str(file.relative_to(project)) for file in files[:2])
        raise OwnError(f"{project} has no module {module!r} to run: there is no {looked}, nor in src/")


def stage(project: Path, module: str, base: str, folder: Path) -> None:
    """Put into `folder` all that the image is built from."""
    lock = requirements(project)
    ignored = (RECIPES / "dockerignore").read_text()
    shutil.rmtree(folder, ignore_errors=True)
    names = [line.removeprefix("**/") for line in ignored.splitlines() if line.startswith("**/")]
    if project in folder.parents:
        names.append("build")
    shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns(*names))
    (folder / "requirements.txt").write_text(lock)
    recipe = (RECIPES / f"{base}.Dockerfile").read_text()
    (folder / "Dockerfile").write_text(recipe.replace("your.module", module))
    if not (folder / ".dockerignore").exists():
        (folder / ".dockerignore").write_text(ignored)
    if base in FROZEN:
        (folder / "freezing").mkdir(exist_ok=True)
        for file in (RECIPES / "app.spec", ROOT / "docker/freeze.py", ROOT / "requirements/freeze.txt"):
            # The project's own spec names what only the project knows.
            if not (folder / "freezing" / file.name).exists():
                shutil.copy(file, folder / "freezing")


def last_line(text: str) -> str:
    """The last line, or the line of an exception: its explanation may follow it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|NotFound|ImproperlyConfigured)\b", line)]
    return (raised or lines or ["it printed nothing"])[-1]


def explain(log: str, base: str) -> str:
    """Why a build failed and what to do, in one line."""
    if "DO NOT MATCH THE HASHES" in log:
        package = re.search(r"^#\S+ [\d.]+ +(\S+)(?: from .*)?:?$\n.*Expected sha256", log, re.MULTILINE)
        name = package[1] if package else "a package"
        return f"{name} does not have the hash of the lock: find out why, then make the lock again"
    if missing := re.search(r"No matching distribution found for (\S+)", log):
        libc = "musl (try BASE=distroless)" if base == "scratch" else "this Python"
        return f"{missing[1]} has no wheel for {libc}: take a version that has one, or build the wheel yourself"
    if unhashed := re.search(r"Hashes are required in --require-hashes mode.*\n(?:#\S+ [\d.]+ +(\S+))?", log):
        return f"{unhashed[1] or 'a package'} has no hash in the lock: make the lock again with --generate-hashes"
    lines = [re.sub(r"^#\d+ [\d.]+ ", "", line) for line in log.splitlines()]
    said = [line for line in lines if re.search(r"(?i)\b\w*error\b", line) and "did not complete" not in line]
    return said[-1].strip() if said else last_line(log)


def build(engine: list[str], options: list[str], folder: Path, base: str) -> str:
    """Build the image, or one stage of it, without a name, and return its id. OwnError if it cannot be built."""
    log, image = folder.with_suffix(".log"), folder.with_suffix(".id")
    result = run(*engine, "build", "--iidfile", str(image), *options, str(folder), limit=LIMIT)
    log.write_text(result.stdout)
    if result.returncode:
        raise OwnError(f"{explain(result.stdout, base)} (the whole log: {log})")
    return image.read_text()


def try_out(engine: list[str], image: str, module: str) -> None:
    """Run it for some seconds, read-only and without capabilities. OwnError if it ends."""
    options = shlex.split(os.environ.get("RUN", ""))
    started = run(*engine, "run", "--detach", *HARDENED, "--volume=/data", *options, image)
    container = last_line(started.stdout)
    if started.returncode:
        raise OwnError(f"{module} does not start: {container}")
    try:
        deadline = time.monotonic() + TRIAL
        while time.monotonic() < deadline:
            state = json.loads(run(*engine, "container", "inspect", "--format", "{{json .State}}", container).stdout)
            if not state["Running"]:
                said = last_line(run(*engine, "logs", container).stdout)
                if state["ExitCode"]:
                    raise OwnError(
                        f"{module} ended at once with status {state['ExitCode']}: {said} "
                        "(RUN='--env NAME=value' gives it what it needs)"
                    )
                if not os.environ.get("JOB"):
                    raise OwnError(f"{module} ended at once: let the module start the app, or set JOB=1 if it may end")
                return
            time.sleep(0.2)
    finally:
        run(*engine, "rm", "--force", "--volumes", container)


def unpacked(engine: list[str], image: str) -> int:
    """Bytes of the files in an image. The size that `docker images` prints depends on Docker's version."""
    container = last_line(run(*engine, "create", image).stdout)
    try:
        with subprocess.Popen([*engine, "export", container], stdout=subprocess.PIPE) as export:
            return sum(member.size for member in tarfile.open(fileobj=export.stdout, mode="r|"))
    finally:
        run(*engine, "rm", container)


LEFT_OUT = {
    "slim": "left out: development dependencies, pip's cache, what .dockerignore names",
    "distroless-python": "left out: shell, package manager, pip, development dependencies, what .dockerignore names",
}


def pack(engine: list[str], app: str, module: str, base: str) -> None:
    """Make the image, and say what is in it. OwnError if it cannot be made."""
    if not (app and module and base):
        raise OwnError(f"usage: make own APP=path/to/project MODULE=package.module BASE=… (one of {', '.join(BASES)})")
    project = Path(app).resolve()
    if not project.is_dir():
        raise OwnError(f"there is no folder {project}: APP=path/to/project")
    if base not in BASES:
        raise OwnError(f"BASE={base} is not one of {', '.join(BASES)}")
    check_module(project, module)
    tag = f"{project_name(project)}:{base}"
    folder = ROOT / "build/own" / tag.replace(":", "-")
    stage(project, module, base, folder)
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    if "podman" in engine[0]:  # with SELinux, its steps cannot read the lock that they mount
        options += ["--security-opt", "label=disable"]
    if base in FROZEN and (whole := os.environ.get("WHOLE")):
        options += ["--build-arg", f"WHOLE={whole}"]
    command = [*engine, "build", *options, "--tag", tag, os.path.relpath(folder)]
    print(shlex.join(command), flush=True)
    if base in FROZEN:
        frozen = build(engine, [*options, "--target=build"], folder, base)
        print(run(*engine, "run", "--rm", "--entrypoint=cat", frozen, "report.txt").stdout, flush=True)
    else:
        print(LEFT_OUT[base], flush=True)
    image = build(engine, options, folder, base)
    try_out(engine, image, module)
    # All steps are in the cache: this only gives the image its name.
    if run(*command, limit=LIMIT).returncode:
        raise OwnError(f"{shlex.join(command)} failed: run it to see why")
    print(f"{tag} takes {unpacked(engine, tag) / 1e6:.1f} MB unpacked")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="own",
        description="Pack any Python project as an image: `make own`.",
        epilog="docs/your-own-app.md explains the variables RUN, WHOLE, JOB, BUILD_OPTIONS and ENGINE.",
    )
    parser.add_argument("app", metavar="APP", help="folder of the project")
    parser.add_argument("module", metavar="MODULE", help="module that `python -m` runs")
    parser.add_argument("base", metavar="BASE", help=f"one of {', '.join(BASES)}")
    options = parser.parse_args()
    engine = shlex.split(os.environ.get("ENGINE", "docker"))
    try:
        pack(engine, options.app, options.module, options.base)
    except (OwnError, OSError, subprocess.TimeoutExpired, tomllib.TOMLDecodeError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

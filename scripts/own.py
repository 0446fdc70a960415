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


def read(file: Path) -> str:
    """Its text. OwnError if it is not UTF-8, as what PowerShell writes may be."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise OwnError(f"{file} is not UTF-8: save it as UTF-8") from error


def toml(file: Path) -> dict[str, Any]:
    """The tables of a TOML file. OwnError if it is damaged."""
    try:
        return tomllib.loads(read(file))
    except tomllib.TOMLDecodeError as error:
        raise OwnError(f"{file} cannot be read: {error}") from error


def project_name(project: Path) -> str:
    """The name in pyproject.toml, or else the folder's, in characters that the name of an image may have."""
    file = project / "pyproject.toml"
    name = toml(file).get("project", {}).get("name") if file.exists() else None
    return re.sub(r"[^a-z0-9]+", "-", (name or project.name).lower()).strip("-") or "app"


def requirements(project: Path) -> str:
    """The project's lock as a requirements.txt with hashes. OwnError if it has none, or one for only a part of it."""
    lock = exported(project)
    if part := re.search(UNHASHED, lock, re.MULTILINE):
        raise OwnError(
            f"the lock of {project} names a folder or a repository, which has no hash: {part[0]} "
            "(uv export --no-emit-project leaves the project itself out; of another package, lock a wheel)"
        )
    return lock


UNHASHED = r"^(?:-e|--editable|\.|/|file:|\w+\+|[\w.-]+(?:\[.*?\])? *@ *(?:file:|\w+\+)).*?(?= ;| \\|$)"
"""A line of a requirements.txt that names a folder or a repository."""


def exported(project: Path) -> str:
    file = project / "requirements.txt"
    if file.exists() and "--hash=" in (lock := read(file)):
        return lock
    if (project / "uv.lock").exists():
        command = "export --quiet --frozen --no-dev --no-emit-project --no-header --no-annotate"
        command += " --format requirements-txt --directory"
        result = run(shutil.which("uv") or str(ROOT / ".venv/bin/uv"), *command.split(), str(project))
        if result.returncode:
            raise OwnError(f"{project}/uv.lock cannot be read: {last_line(result.stdout)}")
        return result.stdout
    if (project / "pylock.toml").exists():
        lock_file = toml(project / "pylock.toml")
        groups = lock_file.get("default-groups", [])
        packages = [package for package in lock_file.get("packages", []) if not is_project(package)]
        return "".join(f"{pinned(package, groups)}\n" for package in packages)
    raise OwnError(
        f"{project} has no lock with hashes (requirements.txt, uv.lock or pylock.toml): "
        "uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt writes one"
    )


def is_project(package: dict[str, Any]) -> bool:
    """Whether a package of a pylock.toml is the project itself."""
    return "directory" in package and Path(package["directory"]["path"]) == Path()


def pinned(package: dict[str, Any], groups: list[str]) -> str:
    """A package of a pylock.toml as a line of a requirements.txt. `groups` are those that are installed by default."""
    if "directory" in package:
        return f"-e {package['directory']['path']}"
    if "vcs" in package:
        return f"{package['name']} @ {package['vcs']['type']}+{package['vcs'].get('url', 'file:')}"
    archive = package.get("archive")
    version = f" @ {archive.get('url', 'file:')}" if archive else f"=={package.get('version')}"
    files = [*package.get("wheels", []), *(package[kind] for kind in ("sdist", "archive") if kind in package)]
    hashes = [f"--hash=sha256:{file['hashes']['sha256']}" for file in files if "sha256" in file.get("hashes", {})]
    # A requirements.txt knows neither groups nor extras: put what is always true, or never, in their place.
    chosen = re.sub(
        r"""(["'])([^"']*)\1 in (?:dependency_groups|extras)""",
        lambda match: f"python_version {'>=' if match[2] in groups else '<'} '0'",
        package.get("marker", ""),
    )
    return " \\\n    ".join([f"{package['name']}{version}{chosen and f' ; {chosen}'}", *hashes])


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
    own_ignored = folder / ".dockerignore"
    # An allowlist does not know what is added here.
    ignored = f"{read(own_ignored)}\n!requirements.txt\n!freezing\n" if own_ignored.exists() else ignored
    own_ignored.write_text(ignored)
    if base in FROZEN:
        (folder / "freezing").mkdir(exist_ok=True)
        for file in (RECIPES / "app.spec", ROOT / "docker/freeze.py", ROOT / "requirements/freeze.txt"):
            # The project's own spec names what only the project knows.
            if not (folder / "freezing" / file.name).exists():
                shutil.copy(file, folder / "freezing")


def last_line(text: str) -> str:
    """The last line, or the last exception, with the two lines in which it may explain itself."""
    # PyInstaller's program adds a line to an exception, and docker run two to an error.
    added = ("[PYI-", "Usage:  docker run", "Run 'docker run --help'")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(added)]
    raised = r"[\w.]+(Error|Exception|NotFound|ImproperlyConfigured)\b"
    for number in reversed(range(len(lines))):
        if re.match(raised, lines[number]):
            return " ".join(lines[number : number + 3])
    return lines[-1] if lines else "it printed nothing"


def explain(log: str, base: str) -> str:
    """Why a build failed and what to do, in one line."""
    if "DO NOT MATCH THE HASHES" in log:
        package = re.search(r"^#\S+ [\d.]+ +(\S+)(?: from .*)?:?$\n.*Expected sha256", log, re.MULTILINE)
        name = package[1] if package else "a package"
        return (
            f"{name} does not have a hash of the lock: the file was changed, or the lock is for another system or "
            "Python, as pip lock writes it; find out which, then make it again (uv pip compile --universal "
            "--generate-hashes)"
        )
    if missing := re.search(r"No matching distribution found for (\S+)", log):
        libc = "musl (try BASE=distroless)" if base == "scratch" else "this Python"
        line = f"{missing[1]} has no wheel for {libc}: take a version that has one, or build the wheel yourself"
        if "(from versions: none)" in log:
            line += "; if it is a private package, give the build its index (docs/your-own-app.md, Symptoms)"
        return line
    if unhashed := re.search(r"Hashes are required in --require-hashes mode.*\n(?:#\S+ [\d.]+ +(\S+))?", log):
        return f"{unhashed[1] or 'a package'} has no hash in the lock: make the lock again with --generate-hashes"
    lines = [re.sub(r"^(#\d+ )?[\d.]+ +", "", line) for line in log.splitlines()]
    # The engine shows the lines of the Dockerfile, with their numbers, and names the step that failed.
    engines = r"^ *\d+ \||did not complete"
    said = [line for line in lines if re.search(r"(?i)\b\w*error\b|^E: ", line) and not re.search(engines, line)]
    return said[-1].strip() if said else last_line(log)


def advice(said: str, base: str) -> str:
    """The cure for an app that ended, in a few words."""
    if "No module named" in said:
        unseen = ", or the analysis did not see it (WHOLE='NAME' takes a package in)" if base in FROZEN else ""
        return f"it is not in the lock, or this Python lacks it{unseen}"
    return "RUN='--env NAME=value' gives it a setting; docs/your-own-app.md has a table of symptoms"


def build(engine: list[str], options: list[str], folder: Path, base: str) -> str:
    """Build the image, or one stage of it, without a name, and return its id. OwnError if it cannot be built."""
    log, image = folder.with_suffix(".log"), folder.with_suffix(".id")
    try:
        result = run(*engine, "build", "--iidfile", str(image), *options, str(folder), limit=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise OwnError(
            f"the build did not end within {LIMIT} seconds: if an __init__.py starts the app, start it in __main__.py"
        ) from error
    log.write_text(result.stdout)
    if result.returncode:
        raise OwnError(f"{explain(result.stdout, base)} (the whole log: {log})")
    return image.read_text()


def options_of(variable: str) -> list[str]:
    """The options in a variable. OwnError if a quotation mark is missing."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise OwnError(f"{variable} cannot be read: {error}") from error


def try_out(engine: list[str], image: str, module: str, base: str) -> None:
    """Run it for some seconds, read-only and without capabilities. OwnError if it ends."""
    options = options_of("RUN")
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
                        f"{module} ended at once with status {state['ExitCode']}: {said} ({advice(said, base)})"
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
    if not shutil.which(engine[0]):
        raise OwnError(f"there is no program {engine[0]!r}: install it, or name another with ENGINE=podman")
    project = Path(app).expanduser().resolve()  # not every shell expands APP=~/project
    if not project.is_dir():
        raise OwnError(f"there is no folder {project}: APP=path/to/project")
    if base not in BASES:
        raise OwnError(f"BASE={base} is not one of {', '.join(BASES)}")
    check_module(project, module)
    tag = f"{project_name(project)}:{base}"
    folder = ROOT / "build/own" / tag.replace(":", "-")
    stage(project, module, base, folder)
    options = options_of("BUILD_OPTIONS")
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
    try_out(engine, image, module, base)
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
    except (OwnError, OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

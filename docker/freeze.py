"""Functions for a spec of PyInstaller: they add what scanners and licences need, and take out what a bundle does not.

geoip.spec is an example of a spec that imports them.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Entries = list[tuple[str, str, str]]
"""A table of contents of PyInstaller: the name of each file in the bundle, its path outside it, and its kind."""

DPKG = Path("/var/lib/dpkg")
APK = Path("/lib/apk/db/installed")

ENCODINGS = {"__init__", "aliases", "ascii", "cp437", "idna", "latin_1", "iso8859_1", "punycode", "raw_unicode_escape"}
ENCODINGS |= {
    "unicode_escape",
    "utf_8",
    "utf_8_sig",
    "utf_16",
    "utf_16_be",
    "utf_16_le",
    "utf_32",
    "utf_32_be",
    "utf_32_le",
}
"""Codecs that UTF-8, JSON, host names and zip archives need."""


OTHER_SYSTEMS = re.compile(r"win(32|dows|console)|msvc|macos")
"""Names of modules that are for another system."""


def locked(lock: Path) -> Iterator[Requirement]:
    """The packages of `lock`, a requirements.txt with hashes, that are for this system and this Python."""
    for line in re.findall(r"^[\w.-]+(?:\[.*?\])?(?:==| *@ )(?:(?! #)[^\\\n])*", lock.read_text(), re.MULTILINE):
        requirement = Requirement(line.partition(" --hash")[0])
        if not requirement.marker or requirement.marker.evaluate():
            yield requirement


def metadata(lock: Path, work: Path) -> Iterator[tuple[str, str]]:
    """The metadata and licences of each package in `lock`, as PyInstaller's `datas`: scanners find a package by them.

    `lock` is a requirements.txt. `work` is a folder for METADATA, which is written anew without the README in it.
    """
    for requirement in locked(lock):
        for file in distribution(requirement.name).files or ():
            # RECORD names files that are not in the bundle.
            if not file.parts[0].endswith(".dist-info") or file.name == "RECORD":
                continue
            source = Path(str(file.locate()))
            if file.name == "METADATA":
                source = work / file
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_text(file.read_text().partition("\n\n")[0] + "\n")
            yield str(source), str(file.parent)


def entry(module: str, work: Path) -> str:
    """A script in `work` that runs `module` as `python -m` does, for PyInstaller to start from."""
    script = work / "run.py"
    script.write_text(f'import runpy\n\nrunpy.run_module("{module}", run_name="__main__", alter_sys=True)\n')
    return str(script)


def modules(names: Iterable[str]) -> list[str]:
    """The modules that `names` mean: each is a module, or a package as a lock names it. ValueError: one is neither."""
    owners = packages_distributions()
    found = []
    for name in names:
        owned = [module for module in owners if canonicalize_name(name) in map(canonicalize_name, owners[module])]
        meant = [name] if find_spec(name.partition(".")[0]) else owned
        if not meant:
            raise ValueError(f"WHOLE names {name}, which is neither a module nor a package of the lock")
        found += meant
    return found


def not_locked(lock: Path) -> list[str]:
    """The installed modules that are not of a package in `lock`: the build needs them, and the app does not."""
    names = {canonicalize_name(requirement.name) for requirement in locked(lock)}
    owners = packages_distributions()
    return sorted(name for name in owners if names.isdisjoint(map(canonicalize_name, owners[name])))


def report(package: str, modules: Entries, files: Entries, lock: Path, warnings: Path) -> str:
    """Say in words which parts of an app's `package` the bundle lacks, and which imports the analysis could not follow.

    `modules` and `files` are all that is in the bundle. `warnings` is the file that PyInstaller writes.
    """
    kept = {name.partition(".")[0] for name, _, _ in modules} | set(sys.builtin_module_names)
    # Compiled modules of the standard library lie in python3.N/lib-dynload.
    kept |= {re.sub("^python3.*/lib-dynload/", "", name).partition("/")[0].partition(".")[0] for name, _, _ in files}
    base = next(source for name, source, _ in files if name == "base_library.zip")
    kept |= {name.partition("/")[0].partition(".")[0] for name in ZipFile(base).namelist()}
    return "\n".join([*_left_out(kept, lock), *_not_found(kept, warnings.read_text()), *_not_seen(package, modules)])


def _left_out(kept: set[str], lock: Path) -> Iterator[str]:
    library = sorted(name for name in sys.stdlib_module_names - kept if name[0] != "_" and find_spec(name))
    yield f"left out: {len(library)} modules of the standard library that nothing imports: {', '.join(library)}"
    owners = packages_distributions()
    used = {canonicalize_name(owner) for name in kept for owner in owners.get(name, ())}
    if unused := sorted({canonicalize_name(requirement.name) for requirement in locked(lock)} - used):
        yield f"left out: packages of the lock that nothing imports: {', '.join(unused)} (WHOLE='NAME' takes one in)"


def _not_found(kept: set[str], warnings: str) -> Iterator[str]:
    """A line of `warnings` names a missing module, the modules that import it, and how. An import at the top of one
    is needed. One in a function, under a condition or in a `try` is optional.
    """
    needed: dict[str, set[str]] = {}
    optional = set()
    for name, places in re.findall(r"^missing module named '?([\w.]+)'? - imported by (.*)$", warnings, re.MULTILINE):
        top = name.partition(".")[0]
        importers = {by for by in re.findall(r"([\w.]+) \(top-level\)", places) if not OTHER_SYSTEMS.search(by)}
        # `from multiprocessing import Value` takes an attribute for a module.
        if importers and top not in kept and not top.startswith("_frozen_importlib"):
            needed.setdefault(top, set()).update(importers)
        elif name == top and top not in sys.stdlib_module_names and not top.startswith("pyimod"):
            optional.add(top)
    if {"zoneinfo", "tzdata"} & kept == {"zoneinfo"}:
        yield "not found: tzdata, without which no time zone is known where the base has none, as in scratch"
    for top, importers in sorted(needed.items()):
        yield f"not found: {top}, without which these cannot be imported: {', '.join(sorted(importers))}"
    if optional := optional - needed.keys():
        yield f"not found, and optional to those that import it: {', '.join(sorted(optional))}"


def _not_seen(package: str, modules: Entries) -> Iterator[str]:
    computed: dict[str, list[str]] = {}
    for name, source, _ in modules:
        top = name.partition(".")[0]
        if source and source.endswith(".py") and top not in sys.stdlib_module_names:
            computed.setdefault(top, []).extend(f"{name}:{line}" for line in _computed_imports(Path(source)))
    if own := computed.pop(package, []):
        yield f"not seen: what your app imports by a computed name, at {', '.join(own)}"
    if others := [f"{top} ({len(lines)})" for top, lines in sorted(computed.items()) if lines]:
        yield f"not seen: what these import by computed names, as plugins (number of places): {', '.join(others)}"


def _computed_imports(source: Path) -> Iterator[int]:
    """The lines of a module where the name of an import is computed."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Call) and node.args and not isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in {"import_module", "__import__"}:
                yield node.lineno


def pruned_library(datas: Entries, work: Path, encodings: Iterable[str] = ENCODINGS) -> Entries:
    """`datas` with base_library.zip, which starts the interpreter, compressed and without other `encodings`."""
    pruned = work / "base_library.zip.pruned"
    index, (name, source, kind) = next((i, entry) for i, entry in enumerate(datas) if entry[0] == "base_library.zip")
    with ZipFile(source) as old, ZipFile(pruned, "w", ZIP_DEFLATED, compresslevel=9) as new:
        for member in sorted(old.namelist()):
            package, _, module = member.removesuffix(".pyc").partition("/")
            if package != "encodings" or module in encodings:
                new.writestr(ZipInfo(member), old.read(member), ZIP_DEFLATED)
    return [*datas[:index], (name, str(pruned), kind), *datas[index + 1 :]]


def finish(root: Path, name: str, binaries: Entries) -> None:
    """Complete the bundle `root`/`name`: only its program can be executed, and scanners find records in `root`.

    A scanner knows a library by the record of its package: a bundled OpenSSL without one is an OpenSSL whose
    vulnerabilities nobody reports. The records are of the distribution's packages that own one of `binaries` or, by its
    path, a file in `root`.
    """
    for file in (root / name / "_internal").rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o644)
    files = {Path(source).resolve() for _, source, _ in binaries}
    files |= {Path("/", copy.relative_to(root)).resolve() for copy in root.rglob("*") if copy.is_file()}
    if APK.exists():
        installed = root / APK.relative_to("/")
        installed.parent.mkdir(parents=True, exist_ok=True)
        installed.write_text("\n".join(_apk_records(files)))
    elif DPKG.exists():  # as in distroless images: a file for each package, and its copyright
        status = root / "var/lib/dpkg/status.d"
        status.mkdir(parents=True, exist_ok=True)
        for package, record in _dpkg_records(files):
            (status / package).write_text(f"{record}\n")
            terms = Path("usr/share/doc", package, "copyright")
            if ("/" / terms).exists():
                (root / terms).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile("/" / terms, root / terms)


def _dpkg_records(files: set[Path]) -> Iterator[tuple[str, str]]:
    """Name and record of every Debian package that owns one of `files`."""
    owners = set()
    for listing in DPKG.glob("info/*.list"):
        # /lib is a link to /usr/lib: an owner may have been listed under either.
        if not files.isdisjoint(Path(line).resolve() for line in listing.read_text().splitlines()):
            owners.add(listing.stem.partition(":")[0])
    for record in (DPKG / "status").read_text().split("\n\n"):
        name = record.partition("\n")[0].removeprefix("Package: ")
        if name in owners:
            yield name, record


def _apk_records(files: set[Path]) -> Iterator[str]:
    """The record of every Alpine package that owns one of `files`, without its list of files: they lie elsewhere."""
    for record in APK.read_text().split("\n\n"):
        fields = [line.partition(":")[::2] for line in record.splitlines()]
        folder = Path("/")
        for key, value in fields:
            if key == "F":
                folder = Path("/", value)
            elif key == "R" and (folder / value).resolve() in files:
                yield "".join(f"{key}:{value}\n" for key, value in fields if key not in "FMRZa")
                break

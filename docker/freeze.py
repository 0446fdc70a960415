"""The general part of freezing an app for an image: what scanners and licences need, and what a bundle can do without.

A spec of PyInstaller imports it: geoip.spec is an example.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from packaging.requirements import Requirement

Entries = list[tuple[str, str, str]]
"""A table of contents of PyInstaller: the name in the bundle, the file that becomes it, and the kind."""

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
"""What UTF-8, JSON, host names and zip archives take."""


def metadata(lock: Path, work: Path) -> Iterator[tuple[str, str]]:
    """The metadata and licences of every package in `lock`, as PyInstaller's `datas`. A scanner sees a package by them.

    `lock` is a requirements.txt. `work` is a folder for METADATA, which is written anew without the README in it.
    """
    for line in re.findall(r"^\S+==.*?(?= \\$)", lock.read_text(), re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
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


def pruned_library(datas: Entries, work: Path, encodings: Iterable[str] = ENCODINGS) -> Entries:
    """`datas` with the library that starts the interpreter compressed, and without any other encodings."""
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

"""Keep the distribution's record of the libraries that were copied out of it.

    python record.py DESTINATION < paths-of-libraries, one a line

A scanner knows a library by the record of the package that owns it: a frozen OpenSSL without one is an OpenSSL that
nobody is warned about. dpkg's records go to var/lib/dpkg/status.d, one file a package as distroless images have them,
with the package's copyright file; apk's to lib/apk/db/installed.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
APK = Path("/lib/apk/db/installed")


def dpkg_records(libraries: set[Path]) -> Iterator[tuple[str, str]]:
    """Name and record of every Debian package that owns one of `libraries`."""
    owners = set()
    for files in DPKG.glob("info/*.list"):
        # /lib is a link to /usr/lib: an owner may have been listed under either.
        if not libraries.isdisjoint(Path(line).resolve() for line in files.read_text().splitlines() if ".so" in line):
            owners.add(files.stem.partition(":")[0])
    for record in (DPKG / "status").read_text().split("\n\n"):
        name = record.partition("\n")[0].removeprefix("Package: ")
        if name in owners:
            yield name, record


def apk_records(libraries: set[Path]) -> Iterator[str]:
    """The record of every Alpine package that owns one of `libraries`, without its list of files: they lie elsewhere."""
    for record in APK.read_text().split("\n\n"):
        fields = [line.partition(":")[::2] for line in record.splitlines()]
        folder = Path("/")
        for key, value in fields:
            if key == "F":
                folder = Path("/", value)
            elif key == "R" and (folder / value).resolve() in libraries:
                yield "".join(f"{key}:{value}\n" for key, value in fields if key not in "FMRZa")
                break


def main() -> None:
    destination = Path(sys.argv[1])
    libraries = {Path(line).resolve() for line in sys.stdin.read().splitlines()}
    if APK.exists():
        installed = destination / APK.relative_to("/")
        installed.parent.mkdir(parents=True)
        installed.write_text("\n".join(apk_records(libraries)))
        return
    status = destination / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for name, record in dpkg_records(libraries):
        (status / name).write_text(f"{record}\n")
        terms = Path("usr/share/doc", name, "copyright")
        if ("/" / terms).exists():
            (destination / terms).parent.mkdir(parents=True)
            shutil.copyfile("/" / terms, destination / terms)


main()

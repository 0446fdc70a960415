"""Keep the distribution's record of the files that were copied out of it.

    python record.py DESTINATION LIST

LIST names files that were copied to other places, one a line; what lies in DESTINATION as it does in / is known anyway.

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


def dpkg_records(files: set[Path]) -> Iterator[tuple[str, str]]:
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


def apk_records(files: set[Path]) -> Iterator[str]:
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


def main() -> None:
    destination = Path(sys.argv[1])
    files = {Path(line).resolve() for line in Path(sys.argv[2]).read_text().splitlines()}
    files |= {Path("/", copy.relative_to(destination)).resolve() for copy in destination.rglob("*") if copy.is_file()}
    if APK.exists():
        installed = destination / APK.relative_to("/")
        installed.parent.mkdir(parents=True)
        installed.write_text("\n".join(apk_records(files)))
        return
    status = destination / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for name, record in dpkg_records(files):
        (status / name).write_text(f"{record}\n")
        terms = Path("usr/share/doc", name, "copyright")
        if ("/" / terms).exists():
            (destination / terms).parent.mkdir(parents=True)
            shutil.copyfile("/" / terms, destination / terms)


main()

"""What is in an image: the one reader of what `docker save` writes, for the comparison and for the images' tests.

A layer is a tar archive of the files that it adds, and of whiteouts for those that it takes away, as in
https://github.com/opencontainers/image-spec/blob/main/layer.md. Docker's classic store writes it uncompressed, and
containerd's store compressed. All figures are those of uncompressed layers, so that both stores give the same.
"""

import gzip
import json
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
KINDS = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.CHRTYPE: stat.S_IFCHR}


class File(NamedTuple):
    """A file, folder or link in a layer."""

    path: str  # absolute
    mode: int  # as in stat(2): kind and permissions
    size: int  # bytes; 0 for all but regular files, and for the further names of a hard link
    link: str = ""  # where a symbolic or hard link points to
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # seconds since 1970


class Layer(NamedTuple):
    digest: str  # of the uncompressed tar archive: the image specification's "diff ID"
    files: tuple[File, ...]  # whiteouts included


def config(path: Path) -> dict[str, Any]:
    """The image's configuration: https://github.com/opencontainers/image-spec/blob/main/config.md"""
    with tarfile.open(path) as archive:
        found: dict[str, Any] = json.load(_member(archive, _manifest(archive)["Config"]))
    return found


def layers(path: Path) -> list[Layer]:
    """The image's layers, the lowest first."""
    return [
        Layer(digest, tuple(_file(member) for member in layer))
        for digest, blob in _blobs(path)
        for layer in [tarfile.open(fileobj=blob, mode="r|")]
    ]


def contents(path: Path) -> Iterator[tuple[str, File, bytes]]:
    """Each regular file of each layer, the lowest first, with its layer's digest and its bytes."""
    for digest, blob in _blobs(path):
        with tarfile.open(fileobj=blob, mode="r|") as layer:
            for member in layer:
                if member.isreg() and (data := layer.extractfile(member)):
                    yield digest, _file(member), data.read()


def compressed(path: Path, known: dict[str, int]) -> dict[str, int]:
    """The bytes of each layer in a registry, by its digest: compressed by gzip, level 6, as engines push it.

    `known` holds the sizes of layers that were compressed before, also for other images; new ones are added to it.
    """
    sizes = {}
    for digest, blob in _blobs(path):
        if digest not in known:
            compressor = zlib.compressobj(6, wbits=31)
            size = 0
            while chunk := blob.read(1 << 20):
                size += len(compressor.compress(chunk))
            known[digest] = size + len(compressor.flush())
        sizes[digest] = known[digest]
    return sizes


def tree(layers: Iterable[Layer]) -> dict[str, File]:
    """The files that a container sees, by path: each layer over the ones below it, with its whiteouts applied."""
    seen: dict[str, File] = {}
    for layer in layers:
        # A whiteout hides files of the layers below, wherever it stands in its own layer.
        for file in layer.files:
            folder, _, name = file.path.rpartition("/")
            if name == OPAQUE:
                _remove_below(seen, folder)
            elif name.startswith(WHITEOUT):
                gone = f"{folder}/{name.removeprefix(WHITEOUT)}"
                seen.pop(gone, None)
                _remove_below(seen, gone)
        for file in layer.files:
            if not file.path.rpartition("/")[2].startswith(WHITEOUT):
                if file.path in seen and stat.S_ISDIR(seen[file.path].mode) and not stat.S_ISDIR(file.mode):
                    _remove_below(seen, file.path)
                seen[file.path] = file
    return seen


def _remove_below(seen: dict[str, File], folder: str) -> None:
    for path in [path for path in seen if path.startswith(f"{folder}/")]:
        del seen[path]


def _file(member: tarfile.TarInfo) -> File:
    kind = stat.S_IFREG if member.isreg() or member.islnk() else KINDS.get(member.type, stat.S_IFIFO)
    # Archives differ in names: with ./ at the start, or a slash after a folder.
    path = str(PurePosixPath("/", member.name))
    size = member.size if member.isreg() else 0
    link = member.linkname if member.islnk() or member.issym() else ""
    return File(path, kind | stat.S_IMODE(member.mode), size, link, member.uid, member.gid, int(member.mtime))


def _blobs(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The digest of each layer, and its uncompressed tar archive, to be read before the next one is asked for."""
    digests = config(path)["rootfs"]["diff_ids"]
    with tarfile.open(path) as archive:
        for digest, name in zip(digests, _manifest(archive)["Layers"], strict=True):
            blob = _member(archive, name)
            magic = blob.read(4)
            blob.seek(0)
            if magic == b"\x28\xb5\x2f\xfd":
                yield digest, cast(IO[bytes], zstd.ZstdFile(blob))
            elif magic.startswith(b"\x1f\x8b"):
                yield digest, cast(IO[bytes], gzip.GzipFile(fileobj=blob))
            else:
                yield digest, blob


def _manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any] = json.load(_member(archive, "manifest.json"))[0]
    return found


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    return cast(IO[bytes], archive.extractfile(name))

"""What is in an image: its layers and files, read from `docker save` as a stream.

Layers as in the OCI image specification (https://github.com/opencontainers/image-spec/blob/main/layer.md): each is a
tar archive of what it adds, and of whiteouts, `.wh.NAME`, for what it takes away.
"""

import json
import re
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple, cast

from docker.models.images import Image

GZIP = b"\x1f\x8b"
LIBRARY = re.compile(r"[.]so([.][0-9.]+)?$")
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class File(NamedTuple):
    """A name in a layer. Of a hard link only the first name has a size."""

    path: str
    mode: int  # as in stat(2): kind and permissions
    size: int  # bytes, as in stat(2): of a symbolic link its target's name


@dataclass(frozen=True)
class Layer:
    compressed: int
    """Bytes that a registry holds."""
    files: tuple[File, ...]
    content: str
    """SHA-256 of names, modes and contents. Times are left out: a build step touches the folders it mounts in."""


@dataclass(frozen=True)
class Contents:
    """Sizes in bytes; what is counted are regular files that a container sees."""

    unpacked: int
    """All files of all layers, those that a later layer replaces or takes away included: they are pulled and kept."""
    compressed: int
    files: int
    executables: int
    """Files with an execute bit, shared libraries aside: `find / -type f -perm /111`."""
    setuid_files: int
    """Files that run as their owner or group: `find / -type f -perm /6000`."""
    shared_libraries: int


Layers = dict[str, Layer]
"""Layers by the digest of their tar archive: what images share is read once."""


@contextmanager
def saved(image: Image) -> Iterator[Path]:
    """The image as an archive on disk, as long as it is needed."""
    with TemporaryDirectory(prefix="geoip-compare-") as folder:
        path = Path(folder, "image.tar")
        with path.open("wb") as archive:
            archive.writelines(image.save())
        yield path


def digests(image: Image) -> list[str]:
    layers: list[str] = image.attrs["RootFS"]["Layers"]
    return layers


def read_layers(image: Image, path: Path, known: Layers) -> list[Layer]:
    """The image's layers from its archive, the lowest first; `known` is added to."""
    with tarfile.open(path) as archive:
        [manifest] = json.load(_member(archive, "manifest.json"))
        for digest, name in zip(digests(image), manifest["Layers"], strict=True):
            if digest not in known:
                known[digest] = _layer(_member(archive, name))
    return [known[digest] for digest in digests(image)]


def contents(layers: list[Layer]) -> Contents:
    files = [file for file in merged(layers) if stat.S_ISREG(file.mode)]
    libraries = [file for file in files if LIBRARY.search(file.path)]
    return Contents(
        unpacked=sum(file.size for layer in layers for file in layer.files),
        compressed=sum(layer.compressed for layer in layers),
        files=len(files),
        executables=sum(bool(file.mode & 0o111) for file in files) - sum(bool(file.mode & 0o111) for file in libraries),
        setuid_files=sum(bool(file.mode & (stat.S_ISUID | stat.S_ISGID)) for file in files),
        shared_libraries=len(libraries),
    )


def merged(layers: Iterable[Layer]) -> Iterable[File]:
    """What a container sees of the layers."""
    seen: dict[str, File] = {}

    def remove_below(folder: str) -> None:
        for path in [path for path in seen if path.startswith(f"{folder}/")]:
            del seen[path]

    for layer in layers:
        # A whiteout is about the layers below, wherever it stands in its own.
        for file in layer.files:
            path = PurePosixPath(file.path)
            if path.name == OPAQUE:
                remove_below(str(path.parent))
            elif path.name.startswith(WHITEOUT):
                gone = str(path.with_name(path.name.removeprefix(WHITEOUT)))
                seen.pop(gone, None)
                remove_below(gone)
        for file in layer.files:
            if PurePosixPath(file.path).name.startswith(WHITEOUT):
                continue
            below = seen.get(file.path)
            if below and stat.S_ISDIR(below.mode) and not stat.S_ISDIR(file.mode):
                remove_below(file.path)
            seen[file.path] = file
    return seen.values()


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file")
    return member


def _layer(blob: IO[bytes]) -> Layer:
    # The containerd image store keeps layers as the registry sent them, the older ones keep them unpacked.
    packed = blob.read(len(GZIP)) == GZIP
    blob.seek(0)
    source = _Gzipped(blob)
    files = []
    content = sha256()
    kinds = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.CHRTYPE: stat.S_IFCHR}
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|gz" if packed else "r|") as archive:
        for member in archive:
            kind = stat.S_IFREG if member.isreg() or member.islnk() else kinds.get(member.type, stat.S_IFIFO)
            size = len(member.linkname.encode()) if member.issym() else member.size
            # One spelling of a name: not ./etc, and no slash after a folder.
            path = str(PurePosixPath("/", member.name))
            file = File(path, kind | stat.S_IMODE(member.mode), 0 if member.islnk() else size)
            files.append(file)
            content.update(repr((file, member.linkname)).encode())
            if member.isreg() and (data := archive.extractfile(member)):
                while chunk := data.read(1 << 20):
                    content.update(chunk)
    return Layer(blob.seek(0, 2) if packed else source.finish(), tuple(files), content.hexdigest())


class _Gzipped:
    """A file that is counted gzipped while it is read: with level 6, as engines push."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compressor = zlib.compressobj(6, wbits=31)
        self._length = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._length += len(self._compressor.compress(data))
        return data

    def finish(self) -> int:
        """Read to the end, and give the bytes of it all."""
        while self.read(1 << 20):
            pass
        return self._length + len(self._compressor.flush())

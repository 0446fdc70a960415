"""The figures: what is measured of each image, on what, and their JSON."""

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass
class Vulnerabilities:
    """How many a scanner found, by severity; or, in one line, why it found none out."""

    counts: dict[str, int] | None
    failure: str | None = None


@dataclass
class Row:
    """One image. Sizes in bytes of 8 bits, times in seconds; None is not measured, and `problems` says why."""

    name: str
    image: str
    id: str | None = None
    revision: str | None = None
    unpacked: int | None = None
    compressed: int | None = None
    second_pull: int | None = None
    layers: int | None = None
    files: int | None = None
    executables: int | None = None
    setuid_files: int | None = None
    shared_libraries: int | None = None
    os_packages: int | None = None
    python_packages: int | None = None
    shells: list[str] | None = None
    package_managers: list[str] | None = None
    user: str | None = None
    starts: list[float] = field(default_factory=list)
    memories: list[int] = field(default_factory=list)
    start: float | None = None
    """The median of `starts`."""
    memory: int | None = None
    """The median of `memories`."""
    cold_build: float | None = None
    rebuild: float | None = None
    current: bool | None = None
    """Whether its Dockerfile and the code still give the same files."""
    vulnerabilities: Vulnerabilities | None = None
    """None: not scanned."""
    problems: list[str] = field(default_factory=list)

    def add_sample(self, start: float, memory: int) -> None:
        self.starts.append(round(start, 3))
        self.memories.append(memory)
        self.start, self.memory = median(self.starts), round(median(self.memories))


@dataclass
class Base:
    """An image that Dockerfiles start from."""

    name: str
    id: str | None
    """Digest of its configuration; None if it is not there."""
    digests: list[str]
    """Its digests in a registry."""
    published: bool | None
    """Whether it came from a registry; None where the engine cannot tell."""


@dataclass
class Machine:
    cpus: int
    memory: int  # bytes
    architecture: str
    system: str
    kernel: str
    docker: str
    load: float
    """Processes that wanted a CPU in the minute before: with more than `cpus`, times are those of a busy machine."""


@dataclass
class Scanner:
    name: str
    version: str | None
    database: str | None
    """When its database was made, ISO 8601; of an online service, when it was asked."""


@dataclass
class Comparison:
    measured: str
    """ISO 8601, UTC."""
    machine: Machine
    syft: str | None
    scanner: Scanner | None
    bases: list[Base]
    images: list[Row]

    def dumps(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def loads(text: str) -> Comparison:
    """The inverse of `Comparison.dumps`; ValueError, KeyError or TypeError for anything else."""
    data: dict[str, Any] = json.loads(text)
    scanner = data["scanner"]
    rows = []
    for image in data["images"]:
        found = image["vulnerabilities"]
        rows.append(Row(**image | {"vulnerabilities": found and Vulnerabilities(**found)}))
    return Comparison(
        measured=data["measured"],
        machine=Machine(**data["machine"]),
        syft=data["syft"],
        scanner=scanner and Scanner(**scanner),
        bases=[Base(**base) for base in data["bases"]],
        images=rows,
    )

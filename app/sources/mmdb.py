"""MaxMind DB files on the disk: a source that needs no network."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from app.address import IPAddress
from app.answer import Answer, read_answer
from app.client import Client
from app.problems import Problem
from app.sources.databases import Databases
from app.sources.source import Source, comma_separated

SAMPLE = Path(__file__).parent.parent / "sample.mmdb"
GEODATA = (Path("data/dbip-city.mmdb"), Path("data/dbip-asn.mmdb"))
"""The files of `make geodata`."""


_Paths = Annotated[tuple[Path, ...], BeforeValidator(comma_separated)]


class MmdbSettings(BaseModel):
    """Files, comma-separated: some publishers ship IPv4 and IPv6 apart."""

    model_config = ConfigDict(frozen=True)

    city: _Paths = ()
    """Files with locations."""
    asn: _Paths = ()
    """Files with providers."""


class Mmdb(Source):
    """The files of the settings, else those of `make geodata`, else the sample in the app."""

    name = "mmdb"
    settings_model = MmdbSettings

    def __init__(self, settings: MmdbSettings, _: Client) -> None:
        named = (*settings.city, *settings.asn)
        self._databases = Databases(named or [path for path in GEODATA if _exists(path)] or [SAMPLE])

    async def ask(self, address: IPAddress | None) -> Answer:
        if address is None:
            raise Problem(
                "unknown-address",
                "mmdb cannot find the service's own public address: ask for an address, as in /?ip=8.8.8.8",
            )
        try:
            fields = self._databases.find(address)
        except ValueError as error:
            raise Problem("upstream-failed", "mmdb has a damaged file: see the log", reason=str(error)) from error
        if fields is None:
            raise Problem("unknown-address", "mmdb does not know this address")
        return read_answer(self.name, address, fields)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # the service may not look into the folder
        raise ValueError(f"{path}: {error.strerror}") from None

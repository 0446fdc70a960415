"""Every source. A new one is a file beside this one, and a line in the list."""

from app.sources.ipapi import Ipapi
from app.sources.ipify import Ipify
from app.sources.ipinfo import Ipinfo
from app.sources.ipwhois import Ipwhois
from app.sources.mmdb import Mmdb
from app.sources.source import Source

SOURCES: tuple[type[Source], ...] = (
    Ipwhois,
    Ipify,
    Ipapi,
    Ipinfo,
    Mmdb,
)

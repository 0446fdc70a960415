"""A geo-IP API: which provider an IP address belongs to, and where on Earth it is."""

__version__ = "1.0.0"

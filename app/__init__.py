"""A geo-IP API: who asks, through which provider, and where on Earth."""

__version__ = "1.0.0"

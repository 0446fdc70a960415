"""IP addresses: reading one, finding the caller's, and telling global ones from the rest."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from app.registries import GLOBALLY_REACHABLE

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network


def parse_address(text: str) -> IPAddress:
    """Read one IPv4 or IPv6 literal; an IPv4-mapped one (RFC 4291, 2.5.5.2) is unmapped.

    ValueError for anything else: host names, networks, zone ids, octal and integer forms.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("a zone id means nothing on another host")
        return address.ipv4_mapped or address
    return address


def parse_network(text: str) -> IPNetwork:
    """Read one network, or an address as a network of one; an IPv4-mapped one is unmapped, as addresses are."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    """Tell whether an address is in one of the networks."""
    return any(address in network for network in networks)


def caller_address(peer: IPAddress, forwarded: Sequence[str], trusted: Sequence[IPNetwork]) -> IPAddress:
    """Find the caller's address.

    It is the peer's or, if the peer is a trusted proxy, the rightmost address of the X-Forwarded-For fields that is not
    a trusted proxy. Empty list elements are ignored (RFC 9110, 5.6.1.2), and so is the port of an element. Nothing is
    believed that stands before an element that is not an address.
    """
    hops = [hop for field in forwarded for element in field.split(",") if (hop := element.strip())]
    address = peer
    while hops and is_in(address, trusted):
        try:
            address = _parse_hop(hops.pop())
        except ValueError:
            break
    return address


def _parse_hop(text: str) -> IPAddress:
    """Read ADDRESS, IPV4:PORT, [IPV6] or [IPV6]:PORT."""
    with_port = re.fullmatch(r"\[(?P<v6>[^]]+)\](?::\d+)?|(?P<v4>[^:]+):\d+", text)
    return parse_address((with_port["v6"] or with_port["v4"]) if with_port else text)


_NAT64 = IPv6Network("64:ff9b::/96")


def is_global(address: IPAddress) -> bool:
    """Tell whether an address is globally reachable unicast."""
    if address in _NAT64:  # it stands for the IPv4 address in its last 32 bits (RFC 6052)
        return is_global(IPv4Address(address.packed[-4:]))
    _, globally_reachable = max(
        (network.prefixlen, value) for network, value in GLOBALLY_REACHABLE.items() if address in network
    )
    return globally_reachable

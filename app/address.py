"""IP addresses: reading one, and knowing which of them mean something on the internet."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address


def parse_address(text: str) -> IPAddress:
    """Read one IPv4 or IPv6 literal; an IPv4-mapped one (RFC 4291, 2.5.5.2) is unmapped.

    ValueError for anything else: host names, networks, zone ids, octal and integer forms.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("a zone id means nothing beyond its own host")
        return address.ipv4_mapped or address
    return address


# "Globally reachable" as IANA's special-purpose registries have it, and the unicast space around it; the longest
# prefix wins. What a registry calls N/A (6to4, Teredo, deprecated relays) is not globally reachable. The ipaddress
# module's is_global differs between Python's releases and calls multicast global: every image has to answer alike.
# https://www.iana.org/assignments/iana-ipv4-special-registry
# https://www.iana.org/assignments/iana-ipv6-special-registry
# https://www.iana.org/assignments/ipv6-address-space
_GLOBAL: dict[IPv4Network | IPv6Network, bool] = {
    ip_network(network): globally_reachable
    for network, globally_reachable in {
        "0.0.0.0/0": True,
        "0.0.0.0/8": False,  # this network
        "10.0.0.0/8": False,  # private use
        "100.64.0.0/10": False,  # shared address space of carrier-grade NAT
        "127.0.0.0/8": False,  # loopback
        "169.254.0.0/16": False,  # link local
        "172.16.0.0/12": False,  # private use
        "192.0.0.0/24": False,  # IETF protocol assignments, but for
        "192.0.0.9/32": True,  # Port Control Protocol anycast
        "192.0.0.10/32": True,  # TURN anycast
        "192.0.2.0/24": False,  # documentation
        "192.88.99.0/24": False,  # 6to4 relay anycast, deprecated
        "192.168.0.0/16": False,  # private use
        "198.18.0.0/15": False,  # benchmarking
        "198.51.100.0/24": False,  # documentation
        "203.0.113.0/24": False,  # documentation
        "224.0.0.0/4": False,  # multicast
        "240.0.0.0/4": False,  # reserved, and the limited broadcast
        "::/0": False,  # IANA has handed out no other unicast space than
        "2000::/3": True,
        "2001::/23": False,  # IETF protocol assignments (Teredo, benchmarking, ORCHID), but for
        "2001:1::1/128": True,  # Port Control Protocol anycast
        "2001:1::2/128": True,  # TURN anycast
        "2001:1::3/128": True,  # DNS-SD Service Registration Protocol anycast
        "2001:3::/32": True,  # AMT
        "2001:4:112::/48": True,  # AS112
        "2001:20::/28": True,  # ORCHIDv2
        "2001:30::/28": True,  # drone remote identification
        "2001:db8::/32": False,  # documentation
        "2002::/16": False,  # 6to4
        "3fff::/20": False,  # documentation
    }.items()
}
_NAT64 = IPv6Network("64:ff9b::/96")


def is_global(address: IPAddress) -> bool:
    """Tell whether an address is globally reachable unicast."""
    if address in _NAT64:  # stands for the IPv4 address in its last 32 bits (RFC 6052)
        return is_global(IPv4Address(address.packed[-4:]))
    _, globally_reachable = max((network.prefixlen, value) for network, value in _GLOBAL.items() if address in network)
    return globally_reachable

"""Data from public registries, so that every Python release answers alike."""

from ipaddress import IPv4Network, IPv6Network, ip_network

_CODES = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY
    BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK
    FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR
    IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK
    ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM
    PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF
    TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK
"""

COUNTRY_CODES = frozenset(_CODES.split())
"""ISO 3166-1 alpha-2, assigned codes (https://www.iso.org/iso-3166-country-codes.html), and XK for Kosovo."""

GLOBALLY_REACHABLE: dict[IPv4Network | IPv6Network, bool] = {
    ip_network(network): globally_reachable
    for network, globally_reachable in {
        "0.0.0.0/0": True,
        "0.0.0.0/8": False,  # this network
        "10.0.0.0/8": False,  # private use
        "100.64.0.0/10": False,  # shared address space of carrier-grade NAT
        "127.0.0.0/8": False,  # loopback
        "169.254.0.0/16": False,  # link local
        "172.16.0.0/12": False,  # private use
        "192.0.0.0/24": False,  # IETF protocol assignments, except the next two
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
        "::/0": False,  # the only unicast space that IANA has assigned is the next one
        "2000::/3": True,
        "2001::/23": False,  # IETF protocol assignments (Teredo, benchmarking, ORCHID), except the next seven
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
"""Whether a network is globally reachable unicast, by IANA's registries (N/A counts as no); the longest prefix wins.

https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
https://www.iana.org/assignments/ipv6-address-space
The is_global of the ipaddress module differs between Python releases and calls multicast global.
"""

"""Where hosts are: which addresses no data comes from, and that a server leads nobody further in.

    169.254.0.0/16, fe80::/10, ...    the network's own, where clouds give credentials away: never
    127.0.0.0/8, ::1, 0.0.0.0, ::     LOOPBACK: this machine
    10.0.0.0/8, fc00::/7, ...         PRIVATE: not routed on the internet
    all others                        PUBLIC

Server-side request forgery: settings, or a server's redirect, must not read what only this machine can.
"""

import ipaddress
import re
import socket
from enum import IntEnum

# Where clouds answer a machine's questions, beside all of 169.254.0.0/16 and fe80::/10.
METADATA = (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"))
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 by way of IPv6
# Libraries do not agree on where a host with one of these ends.
ODD = re.compile(r"[#\\\s]")


class Reach(IntEnum):
    """How far inside an address is; what is named may lead outwards, never further in."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


def name_of(place: str) -> str:
    """The host of `host:port`, without a scheme, a user and brackets."""
    place = place.rpartition("://")[2].partition("/")[0].rpartition("@")[2]
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if place.count(":") > 1 else place.partition(":")[0]


def objection(name: str) -> str:
    """Why nothing is read from a host; empty where nothing is against it, or nobody knows the name."""
    if odd := ODD.search(name):
        return f"received {odd[0]!r} in the name of a host, expected none"
    if any(is_link_local(address) for address in addresses(name)):
        return f"{name} is an address of this machine's network itself"
    return ""


def addresses(name: str) -> list[str]:
    """What a host's name, or a number in any notation, leads to; nothing for a name that nobody knows."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(name, None)]
    except (OSError, UnicodeError):  # the latter of a label that is empty or too long
        return []


def is_link_local(address: str) -> bool:
    """Whether an address is one where a cloud tells machines about themselves."""
    found = _plain(address)
    return found.is_link_local or found in METADATA


def reach(address: str) -> Reach:
    """How far inside an address is."""
    found = _plain(address)
    if found.is_loopback or found.is_unspecified:
        return Reach.LOOPBACK
    return Reach.PUBLIC if found.is_global else Reach.PRIVATE


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address itself, out of its wrappings in IPv6."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found in NAT64:
        return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return getattr(found, "ipv4_mapped", None) or found

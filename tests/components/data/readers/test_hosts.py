"""What counts as how far inside, whatever the notation."""

import socket

import pytest

from components.data.readers import hosts
from components.data.readers.hosts import Reach


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.255.0.9", Reach.LOOPBACK),
        ("0.0.0.0", Reach.LOOPBACK),
        ("::", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd12::1", Reach.PRIVATE),
        ("64:ff9b::a00:1", Reach.PRIVATE),
        ("fe80::1%eth0", Reach.PRIVATE),
        ("1.1.1.1", Reach.PUBLIC),
        ("2606:4700:4700::1111", Reach.PUBLIC),
        ("64:ff9b::101:101", Reach.PUBLIC),
    ],
)
def test_an_address_is_as_far_inside_as_what_it_stands_for(address: str, reach: Reach) -> None:
    assert hosts.reach(address) is reach


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("fe80::1%eth0", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("1.1.1.1", False),
    ],
)
def test_where_clouds_answer_machines_is_known(address: str, expected: bool) -> None:
    assert hosts.is_link_local(address) is expected


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("host:80", "host"),
        ("http://me@host:80/x", "host"),
        ("[::1]:80", "::1"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("host", "host"),
    ],
)
def test_the_name_of_a_host_is_found_in_what_stands_around_it(place: str, name: str) -> None:
    assert hosts.name_of(place) == name


def test_a_name_that_nobody_knows_leads_nowhere() -> None:
    assert hosts.addresses("no.such.host.invalid") == hosts.addresses("a..b") == []
    assert hosts.objection("no.such.host.invalid") == ""


def test_one_address_of_several_is_enough_for_an_objection(monkeypatch: pytest.MonkeyPatch) -> None:
    # No name server of the tests' own.
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, ("1.1.1.1", 0)), (*kind, ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, port: found)
    assert hosts.objection("innocent.example.org") == (
        "innocent.example.org is an address of this machine's network itself"
    )

"""http(s): fsspec's file system, with every connection looked at before it is made.

    https://data.example.org/a.csv ──▶ 302 Location: http://169.254.169.254/ ──▶ refused

What counts is the address that a socket is opened to: of the URL, of each redirect, and whatever a name
server says by then. No connection leads further in than the host that was named: from the internet none to
a private network, from there none to this machine.
"""

import socket
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from components.data.readers import hosts
from components.data.readers.hosts import Reach
from components.errors import DataError, Problem

CONNECT_SECONDS = 10  # to one of a name's addresses
READ_SECONDS = 60  # without a byte
REFUSED, GONE = (401, 403), (404, 410)
PAST_THE_END = 416  # which fsspec takes for no bytes


class Web(HTTPFileSystem):
    """The file system of one host.

    Args:
        host: as the URL names it, for messages.
        farthest: how far inside connections may lead.
    """

    # fsspec would hand out an instance for another host that it takes for the same.
    cachable = False

    def __init__(self, *, host: str, farthest: Reach) -> None:
        super().__init__(get_client=self._client)
        self.host, self.farthest = host, farthest

    async def _client(self, **options: Any) -> aiohttp.ClientSession:
        # One address after the other: raced, what is refused would be one failure among several.
        connector = aiohttp.TCPConnector(happy_eyeballs_delay=None, socket_factory=self._socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, raise_for_status=_check_status, **options
        )

    def _socket(self, place: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, at = place
        address = str(at[0])
        if hosts.is_link_local(address):
            raise self._refused(address, "an address of this machine's network itself")
        if hosts.reach(address) > self.farthest:
            inside = "this machine" if hosts.reach(address) is Reach.LOOPBACK else "a private network"
            raise self._refused(address, f"{inside}, and {self.host} is not there")
        return socket.socket(family, kind, protocol)

    def _refused(self, address: str, what: str) -> DataError:
        problem = Problem(file=self.host, message=f"the server leads to {address}: {what}")
        return DataError("The data cannot be found or read.", problems=[problem], hint="See data.path.")

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        """As fsspec's, which takes every failure for a file that is not there."""
        try:
            return dict(await super()._info(path, **options))
        except FileNotFoundError as error:
            cause = error.__cause__ or error
            if isinstance(cause, DataError | OSError):
                raise cause from None
            # Others of aiohttp's quote the URL.
            raise OSError(f"no usable answer ({type(cause).__name__})") from None


async def _check_status(answer: aiohttp.ClientResponse) -> None:
    """As errors of a file's, without the URL, which may hold something secret."""
    if answer.ok or answer.status == PAST_THE_END:
        return
    answer.close()
    if answer.status in GONE:
        shown = str(answer.url.with_user(None).with_query(None))
        raise FileNotFoundError(2, "No such file or directory", shown)
    kind = PermissionError if answer.status in REFUSED else OSError
    raise kind(f"HTTP status {answer.status}")


def file_system(host: str) -> Web:
    """Reads from `host` or `host:port`, a name or an address."""
    found = hosts.addresses(hosts.name_of(host))
    return Web(host=host, farthest=max(map(hosts.reach, found), default=Reach.PUBLIC))

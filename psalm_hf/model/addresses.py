"""Reads images from http(s) addresses that strangers may have written.

Everything is bounded: one deadline for all of it (name, connection, headers, redirects, content), a number of bytes, a number of redirects.
Addresses of this machine and of its own network are refused. What counts is the numeric address that the name leads to, and the connection
is made to the very address that was looked at. So no proxy of the environment is used: a proxy would look the name up once more.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import queue
import re
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

MAX_ADDRESS_BYTES = 2**26
MAX_REDIRECTS = 5
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", re.ASCII)
_USER = re.compile(r"//[^/?#]*@")  # and password, which messages do not show
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 2**16  # bytes of a read
_UNQUOTED = "%/:=&?~#+!$,;'@()*[]"  # what an address may hold as it is
# Networks of IPv6 whose last four bytes are an address of IPv4: compatible, and translated at the border of a network (NAT64).
_EMBEDDING = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def is_address(source: str) -> bool:
    """True for an address of any scheme (http://, file://, data:, ...), False for a path."""
    return _SCHEME.match(source) is not None


def read_address(address: str, timeout: float, allow_private_addresses: bool = False) -> bytes:
    """Bytes of the image at an http(s) address.

    Args:
        address: at most 5 redirects are followed.
        timeout: seconds for everything together.
        allow_private_addresses: also reads from this machine and its own network, at first and after redirects.

    Raises:
        ValueError: another scheme, a private address, no answer of status 200, more than 64 MiB, or the time is over.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout: expected seconds above 0, got {timeout!r:.80}")
    deadline, place = time.monotonic() + timeout, address
    name = f"{_USER.sub('//', address):.200}"
    try:
        for _ in range(MAX_REDIRECTS + 1):
            place, content = _request(place, deadline, allow_private_addresses)
            if content is not None:
                return content
        raise ValueError(f"more than {MAX_REDIRECTS} redirects")
    except TimeoutError as error:
        raise ValueError(f"{name}: not an image that can be read (it took longer than {timeout:g} s in all)") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        behind = "" if place == address else f"it leads to {_USER.sub('//', place):.200}: "
        raise ValueError(f"{name}: not an image that can be read ({behind}{reason:.200})") from error


def _request(address: str, deadline: float, allow_private: bool) -> tuple[str, bytes | None]:
    """Address and content of an answer; or the address that it leads to, and None."""
    parts = urlsplit(address)
    host, is_secure = parts.hostname, parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("only addresses of http:// and https:// are read")
    if parts.username is not None:
        raise ValueError("a user name in an address is not sent; leave it out")
    port = parts.port or (443 if is_secure else 80)
    connection = (http.client.HTTPSConnection if is_secure else http.client.HTTPConnection)(host, port)
    with _connect(host, port, deadline, allow_private) as plain:
        with _secured(plain, host, deadline) if is_secure else plain as connected:
            connection.sock = connected
            connection.response_class = lambda sock, **options: http.client.HTTPResponse(_BeforeDeadline(sock, deadline), **options)
            target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_UNQUOTED)
            connection.request("GET", target, headers={"User-Agent": "psalm_hf"})
            response = connection.getresponse()
            if response.status in _REDIRECTS and response.headers.get("Location"):
                return urljoin(address, response.headers["Location"]), None
            if response.status != 200:
                raise ValueError(f"the server answers with status {response.status}")
            return address, _content(response)


def _content(response: http.client.HTTPResponse) -> bytes:
    promised = response.length  # None where the server does not say
    if promised is not None and promised > MAX_ADDRESS_BYTES:
        raise ValueError(f"it has {promised} bytes; at most {MAX_ADDRESS_BYTES} are read")
    content = bytearray()
    while piece := response.read(_PIECE):
        content += piece
        if len(content) > MAX_ADDRESS_BYTES:
            raise ValueError(f"it has more than {MAX_ADDRESS_BYTES} bytes, and no more are read")
    if promised is not None and len(content) < promised:
        raise ValueError(f"it broke off after {len(content)} of {promised} bytes")
    return bytes(content)


def _connect(host: str, port: int, deadline: float, allow_private: bool) -> socket.socket:
    places = _look_up(host, port, deadline)
    if not allow_private and any(not _is_public(place[0]) for _, place in places):
        raise ValueError(
            f"{host} is this machine or in its own network; give the image as a file, or in Python allow_private_addresses=True, if "
            "whoever wrote the address may read there"
        )
    problem: OSError | None = None
    for family, place in places:
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.settimeout(_seconds_to(deadline))
            connected.connect(place)
            return connected
        except OSError as error:
            connected.close()
            problem = error
    raise problem or OSError(f"{host} has no numeric address")


def _secured(plain: socket.socket, host: str, deadline: float) -> ssl.SSLSocket:
    plain.settimeout(_seconds_to(deadline))  # of the whole handshake
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _look_up(host: str, port: int, deadline: float) -> list[tuple[int, Any]]:
    """Families and numeric addresses of a name. The system's look-up knows no deadline, so it has a thread of its own."""
    found: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # of another thread: it is raised in this one below
            found.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = found.get(timeout=_seconds_to(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return [(family, place) for family, _, _, _, place in answer]


def _is_public(numeric: str) -> bool:
    """False for addresses of this machine, of private networks and for several machines, also where IPv6 carries them inside."""
    number = ipaddress.ip_address(numeric)
    if number.version == 6:
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo or (None, None))[1]
        if any(number in network for network in _EMBEDDING):
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if number.is_site_local:
            return False
    return number.is_global and not number.is_multicast and not number.is_reserved


class _BeforeDeadline(io.RawIOBase):
    """Bytes of a socket, until the time is over. (A timeout of a socket is of each read, however few bytes come.)"""

    def __init__(self, connected: socket.socket, deadline: float):
        self._connected, self._deadline = connected, deadline
        self._bytes = connected.makefile("rb", buffering=0)  # with it, what closes the socket leaves it open until all is read

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connected.settimeout(_seconds_to(self._deadline))
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


def _seconds_to(deadline: float) -> float:
    """Raises TimeoutError if it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds

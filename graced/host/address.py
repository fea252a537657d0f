"""Addresses of sockets that a pool listens on, as they are written in the configuration.

`tcp://127.0.0.1:8080`, `tcp://[::1]:8080`, `unix:///run/shop.sock`, `fd:NAME`; further words
follow a question mark: `?backlog=100`, and `?mode=0666` for Unix sockets. No names of hosts:
looking them up can take long, and can turn out otherwise at the next reload.
"""

from __future__ import annotations

from graced.record import Record

BACKLOG = 1024  # connections that wait for a worker; the kernel has the last word
MODE = 0o660
MAX_PATH_BYTES = 107  # bytes, see unix(7)
EXAMPLES = "write tcp://127.0.0.1:8080, tcp://[::1]:8080, unix:///run/shop.sock or fd:NAME"


class AddressError(ValueError):
    """What is written can be no address: what is wrong with it, and what to write."""

    def __init__(self, what: str, remedy: str = EXAMPLES) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class Address(Record):
    """One address. `place` is what makes it this one; the rest can change while it is open."""

    kind: str  # tcp, unix or fd
    place: str  # without the further words
    host: str = ""
    port: int = 0
    name: str = ""  # the path of a Unix socket, or the name of a descriptor
    backlog: int = BACKLOG
    mode: int = MODE


def parse(text: str) -> Address:
    """Return the address that a text stands for; AddressError if it is none."""
    place, mark, words = text.partition("?")
    found = _place(place)
    return _with_words(found, words) if mark else found


def _place(text: str) -> Address:
    if text.startswith("tcp://"):
        return _tcp(text.removeprefix("tcp://"))
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:").removeprefix("//"))
    if text.startswith("fd:"):
        return _fd(text.removeprefix("fd:"))
    raise AddressError(f"{text[:60]!r} is no address")


def _tcp(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise AddressError(f"'tcp://{text[:60]}' has no port")
    if not 1 <= int(port) <= 65535:
        raise AddressError(f"there is no port {port}", "write a port from 1 to 65535")
    in_brackets = host.startswith("[") and host.endswith("]")
    plain = _numeric(host[1:-1] if in_brackets else host, six=in_brackets)
    shown = f"[{plain}]" if in_brackets else plain
    return Address("tcp", f"tcp://{shown}:{int(port)}", host=plain, port=int(port))


def _numeric(host: str, *, six: bool) -> str:
    """Return a numeric address in its usual form: two spellings are one address."""
    import socket

    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host))
    except (OSError, ValueError):
        raise AddressError(
            f"{host[:60]!r} is no numeric IP address",
            "write 127.0.0.1 or [::1] for this host alone, 0.0.0.0 or [::] for all hosts",
        ) from None


def _unix(path: str) -> Address:
    if not path.startswith("/") or path.endswith("/"):
        raise AddressError(f"'unix://{path[:60]}' has no absolute path", "write unix:///run/x.sock")
    import os

    path = os.path.normpath(path)
    if "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise AddressError(
            f"'unix://{path[:60]}…' is longer than {MAX_PATH_BYTES} bytes", "write a shorter path"
        )
    return Address("unix", f"unix://{path}", name=path)


def _fd(name: str) -> Address:
    if not name or not name.isascii() or not name.isprintable() or ":" in name or len(name) > 255:
        raise AddressError(
            f"{name[:60]!r} cannot be the name of a descriptor",
            "write the FileDescriptorName= of a socket unit, such as fd:web",
        )
    return Address("fd", f"fd:{name}", name=name)


def _with_words(address: Address, words: str) -> Address:
    for word in words.split("&"):
        key, _, value = word.partition("=")
        match key, address.kind:
            case "backlog", "tcp" | "unix" if value.isascii() and value.isdigit():
                address = address.replace(backlog=_backlog(value))
            case "mode", "unix":
                address = address.replace(mode=_mode(value))
            case _:
                raise AddressError(
                    f"{word[:60]!r} means nothing there",
                    "write ?backlog=100 after tcp:// and unix://, ?mode=0666 after unix://",
                )
    return address


def _backlog(text: str) -> int:
    if not 1 <= int(text[:9]) <= 65535:
        raise AddressError(f"backlog={text[:20]} is out of range", "write from 1 to 65535")
    return int(text[:9])


def _mode(text: str) -> int:
    if not (3 <= len(text) <= 4 and all("0" <= c <= "7" for c in text)) or int(text, 8) > 0o777:
        raise AddressError(f"mode={text[:20]} is no mode", "write three octal digits, such as 660")
    return int(text, 8)

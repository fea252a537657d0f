"""The sockets that the pools listen on: open from the first start to the end of the daemon.

They belong to the main process. Zygotes and workers inherit them, so that connections wait, and
are not refused, while workers are replaced. A reload opens what is new before anything else is
tried, and closes what is no longer wanted once it is in force. What we opened ourselves is
stored with systemd (FDSTORE in sd_notify(3)): it outlives a crash of the main process.
"""

from __future__ import annotations

import os

from graced.host.address import parse
from graced.host.listening import (
    STORED,
    CannotListen,
    NotGiven,
    adjust,
    is_at,
    listens,
    open_address,
    put_away,
    stored_name,
    take_over,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from graced.core.settings import Pool, Settings
    from graced.host.address import Address
    from graced.host.log import Log
    from graced.host.notify import Notifier

    Owner = tuple[int, int]


class Sockets:
    """All listening sockets, by address; those that systemd hands over, by name."""

    def __init__(
        self, given: dict[str, list[int]], owner: Owner | None, notifier: Notifier, log: Log
    ) -> None:
        self._given = given
        self._owner = owner
        self._notifier = notifier
        self._log = log
        self._open: dict[str, tuple[int, Address]] = {}  # by place; what is not systemd's
        self._stored: set[str] = set()  # names under which systemd keeps them

    def open(self, settings: Settings) -> None:
        """Open what is not open yet, all or nothing; CannotListen says what can't be had."""
        before = set(self._open)
        try:
            for pool, text in _wanted(settings):
                self._have(pool, parse(text))
        except CannotListen:
            for place in set(self._open) - before:
                self._close(place)
            raise

    def keep_only(self, settings: Settings) -> None:
        """Close what these settings, which are in force, don't name, and tell systemd."""
        wanted = {address.place: address for address in _addresses(settings)}
        for place in set(self._open) - set(wanted):
            self._close(place)
        for place, (fd, _) in self._open.items():
            adjust(fd, wanted[place])
            self._open[place] = fd, wanted[place]
        self._store()
        self._forget_left_overs()

    def of(self, pool: Pool) -> tuple[int, ...]:
        """Return the descriptors of a pool's sockets, in the order of its addresses."""
        return tuple(fd for text in pool.listen for fd in self._fds(parse(text)))

    def close(self) -> None:
        """Close them all: the daemon is over. What systemd keeps, it keeps for a restart."""
        for fd, address in self._open.values():
            put_away(fd, address, unlink=stored_name(address) not in self._stored)
        self._open.clear()

    # -- one by one ---------------------------------------------------------------

    def _fds(self, address: Address) -> list[int]:
        if address.kind == "fd":
            return self._given.get(address.name, [])
        found = self._open.get(address.place)
        return [] if found is None else [found[0]]

    def _have(self, pool: Pool, address: Address) -> None:
        if address.kind == "fd":
            self._have_given(pool, address)
        elif address.place not in self._open:
            fd = self._stored_before(address)
            try:
                fd = open_address(address, self._owner) if fd is None else fd
            except CannotListen as error:
                raise CannotListen(f"pools.{pool.name}.listen: {error}") from error.__cause__
            self._open[address.place] = fd, address

    def _have_given(self, pool: Pool, address: Address) -> None:
        fds = self._given.get(address.name, [])
        where = f"pools.{pool.name}.listen: {address.place}"
        if not fds:
            names = sorted(name for name in self._given if not name.startswith(STORED))
            there = f"there are {', '.join(names)}" if names else "there is none at all"
            raise NotGiven(
                f"{where}: systemd hands over no socket of this name, {there};"
                " see FileDescriptorName= in systemd.socket(5), and restart with the socket unit"
            )
        for fd in fds:
            if not listens(fd):
                raise NotGiven(f"{where}: is no socket that listens; write ListenStream=")
            take_over(fd)

    def _stored_before(self, address: Address) -> int | None:
        """Return the socket that a crash of our predecessor left with systemd."""
        name = stored_name(address)
        for fd in self._given.pop(name, []):
            if is_at(fd, address):
                self._stored.add(name)
                adjust(take_over(fd), address)
                self._log.info(f"{address.place} is open since before the restart")
                return fd
            os.close(fd)
            self._notifier.unstore(name)
        return None

    def _close(self, place: str) -> None:
        fd, address = self._open.pop(place)
        name = stored_name(address)
        if name in self._stored:
            self._stored.remove(name)
            self._notifier.unstore(name)
        put_away(fd, address, unlink=True)

    def _store(self) -> None:
        for fd, address in self._open.values():
            name = stored_name(address)
            if name not in self._stored and self._notifier.store(name, fd):
                self._stored.add(name)

    def _forget_left_overs(self) -> None:
        """Close what was stored for a configuration that is no more."""
        for name in [name for name in self._given if name.startswith(STORED)]:
            for fd in self._given.pop(name):
                os.close(fd)
            self._notifier.unstore(name)


def _wanted(settings: Settings) -> Iterator[tuple[Pool, str]]:
    for pool in settings.pools.values():
        for text in pool.listen:
            yield pool, text


def _addresses(settings: Settings) -> list[Address]:
    return [parse(text) for _, text in _wanted(settings)]

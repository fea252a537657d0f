"""The sockets that the pools listen on: open from the first start to the end of the daemon.

They belong to the main process. Zygotes and workers inherit them, so that connections wait, and
are not refused, while workers are replaced. A reload opens what is new before anything else is
tried, and closes what is no longer wanted once it is in force. What we opened ourselves is
stored with systemd (FDSTORE in sd_notify(3)): it outlives a crash of the main process.
"""

from __future__ import annotations

import os
import time
from errno import EADDRINUSE

from graced.host import safepaths
from graced.host.address import Address, parse
from graced.host.listeners import (
    STORED,
    ListenError,
    SocketNotGivenError,
    adjust,
    file_at,
    is_at,
    listens,
    open_address,
    put_away,
    stop_listening,
    stored_name,
    take_over,
)
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from graced.host.listeners import File
    from graced.host.notify import Notifier
    from graced.log.logger import Log
    from graced.settings import Pool, Settings

ADDRESS_RETRY_S = 0.02  # seconds


class _Socket(Record):
    """One that we have opened, or taken up, and the file at its path then."""

    fd: int
    address: Address
    file: File | None

    @property
    def is_gone(self) -> bool:
        """Whether it can't be found any more: its file was removed or replaced."""
        return self.file != file_at(self.address)


class Sockets:
    """All listening sockets, by address; those that systemd hands over, by name."""

    def __init__(self, given: dict[str, list[int]], notifier: Notifier, log: Log) -> None:
        self._given = given
        self._notifier = notifier
        self._log = log
        self._open: dict[str, _Socket] = {}  # by place; what is not systemd's
        self._new: dict[str, _Socket] = {}  # opened for settings that are not yet in force
        self._dropped: dict[str, int] = {}  # TCP; workers that leave may have them yet
        self._silent: set[str] = set()  # places where callers are refused, in a stop
        self._stored: set[str] = set()  # names under which systemd keeps them

    def open_as_root(self, settings: Settings, owner: tuple[int, int], patience: float) -> None:
        """Open what only root may be able to, before it becomes another user: `owner`."""
        self.open(settings, patience, _may_need_root)
        for each in self._new.values():
            if each.address.kind == "unix":
                os.chown(each.address.name, *owner, follow_symlinks=False)

    def open(
        self,
        settings: Settings,
        patience: float = 0.0,
        which: Callable[[Address], bool] = lambda _: True,
    ) -> None:
        """Open what is not open yet, or is gone, all or nothing, for settings to come.

        ListenError says what can't be had; an address that another process has, after
        `patience` seconds. :meth:`keep_only` is to follow once these settings are in
        force, or :meth:`forget_new`.
        """
        end = time.monotonic() + patience
        try:
            for where, _, text in _wanted(settings):
                if which(address := parse(text)):
                    self._have(where, address, end)
        except ListenError:
            self.forget_new()
            raise

    def forget_new(self) -> None:
        """Close what was opened for settings that did not come into force."""
        for place, each in self._new.items():
            self._drop(each, is_stored=place not in self._open)
        self._new.clear()

    def keep_only(self, settings: Settings) -> None:
        """Close what these settings, which are in force, don't name, and tell systemd."""
        wanted = {address.place: address for address in _addresses(settings)}
        for place in set(self._open) - (set(wanted) - set(self._new)):
            self._drop(self._open.pop(place), is_stored=True)
        self._open |= self._new
        self._new.clear()
        for place, each in self._open.items():
            adjust(each.fd, wanted[place], each.file)
            self._open[place] = each.replace(address=wanted[place])
        self._store()
        self._forget_left_overs()

    @property
    def has_dropped(self) -> bool:
        """Whether :meth:`close_dropped` is to follow, once no worker has what was dropped."""
        return bool(self._dropped)

    def close_dropped(self) -> None:
        """Close what is dropped: no process is left that has it, so the address is free then."""
        for fd in self._dropped.values():
            os.close(fd)
        self._dropped.clear()

    def alone(self) -> tuple[int, ...]:
        """Return the descriptors of sockets that no process keeps but this daemon's children."""
        mine = (*self._open.values(), *self._new.values())
        return tuple(each.fd for each in mine if stored_name(each.address) not in self._stored)

    def of(self, pool: Pool) -> tuple[int, ...]:
        """Return the descriptors of a pool's sockets, in the order of its addresses."""
        return self.at(pool.listen)

    def at(self, addresses: Iterable[str]) -> tuple[int, ...]:
        """Return the descriptors of the sockets that listen on these, in their order."""
        return tuple(fd for text in addresses for fd in self._fds(parse(text)))

    def descriptors(self) -> list[int]:
        """Return those of all sockets."""
        given = [fd for fds in self._given.values() for fd in fds]
        return [*given, *(each.fd for each in (*self._open.values(), *self._new.values()))]

    def stop_listening(self, leaving: Container[str], settings: Settings) -> None:
        """At a stop, refuse callers where only these pools listen: no worker would serve them.

        What systemd keeps as well goes on taking callers, for the next start.
        """
        staying = {
            parse(text).place
            for _, pool, text in _wanted(settings)
            if pool is None or pool not in leaving
        }
        for place, each in self._open.items():
            alone = stored_name(each.address) not in self._stored
            if alone and place not in staying and place not in self._silent:
                self._silent.add(place)
                stop_listening(each.fd)

    def close(self) -> None:
        """Close them all: the daemon is over. What systemd keeps, it keeps for a restart."""
        for each in self._open.values():
            stored = stored_name(each.address) in self._stored
            put_away(each.fd, each.address, None if stored else each.file)
        self._open.clear()
        self.close_dropped()

    # -- one by one ---------------------------------------------------------------

    def _fds(self, address: Address) -> list[int]:
        if address.kind == "fd":
            return self._given.get(address.name, [])
        found = self._new.get(address.place) or self._open.get(address.place)
        return [] if found is None else [found.fd]

    def _have(self, where: str, address: Address, end: float) -> None:
        place = address.place
        if address.kind == "fd":
            self._have_given(where, address)
        elif place not in self._new and (place not in self._open or self._open[place].is_gone):
            try:
                _keep_root_out(address)
                fd = self._dropped.pop(place, None)
                if fd is None and place not in self._open:
                    fd = self._stored_before(address)
                fd = self._opened(address, end) if fd is None else fd
            except ListenError as error:
                raise ListenError(f"{where}: {error}") from error.__cause__
            if place in self._open:
                self._log.warning(f"{place}: its file is gone; the new workers have a new one")
            self._new[place] = _Socket(fd, address, file_at(address))

    def _opened(self, address: Address, end: float) -> int:
        """Open a socket; wait for its address, in case those that have it are about to let go."""
        while True:
            try:
                return open_address(address)
            except ListenError as error:
                reason = error.__cause__
                taken = isinstance(reason, OSError) and reason.errno == EADDRINUSE
                if taken and (own := self._in_the_way(address)):
                    what = f"cannot listen on {address.place}: this daemon listens on {own}"
                    remedy = "write one of the two; for another instead, restart it"
                    raise ListenError(f"{what}; {remedy}") from reason
                if not taken or time.monotonic() >= end:
                    raise
            time.sleep(ADDRESS_RETRY_S)

    def _in_the_way(self, address: Address) -> str | None:
        """Return an address of ours on the same port, if one of the two stands for all hosts."""
        for each in (*self._open.values(), *self._new.values()):
            mine = each.address
            like = mine.kind == address.kind == "tcp" and mine.port == address.port
            hosts = {mine.host, address.host}
            if like and hosts & {"0.0.0.0", "::"} and len({":" in host for host in hosts}) == 1:
                return mine.place
        return None

    def _have_given(self, where: str, address: Address) -> None:
        fds = self._given.get(address.name, [])
        where = f"{where}: {address.place}"
        if not fds:
            names = sorted(name for name in self._given if not name.startswith(STORED))
            there = f"there are {', '.join(names)}" if names else "there is none at all"
            raise SocketNotGivenError(
                f"{where}: systemd hands over no socket of this name, {there};"
                " see FileDescriptorName= in systemd.socket(5), and restart with the socket unit"
            )
        for fd in fds:
            if not listens(fd):
                raise SocketNotGivenError(
                    f"{where}: is no socket that listens; write ListenStream="
                )
            take_over(fd)

    def _stored_before(self, address: Address) -> int | None:
        """Return the socket that a crash of our predecessor left with systemd."""
        name = stored_name(address)
        for fd in self._given.pop(name, []):
            if is_at(fd, address):
                self._stored.add(name)
                adjust(take_over(fd), address, file_at(address))
                self._log.info(f"reusing {address.place}, which systemd kept over the restart")
                return fd
            os.close(fd)
            self._notifier.unstore(name)
        return None

    def _drop(self, each: _Socket, *, is_stored: bool) -> None:
        """Close one for good; systemd forgets it too, if it is the one that is stored.

        A port is taken as long as workers that leave have it: until then it is kept here, for
        settings that want it again.
        """
        name = stored_name(each.address)
        if is_stored and name in self._stored:
            self._stored.remove(name)
            self._notifier.unstore(name)
        if each.address.kind == "tcp":
            self._dropped[each.address.place] = each.fd
        else:
            put_away(each.fd, each.address, each.file)

    def _store(self) -> None:
        for each in self._open.values():
            name = stored_name(each.address)
            if name not in self._stored and self._notifier.store(name, each.fd):
                self._stored.add(name)

    def _forget_left_overs(self) -> None:
        """Close what was stored for a configuration that is no more."""
        for name in [name for name in self._given if name.startswith(STORED)]:
            for fd in self._given.pop(name):
                os.close(fd)
            self._notifier.unstore(name)


def _may_need_root(address: Address) -> bool:
    """Whether root opens it: a port, or a name in a folder that is root's alone."""
    return address.kind == "tcp" or (address.kind == "unix" and safepaths.is_roots(address.name))


def _keep_root_out(address: Address) -> None:
    """Refuse a name in a folder of another user, which could lead root elsewhere."""
    if os.geteuid() == 0 and address.kind == "unix":
        try:
            safepaths.demand_folder(address.name)
        except safepaths.UnsafeFolderError as error:
            what = f"cannot listen on {address.place} as root: {error}"
            remedy = "set user, name a folder that is root's alone, or let systemd open it: fd:NAME"
            raise ListenError(f"{what}; {remedy}") from None


def _wanted(settings: Settings) -> Iterator[tuple[str, str | None, str]]:
    """Yield each address: the key that it stands at, the pool that has it, and itself."""
    for pool in settings.pools.values():
        for text in pool.listen:
            yield f"pools.{pool.name}.listen", pool.name, text
    for text in settings.web.listen:
        yield "web.listen", None, text


def _addresses(settings: Settings) -> list[Address]:
    return [parse(text) for *_, text in _wanted(settings)]

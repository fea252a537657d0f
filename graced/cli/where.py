"""A command's words about which daemon is meant, as :mod:`graced.client.daemon` wants them."""

from __future__ import annotations

from graced.client.daemon import Where, control_of
from graced.config.identity import UnknownDaemonError
from graced.control.client import WhichDaemon
from graced.log.console import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from graced.client.find import ConfiguredPlace


def where(args: argparse.Namespace) -> Where:
    """Return which daemon is meant, and which pool if the command has one."""
    pool, words = getattr(args, "pool", None), getattr(args, "words", None)
    return Where(args.config, args.set, args.socket, pool, commands=bool(words))


def socket_path(args: argparse.Namespace) -> str:
    """Return where the daemon listens, whether it does or not. Raises WhichDaemon."""
    try:
        return control_of(where(args))
    except UnknownDaemonError as error:
        raise WhichDaemon(f"{error}; or say with --socket where the daemon is") from None


def queue_place(args: argparse.Namespace, control: str) -> ConfiguredPlace:
    """Return where the pool's queue is looked for, of the daemon that listens at `control`."""
    from graced.client.find import ConfiguredPlace, Manner

    manner = Manner(complain, naming="--pool", become_owner=True)
    return ConfiguredPlace(where(args), lambda: control, manner)

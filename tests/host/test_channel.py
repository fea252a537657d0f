"""The channel between the main process and a zygote."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from graced.host.channel import (
    MAX_MESSAGE,
    Channel,
    ChannelClosed,
    ChannelCorrupted,
    ChannelFull,
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def fill(channel: Channel) -> int:
    """Send until nothing more goes; return how many went."""
    for sent in range(10_000):
        try:
            channel.send(("x" * 4096,))
        except ChannelFull:
            return sent
    raise AssertionError("never full")


def test_messages_come_whole_and_in_order(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send(("spawn", [(1, 2, 3, 0, 0)]))
    ours.send(("adopt", []))
    assert theirs.receive() == ("spawn", [(1, 2, 3, 0, 0)])
    assert theirs.receive() == ("adopt", [])
    assert theirs.receive() is None


def test_the_end_comes_after_the_last_message(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send(("failed", "why"))
    ours.close()
    assert theirs.receive() == ("failed", "why")
    with pytest.raises(ChannelClosed):
        theirs.receive()


def test_the_end_is_seen_with_messages_unread(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.send(("unread",))
    ours.close()
    with pytest.raises(ChannelClosed):  # a reset
        theirs.receive()


def test_last_words_arrive_of_one_that_left_without_reading(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send(("unread",))
    theirs.send(("failed", "why"))
    theirs.close()
    assert ours.receive() == ("failed", "why")
    with pytest.raises(ChannelClosed):
        ours.receive()


def test_sending_to_nobody_says_so(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.send(("hello",))


def test_a_channel_that_is_full_says_so_and_works_again(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    sent = fill(ours)
    assert sent > 1
    assert not ours.wait(to_send=True, timeout=0)
    for _ in range(sent):
        assert theirs.receive() == ("x" * 4096,)
    ours.send(("again",))
    assert theirs.receive() == ("again",)


def test_send_all_waits_for_room(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    pid = os.fork()
    if pid == 0:
        try:
            theirs.close()
            for number in range(500):
                ours.send_all((number, "x" * 4096))
        finally:
            os._exit(0)
    ours.close()
    got = []
    while len(got) < 500:
        assert theirs.wait(timeout=30)
        while (message := theirs.receive()) is not None:
            got.append(message[0])
            if len(got) == 500:
                break
    os.waitpid(pid, 0)
    assert got == list(range(500))


def test_a_message_of_the_longest_kind_goes_through(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    text = "x" * (MAX_MESSAGE - 100)
    ours.send((text,))
    assert theirs.receive() == (text,)


def test_a_message_too_long_is_refused(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="at most"):
        pair[0].send(("x" * MAX_MESSAGE,))


def test_wait_is_bounded(pair: tuple[Channel, Channel]) -> None:
    assert not pair[0].wait(timeout=0.01)
    pair[1].send((1,))
    assert pair[0].wait(timeout=10)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_no_message_is_not_read_as_one(pair: tuple[Channel, Channel], seed: int) -> None:
    """User code may write to any descriptor: marshal would take memory by the gigabyte for it."""
    ours, theirs = pair
    chance = random.Random(seed)
    theirs.send(("spawned", [(1, 2)]))
    stray = socket.socket(fileno=os.dup(theirs.fileno()))
    stray.send(b"[\xff\xff\xff\x7f" if seed == 0 else chance.randbytes(chance.randrange(1, 4096)))
    stray.close()
    assert ours.receive() == ("spawned", [(1, 2)])
    with pytest.raises(ChannelCorrupted):
        ours.receive()

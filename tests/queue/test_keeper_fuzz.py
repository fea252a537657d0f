"""Random and mutated frames at a real keeper's socket: it lives, and serves others meanwhile.

Each seed is a history of its own, and ends after some seconds however slow the machine is.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from keeper_harness import DEADLINE, KeeperHarness, settle, take

from graced.queue import wire
from graced.queue.client_end import ClientEnd
from graced.queue.policy import Policy
from graced.queue.terms import Terms
from graced.queue.wire import Kind
from graced.settings import Retry

SECONDS = 4.0  # of each seed
CROWD = 12  # strangers that are connected at once
HARMLESS = [kind for kind in Kind if kind != Kind.YIELD]
NUMBERS: list[Any] = [
    *(0, 1, 2, 7, -1, 500, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, -(10**30)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), True, False, None),
]
TEXTS = [
    "",
    "1",
    "waiting",
    "dead",
    "x" * 3000,
    "\ud800",
    "\0",
    "d1:1",
    "ä",
    "\U0001f600",
    "a/../b",
]
KEYS = ["ids", "id", "state", "after", "limit", "owner", "holds", "x"]
RIGHT: dict[Kind, dict[str, Any]] = {  # but for one value
    Kind.HELLO: {"owner": "d1:7", "holds": [[1, 1]]},
    Kind.WAIT: {"id": 1},
    Kind.LIST: {"state": None, "after": 0, "limit": 9},
    Kind.RETRY: {"ids": [1, 2]},
    Kind.DROP: {"ids": [1, 2]},
    Kind.CANCEL: {"ids": [1, 2]},
    Kind.SHOW: {"id": 1},
}
DELAYS = [0.0, 3600.0, -1.0, 1e9, 1e308, float("nan"), float("inf")]
WORDS = [0, 1, 3, 255, 10_000, 10_001, (1 << 31) - 1, (1 << 32) - 1]


class Stranger:
    """Says what comes into its mind, all of it from one seed."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def words(self) -> bytes:
        """Return some frames, or what is left of them."""
        frames = b"".join(self._frame() for _ in range(self._dice.choice([1, 1, 1, 3, 40])))
        for _ in range(self._dice.choice([0, 0, 1, 3])):
            frames = self._mutated(frames)
        return frames

    def _frame(self) -> bytes:
        kind = self._dice.choice(HARMLESS)
        if kind in (Kind.SUBMIT, Kind.STREAM, Kind.CHUNK, Kind.STREAM_END):
            body = self._parcel()
        elif kind == Kind.SETTLE:
            numbers = (self._dice.choice(WORDS) for _ in range(2))
            body = wire.SETTLEMENT.pack(*numbers, *self._dice.randbytes(2), self._delay())
            body += self._dice.choice([b"", b"{}", b"\xff\xfe", b"[" * 3000])
        else:
            body = json.dumps(self._request(kind)).encode()
        return wire.frame(kind, body)

    def _parcel(self) -> bytes:
        count = self._dice.choice([0, 0, 1, 3, *WORDS])
        payloads = [self._dice.choice([b"", b"1", b'"x"', b"\xff", b"[" * 2000]) for _ in range(3)]
        lengths = b"".join(len(p).to_bytes(4, "little") for p in payloads)
        terms = json.dumps(self._terms()).encode()
        head = wire.PARCEL.pack(self._dice.choice([*[len(terms)] * 9, *WORDS]), count) + terms
        return head + self._dice.choice([b"", lengths + b"".join(payloads), lengths])

    def _terms(self) -> Any:
        terms = {"delay": self._delay(), "max_attempts": 3, "priority": 9, "unique": "a"}
        for _ in range(self._dice.choice([0, 1, 2])):
            terms[self._dice.choice([*terms, "scheduled", "x"])] = self._value(2)
        return terms if self._dice.random() < 0.9 else self._value(2)

    def _delay(self) -> float:
        return self._dice.choice(DELAYS)

    def _request(self, kind: Kind) -> Any:
        dice = self._dice
        if dice.random() < 0.1:
            return self._value(2)
        if kind in RIGHT and dice.random() < 0.8:
            request = dict(RIGHT[kind])
            request[dice.choice(list(request))] = self._value(2)
            return request
        return {key: self._value(3) for key in dice.sample(KEYS, dice.randint(0, len(KEYS)))}

    def _value(self, depth: int) -> Any:
        dice = self._dice
        kind = dice.choice([0, 0, 0, 1, 2, 3] if depth else [0, 0, 1])
        if kind == 0:
            return dice.choice(NUMBERS)
        if kind == 1:
            return dice.choice(TEXTS)
        if kind == 2:
            length = dice.choice([0, 1, 2, 30 if depth == 1 else 3])
            return [self._value(depth - 1) for _ in range(length)]
        return {dice.choice(TEXTS): self._value(depth - 1) for _ in range(3)}

    def _mutated(self, said: bytes) -> bytes:
        dice = self._dice
        words = bytearray(said)
        at = dice.randrange(len(words))
        match dice.randrange(5):
            case 0:
                words[at] ^= 1 << dice.randrange(8)
            case 1:
                del words[at:]
            case 2:
                words[at:at] = dice.randbytes(dice.choice([1, 4, 300]))
            case 3:
                words[:4] = dice.choice(WORDS).to_bytes(4, "little")
            case 4:
                words += words[at:] * 3
        return bytes(words or b"\0")


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_strangers_write_it_lives_and_serves_others(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    stranger = Stranger(dice)
    crowd: list[socket.socket] = []
    with KeeperHarness(
        tmp_path, Policy(retry=Retry(0.01, 2.0, 0.1), max_waiting=100_000)
    ) as harness:
        harness.start()
        pid = harness.keeper.pid
        client = ClientEnd(harness.socket, patience=DEADLINE)
        end = time.monotonic() + SECONDS
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            if len(crowd) < CROWD or dice.random() < 0.1:
                crowd.append(connected(harness.socket))
            speaker = dice.choice(crowd)
            if not said(speaker, stranger.words()):
                crowd.remove(speaker)
                speaker.close()
            while len(crowd) > CROWD:
                crowd.pop(dice.randrange(len(crowd))).close()
            serve(client, rounds)
        for sock in crowd:
            sock.close()
        assert rounds > 20, "or nothing was tried"
        assert harness.keeper.pid == pid
        harness.hear()
        assert ("gone",) not in harness.said, f"it died in round {rounds}"
        [last] = client.submit(['"the last"'])
        worker = harness.worker(99)
        while (job := take(worker)).id != last:
            settle(worker, job)
        assert job.payload == "the last"
        client.close()
    assert os.path.exists(harness.file)


def serve(client: Any, number: int) -> None:
    """Be a client that means well: it is answered whatever the others say."""
    match number % 4:
        case 0:
            assert len(client.submit(["1"], Terms(3600.0))) == 1
        case 1:
            assert client.counts()["waiting"] >= 0
        case 2:
            assert isinstance(client.jobs(None, 0, 3), list)
        case 3:
            assert isinstance(client.retry([0, 1 << 70]), dict)


def connected(path: str) -> socket.socket:
    sock = wire.connect(path, blocking=True)
    sock.setblocking(False)
    return sock


def said(sock: socket.socket, words: bytes) -> bool:
    """Write, and read nothing; return whether the other end is there."""
    try:
        sock.send(words, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True

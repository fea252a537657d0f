"""The fork of a zygote, in the main process. What the zygote does is in :mod:`.process`."""

from __future__ import annotations

import os

from graced.host import descriptors, process
from graced.host.channel import Channel
from graced.zygote.process import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.stackdump import Stacks, Window
    from graced.zygote.plan import ZygotePlan


def fork(plan: ZygotePlan) -> tuple[int, Channel]:
    """Fork a zygote; return its PID and the main process's end of the channel to it."""
    ours, theirs = Channel.pair()
    open_now = descriptors.our_fds()
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            process.in_child(lambda: run(plan, theirs, open_now))
    except BaseException:  # closed, whatever it is; raised on
        ours.close()
        raise
    finally:
        process.restore(mask)
        theirs.close()
    return pid, ours


def fork_with(stacks: Stacks, plan: ZygotePlan) -> tuple[int, Channel, Window]:
    """Fork a zygote that has a window for its stacks; return that as well."""
    window = stacks.lend()
    try:
        return *fork(plan.replace(window=window)), window
    except BaseException:  # given back, whatever it is; raised on
        window.give_back()
        raise

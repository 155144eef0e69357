"""The beginning and the end of a process that torchrun starts beside others: joining them, output, exit codes.

Of the processes of one command rank 0 alone prints. The first one that fails says why, whichever it is, and all end
with its exit code, which they find in the store of torchrun. One that is killed says nothing: the connections to it
close, torchrun sends SIGTERM to the others, and the first of them that ends says so.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from metaselect import ranks
from metaselect.errors import UsageError
from metaselect.ranks import LostRank, World, exchanged
from metaselect.signals import TERMINATED, ending_at_once_from_a_thread

# A rank that ends is noticed at once, since its connections close; waiting long for a slow one is no error.
PATIENCE = timedelta(days=7)
STORE_PATIENCE = timedelta(seconds=5)  # for the store at the end of a command
JOINING = 0.02  # seconds between two looks for the other ranks at the start
FAILING_TOGETHER = 2.0  # seconds between the first and the last rank that find the same error


class _State:
    """What ``start`` and ``silence_others`` leave for the end of the command."""

    store: Any = None
    outputs: tuple[int, int] | None = None  # copies of stdout and stderr, where they are silenced


def launched() -> bool:
    """Whether torchrun has started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """The number of this process among those on its host, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def silence_others() -> None:
    """Have nothing printed by any rank but 0; to be called before anything is."""
    if not launched() or os.environ["RANK"] == "0":
        return
    _State.outputs = (os.dup(1), os.dup(2))
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)


def start() -> None:
    """Join the other processes of the command, if torchrun has started any.

    Raises:
        UsageError: they compute with different versions of torch, or on CPUs of different kinds.
    """
    if not launched() or World.size > 1:
        return
    # What torch says of lost connections: a rank that is lost is said in one sentence.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    met: Iterator[tuple[Any, int, int]] = rendezvous("env://", timeout=PATIENCE)
    store, rank, size = exchanged(lambda: next(met))
    _State.store = store
    exchanged(lambda: _await_all(store, size))
    with ending_at_once_from_a_thread(
        speak
    ):  # one that is killed here leaves the others waiting for its address
        exchanged(
            lambda: distributed.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=PATIENCE
            )
        )
    World.rank, World.size = rank, size
    # All must round alike, since each takes every decision by its own numbers.
    kind = f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    digest = torch.tensor(int(hashlib.sha256(kind.encode()).hexdigest()[:15], 16))
    if not torch.equal(ranks.all_max(digest), -ranks.all_max(-digest)):
        raise UsageError(
            "The processes have different versions of torch, kinds of CPU or numbers of threads.",
            "Start them on machines of one kind, with one environment and one OMP_NUM_THREADS.",
        )


def _await_all(store: Any, size: int) -> None:
    """Wait until every rank has come so far; here, unlike in torch's own waiting, a signal unwinds this process."""
    name = _store_name("joined")
    joined = store.add(name, 1)
    while joined < size:
        time.sleep(JOINING)
        joined = store.add(name, 0)


def agreed_exit(code: int) -> tuple[int, bool]:
    """The exit code of the first rank that ended with one above 0, and whether it is this rank, which prints then."""
    if launched():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to all when one has ended
    if _State.store is None:
        return code, not launched() or os.environ["RANK"] == "0"
    own = f"{code} {World.rank}"
    try:
        _State.store.set_timeout(STORE_PATIENCE)
        found = _State.store.compare_set(_store_name("exit"), "", own).decode()
    except RuntimeError:  # torchrun itself has ended
        return code, True
    return int(found.split()[0]), found == own


def agreed_end(code: int) -> tuple[int, bool]:
    """As ``agreed_exit``, for a process that ends at once and says why; before the ranks have met, each says it."""
    code, is_first = (code, True) if _State.store is None else agreed_exit(code)
    if is_first:
        speak()
    return code, is_first


def speak() -> None:
    """Print from here on, whichever rank this is."""
    if _State.outputs is not None:
        for descriptor, copy in zip((1, 2), _State.outputs, strict=True):
            os.dup2(copy, descriptor)
        _State.outputs = None


def leave(code: int) -> int:
    """Leave the other processes at the end of a command, with an exit code; returns it in a process of its own."""
    if World.size == 1:
        return code
    if not code:
        try:
            ranks.barrier()  # nobody may still need this one
        except LostRank:
            code = TERMINATED
    elif code < TERMINATED:
        _await_others()
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: threads of torch.distributed may abort a process that ends them one by one, or keep it waiting.
    os._exit(code)


def _await_others() -> None:
    """Wait for others that fail for the same reason, a little later; not for those that wait for this one."""
    deadline = time.monotonic() + FAILING_TOGETHER
    try:
        ended = _State.store.add(_store_name("ended"), 1)
        while ended < World.size and time.monotonic() < deadline:
            time.sleep(0.02)
            ended = _State.store.add(_store_name("ended"), 0)
    except RuntimeError:  # torchrun itself has ended
        return


def _store_name(word: str) -> str:
    """A name in the store of torchrun, which it keeps when it starts all processes again."""
    return f"metaselect/{word}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"

"""SIGINT and SIGTERM: the process ends at once while it imports, and unwinds while it works."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes, as shells count
WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}
AGAIN = "Run the same command again: it resumes what can be resumed."


Agree = Callable[[int], tuple[int, bool]]
"""Exit code of this process -> that of all processes of the command, and whether this one writes the sentence."""


def alone(code: int) -> tuple[int, bool]:
    """Of a process without others."""
    return code, True


class _Ending:
    """What ``end_at_once`` was given."""

    agree: Agree = staticmethod(alone)


class Terminated(BaseException):
    """SIGTERM came; unwinds like KeyboardInterrupt."""


def interruption(number: signal.Signals) -> str:
    """What is true after a signal ended a command."""
    return f"{WORDS[number]}. {AGAIN}"


def end_at_once(agree: Agree = alone) -> None:
    """From here on, either signal ends the process with its exit code and one sentence on stderr."""
    _Ending.agree = staticmethod(agree)
    _install(_end)


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt inside and SIGTERM ``Terminated``; then the handlers of before are back."""
    before = _install(_unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once_from_a_thread(first: Callable[[], None]) -> Iterator[None]:
    """Either signal ends the process as ``end_at_once`` says, also while the main thread waits in compiled code.

    A handler written in Python would only run when the main thread is back from there; to be called in that thread.

    Args:
        first: called before the sentence is written.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as the interpreter wants it

    def end() -> None:
        if came := os.read(reading, 1):  # nothing: it was closed
            first()
            _say_and_exit(came[0], 128 + came[0])

    before = _install(
        lambda number, frame: None
    )  # the interpreter writes numbers of signals with handlers only
    former = signal.set_wakeup_fd(writing)
    waiting = threading.Thread(target=end, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        waiting.join()
        os.close(reading)


@contextmanager
def held_back() -> Iterator[None]:
    """A signal that comes inside is heeded at the end; only the main thread can hold it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = _install(lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _install(handler: Handler) -> dict[int, Handler | int | None]:
    """Have both signals handled so; returns what handled them."""
    numbers = [signal.SIGTERM]
    # What a shell starts in the background ignores SIGINT, and goes on doing so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    return {number: signal.signal(number, handler) for number in numbers}


def _unwind(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # NumPy's import loses exceptions. The process may end anywhere: every stage bears being killed.
        _end(number, frame)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    code, says = _Ending.agree(128 + number)
    if not says:
        os._exit(code)
    _say_and_exit(number, code)


def _say_and_exit(number: int, code: int) -> None:
    os.write(2, f"{interruption(signal.Signals(number))}\n".encode())
    os._exit(code)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False

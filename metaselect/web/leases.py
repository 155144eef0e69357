"""Which browser shows which sample of a round, so that no two browsers show the same."""

from collections.abc import Callable, Iterator

LEASE_SECONDS = 600.0  # then a sample without an answer may be shown elsewhere


class Leases:
    """The samples that browsers show, by their keys (positions in the round); each for ``LEASE_SECONDS``.

    The caller makes sure that one thread at a time uses it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """None yet; ``clock`` gives seconds."""
        self._clock = clock
        self._until: dict[int, tuple[str, float]] = {}  # key -> (browser, until when)

    def take(self, browser: str, key: int) -> None:
        """Let a browser show a sample, whoever showed it before."""
        self._until[key] = (browser, self._clock() + LEASE_SECONDS)

    def release(self, browser: str) -> None:
        """Give the browser's samples to others."""
        self._until = {key: lease for key, lease in self._until.items() if lease[0] != browser}

    def expire(self) -> None:
        """Give samples to others that were shown for too long."""
        moment = self._clock()
        self._until = {key: lease for key, lease in self._until.items() if lease[1] > moment}

    def held_by(self, browser: str) -> list[int]:
        """The keys of the browser's samples."""
        return [key for key, (holder, _) in self._until.items() if holder == browser]

    def free(self, is_open: bytearray) -> Iterator[int]:
        """The keys with a 1 in ``is_open`` that no browser shows, ascending."""
        key = is_open.find(1)
        while key >= 0:
            if key not in self._until:
                yield key
            key = is_open.find(1, key + 1)

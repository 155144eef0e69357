"""One seed fans out to independent streams by name. Torch-free; ``streams`` makes torch's generators of them."""

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream that ``names`` name; equal names give equal streams."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """The first number, in [0, 1), of the stream that ``names`` name."""
    return (derive(seed, *names) >> 10) / 2.0**53

"""Label noise and class imbalance for experiments: exact counts, drawn from the original labels.

    uniform      any other class, equally likely
    adversarial  one other class for each class by a permutation: the next class, or a seeded permutation
    flip         one other class for each class, drawn independently
    flip2        two other classes for each class, half of its flips each
    background   samples of all other classes change to one class
    asymmetric   named pairs of similar classes; the rate holds in each affected class

Exactly round(rate x eligible) labels change. Labels are (n,) int64 in 0..K-1; nothing is changed in place.
"""

from collections.abc import Mapping

import numpy as np

from metaselect.errors import UsageError

CIFAR10_PAIRS: Mapping[str, str] = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
CIFAR10_CLASSES = frozenset(
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
)


def uniform(labels: np.ndarray, class_count: int, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Flips to any other class."""
    chosen = _choose(np.arange(len(labels)), rate, generator)
    shifts = generator.integers(1, class_count, size=len(chosen))  # 1 to K - 1, so the class always changes
    return _replaced(labels, chosen, (labels[chosen] + shifts) % class_count)


def mapped(
    labels: np.ndarray, mapping: np.ndarray, rate: float, generator: np.random.Generator
) -> np.ndarray:
    """Flips y -> mapping[y], all samples equally likely.

    Args:
        labels: (n,) int64.
        mapping: (K,) int64 without a fixed point.
        rate: in [0, 1], of all samples.
        generator: chooses the samples.
    """
    chosen = _choose(np.arange(len(labels)), rate, generator)
    return _replaced(labels, chosen, mapping[labels[chosen]])


def flip2(labels: np.ndarray, class_count: int, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Flips to two other classes, half of a class's flips to each (the odd one to the first).

    Raises:
        UsageError: fewer than 3 classes.
    """
    if class_count < 3:
        raise UsageError(f"--noise flip2 needs 3 classes; there are {class_count}.", "Use --noise flip.")
    # Two distinct shifts of 1 to K - 1 for each class.
    shifts = np.stack([generator.permutation(class_count - 1)[:2] + 1 for _ in range(class_count)])
    targets = (np.arange(class_count)[:, None] + shifts) % class_count  # (K, 2)
    chosen = _choose(np.arange(len(labels)), rate, generator)
    flipped = labels.copy()
    for number in range(class_count):
        members = generator.permutation(chosen[labels[chosen] == number])
        half = (len(members) + 1) // 2
        flipped[members[:half]] = targets[number, 0]
        flipped[members[half:]] = targets[number, 1]
    return flipped


def background(labels: np.ndarray, target: int, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Flips to one class; the samples of all other classes are eligible."""
    chosen = _choose(np.flatnonzero(labels != target), rate, generator)
    return _replaced(labels, chosen, np.full(len(chosen), target, dtype=labels.dtype))


def asymmetric(
    labels: np.ndarray, pairs: Mapping[int, int], rate: float, generator: np.random.Generator
) -> np.ndarray:
    """Flips from the first class of a pair to the second; exactly round(rate x n_c) in each first class c."""
    flipped = labels.copy()
    for source in sorted(pairs):
        chosen = _choose(np.flatnonzero(labels == source), rate, generator)
        flipped[chosen] = pairs[source]
    return flipped


def next_class(class_count: int) -> np.ndarray:
    """The map y -> y + 1 mod K, (K,) int64."""
    return (np.arange(class_count) + 1) % class_count


def random_derangement(class_count: int, generator: np.random.Generator) -> np.ndarray:
    """A permutation without a fixed point, each equally likely, (K,) int64.

    Raises:
        UsageError: there is only one class.
    """
    if class_count < 2:
        raise UsageError("A map to other classes needs 2 classes; there is 1.", "Use other data.")
    while True:  # one permutation in e has no fixed point
        mapping: np.ndarray = generator.permutation(class_count)
        if (mapping != np.arange(class_count)).all():
            return mapping


def one_other_each(class_count: int, generator: np.random.Generator) -> np.ndarray:
    """(K,) int64: for each class another class, drawn independently, so that two classes may get the same."""
    shifts = generator.integers(1, class_count, size=class_count)
    return (np.arange(class_count, dtype=np.int64) + shifts) % class_count


def long_tail_counts(counts: np.ndarray, factor: float) -> np.ndarray:
    """Samples to keep of each class: int(smallest x factor^(-c / (K - 1))), class 0 the largest, at least 1.

    Args:
        counts: (K,) int64, samples of each class, none 0.
        factor: the largest class over the smallest, at least 1.
    """
    exponents = np.arange(len(counts)) / max(len(counts) - 1, 1)
    # The addend makes 5000 / 200 exactly 25 although 200^-1 is rounded.
    kept = np.floor(counts.min() * factor**-exponents + 1e-9)
    at_least_one: np.ndarray = np.maximum(kept, 1).astype(np.int64)
    return at_least_one


def long_tail(
    labels: np.ndarray, class_count: int, factor: float, generator: np.random.Generator
) -> np.ndarray:
    """Sorted positions of a random subset with an exponential tail.

    Raises:
        UsageError: a class has no sample.
    """
    counts = np.bincount(labels, minlength=class_count)
    if counts.min() == 0:
        raise UsageError(
            f"--imbalance needs samples of every class; class number {int(counts.argmin())} has none.",
            "Use data in which every class has samples.",
        )
    kept = [
        generator.permutation(np.flatnonzero(labels == number))[:count]
        for number, count in enumerate(long_tail_counts(counts, factor))
    ]
    return np.sort(np.concatenate(kept))


def transition_counts(clean: np.ndarray, given: np.ndarray, class_count: int) -> np.ndarray:
    """(K, K) int64: how many samples of the clean class (row) have the given label (column)."""
    pairs = np.bincount(clean * class_count + given, minlength=class_count * class_count)
    return pairs.reshape(class_count, class_count)


def _choose(eligible: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Exactly round(rate x eligible) positions, sorted."""
    return np.sort(generator.permutation(eligible)[: round(rate * len(eligible))])


def _replaced(labels: np.ndarray, chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    flipped = labels.copy()
    flipped[chosen] = values
    return flipped

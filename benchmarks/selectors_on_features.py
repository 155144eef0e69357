"""What bought labels are worth on frozen features, by selector: the accuracy of a head that is trained on them.

    python benchmarks/selectors_on_features.py --train cifar10_dinov2/train.parquet --test cifar10_dinov2/test.parquet

The two files (columns ``features`` and ``label``, clean) are put together; each seed draws the pool, as many samples as
the first file has, and the rest is the test set. Selectors are called directly, with the features and, where they want
probabilities, those of a logistic regression on given labels of which 60 % are wrong (adversarial). The head is
scikit-learn's logistic regression with C = 30 on rows of norm 1.

The second table buys in two rounds: half of the budget by k-means, the other half by k-means again or by disagreement.
Its head is fitted on the bought labels; given labels where it agrees are kept, and a logistic regression with C = 1 is
fitted on those and the bought ones. ``--wrong`` makes a share of the bought labels wrong.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression

from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import PoolFeatures

LEFT_OUT = ("gbc", "ta-vaal", "disagreement")  # they want gradients, images, and labels that were bought
NOISE = {"uniform 40 %": (0.4, None), "adversarial 60 %": (0.6, 1)}


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows (n, d) float32 and labels (n,)."""
    table = pq.read_table(path, columns=["features", "label"])
    rows = np.stack(table["features"].to_pylist()).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array(table["label"].to_pylist())


def noisy(labels: np.ndarray, rate: float, shift: int | None, rng: np.random.Generator) -> np.ndarray:
    """The labels, a share of them wrong: by ``shift`` classes, or None: any other class."""
    classes, given = labels.max() + 1, labels.copy()
    flipped = rng.permutation(len(labels))[: round(rate * len(labels))]
    steps = rng.integers(1, classes, len(flipped)) if shift is None else shift
    given[flipped] = (given[flipped] + steps) % classes
    return given


def head(rows: np.ndarray, labels: np.ndarray, strength: float = 30.0) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000).fit(rows, labels)


def choose(
    name: str,
    pool: PoolFeatures,
    budget: int,
    seed: int,
    bought: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """The picks of a selector; ``labels`` are the bought ones."""
    before = torch.from_numpy(np.empty(0, np.int64) if bought is None else bought)
    pool = pool._replace(bought_labels=None if labels is None else torch.from_numpy(labels))
    method = configure(SELECTORS[name], [])
    picks = method.choose(pool, budget, before, torch.Generator().manual_seed(seed)).ranked
    return np.asarray(picks)


def cell(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def one_round(
    rows: np.ndarray, labels: np.ndarray, n: int, budgets: list[int], seeds: list[int]
) -> list[str]:
    """The first table, a row for each selector."""
    lines = []
    for name in (name for name in SELECTORS if name not in LEFT_OUT):
        cells, seconds, missing = [], 0.0, 0
        for budget in budgets:
            accuracies = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                order = rng.permutation(len(rows))
                train, test = order[:n], order[n:]
                given = noisy(labels[train], *NOISE["adversarial 60 %"], rng)
                probs = head(rows[train], given, 1.0).predict_proba(rows[train]).astype(np.float32)
                pool = PoolFeatures(
                    (torch.from_numpy(probs),),
                    (torch.from_numpy(rows[train]),),
                    torch.from_numpy(given),
                )
                started = time.monotonic()
                picks = train[choose(name, pool, budget, seed)]
                seconds = max(seconds, time.monotonic() - started)
                missing += len(set(labels.tolist())) - len(set(labels[picks].tolist()))
                accuracies.append(100 * head(rows[picks], labels[picks]).score(rows[test], labels[test]))
            cells.append(cell(accuracies))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {missing} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    return lines


def two_rounds(
    rows: np.ndarray, labels: np.ndarray, n: int, budget: int, seeds: list[int], wrong: float
) -> None:
    """The second table, a row for each kind of noise and second round."""
    for noise, (rate, shift) in NOISE.items():
        for second in (None, "k-means", "disagreement"):
            heads, refits = [], []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                order = rng.permutation(len(rows))
                train, test = order[:n], order[n:]
                given = noisy(labels[train], rate, shift, rng)
                answers = noisy(labels[train], wrong, None, rng)
                pool = PoolFeatures((), (torch.from_numpy(rows[train]),), torch.from_numpy(given))
                first = budget if second is None else budget // 2
                picks = choose("k-means", pool, first, seed)
                if second is not None:
                    more = choose(second, pool, budget - first, seed, picks, answers[picks])
                    picks = np.concatenate([picks, more])
                few = head(rows[train[picks]], answers[picks])
                kept = few.predict(rows[train]) == given
                kept[picks], given[picks] = True, answers[picks]
                all_kept = head(rows[train[kept]], given[kept], 1.0)
                heads.append(100 * few.score(rows[test], labels[test]))
                refits.append(100 * all_kept.score(rows[test], labels[test]))
            way = (
                f"{budget} at once" if second is None else f"{budget // 2}, then {budget // 2} by `{second}`"
            )
            print(f"| {noise} | {way} | {cell(heads)} | {cell(refits)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--rounds", type=int, nargs="+", default=[20, 50], help="budgets of two rounds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--wrong", type=float, default=0.0, help="share of bought labels that are wrong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = [load(arguments.train), load(arguments.test)]
    rows = np.concatenate([part[0] for part in parts])
    labels = np.unique(np.concatenate([part[1] for part in parts]), return_inverse=True)[1]
    n = len(parts[0][0])
    if not arguments.wrong:
        columns = ("selector", *(f"{budget} labels" for budget in arguments.budgets))
        columns = (*columns, "classes not bought, all runs", "s a choice, at most")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        one_round(rows, labels, n, arguments.budgets, arguments.seeds)
    print("\n| given labels | bought | head, % | refit, % |\n|---|---|---|---|")
    for budget in arguments.rounds:
        two_rounds(rows, labels, n, budget, arguments.seeds, arguments.wrong)


if __name__ == "__main__":
    main()

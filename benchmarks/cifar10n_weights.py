"""CIFAR-10N, 10,000 images with people's worst labels: ranking the wrong labels by weights and by cleanlab.

    pip install -e '.[bench]'
    python benchmarks/cifar10n_weights.py --train train.parquet --test test.parquet --labels human_labels.csv

One warm-up of LeNet (a CPU can train it) and 200 labels bought by rbc (answered from the truth) for all methods of a
seed; shipped defaults. AUC is the chance that a sample with a right label weighs more than one with a wrong label, over
the samples that were not bought. cleanlab's scores are of the same warm-up's probabilities, at the checkpoint that the
re-weighters start from, over the same samples; the model was trained on nine tenths of them (cleanlab's own way is
cross-validation), and they need no bought label. fsr's scores (its pusher's, momentum included) are in no artefact, so
its training is run once more in this process.

CIFAR-10N: Wei, Zhu, Cheng, Liu, Niu, Liu 2022 (arXiv:2110.12088), column ``worst``; 40.2 % of its labels are wrong.
cleanlab: Kuan, Mueller 2022, "Model-agnostic label quality scoring"; Northcutt, Jiang, Chuang 2021 (arXiv:1911.00068).
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from common import buy_labels, make_parser, metaselect, read_truth, row, write_subset

from metaselect.cli.console import Console, ProgressMode
from metaselect.metrics.ranking import clean_label_auc
from metaselect.options import ReweightOptions
from metaselect.run.layout import Run
from metaselect.stages.reweight import reweight as stage
from metaselect.stages.reweight.training import Trained, train_method

try:
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    raise SystemExit(
        "This benchmark compares with cleanlab, which is missing: pip install cleanlab"
    ) from None

METHODS = ("direct", "l2rw", "mw-net", "fsr")
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
SAMPLES, BUDGET = 10_000, 200


def fsr_scores(run: Path, seed: int) -> np.ndarray:
    """(n,) the pusher's scores at the end of `reweight --method fsr`, which is run again."""
    kept: list[np.ndarray] = []

    def train_and_keep(*words: Any) -> Trained:
        trained = train_method(*words)
        run_of_fsr: Any = trained.run
        kept.append(run_of_fsr.history.scores.cpu().numpy())
        return trained

    with patch.object(stage, "train_method", train_and_keep):
        options = ReweightOptions(method="fsr", name="fsr-again", seed=seed, folds=0)
        stage.reweight(Run.at(run), options, Console(ProgressMode.plain, as_json=True))
    return kept[0]


def score_aucs(run: Path, truth: dict[str, str], seed: int) -> dict[str, float | None]:
    """AUC of fsr's scores and of cleanlab's, these of the probabilities at the starting checkpoint."""
    epoch = json.loads((run / "warmup/model.json").read_text())["start_epoch"]
    factors = pq.read_table(run / f"select/round-1/gradients-epoch-{epoch:04d}.parquet")
    weights = pq.read_table(run / f"reweight/{METHODS[0]}/weights.parquet")
    if factors["sample_id"] != weights["sample_id"]:
        raise SystemExit("The probabilities and the weights are not of the same samples in the same order.")
    probs = np.array(factors["probs"].to_pylist())
    probs /= probs.sum(1, keepdims=True)  # cleanlab wants rows that sum to 1 in float64
    classes = json.loads((run / "data/classes.json").read_text())
    given_labels = weights["given_label"].to_pylist()
    clean = np.array(
        [
            truth[each] == label
            for each, label in zip(weights["sample_id"].to_pylist(), given_labels, strict=True)
        ]
    )
    not_bought = ~weights["bought"].to_numpy()
    labels = np.array([classes.index(label) for label in given_labels])
    scores = {method: get_label_quality_scores(labels, probs, method=method) for method in SCORES}
    all_scores = {"fsr, scores": fsr_scores(run, seed)} | {
        f"cleanlab, {name}": score for name, score in scores.items()
    }
    return {name: clean_label_auc(score[not_bought], clean[not_bought]) for name, score in all_scores.items()}


def run_seed(seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every method on one draw of the images."""
    subset = write_subset(
        arguments.train, arguments.work / f"some-{seed}.parquet", SAMPLES, np.random.default_rng(seed)
    )
    noisy, run = arguments.work / f"data-{seed}", arguments.work / f"run-{seed}"
    labels = ("--labels", arguments.labels, "--labels-column", "worst")
    metaselect("corrupt", subset, "-o", noisy, "--noise", "human", *labels, "--seed", seed)
    warm = ("--model", arguments.model, "--seed", seed)
    seconds = {"warmup": metaselect("warmup", noisy / "train.parquet", "--run", run, *warm)[1]}
    metaselect("select", "--run", run, "--budget", BUDGET, "--seed", seed)
    buy_labels(run, noisy / "truth.csv")
    for method in METHODS:
        seconds[method] = metaselect("reweight", "--run", run, "--method", method, "--seed", seed)[1]
    evaluation = metaselect("evaluate", arguments.test, "--run", run, "--truth", noisy / "truth.csv")[0]
    rows = [row(each, seed, evaluation["reweight"][each], seconds[each]) for each in METHODS]
    for name, auc in score_aucs(run, read_truth(noisy / "truth.csv"), seed).items():
        judged = {"test_accuracy": evaluation["warmup"]["test_accuracy"], "weight_auc": auc}
        rows.append(row(name, seed, judged, seconds["fsr" if name.startswith("fsr") else "warmup"]))
    return rows


def auc_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of AUCs; the accuracy and seconds beside cleanlab's are the warm-up's."""
    columns = ("scores", "AUC (each seed)", "mean", "spread", "test accuracy %, mean", "s a run, at most")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in dict.fromkeys(each["arm"] for each in rows):
        arm_rows = [each for each in rows if each["arm"] == arm]
        aucs = [each["auc"] for each in arm_rows]
        cells = (
            arm,
            ", ".join(f"{auc:.3f}" for auc in aucs),
            f"{mean(aucs):.3f}",
            f"{stdev(aucs):.3f}" if len(aucs) > 1 else "-",
            f"{100 * mean(each['accuracy'] for each in arm_rows):.1f}",
            f"{max(each['seconds'] for each in arm_rows):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__, "cifar10n-weights", [0, 1], data=True)
    parser.add_argument("--labels", type=Path, required=True, help="CSV with id and worst")
    parser.add_argument("--model", default="lenet")
    arguments = parser.parse_args()
    rows = [each for seed in arguments.seeds for each in run_seed(seed, arguments)]
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(auc_table(rows))


if __name__ == "__main__":
    main()

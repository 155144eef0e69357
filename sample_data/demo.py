"""The main job on sample_data: 60 % wrong labels, 20 bought ones, through the command line alone.

Run it with ``make demo``. The run directories stay in ``demo-run/``; look at them, or try other commands there.
"""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent / "demo-run"
TRAIN, TEST, TRUTH = HERE / "train.parquet", HERE / "test.parquet", HERE / "truth.csv"
BUDGET = 20
NO_COMPARISON = ("--folds", "0")  # the test set tells which model is better


def metaselect(*words: object) -> str:
    """Run one command, show it, and return its standard output."""
    shown = [os.path.relpath(word) if isinstance(word, Path) else str(word) for word in words]
    print(f"$ metaselect {shlex.join(shown)}", flush=True)
    command = [sys.executable, "-m", "metaselect", *map(str, words)]
    # One thread each: two trainings run side by side, and small models gain nothing from more.
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def answer_with_given_labels(form: Path) -> None:
    """The sham annotator: copies the label that was there already."""
    with form.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with form.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "clean_label": row["given_label"]} for row in rows)


def real_arm(run: Path) -> dict[str, Any]:
    """Buy true labels; train the baseline, the default method and direct."""
    metaselect("annotate", "simulate", TRUTH, "--run", run)
    for method in ("uniform", "auto", "direct"):
        metaselect("reweight", "--run", run, "--method", method, *NO_COMPARISON)
    return json.loads(metaselect("evaluate", TEST, "--run", run, "--truth", TRUTH, "--json"))


def sham_arm(run: Path) -> dict[str, Any]:
    """Buy nothing new: the given labels come back as answers."""
    form = ROOT / "sham.csv"
    metaselect("annotate", "export", "--run", run, "--show-given", "--no-images", "-o", form)
    answer_with_given_labels(form)
    metaselect("annotate", "import", form, "--run", run)
    metaselect("reweight", "--run", run, *NO_COMPARISON)
    return json.loads(metaselect("evaluate", TEST, "--run", run, "--truth", TRUTH, "--json"))


def main() -> None:
    """Every arm, and one table."""
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    real, sham = ROOT / "rbc", ROOT / "sham"
    metaselect("warmup", TRAIN, "--run", real)
    metaselect("select", "--run", real, "--budget", BUDGET)
    shutil.copytree(real, sham)
    with ThreadPoolExecutor(2) as pool:
        real_result, sham_result = (
            job.result() for job in (pool.submit(real_arm, real), pool.submit(sham_arm, sham))
        )
    rows = (
        ("warm-up on the labels as given", real_result["warmup"]),
        (f"uniform, {BUDGET} bought labels (the baseline)", real_result["reweight"]["uniform"]),
        (f"auto, {BUDGET} bought labels (the default)", real_result["reweight"]["auto"]),
        (f"direct, {BUDGET} bought labels", real_result["reweight"]["direct"]),
        (f"auto, {BUDGET} labels not bought (the sham)", sham_result["reweight"]["auto"]),
    )
    noise = real_result["noise"]["measured_rate"]
    print(f"\n{real_result['test_samples']} test images; {noise:.0%} of the training labels are wrong\n")
    print(f"{'':48} {'test accuracy':>13} {'weight AUC':>11}")
    for name, found in rows:
        auc = found.get("weight_auc")
        print(f"{name:48} {found['test_accuracy']:13.1%} {'-' if auc is None else f'{auc:.3f}':>11}")
    print(f"\n{time.monotonic() - started:.0f} s; the runs are in {os.path.relpath(ROOT)}")


if __name__ == "__main__":
    main()

"""Training samples that stand in for bought ones in `fsr`: by the bought labels, always, or never.

    python benchmarks/fsr_proxies.py --data-dir data --data digits --seeds 0 1 2
    python benchmarks/fsr_proxies.py --data-dir data --data cifar10_dinov2 --noise human-worst --pushers meta-margin

20 labels bought by rbc, shipped defaults, one thread, one warm-up and one purchase for all arms of a seed;
``settings.py`` has the data and the noise. An arm of --pushers is `fsr` with that score of who may stand in.
"""

import json
from pathlib import Path
from typing import Any

import torch
from common import in_process, make_parser, row, table
from settings import DATA, NOISES, Setting, Source

from metaselect.reweighting.fsr.proxies import MODES
from metaselect.reweighting.fsr.pushers import PUSHERS
from metaselect.run.artefacts import RECORD
from metaselect.run.files import read_json

BUDGET = 20
NOISE = ["none", "uniform-60", "flip2-40", "adversarial-60-derangement"]
IMAGES = 60_000  # of MNIST and CIFAR-10


def run_setting(setting: Setting, pushers: list[str]) -> list[dict[str, Any]]:
    """Every arm on one draw of the noise."""
    run = setting.bought("rbc", BUDGET)
    arms: dict[str, tuple[str, tuple[str, ...]]] = {"uniform": ("uniform", ())}
    arms |= {f"proxies={mode}": ("fsr", ("--option", f"proxies={mode}")) for mode in MODES}
    arms |= {f"pusher={name}": ("fsr", ("--option", f"pusher={name}")) for name in pushers}
    common, seconds = ("--folds", 0, "--seed", setting.seed), {}
    for name, (method, options) in arms.items():
        words = ("--method", method, "--name", name.replace("=", "-"), *options)
        in_process("reweight", "--run", run, *words, *common)
        record = read_json(run / "reweight" / words[3] / RECORD, "Run the command again.")
        seconds[name] = record["details"]["seconds"]
    found = in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]["reweight"]
    return [
        row(f"{setting.noise}: {name}", setting.seed, found[name.replace("=", "-")], seconds[name])
        for name in arms
    ]


def main() -> None:
    parser = make_parser(__doc__, "fsr-proxies", [0, 1, 2])
    parser.add_argument("--data-dir", type=Path, help="folder with the data sets that scikit-learn lacks")
    parser.add_argument("--data", default="digits", choices=list(DATA))
    parser.add_argument("--noise", nargs="+", default=NOISE, choices=list(NOISES))
    parser.add_argument("--pushers", nargs="+", default=[], choices=PUSHERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, rows = Source(arguments.data_dir, IMAGES), []
    for noise in arguments.noise:
        for seed in arguments.seeds:
            setting = Setting(arguments.data, noise, seed, source, arguments.work)
            rows += run_setting(setting, arguments.pushers)
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, {}))


if __name__ == "__main__":
    main()

"""Short trainings in float64 by every method, and what else several ranks compute together."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from data_makers import EveryState, plan, start_of, trained
from safetensors.torch import save_file
from torch import nn

from metaselect import ranks
from metaselect.data.stored.preprocess import Preprocess
from metaselect.features import extract
from metaselect.features.extract import last_layer_factors
from metaselect.features.near_duplicates import similar_samples
from metaselect.metagrad import facility_location
from metaselect.metagrad.forward import Forward
from metaselect.metagrad.jvp import JvpSolver
from metaselect.metagrad.jvp_strategies import central_differences, dual_numbers, through_graph
from metaselect.models.batch import Batch
from metaselect.records import SilentReporter
from metaselect.registry import REWEIGHTERS, SELECTORS, configure
from metaselect.selection import badge, k_center
from metaselect.selection.base import PoolFeatures
from metaselect.selection.clustering import factored, farthest_first, kmeans
from metaselect.training.batches import Batches
from metaselect.training.loop import final_model, start_training
from metaselect.training.predict import predict

BOUGHT = torch.tensor([0, 1, 3, 4, 6, 7, 9, 12, 15, 18])
CASES: dict[str, dict[str, object]] = {
    "uniform": {},
    "gce": {"augment": "strong"},
    "gce truncation=0.35": {},
    "elr": {"optimiser": "adam", "lr": 0.01},
    "auto": {"accumulate": 2},
    "direct": {},
    "l2rw every=2": {"momentum": 0.0},
    "mw-net lagged=true": {},
    "mw-net normalised=true detached=false": {"schedule": "step"},
    "fsr dictionary=12 share=1 ema=0.9": {},
    "fsr dictionary=12 share=1 relabel=paper deferral=0": {},
}
"""A method with its options, and changes of the plan."""
CASES |= {name: {} for name in REWEIGHTERS if not any(words.split()[0] == name for words in CASES)}


class Wide(nn.Module):
    """Images to logits in float64: what the ranks' sums are rounded to is then too small to matter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = EveryState().double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x.double())
        return logits


def batches() -> Batches:
    """24 grey images of three classes."""
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (24, 1, 8, 8), generator=draw, dtype=torch.uint8)
    preprocess = Preprocess("images", (8, 8), "L", (0.5,), (0.25,))
    return Batches(
        images.numpy(), (torch.arange(24) % 3).numpy(), preprocess, device=torch.device("cpu"), channels=1
    )


def results() -> dict[str, torch.Tensor]:
    """Every tensor that is computed, by name."""
    return {**trainings(), **products(), **features(), **gradients(), **choices()}


def trainings() -> dict[str, torch.Tensor]:
    """What short trainings end with."""
    data, found = batches(), dict[str, torch.Tensor]()
    for words, changes in CASES.items():
        name, *options = words.split()
        torch.manual_seed(1)
        method = configure(REWEIGHTERS[name], options)
        config = plan(**{"epochs": 2, "batch_size": 7, **changes})
        stream = torch.Generator().manual_seed(2)
        with default_dtype(torch.float64 if name == "mw-net" else torch.float32):  # of its weight net
            state, logs = trained(method, Wide(), data, config, bought=BOUGHT, stream=stream)
        view = predict(final_model(state), data, torch.arange(len(data)))
        tensors = {
            **state.model.state_dict(),
            **state.method.state_dict(),
            "losses": view.losses,
            "weights": state.method.pool_weights(view),
            "logs": torch.tensor([list(log) for log in logs], dtype=torch.float64),
        }
        found |= {f"{words}: {key}": value.double() for key, value in tensors.items()}
    return found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A context in which new tensors are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def products() -> dict[str, torch.Tensor]:
    """The meta gradient of one batch by each strategy, with a meta batch that cannot be divided too."""
    data, found = batches(), dict[str, torch.Tensor]()
    torch.manual_seed(1)
    state = start_training(
        Wide().train(), plan(), configure(REWEIGHTERS["uniform"], []).begin(start_of(data.labels))
    )
    for strategy in (through_graph, dual_numbers, central_differences):
        for count in (10, 1):
            batch, meta = (data.get(ids, divided=True) for ids in (torch.arange(11, 24), torch.arange(count)))
            forward = Forward(
                *(state.model, state.optimiser, batch),
                jvp_solver=JvpSolver(strategies=[strategy]),
                meta_running_statistics=count < 8,
            )
            weights = torch.linspace(0, 1, 13, dtype=torch.float64)
            ahead = forward.virtual_step(weights)
            s = forward.jvp(forward.meta_grad(meta, ahead))
            found[f"s {strategy.__name__} {count}"] = s
            hidden = forward.joint_hidden(Batch(meta.inputs, meta.labels))
            found[f"hidden {strategy.__name__} {count}"] = torch.cat(hidden)
    return found


def features() -> dict[str, torch.Tensor]:
    """Features and near duplicates of the pool, in blocks of a size that leaves the ranks unequal shares."""
    torch.manual_seed(1)
    data = batches()
    computed = last_layer_factors(Wide(), data, SilentReporter(), "")
    similar = similar_samples(data.raw.numpy(), data.device, tile_entries=24 * 5)
    assert similar.outlier is not None
    values = {
        "probs": computed.probs,
        "features": computed.hidden,
        "group": similar.group,
        "outlier": similar.outlier,
    }
    return {name: value.double() for name, value in values.items()}


def gradients() -> dict[str, torch.Tensor]:
    """Projected gradients in float32, with scales of the drawn layers, in batches of a size that can be divided."""
    torch.manual_seed(1)
    with mock.patch.object(extract, "BACKWARD_BATCH", 5):
        found, _ = extract.gradient_features(
            *(EveryState(), batches(), configure(SELECTORS["gbc"], ["width=50"])),
            torch.Generator().manual_seed(6),
            report=SilentReporter(),
            what="",
        )
    return {"gradients' norms": found.norms.double(), "gradients' directions": found.directions.double()}


def choices() -> dict[str, torch.Tensor]:
    """What selectors choose in a first and a later round, in blocks and parts that leave the ranks unequal shares."""
    draw, n = torch.Generator().manual_seed(4), 700
    probs = [torch.randn(n, 3, generator=draw).softmax(1) for _ in range(2)]
    hidden = [torch.randn(n, 5, generator=draw).round(decimals=1) for _ in range(2)]  # equal rows too
    pool = PoolFeatures(tuple(probs), tuple(hidden), torch.arange(n) % 3)
    small = [
        mock.patch.object(kmeans, "LEAST_PART", 100),
        *(mock.patch.object(module, "BLOCK_ENTRIES", 2**10) for module in (factored, badge)),
        *(mock.patch.object(k_center, name, 64) for name in ("TILE_ENTRIES", "MIN_TILE_ROWS")),
        mock.patch.object(facility_location, "TILE_ENTRIES", 2**12),
        mock.patch.object(farthest_first, "CANDIDATES", 50),
    ]
    found = {}
    with ExitStack() as stack:
        for patch in small:
            stack.enter_context(patch)
        for name in ("rbc", "rbc-k", "k-center", "badge", "craig"):
            for bought in (torch.arange(0), torch.arange(3, 90, 4)):
                choice = configure(SELECTORS[name], []).choose(
                    pool, 60, bought, torch.Generator().manual_seed(5)
                )
                scores = torch.stack([choice.cluster.double(), choice.similarity.double()])
                found[f"choice of {name} after {len(bought)}"] = torch.cat(
                    [choice.ranked.double(), scores.flatten()]
                )
    return found


def write(out: Path) -> None:
    """Write the results of rank 0, and whether all ranks have the same bits."""
    found = {name: value.contiguous() for name, value in results().items()}
    for name, value in list(found.items()):
        same = ranks.all_max(value.view(torch.int64)).equal(ranks.broadcast(value).view(torch.int64))
        found[f"same {name}"] = torch.tensor(
            float(same and ranks.all_max(-value).equal(-ranks.broadcast(value)))
        )
    if ranks.is_first():
        save_file(found, out)

"""An independent second-order script, sharing nothing with the core, reproduces a run's weights from its files."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.models.build import build_model
from metaselect.random import generator

SAMPLES = Path(__file__).parent.parent / "sample_data"


def metaselect(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "metaselect", *map(str, words)], check=True, capture_output=True)


def direct_by_second_order(run: Path) -> np.ndarray:
    """W after one epoch, by differentiating through the virtual step; only the random streams are shared."""
    record = json.loads((run / "reweight/direct/stage.json").read_text())
    options, start = record["options"], json.loads((run / "warmup/model.json").read_text())
    table = pq.read_table(run / "data/samples.parquet")
    classes = json.loads((run / "data/classes.json").read_text())
    labels = torch.tensor([classes.index(name) for name in table["given_label"].to_pylist()])
    ids = table["sample_id"].to_pylist()
    with (run / "annotate/meta_set.csv").open() as stream:
        bought = {ids.index(r["sample_id"]): classes.index(r["clean_label"]) for r in csv.DictReader(stream)}
    scale = start["preprocess"]
    pixels = torch.from_numpy(np.load(run / "data/pixels.npy")).float()
    x = (pixels / 255 - scale["mean"][0]) / scale["std"][0]
    model = build_model(start["architecture"], start["input_shape"], len(classes), seed=0)
    model.load_state_dict(load_file(run / f"warmup/checkpoints/epoch-{start['start_epoch']:04d}.safetensors"))
    weights = torch.rand(len(ids), generator=generator(options["seed"], "reweight", "method"))
    meta_x, meta_y = x[sorted(bought)], torch.tensor([bought[index] for index in sorted(bought)])
    pool = torch.tensor([index for index in range(len(ids)) if index not in bought])
    steps = math.ceil(len(pool) / options["batch_size"])
    order = torch.randperm(len(pool), generator=generator(options["seed"], "order", 1))
    for number, part in enumerate(pool[order].tensor_split(steps)):
        lr = options["lr"] * (1 + math.cos(math.pi * number / steps)) / 2
        params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
        losses = F.cross_entropy(functional_call(model, params, (x[part],)), labels[part], reduction="none")
        w = weights[part].requires_grad_()
        grads = torch.autograd.grad((w * losses).mean(), list(params.values()), create_graph=True)
        decay = options["weight_decay"]
        ahead = {n: p - lr * (g + decay * p) for (n, p), g in zip(params.items(), grads, strict=True)}
        meta_loss = F.cross_entropy(functional_call(model, ahead, (meta_x,)), meta_y)
        slope = torch.autograd.grad(meta_loss, w)[0]
        # "step" is given per visit: eta alpha / B of Eq. 3 in one number, at the largest rate.
        new = (w - options["option"]["step"] * len(part) / options["lr"] * slope).detach().clamp(0, 1)
        weights[part] = new
        real = F.cross_entropy(functional_call(model, params, (x[part],)), labels[part], reduction="none")
        grads = torch.autograd.grad((new * real).mean(), list(params.values()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), grads, strict=True):
                parameter -= lr * (gradient + decay * parameter)
    weights[list(bought)] = 1.0
    return weights.numpy()


def learnt(run: Path) -> np.ndarray:
    return pq.read_table(run / "reweight/direct/weights.parquet")["weight"].to_numpy()


@pytest.mark.slow
def test_second_order_reproduces_the_weights_of_a_tiny_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metaselect("ingest", SAMPLES / "train.parquet", "--run", run, "--limit", 200)
    metaselect("warmup", "--run", run, "--epochs", 2)
    metaselect("select", "--run", run, "--budget", 20)
    metaselect("annotate", "simulate", SAMPLES / "truth.csv", "--run", run)
    metaselect("reweight", "--run", run, "--method", "direct", "--epochs", 1)
    weights = learnt(run)
    np.testing.assert_allclose(weights, direct_by_second_order(run), atol=1e-4)

    flipped = tmp_path / "flipped"
    shutil.copytree(run, flipped)
    with (run / "annotate/meta_set.csv").open() as stream:
        first = next(csv.DictReader(stream))
    other = str((int(first["clean_label"]) + 1) % 10)
    answer = tmp_path / "answer.csv"
    answer.write_text(f"sample_id,clean_label,annotator\n{first['sample_id']},{other},simulated\n")
    metaselect("annotate", "import", answer, "--run", flipped)
    metaselect("reweight", "--run", flipped, "--method", "direct", "--epochs", 1)
    assert np.abs(learnt(flipped) - weights).max() > 1e-3
    np.testing.assert_allclose(learnt(flipped), direct_by_second_order(flipped), atol=1e-4)

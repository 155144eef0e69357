"""The parts of the report: colours, figures, numbers as text, the map, and the tables of many classes."""

import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from metaselect.data.thumbnails import encode_small
from metaselect.records import matrix_rows
from metaselect.report.figures import curves, histogram, scatter
from metaselect.report.page import count, decimal, name, percent, points, shade, thinned
from metaselect.run.layout import Run
from metaselect.stages.report import pool_map as pool_map_module
from metaselect.stages.report.classes import class_rows, confusion
from metaselect.stages.report.commands import shown_command
from metaselect.stages.report.galleries import LOSSLESS, MOST_BOUGHT, MOST_DOUBTED, MOST_TRUSTED, SIDE
from metaselect.stages.report.pool_map import principal_components
from metaselect.stages.report.training import weights

STYLE = files("metaselect.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
ON = {
    "back": ("text", "soft", "link"),
    "card": ("text", "soft", "link", "good", "bad"),
    "code": ("text",),
    "good-back": ("text", "soft"),
    "bad-back": ("text", "bad"),
    **{f"shade-{step}": ("text",) for step in range(1, 6)},
}
"""Colours of texts on each ground."""


def palettes() -> dict[str, dict[str, str]]:
    """The variables of each ``:root`` in the style, those of the first as the ground of the others."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("palette", ["light", "dark", "print"])
def test_texts_and_lines_stand_out(palette: str) -> None:
    colours = palettes()[palette]
    assert set(colours) == set(palettes()["light"])
    for ground, texts in ON.items():
        for text in texts:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for number in range(1, 6):
        assert contrast(colours[f"series-{number}"], colours["card"]) >= 3, number
    assert contrast(colours["line"], colours["card"]) >= 3


def figures() -> dict[str, str]:
    draw = np.random.default_rng(0)
    lines: dict[str, tuple[list[int], list[float | None]]] = {
        "warmup": ([1, 3, 5], [0.1, 0.5, None]),
        "$x$ & <b>": ([1, 40, 80], [0.2, 0.3, 0.9]),
        "none": ([1, 2, 3], [None, None, None]),
    }
    marks = [
        SimpleNamespace(name="bought", points=draw.normal(size=(4, 2)), marker="X", size=60, filled=True)
    ]
    marks += [
        SimpleNamespace(name="doubted", points=draw.normal(size=(3, 2)), marker="^", size=30, filled=False)
    ]
    return {
        "curves": curves("figure-a", lines, what="accuracy", percent=True, description="words"),
        "histogram": histogram("figure-b", [3, 0, 5], [0, 0.3, 0.6, 1], title="Weights", description="words"),
        "scatter": scatter("figure-c", draw.normal(size=(20, 2)), marks, title="Map", description="words"),  # type: ignore[arg-type]
    }


def test_figures_are_plain_elements_that_take_the_colours_of_the_page() -> None:
    ids: list[str] = []
    for svg in figures().values():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert [child.tag for child in root][:2] == ["title", "desc"]
        tags = {element.tag for element in root.iter()}
        assert tags <= {"svg", "title", "desc", "g", "path", "defs", "use", "text", "clipPath", "rect"}
        own = [value for element in root.iter() if (value := element.get("id"))]
        ids += own
        for element in root.iter():
            assert "style" not in element.attrib
            assert not re.search(r"#0[0-9a-f]{5}\b", " ".join(element.attrib.values())), (
                "a colour of the drawing"
            )
            for value in element.attrib.values():
                assert set(re.findall(r"#([\w-]+)", value)) <= set(own)
    assert len(ids) == len(set(ids))


def test_a_dollar_is_a_dollar_and_a_model_without_values_has_no_line() -> None:
    root = ElementTree.fromstring(figures()["curves"])
    texts = [element.text for element in root.iter("text")]
    assert "$x$ & <b>" in texts
    assert "none" not in texts
    assert {"20 %", "40 %"} <= set(texts)
    assert {"20", "80"} <= set(texts)  # epochs, not their places


def test_figures_do_not_depend_on_the_settings_of_a_user() -> None:
    before = figures()
    with matplotlib.rc_context(
        {"font.size": 30, "svg.hashsalt": "other", "text.usetex": True, "axes.grid": False}
    ):
        assert figures() == before


def test_numbers_as_people_read_them() -> None:
    assert count(12345) == '<data value="12345">12,345</data>'
    assert count(12.34) == '<data value="12.34">12.3</data>'
    assert percent(0.5) == '<data value="0.5">50.0 %</data>'
    assert points(-0.012) == '<data value="-0.012">−1.2</data>'
    assert points(0.0001) == '<data value="0.0001">0.0</data>'
    assert decimal(0.12345) == '<data value="0.12345">0.123</data>'
    assert count(None) == percent(None) == points(None) == decimal(None) == name(None) == "–"
    assert name("<a>\u200f") == "<bdi>&lt;a&gt;\\u200f</bdi>"
    assert [shade(value, 10) for value in (0, 1, 2, 5, 9, 10)] == [0, 1, 2, 3, 5, 5]
    for length in (0, 1, 2, 12, 13, 200):
        places = thinned(length)
        assert len(places) == min(length, 12)
        assert all(one < other for one, other in pairwise(places))
        assert places[:1] == [0][:length]
        assert places[-1:] == [length - 1][:length]


def test_the_map_is_that_of_principal_components() -> None:
    features = np.random.default_rng(1).normal(size=(50, 6)) @ np.diag([5, 3, 1, 1, 1, 1])
    places, explained = principal_components(features.astype(np.float32))
    oracle = PCA(2).fit(features)
    assert np.abs(places) == pytest.approx(np.abs(oracle.transform(features)), abs=1e-4)
    assert explained == pytest.approx(oracle.explained_variance_ratio_, abs=1e-5)
    turned, _ = principal_components(-features.astype(np.float32))
    assert turned == pytest.approx(-places, abs=1e-9)  # the directions have their signs from themselves
    order = np.random.default_rng(2).permutation(50)
    assert principal_components(features[order])[0] == pytest.approx(
        principal_components(features)[0][order], abs=1e-9
    )
    flat, none = principal_components(np.ones((4, 3), np.float32))
    assert (flat == 0).all()
    assert none == (0, 0)
    line, whole = principal_components(np.array([[1.0], [2.0], [6.0]]))
    assert line.tolist() == [[-2, 0], [-1, 0], [3, 0]]
    assert whole == (1, 0)


def evaluated(matrices: dict[str, np.ndarray], after: str) -> Any:
    """An evaluation of the warm-up and others with these confusion matrices."""
    size = len(matrices["warmup"])
    scores = {model: {"confusion": matrix_rows(matrix)} for model, matrix in matrices.items()}
    none = np.empty(0, np.int64)
    return SimpleNamespace(
        pool=SimpleNamespace(
            classes=tuple(f"c{row:03d}" for row in range(size)), labels=np.arange(3 * size) % size
        ),
        after=after,
        metrics={},
        scores=scores.__getitem__,
        meta_set=SimpleNamespace(bought=none, labels=none),
    )


def test_a_command_of_an_edited_record_is_left_out() -> None:
    run = cast(Run, SimpleNamespace(model_flags="--run /a"))
    shown = shown_command(run, "metaselect warmup 'my data' --run /a --trust-model")
    assert shown == "metaselect warmup 'my data' --run RUN"
    assert shown_command(run, "metaselect warmup 'my data") == ""


def test_the_map_runs_no_code_that_the_evaluation_did_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pool_map_module, "warmup_model", lambda run: SimpleNamespace(architecture="my.code:net")
    )

    def evaluated(judged_on: str, trusts: frozenset[str]) -> Any:
        run = Run(Path("run"), trusts=trusts)
        pool = SimpleNamespace(preprocess=SimpleNamespace(task="images"))
        return SimpleNamespace(run=run, pool=pool, metrics={"judged_on": judged_on})

    assert pool_map_module.needs_untrusted_code(evaluated("bought", frozenset()))
    assert not pool_map_module.needs_untrusted_code(evaluated("bought", frozenset({"my.code:net"})))
    assert not pool_map_module.needs_untrusted_code(
        evaluated("test_set", frozenset())
    )  # it judged with the model


def test_of_many_classes_the_most_confused_and_the_worst_are_shown() -> None:
    draw = np.random.default_rng(3)
    before, after = (draw.integers(0, 3, (150, 150)) + np.diag(draw.integers(1, 900, 150)) for _ in range(2))
    run = evaluated({"warmup": before, "auto": after}, "auto")
    found: Any = confusion(run)
    both = before + after
    errors = {row: int(both[row].sum() + both[:, row].sum() - 2 * both[row, row]) for row in range(150)}
    chosen = sorted(sorted(errors, key=lambda row: (-errors[row], row))[:20])
    assert found["classes"] == [f"c{row:03d}" for row in chosen]
    assert found["of"] == 150
    for table, matrix in zip(found["tables"], (before, after), strict=True):
        assert table["counts"] == [[int(matrix[row, column]) for column in chosen] for row in chosen]
        sums = [sum(row) + other for row, other in zip(table["counts"], table["others"], strict=True)]
        assert sums == matrix[chosen].sum(1).tolist()
    rows: Any = class_rows(run)["rows"]
    shares = [after[row, row] / after[row].sum() for row in range(150)]
    assert [row["recall_after"] for row in rows] == sorted(shares)[:20]
    assert all(row["gain"] == row["recall_after"] - row["recall_before"] for row in rows)


def test_where_the_warm_up_is_taken_there_is_one_matrix() -> None:
    found: Any = confusion(evaluated({"warmup": np.eye(3, dtype=int)}, "warmup"))
    assert [table["role"] for table in found["tables"]] == ["before"]


def test_the_largest_pictures_fit_into_the_page() -> None:
    most = 0
    for side in (LOSSLESS, SIDE):
        noise = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
        most = max(most, len(encode_small(Image.fromarray(noise), SIDE, LOSSLESS)[1]))
    assert 200 * most * 4 / 3 < 3_500_000
    assert MOST_BOUGHT + MOST_DOUBTED + MOST_TRUSTED == 200
    assert weights(SimpleNamespace(subject=None)) is None  # type: ignore[arg-type]

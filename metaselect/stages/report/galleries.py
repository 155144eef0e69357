"""The samples that the report shows: bought ones, the most doubted, and the hardest of those that are trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from metaselect.data.store import load_images
from metaselect.data.thumbnails import encode_small
from metaselect.records import Json
from metaselect.stages.report.evaluated import Evaluated
from metaselect.stages.report.purchases import Bought

MOST_BOUGHT, MOST_DOUBTED, MOST_TRUSTED = 80, 80, 40
SIDE = 96  # pixels, of a picture's longer side
LOSSLESS = 64  # up to this side a picture is a PNG, of 12 kB at most: 200 of them are 3.3 MB in the page
DOUBTS = (
    *("rank", "sample_id", "given_label", "suggested_label", "suggested_prob", "weight"),
    *("out_of_fold", "neighbours", "outlier", "duplicate_group", "conflict"),
)
"""What is shown of a doubted label."""
TRUSTED = 0.5  # the least weight of a label that is called trusted


def galleries(evaluated: Evaluated, bought: Sequence[Bought]) -> dict[str, list[dict[str, Any]]]:
    """The samples of each gallery, the first ones of their order."""
    classes, ids = evaluated.pool.classes, evaluated.pool.sample_ids
    shown: list[dict[str, Any]] = [
        {
            "sample_id": ids[each.place],
            "given_label": classes[each.given] if each.given >= 0 else None,
            "bought_label": classes[each.clean],
            "contradicted": each.contradicts,
            "round": each.round,
            "control": each.control,
        }
        for each in bought[:MOST_BOUGHT]
    ]
    if evaluated.subject is None:
        return {"bought": shown, "doubted": [], "trusted": []}
    return {"bought": shown, "doubted": _doubted(evaluated), "trusted": _trusted(evaluated)}


def doubts(evaluated: Evaluated) -> Json:
    """What `reweight` said of the labels that it doubts; None where it said nothing."""
    if evaluated.subject is None:
        return None
    result = evaluated.run.stage(evaluated.stage_of(evaluated.subject)).require().details["result"]
    found: Json = result.get("issues")
    return found


def _doubted(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Labels that were not bought, the most doubted first, with the reasons; none of an earlier version's list."""
    table = evaluated.issues
    if table is None:
        return []
    ranks = np.array(table["rank"].fill_null(0), np.int64)
    ranked = np.flatnonzero(ranks)
    order = ranked[np.argsort(ranks[ranked], kind="stable")][:MOST_DOUBTED]
    return list(table.select(DOUBTS).take(order).to_pylist())


def _trusted(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Labels that were not bought, are trusted, and that the model is least sure of, though it predicts them."""
    table = evaluated.weights
    agrees = np.array(pc.equal(table["given_label"], table["predicted_label"]).fill_null(False))
    trusted = (
        np.array(table["label_issue_rank"].is_valid()) & (table["weight"].to_numpy() >= TRUSTED) & agrees
    )
    prob = table["predicted_prob"].to_numpy()
    places = np.flatnonzero(trusted)
    order = places[np.argsort(prob[places], kind="stable")][:MOST_TRUSTED]
    return list(
        table.select(("sample_id", "given_label", "predicted_prob", "weight")).take(order).to_pylist()
    )


def pictures(evaluated: Evaluated, sample_ids: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """(media type, bytes) of small copies of the samples' images, as the run stores them: what the models see.

    Args:
        evaluated: whose pool may have no images, or may not show them; then there are none.
        sample_ids: of the pool.
    """
    if not evaluated.setup.shown.pictures:
        return {}
    place = {sample_id: index for index, sample_id in enumerate(evaluated.pool.sample_ids)}
    pixels = load_images(evaluated.run, len(evaluated.pool))
    found: dict[str, tuple[str, bytes]] = {}
    for sample_id in dict.fromkeys(sample_ids):
        channels = pixels[place[sample_id]]
        image = Image.fromarray(channels[0] if len(channels) == 1 else channels.transpose(1, 2, 0))
        found[sample_id] = encode_small(image, SIDE, LOSSLESS)
    return found

"""What was bought, and what it was good for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metaselect.records import Json
from metaselect.run.artefacts import SELECT
from metaselect.stages.report.evaluated import Evaluated


class Bought(NamedTuple):
    """A bought label.

    Attributes:
        place: of the sample in the pool.
        clean: the bought class.
        given: the given class; -1 where there is none.
        round: the first round that chose the sample; 0 where none did.
        control: whether it was drawn at random.
    """

    place: int
    clean: int
    given: int
    round: int
    control: bool

    @property
    def contradicts(self) -> bool:
        """Whether it is another label than the given one."""
        return self.given >= 0 and self.clean != self.given


def bought_labels(evaluated: Evaluated) -> list[Bought]:
    """Every bought label, by round and rank."""
    meta_set, pool = evaluated.meta_set, evaluated.pool
    place = {
        sample_id: (each.number, rank, sample_id in each.control)
        for each in reversed(evaluated.rounds)
        for rank, sample_id in enumerate(each.samples)
    }
    found = []
    for index, clean in zip(meta_set.bought.tolist(), meta_set.labels.tolist(), strict=True):
        number, rank, control = place.get(pool.sample_ids[index], (0, index, False))
        found.append((number, rank, Bought(index, clean, int(pool.labels[index]), number, control)))
    return [each for _, _, each in sorted(found)]


def purchases(evaluated: Evaluated, bought: list[Bought]) -> dict[str, Json]:
    """Labels by round, and how many of them are other ones than the given."""
    wrong = sum(each.contradicts for each in bought)
    per_round: list[Json] = []
    for each in evaluated.rounds:
        mine = [label for label in bought if label.round == each.number]
        record = evaluated.run.stage(SELECT.name(number=each.number)).require()
        per_round.append(
            {
                "round": each.number,
                "method": str(record.key.options.get("method", "")),
                "asked": len(each.samples),
                "bought": len(mine),
                "control": sum(label.control for label in mine),
                "contradicted": sum(label.contradicts for label in mine),
            }
        )
    return {
        "bought": len(bought),
        "unusable": len(evaluated.meta_set.unusable),
        "contradicted": wrong,
        "contradicted_per_bought": wrong / len(bought) if bought else None,
        "rounds": per_round,
        "correct": correct_labels(evaluated),
    }


def correct_labels(evaluated: Evaluated) -> dict[str, Json] | None:
    """How many labels of the pool are right, by what was done, and what each bought label gained; None without a truth.

    Args:
        evaluated: the evaluation.
    """
    found = evaluated.metrics.get("correct_labels")
    if found is None:
        return None
    rows: list[Json] = [_gain("as given", found["given"], found)]
    if found["bought"]:
        rows += [
            _gain("bought at random, all of them right", found["random"], found),
            _gain("with the bought labels", found["right"], found),
            _gain("had every bought label replaced a wrong one", found["oracle"], found),
        ]
    for each in evaluated.models:
        count = evaluated.scores(each.name).get("correct_labels")
        if count is not None:
            rows.append(_gain(f"and the suggestions of {each.name}", count, found))
    return {"samples": found["samples"], "rows": rows}


def _gain(what: str, right: float, found: Mapping[str, Any]) -> Json:
    bought, samples = found["bought"], found["samples"]
    return {
        "labels": what,
        "right": right,
        "share": right / samples if samples else None,
        "gained_per_bought": (right - found["given"]) / bought if bought else None,
    }

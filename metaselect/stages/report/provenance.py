"""How the results were made: the command of every stage, its seed and device, versions, and hashes."""

from collections.abc import Mapping

from metaselect.records import Json
from metaselect.run.artefacts import ANNOTATE, DATA, EVALUATE, SELECT
from metaselect.run.environment import environment, recorded_command
from metaselect.run.layout import Run
from metaselect.stages.report.commands import shown_command
from metaselect.stages.report.evaluated import Evaluated


def provenance(evaluated: Evaluated, inputs: Mapping[str, str]) -> dict[str, Json]:
    """The record of every stage that the evaluation follows from, and of itself.

    Neither times nor folders are in it, so that the same run gives the same report.

    Args:
        evaluated: the evaluation.
        inputs: its own, by path or name, with their hashes.
    """
    run = evaluated.run
    names = [DATA.name(), *(stage for stage in _stages(evaluated) if run.stage(stage).record() is not None)]
    stages: list[Json] = [_stage(run, name) for name in names]
    stages.append(
        {
            "stage": EVALUATE.name(test=evaluated.test),
            "command": shown_command(run, recorded_command()),
            "seed": None,
            "device": evaluated.setup.device.type,
            "versions": environment()["versions"],
        }
    )
    return {
        "fingerprint": str(run.info()["fingerprint"]),
        "samples": len(evaluated.pool),
        "classes": len(evaluated.pool.classes),
        "stages": stages,
        "inputs": dict(sorted(inputs.items())),
    }


def _stages(evaluated: Evaluated) -> list[str]:
    """Names of the stages before the evaluation, in the order of the work."""
    rounds = [SELECT.name(number=each.number) for each in evaluated.rounds]
    bought = [ANNOTATE.name()] if rounds else []
    models = [evaluated.stage_of(each) for each in evaluated.models]
    return [models[0], *rounds, *bought, *models[1:]]


def _stage(run: Run, name: str) -> Json:
    record = run.stage(name).require()
    details = record.details
    return {
        "stage": name,
        "command": shown_command(run, str(details.get("command", ""))),
        "seed": record.key.options.get("seed"),
        "device": record.key.device or None,
        "versions": details.get("versions"),
    }

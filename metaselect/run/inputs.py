"""What a stage reads of the run: the hashes of its inputs, once it is certain that they are current."""

from metaselect.errors import ArtefactError
from metaselect.run.layout import Run
from metaselect.run.stage_names import stage_of


def inputs_of(run: Run, *paths: str, stale_ok: bool = False) -> dict[str, str]:
    """Hashes of the run's files that a stage reads.

    Args:
        run: the run.
        paths: below it.
        stale_ok: take what a stale stage wrote.

    Raises:
        ArtefactError: one is missing or damaged, or the stage that wrote it is stale itself.
    """
    # A stale input would make a result that is stale from the start.
    for name in sorted({stage_of(path) for path in paths}):
        moved = [] if stale_ok else run.stage(name).changed_inputs()
        if moved:
            raise ArtefactError(
                f"{name} is stale: {', '.join(moved)} changed since.",
                f"First run: {run.stage(name).command()}",
            )
    return {path: run.stage(stage_of(path)).verified(path) for path in paths}

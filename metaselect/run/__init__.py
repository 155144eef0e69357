"""The run directory: its paths, schemas, hashes, freshness and atomic writes. No torch below here."""

from metaselect.run.layout import ARTEFACTS, Artefact, Run
from metaselect.run.stage import Stage, StageRecord

__all__ = ["ARTEFACTS", "Artefact", "Run", "Stage", "StageRecord"]

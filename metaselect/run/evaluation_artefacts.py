"""The rows of the table of artefacts for what no stage reads: offers of labels, and the files of an evaluation."""

from metaselect.run.artefacts import BAD_SAMPLES, EVALUATE, FANOUT, LEFT_OUT
from metaselect.run.schema import Artefact, csv_columns, parquet_columns

OFFERS = Artefact(
    FANOUT,
    "offers.parquet",
    parquet_columns(
        {
            **dict.fromkeys(("sample_id", "pick"), "string"),
            "round": "int64",
            **dict.fromkeys(("label", "given_label"), "string"),
            "similarity": "float32",
            "model_agrees": "bool",
            "risk": "float32",
            "accepted": "bool",
        }
    ),
    "samples without a bought label, with that of their cluster's pick",
    "fanout",
)
REVIEW = Artefact(
    FANOUT,
    "review.csv",
    csv_columns("sample_id", "label", "given_label", "pick", "risk"),
    "offers that somebody should look at, the riskiest first: a list for select --samples",
    "people",
)
METRICS = Artefact(EVALUATE, "metrics.json", (), "every number of the evaluation", "evaluate")
PREDICTIONS = Artefact(
    EVALUATE,
    "predictions.parquet",
    parquet_columns(
        {
            "sample_id": "string",
            "label": "string",
            "predicted_<model>": "string",
            "prob_<model>": "float32",
            "label_prob_<model>": "float32",
        }
    ),
    "three columns for each model: the predicted class, its probability (empty: not known) and that of the label",
    "evaluate",
)
PER_CLASS = Artefact(
    EVALUATE,
    "per_class.csv",
    csv_columns(
        *("model", "label", "support", "predicted", "right"),
        *(f"{score}{end}" for score in ("precision", "recall", "f1") for end in ("", "_low", "_high")),
    ),
    "a model's scores on each class, with the limits of 95 % intervals; empty where there is nothing to divide by",
    "evaluate",
)
OVERLAP = Artefact(
    EVALUATE,
    "overlap.csv",
    csv_columns("sample_id", "label", "pool_sample_id", "given_label", "kind"),
    "test samples that are in the pool too (equal), or near duplicates of ones there (near); only where there are any",
    "evaluate",
)
REPORT = Artefact(EVALUATE, "report.html", (), "the report: a page that loads nothing", "evaluate")
REPORT_JSON = Artefact(EVALUATE, "report.json", (), "every number of the report", "evaluate")
TEST_SKIPPED = Artefact(EVALUATE, "skipped.csv", BAD_SAMPLES, LEFT_OUT, "evaluate")

"""The rows of the table of artefacts for what no stage reads: traces, offers of labels, the files of an evaluation."""

from metaselect.run.artefacts import BAD_SAMPLES, EVALUATE, FANOUT, LEFT_OUT, REWEIGHT
from metaselect.run.schema import Artefact, csv_columns, parquet_columns

TRACE_PRODUCTS = Artefact(
    REWEIGHT,
    "trace-epoch-<epoch>.parquet",
    parquet_columns({"sample_id": "string", "products": "list of float16", "scale": "float32"}),
    "of --trace, after that epoch: products times scale, the product of each sample's last-layer gradient and of every "
    "bought one's, these in the order of sample_id",
    "reweight",
)
TRACE_CHANGES = Artefact(
    REWEIGHT,
    "trace.parquet",
    parquet_columns({"sample_id": "string", "weight": "float32", "changes": "list of float32"}),
    "of --trace with auto: the weight by the model of the labels, and what it is more for each bought label, these in "
    "the order of sample_id",
    "reweight",
)
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

"""The table of artefacts: every file of a run directory, its path, its columns, who writes and who reads it.

The files of an evaluation, which no stage reads, are in ``evaluation_artefacts``; ``stage_names`` has all of them.
Code that writes or reads a file of a run takes path and columns from here, and the documentation's table of the run
directory is compared with it. No torch and no pyarrow: every command imports this module.
"""

from metaselect.run.schema import Artefact, Folder, csv_columns, parquet_columns

LAYOUT_VERSION = 1  # of run.json; goes up when older versions of the program could not read a run

RECORD = "stage.json"
"""In every finished stage's folder: what it was made from, with which options, and the hashes of its outputs."""


# In the order in which a run comes into being.
DATA = Folder("data", "ingest DATA")
WARMUP = Folder("warmup", "warmup")
SELECT = Folder("select/round-<number>", "select")
ANNOTATE = Folder("annotate", "annotate import FILE")
REWEIGHT = Folder("reweight/<name>", "reweight")
EVALUATE = Folder("evaluate/<test>", "evaluate TEST")
FANOUT = Folder("fanout", "fanout")
FORMS = Folder("export/round-<number>", "annotate export")
"""Forms for people: no stage, and never hashed, since they are there to be filled in."""
DISCARDED = Folder("discarded/round-<number>", "select --discard-round")
"""Rounds that were put aside, with their answers."""

# Every stage has the hashes of the ids and labels among its inputs; those that use contents, of the arrays too.
_EVERY_STAGE = ("warmup", "select", "annotate", "reweight", "evaluate")
_TRAINING = ("warmup", "select", "reweight", "evaluate")
BAD_SAMPLES = csv_columns("source", "row", "sample_id", "reason")
LEFT_OUT = "bad samples that were left out; only where there are any"

RUN_INFO = Artefact(
    None,
    "run.json",
    (),
    "layout version, task (images, features or external), data fingerprint, version that wrote it",
    "ingest",
)
SAMPLES = Artefact(
    DATA,
    "samples.parquet",
    parquet_columns(dict.fromkeys(("sample_id", "given_label", "content_hash", "source"), "string")),
    "ordered by sample_id",
    "ingest",
    _EVERY_STAGE,
)
CLASSES = Artefact(
    DATA, "classes.json", (), "class names; a position is a class number", "ingest", _EVERY_STAGE
)
PREPROCESS = Artefact(
    DATA,
    "preprocess.json",
    (),
    "how samples are stored; mean and std of each channel or feature",
    "ingest",
    _TRAINING,
)
EMBEDDED = Artefact(
    None, "features.parquet", (), "sample_id, features, label; data/ holds them too", "embed --run"
)
PIXELS = Artefact(DATA, "pixels.npy", (), "uint8 (n, C, H, W); where there are images", "ingest", _TRAINING)
ENCODED = Artefact(DATA, "encoded.npy", (), "where images lie that stay encoded", "ingest", _TRAINING)
ENCODED_BYTES = Artefact(DATA, "encoded_bytes.npy", (), "those of a table", "ingest", _TRAINING)
FEATURES = Artefact(DATA, "features.npy", (), "float32 (n, d); where there are features", "ingest", _TRAINING)
SKIPPED = Artefact(DATA, "skipped.csv", BAD_SAMPLES, LEFT_OUT, "ingest")
DUPLICATES = Artefact(
    DATA,
    "duplicates.csv",
    csv_columns("content_hash", "sample_id"),
    "samples that share their content",
    "ingest",
)
WARMUP_HISTORY = Artefact(
    WARMUP,
    "history.csv",
    csv_columns("epoch", "lr", "loss", "accuracy", "held_out_loss", "held_out_accuracy"),
    "",
    "warmup",
    ("evaluate",),
)
CHECKPOINT = Artefact(
    WARMUP,
    "checkpoints/epoch-<epoch>.safetensors",
    (),
    "the model after that epoch",
    "warmup",
    ("select", "reweight", "evaluate"),
)
WARMUP_MODEL = Artefact(
    WARMUP,
    "model.json",
    (),
    "architecture, classes, preprocessing, the checkpoint to go on from",
    "warmup",
    ("select", "reweight", "evaluate"),
)
WARMUP_PREDICTIONS = Artefact(
    WARMUP,
    "predictions.parquet",
    parquet_columns(
        {
            "sample_id": "string",
            "probs": "list of float32",
            "out_of_fold": "list of float32",
            "neighbours": "list of float32",
            "wrong_events": "float32",
            "fold": "int32",
        },
        "fold",
    ),
    "every pool sample; the third, the fourth and the last are empty without folds",
    "warmup",
    ("reweight", "evaluate"),
)
FOLD_MODEL = Artefact(
    WARMUP,
    "folds/fold-<number>.safetensors",
    (),
    "the network that was trained without a fold",
    "warmup",
    ("reweight",),
)
PRETRAINED = Artefact(
    WARMUP, "pretrained.safetensors", (), "the weights that --pretrained began with", "warmup", ("reweight",)
)
# Both have one place: a selector looks at one kind of features. GBC's cannot be made from the factors.
FACTORS = Artefact(
    SELECT,
    "gradients-epoch-<epoch>.parquet",
    parquet_columns({"sample_id": "string", "probs": "list of float32", "hidden": "list of float32"}),
    "the two factors of each last-layer gradient",
    "select",
)
GRADIENTS = Artefact(
    SELECT,
    "gradients-epoch-<epoch>.parquet",
    parquet_columns({"sample_id": "string", "norm": "float32", "direction": "list of float16"}),
    "of gbc: each gradient's norm and projected direction",
    "select",
)
SELECTED = Artefact(
    SELECT,
    "selected.csv",
    csv_columns("sample_id", "rank", "cluster", "cluster_size", "cluster_mass", "similarity", "control"),
    "",
    "select",
    ("annotate", "evaluate"),
)
CLUSTERS = Artefact(
    SELECT,
    "clusters.parquet",
    parquet_columns({"sample_id": "string", "cluster": "int32", "similarity": "float32", "rank": "int32"}),
    "every pool sample",
    "select",
    ("fanout",),
)
NEIGHBOURS = Artefact(
    SELECT,
    "neighbours.parquet",
    parquet_columns({"sample_id": "string", "duplicate_group": "string", "outlier": "float32"}),
    "every pool sample; the first of its near duplicates, and the share of samples with closer neighbours, or empty",
    "select",
    ("reweight",),
)
CONFLICTS = Artefact(
    SELECT,
    "conflicts.csv",
    csv_columns("sample_id", "duplicate_group", "given_label", "source"),
    "groups of near duplicates with different given labels; only where there are any",
    "select",
)
VOTES = Artefact(
    ANNOTATE,
    "votes.csv",
    csv_columns("sample_id", "clean_label", "annotator", "status", "note", "round", "time"),
    "append only",
    "annotate",
)
META_SET = Artefact(
    ANNOTATE,
    "meta_set.csv",
    csv_columns("sample_id", "clean_label"),
    "the consensus; an empty label: unusable",
    "annotate",
    ("select", "reweight", "fanout", "evaluate"),
)
EXPORTS = Artefact(
    ANNOTATE,
    "exports.csv",
    csv_columns("time", "round", "batch_id", "format", "file", "samples", "classes_sha256"),
    "one row for each form",
    "annotate",
)
BATCH = Artefact(
    ANNOTATE,
    "batches/<batch_id>.csv",
    csv_columns("sample_id", "name", "content_hash"),
    "the round as it was first exported",
    "annotate",
)
REPEATS = Artefact(
    ANNOTATE,
    "repeats.csv",
    csv_columns("repeat_id", "sample_id", "batch_id"),
    "samples that a form showed twice",
    "annotate",
)
CONSENSUS = Artefact(
    ANNOTATE, "consensus.json", (), "method (majority where there is no such file)", "annotate"
)
IMPORTS = Artefact(
    ANNOTATE,
    "imports.csv",
    csv_columns("import", "time", "file", "sha256", "format", "first_vote", "undoes"),
    "undoes is the number of an import, or empty",
    "annotate",
)
REWEIGHT_HISTORY = Artefact(
    REWEIGHT,
    "history.csv",
    csv_columns(
        *("epoch", "lr", "loss", "accuracy", "mean_weight", "zero_batches", "bought_loss", "bought_accuracy")
    ),
    "",
    "reweight",
    ("evaluate",),
)
ROBUST_MODEL = Artefact(
    REWEIGHT, "model.safetensors", (), "the robust model", "reweight", ("reweight", "evaluate")
)
ROBUST_MODEL_INFO = Artefact(
    REWEIGHT, "model.json", (), "architecture, classes, preprocessing", "reweight", ("reweight", "evaluate")
)
WEIGHTS = Artefact(
    REWEIGHT,
    "weights.parquet",
    parquet_columns(
        {
            "sample_id": "string",
            "given_label": "string",
            "weight": "float32",
            "weight_kind": "string",
            "bought": "bool",
            "predicted_label": "string",
            "predicted_prob": "float32",
            "label_issue_rank": "int64",
        }
    ),
    "",
    "reweight",
    ("evaluate",),
)
ISSUES = Artefact(
    REWEIGHT,
    "issues.parquet",
    parquet_columns(
        {
            "sample_id": "string",
            "rank": "int64",
            **dict.fromkeys(("given_label", "suggested_label"), "string"),
            "suggested_prob": "float32",
            "bought_label": "string",
            **dict.fromkeys(("weight", "out_of_fold", "neighbours", "outlier"), "float32"),
            "duplicate_group": "string",
            "conflict": "bool",
            "source": "string",
        }
    ),
    "every pool sample, with the reasons for which its given label is doubted",
    "reweight",
    ("fanout", "evaluate"),
)
ISSUES_LIST = Artefact(
    REWEIGHT, "issues.csv", csv_columns(*ISSUES.columns), "the most doubted labels, for people", "reweight"
)
CROSS_FIT = Artefact(
    REWEIGHT,
    "cross_fit.csv",
    csv_columns(
        *("sample_id", "given_label", "clean_label", "fold"),
        *(
            f"{arm}_{what}"
            for arm in ("warmup", "baseline", "method")
            for what in ("predicted", "prob", "given_prob")
        ),
    ),
    "predictions of samples by models that were trained without them: the label, the probability of the clean label "
    "and of the given one; an empty clean label: a sample that was not bought, kept out for the estimate of wrong "
    "labels; not there without the comparison",
    "reweight",
    ("fanout", "evaluate"),
)
STAGE_RECORD = Artefact(
    None, f"<stage>/{RECORD}", (), "options, seed, versions, device, time, memory, hashes", "every stage"
)

"""``MetaReweighter``: `warmup` and `reweight` on arrays, as a scikit-learn classifier."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import nn

from metaselect.annotation.ledger import add_votes, read_ledger
from metaselect.annotation.votes import DONE, Vote, utc_now
from metaselect.api.arrays import as_value_errors, features_of
from metaselect.data.store import preprocess_of
from metaselect.data_options import IngestOptions
from metaselect.options import ReweightOptions, WarmupOptions
from metaselect.records import SilentReporter
from metaselect.registry import BASELINE, PREFERRED, REWEIGHTERS, load
from metaselect.run.artefacts import ROBUST_MODEL, WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.tables import fixed_lists, read_parquet
from metaselect.stages.reweight.reweight import reweight
from metaselect.stages.warmup.warmup import warmup
from metaselect.training.saved_models import load_weights, recorded_model


class MetaReweighter(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of feature vectors that are partly labelled wrong, with a weight for every training sample.

    ``fit`` does what `metaselect warmup` and `metaselect reweight` do with the same samples, options and seed, in a
    run in a temporary folder, which needs space for a copy of X. It changes no global random state.

    Args:
        method: a name that `metaselect reweight --help` lists.
        model: "linear" or "mlp"; None: `warmup` decides.
        epochs: of `reweight`; None: by the size of the data. The model linear has none.
        warmup_epochs: the same of `warmup`.
        lr: peak learning rate of `reweight`; None: 0.05.
        seed: of all random numbers.
        device: "auto" (a GPU if there is one), "cpu", or another device of PyTorch.

    Attributes:
        classes_: (K,) labels, sorted.
        sample_weight_: (n,) weights of the rows of X in [0, 1], as ``weights.parquet`` has them: the probability that
            the given label is right, for most methods; 1 for rows whose label was bought.
        n_features_in_: d.
        model_: what was trained, "linear" or "mlp".
        dead_: why the result should not be used; None where it may be.
    """

    def __init__(
        self,
        method: str = PREFERRED,
        *,
        model: str | None = None,
        epochs: int | None = None,
        warmup_epochs: int | None = None,
        lr: float | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.model = model
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.lr = lr
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any, X_meta: Any = None, y_meta: Any = None) -> "MetaReweighter":
        """Train on given labels, and on bought ones if there are any.

        A row of ``X_meta`` that equals a row of X is that sample, now with a bought label; from such pairs ``auto``
        learns how given labels go wrong. Of several equal rows of X the first is taken, and of several rows of
        ``X_meta`` each takes another. All others are further samples. Without ``X_meta`` every method trains as
        `reweight` does without bought labels: auto and uniform plainly, with equal weights in training, and so do the
        methods that learn from bought labels alone.

        Args:
            X: (n, d) features; n is at least 2.
            y: (n,) given labels, of at least two classes.
            X_meta: (m, d) features of samples whose labels were bought.
            y_meta: (m,) their labels.

        Raises:
            ValueError: an argument, or a parameter, that cannot be used.
            MetaSelectError: the training diverged.
        """
        _require_same_order(X, y)
        X, y = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        given, bought = column_or_1d(y, warn=True), np.empty(0, dtype=np.asarray(y).dtype)
        pool, meta_rows = features_of(X, "X"), np.empty(0, np.int64)
        if (X_meta is None) != (y_meta is None):
            raise ValueError("X_meta and y_meta are given together, or not at all.")
        if X_meta is not None:
            _require_same_order(X_meta, y_meta)
            X_meta, bought = validate_data(self, X_meta, y_meta, reset=False)
            check_classification_targets(bought)
            pool, meta_rows = _joined(pool, features_of(X_meta, "X_meta"))
        self.classes_ = np.unique(np.concatenate([given, bought]))
        if len(self.classes_) < 2:
            raise ValueError(f"There is one class, {self.classes_[0]!r}; a classifier needs two.")
        numbers = np.full(len(pool), -1)
        numbers[: len(given)] = np.searchsorted(self.classes_, given)
        answers = np.searchsorted(self.classes_, bought)
        found = self._train(_Data(pool, numbers, meta_rows, answers, len(self.classes_)))
        self.sample_weight_ = found.weights[: len(given)]
        self.model_, self.dead_ = found.name, found.dead
        self._net, self._mean, self._std = found.net, found.mean, found.std
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n', K) class probabilities; columns are those of ``classes_``."""
        check_is_fitted(self)
        rows = features_of(validate_data(self, X, reset=False), "X")
        inputs = torch.from_numpy((rows.astype(np.float64) - self._mean) / self._std)
        with torch.no_grad():
            probs: np.ndarray = self._net(inputs).softmax(1).numpy()
        return probs

    def predict(self, X: Any) -> np.ndarray:
        """(n',) the most probable class of each row."""
        probs = self.predict_proba(X)
        predicted: np.ndarray = self.classes_[probs.argmax(1)]
        return predicted

    def _train(self, data: "_Data") -> "_Trained":
        if self.method not in REWEIGHTERS:
            raise ValueError(f"method {self.method!r} is not known. One of: {', '.join(REWEIGHTERS)}.")
        kind = load(REWEIGHTERS[self.method])
        method = BASELINE if kind.needs_bought and not len(data.meta_rows) else self.method
        threads = torch.get_num_threads()
        try:
            with as_value_errors(), TemporaryDirectory(prefix="metaselect-") as folder:
                options = WarmupOptions(
                    model=self.model,
                    epochs=self.warmup_epochs,
                    seed=self.seed,
                    device=self.device,
                    folds=None if load(REWEIGHTERS[method]).needs_evidence else 0,
                )
                run = _make_run(data, Path(folder), options)
                again = ReweightOptions(
                    method=method,
                    epochs=self.epochs,
                    lr=self.lr,
                    seed=self.seed,
                    device=self.device,
                    folds=0,  # no comparison with plain training
                )
                result: Any = reweight(run, again, SilentReporter()).result
                return _results(run, method, result, data.classes)
        finally:
            torch.set_num_threads(threads)  # which trainings of small models lower


class _Data(NamedTuple):
    """The pool.

    Attributes:
        inputs: (n, d) float32.
        given: (n,) int64, class numbers; -1: none.
        meta_rows: (m,) int64, distinct rows.
        answers: (m,) int64, their class numbers.
        classes: K.
    """

    inputs: np.ndarray
    given: np.ndarray
    meta_rows: np.ndarray
    answers: np.ndarray
    classes: int


class _Trained(NamedTuple):
    """What a run holds: weights (n,), the network in float64 on the CPU, and how its inputs are normalised."""

    weights: np.ndarray
    net: nn.Module
    mean: np.ndarray
    std: np.ndarray
    name: str
    dead: str | None


def _require_same_order(X: Any, y: Any) -> None:
    """Check that rows and labels with an index of the same names, of pandas, have them in the same order.

    Raises:
        ValueError: they do not, so that each row would have another one's label.
    """
    one: Any = getattr(X, "index", None)
    other: Any = getattr(y, "index", None)
    if not (hasattr(one, "equals") and hasattr(other, "equals")) or one.equals(other):
        return
    if len(one) == len(other) and one.symmetric_difference(other).empty:
        raise ValueError(
            "X and y have the same names in different orders; rows go by position: use X.loc[y.index]."
        )


def _joined(pool: np.ndarray, meta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pool with the rows of the meta set that it does not have, and the row of each sample of the meta set."""
    free: dict[bytes, list[int]] = {}
    for row in reversed(range(len(pool))):
        free.setdefault(pool[row].tobytes(), []).append(row)
    places: list[int] = []
    further: list[np.ndarray] = []
    for sample in meta:
        equal = free.get(sample.tobytes())
        places.append(equal.pop() if equal else len(pool) + len(further))
        further += [] if places[-1] < len(pool) else [sample]
    return np.concatenate([pool, np.array(further, np.float32).reshape(-1, pool.shape[1])]), np.array(places)


def _make_run(data: _Data, folder: Path, options: WarmupOptions) -> Run:
    """A run with these samples, numbered in their order, its warm-up and its bought labels."""
    names = [str(number) for number in range(data.classes)]
    ids = [f"{row:012d}" for row in range(len(data.given))]
    labels = [names[number] if number >= 0 else None for number in data.given.tolist()]
    file, run = folder / "pool.parquet", Run(folder / "run")
    pool = {"sample_id": ids, "features": fixed_lists(data.inputs), "label": pa.array(labels, pa.string())}
    pq.write_table(pa.table(pool), file)
    warmup(file, run, options, IngestOptions(classes=tuple(names)), SilentReporter())
    file.unlink()
    if len(data.meta_rows):
        pairs = zip(data.meta_rows.tolist(), data.answers.tolist(), strict=True)
        votes = [Vote(ids[row], names[answer], "y_meta", DONE, "", 0, utc_now()) for row, answer in pairs]
        with run.lock():
            add_votes(run, read_ledger(run), votes)
    return run


def _results(run: Run, method: str, result: Any, classes: int) -> _Trained:
    preprocess = preprocess_of(run)
    net = recorded_model(run, result["model"], (len(preprocess.mean),), classes)
    load_weights(net, run.path(ROBUST_MODEL.path(name=method)))
    weights = read_parquet(run, WEIGHTS, ["weight"], name=method)["weight"].to_numpy()
    return _Trained(
        weights.astype(np.float64),
        net.double().eval(),
        np.array(preprocess.mean),
        np.array(preprocess.std),
        result["model"],
        result["dead"],
    )

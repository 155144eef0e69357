"""The features that a selector is given, from the warm-up's checkpoints."""

import os
import shutil
from functools import partial
from pathlib import Path

import torch
from torch import nn

from metaselect.data.store import Dataset, data_inputs
from metaselect.errors import ArtefactError, UsageError
from metaselect.features.extract import gradient_features, last_layer_factors
from metaselect.features.files import (
    LastLayerFactors,
    read_factors,
    read_gradients,
    read_recipe,
    write_factors,
    write_gradients,
)
from metaselect.random import generator
from metaselect.ranks import by_first
from metaselect.records import Json, Reporter
from metaselect.run.artefacts import CHECKPOINT, FACTORS, SELECT
from metaselect.run.files import write_atomically
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import Run
from metaselect.run.stage import Work
from metaselect.selection.base import Gradients, ImagePool, PoolFeatures, Selector
from metaselect.training.batches import Batches
from metaselect.training.pool_predictions import pool_predictions
from metaselect.training.saved_models import load_weights, recorded_model, warmup_model

FEATURES_VERSION = 1  # to be raised whenever the numbers in a file of features change their meaning
GRADIENT_SETTINGS = (
    "draws",
    "width",
    "sample",
    "gradient",
)  # fields of the selector that gradients depend on


def required_epochs(run: Run, method: Selector, external: Path | None) -> tuple[int, ...]:
    """The checkpoints that the method uses; none where it needs no features, or where a file supplies them.

    Raises:
        ArtefactError: there was no warm-up, or there cannot be one.
    """
    if external is not None or not method.required_features:
        return ()
    if run.ids_alone:
        raise ArtefactError(
            f"{run.root} holds ids and labels alone, so there is no model to compute features with.",
            f"Give a file of features: {run.selecting_command}",
        )
    epochs = warmup_model(run).checkpoints
    return epochs if method.checkpoints == "all" else epochs[-1:]


class WarmupFeatures:
    """Computes a selector's features from checkpoints, or reuses files of an interrupted command or another round.

    Args:
        run: the run.
        pool: its samples.
        method: the selector.
        seed: of the layers and projections that are drawn.
        device: where the model runs.
        work: the stage's folder for new files.
        report: shows progress.
        reuse: take the features of another round, which are of the whole pool.
    """

    def __init__(
        self,
        run: Run,
        pool: Dataset,
        method: Selector,
        *,
        seed: int,
        device: torch.device,
        work: Work,
        report: Reporter,
        reuse: bool = True,
    ) -> None:
        self.run, self.pool, self.method, self.seed = run, pool, method, seed
        self.device, self.work, self.report, self.reuse = device, work, report, reuse
        self.warmup_description = warmup_model(run)
        # A sample without a label counts as one of its most probable class.
        self.labels = pool.labels.copy()
        predictions = None if pool.labelled.all() else pool_predictions(run)
        if predictions is not None:
            self.labels[~pool.labelled] = predictions.probs.argmax(1).numpy()[~pool.labelled]
        self.batches = Batches(
            pool.inputs,
            self.labels,
            pool.preprocess,
            device=device,
            channels=self.warmup_description.channels,
        )

    def features(self, epochs: tuple[int, ...]) -> PoolFeatures:
        """The features that the method requires, at the checkpoints ``epochs``.

        Raises:
            ArtefactError: a checkpoint gives values that are not finite.
            UsageError: the method requires images, and the pool has none.
        """
        labels = torch.from_numpy(self.labels).to(self.device)
        if "images" in self.method.required_features:
            return PoolFeatures((), (), labels, images=self._images(epochs[-1]))
        if "gradients" in self.method.required_features:
            gradients = tuple(Gradients(*self._on_device(self._gradients(epoch))) for epoch in epochs)
            return PoolFeatures((), (), labels, gradients)
        factors = [LastLayerFactors(*self._on_device(self._factors(epoch))) for epoch in epochs]
        return PoolFeatures(
            tuple(each.probs for each in factors), tuple(each.hidden for each in factors), labels
        )

    def _on_device(self, features: LastLayerFactors | Gradients) -> list[torch.Tensor]:
        """The tensors of the record, on the device."""
        return [part.to(self.device) for part in features]

    def _model(self, epoch: int) -> nn.Module:
        """The warm-up's model at a checkpoint, on the device."""
        model = recorded_model(
            self.run, self.warmup_description.architecture, self.pool.inputs.shape[1:], len(self.pool.classes)
        )
        load_weights(model, self.run.path(CHECKPOINT.path(epoch=epoch)))
        return model.to(self.device)

    def _images(self, epoch: int) -> ImagePool:
        """The pool's images and the model of a checkpoint, for a selector that trains networks of its own."""
        shape = self.batches.get(torch.zeros(1, dtype=torch.int64)).inputs.shape[1:]
        if len(shape) != 3:
            raise UsageError("This method needs images, and the pool holds features.", "Choose another one.")
        return ImagePool(
            lambda ids: self.batches.get(ids).inputs,
            lambda: self._model(epoch),
            (shape[0], shape[1], shape[2]),
        )

    def _factors(self, epoch: int) -> LastLayerFactors:
        """The last layer's factors at a checkpoint, from a file if there is one."""
        path, recipe = self._path_and_recipe(epoch, {"features": "factors"})
        if path.is_file():
            return read_factors(path)
        factors = last_layer_factors(
            self._model(epoch), self.batches, self.report, f"features of epoch {epoch}"
        )
        self._require_finite(factors, epoch)
        write_factors(path, list(self.pool.sample_ids), factors, recipe)
        return factors

    def _gradients(self, epoch: int) -> Gradients:
        """The projected gradients at a checkpoint, from a file if there is one."""
        settings = {name: getattr(self.method, name) for name in GRADIENT_SETTINGS}
        path, recipe = self._path_and_recipe(epoch, {"features": "gradients", "seed": self.seed, **settings})
        if path.is_file():
            self._report_layers(epoch, read_recipe(path)["found"])
            return read_gradients(path)
        gradients, layers = gradient_features(
            self._model(epoch),
            self.batches,
            self.method,  # type: ignore[arg-type]  # it requires gradients, so it has their settings
            generator(self.seed, "gradients", epoch),
            report=self.report,
            what=f"gradients of epoch {epoch}",
        )
        self._require_finite(gradients, epoch)
        write_gradients(path, list(self.pool.sample_ids), gradients, {**recipe, "found": layers})
        self._report_layers(epoch, layers)
        return gradients

    def _report_layers(self, epoch: int, layers: Json) -> None:
        """Record the drawn layers in ``stage.json``; name the layers that cannot be drawn in a note, once."""
        assert isinstance(layers, dict)
        self.work.details[f"epoch-{epoch:04d}"] = layers
        left_out = layers["layers_without_gradients"]
        assert isinstance(left_out, list)
        if left_out and epoch == self.warmup_description.checkpoints[0]:
            self.report.note(
                f"Layers that cannot be sampled: {', '.join(map(str, left_out[:5]))}"
                f"{f' and {len(left_out) - 5} more layers' if len(left_out) > 5 else ''}."
            )

    def _require_finite(self, features: LastLayerFactors | Gradients, epoch: int) -> None:
        if not all(torch.isfinite(part).all() for part in features):
            raise ArtefactError(
                f"The warm-up model of epoch {epoch} gives values that are not finite.",
                "Run warmup again with a smaller --lr --force.",
            )

    def _path_and_recipe(self, epoch: int, settings: dict[str, Json]) -> tuple[Path, dict[str, Json]]:
        """The path of a checkpoint's features, and their recipe; a file of another round is linked to the path."""
        name = FACTORS.within(epoch=epoch)
        inputs = (*data_inputs(self.run), CHECKPOINT.path(epoch=epoch))
        hashes: dict[str, Json] = {**inputs_of(self.run, *inputs)}
        recipe: dict[str, Json] = {
            "version": FEATURES_VERSION,
            **settings,
            "device": self.device.type,
            "inputs": hashes,
        }
        # The same folder first: a command that was interrupted left its finished files there.
        path = self.work.folder / name
        if path.is_file():
            self.report.note(f"Using the features of epoch {epoch} that exist already.")
            return path, recipe
        for stage in self.run.stage_names(SELECT.kind) if self.reuse else ():
            existing = self.run.path(f"{stage}/{name}")
            if not existing.is_file():
                continue
            try:  # checked before it is read: a damaged file may have an unreadable recipe
                self.run.stage(stage).verified(f"{stage}/{name}")
            except ArtefactError:
                continue  # computed again instead
            if _same_recipe(read_recipe(existing), recipe):
                self.report.note(f"Using the features of epoch {epoch} of {stage}.")
                by_first(partial(_link, existing, path))
                break
        return path, recipe


def _same_recipe(existing: dict[str, Json], recipe: dict[str, Json]) -> bool:
    """Whether a file has the recipe; "found" holds results, which are no part of it."""
    return {name: value for name, value in existing.items() if name != "found"} == recipe


def _link(existing: Path, path: Path) -> None:
    """Put a file at a second path by a hard link, which is safe since artefacts are only ever replaced whole."""

    def copy(temporary: Path) -> None:
        shutil.copyfile(existing, temporary)

    try:
        os.link(existing, path)
    except OSError:  # a file system without hard links
        write_atomically(path, copy)

"""The features that a selector is given, from the warm-up's checkpoints."""

import os
import shutil
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
from metaselect.models.build import build_model
from metaselect.random import generator
from metaselect.records import Json, Reporter
from metaselect.run.files import write_atomically
from metaselect.run.layout import Run
from metaselect.run.stage import Work, inputs_of
from metaselect.selection.base import Gradients, ImagePool, PoolFeatures, Selector
from metaselect.training.batches import Batches
from metaselect.training.saved_models import checkpoint_file, load_weights, warmup_model

FEATURES_VERSION = 1  # changes with what the numbers in a file of features mean
GRADIENT_SETTINGS = ("draws", "width", "sample", "gradient")


def required_epochs(run: Run, method: Selector, outside: Path | None) -> tuple[int, ...]:
    """The checkpoints that the method looks at; none where it needs none, or where features come from outside.

    Raises:
        ArtefactError: there was no warm-up, or there can be none.
    """
    if outside is not None or not method.required_features:
        return ()
    if run.ids_alone:
        raise ArtefactError(
            f"{run.root} holds ids and labels alone, so there is no model whose features the method could look at.",
            f"Bring features of your own: {run.select_command}",
        )
    kept = warmup_model(run).checkpoints
    return kept if method.checkpoints == "all" else kept[-1:]


class WarmupFeatures:
    """The features of the wanted checkpoints; what an interrupted command or another round made is taken as it is.

    Args:
        run: the run.
        pool: its samples.
        method: the selector.
        seed: of everything that is drawn for the features.
        device: where the model runs.
        work: where the files go.
        report: says what happens.
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
    ) -> None:
        self.run, self.pool, self.method, self.seed = run, pool, method, seed
        self.device, self.work, self.report = device, work, report
        self.described = warmup_model(run)
        self.batches = Batches(
            pool.inputs, pool.labels, pool.preprocess, device=device, channels=self.described.channels
        )

    def features(self, epochs: tuple[int, ...]) -> PoolFeatures:
        """What the method wants of the checkpoints at ``epochs``.

        Raises:
            ArtefactError: a checkpoint gives values that are not finite.
            UsageError: images are wanted, and there are none.
        """
        labels = torch.from_numpy(self.pool.labels).to(self.device)
        if "images" in self.method.required_features:
            return PoolFeatures((), (), labels, images=self._images(epochs[-1]))
        if "gradients" in self.method.required_features:
            gradients = tuple(Gradients(*self._placed(self._gradients(epoch))) for epoch in epochs)
            return PoolFeatures((), (), labels, gradients)
        factors = [LastLayerFactors(*self._placed(self._factors(epoch))) for epoch in epochs]
        return PoolFeatures(
            tuple(each.probs for each in factors), tuple(each.hidden for each in factors), labels
        )

    def _placed(self, found: LastLayerFactors | Gradients) -> list[torch.Tensor]:
        return [part.to(self.device) for part in found]

    def _model(self, epoch: int) -> nn.Module:
        model = build_model(
            self.described.architecture, self.pool.inputs.shape[1:], len(self.pool.classes), seed=0
        )
        load_weights(model, self.run.path(f"warmup/{checkpoint_file(epoch)}"))
        return model.to(self.device)

    def _images(self, epoch: int) -> ImagePool:
        shape = self.batches.get(torch.zeros(1, dtype=torch.int64)).inputs.shape[1:]
        if len(shape) != 3:
            raise UsageError("This method needs images, and the pool holds features.", "Choose another one.")
        return ImagePool(
            lambda ids: self.batches.get(ids).inputs,
            lambda: self._model(epoch),
            (shape[0], shape[1], shape[2]),
        )

    def _factors(self, epoch: int) -> LastLayerFactors:
        path, recipe = self._place(epoch, {"features": "factors"})
        if path.is_file():
            return read_factors(path)
        found = last_layer_factors(
            self._model(epoch), self.batches, self.report, f"features of epoch {epoch}"
        )
        self._check(found, epoch)
        write_factors(path, list(self.pool.sample_ids), found, recipe)
        return found

    def _gradients(self, epoch: int) -> Gradients:
        wanted = {name: getattr(self.method, name) for name in GRADIENT_SETTINGS}
        path, recipe = self._place(epoch, {"features": "gradients", "seed": self.seed, **wanted})
        if path.is_file():
            self._say_layers(epoch, read_recipe(path)["found"])
            return read_gradients(path)
        found, drawn = gradient_features(
            self._model(epoch),
            self.batches,
            self.method,  # type: ignore[arg-type]  # it wants gradients, so it has their settings
            generator(self.seed, "gradients", epoch),
            self.report,
            f"gradients of epoch {epoch}",
        )
        self._check(found, epoch)
        write_gradients(path, list(self.pool.sample_ids), found, {**recipe, "found": drawn})
        self._say_layers(epoch, drawn)
        return found

    def _say_layers(self, epoch: int, drawn: Json) -> None:
        """Which layers were drawn, for ``stage.json``; which never can be, once, for people."""
        assert isinstance(drawn, dict)
        self.work.details[f"epoch-{epoch:04d}"] = drawn
        left_out = drawn["layers_without_gradients"]
        assert isinstance(left_out, list)
        if left_out and epoch == self.described.checkpoints[0]:
            self.report.note(
                f"Layers that cannot be sampled: {', '.join(map(str, left_out[:5]))}"
                f"{f' and {len(left_out) - 5} more layers' if len(left_out) > 5 else ''}."
            )

    def _check(self, found: LastLayerFactors | Gradients, epoch: int) -> None:
        if not all(torch.isfinite(part).all() for part in found):
            raise ArtefactError(
                f"The warm-up model of epoch {epoch} gives values that are not finite.",
                "Run warmup again with a smaller --lr --force.",
            )

    def _place(self, epoch: int, settings: dict[str, Json]) -> tuple[Path, dict[str, Json]]:
        """Where the features of a checkpoint go, and their recipe; another round's file of that recipe is put there."""
        name = f"gradients-epoch-{epoch:04d}.parquet"
        inputs = (*data_inputs(self.run), f"warmup/{checkpoint_file(epoch)}")
        hashes: dict[str, Json] = {**inputs_of(self.run, *inputs)}
        recipe: dict[str, Json] = {
            "version": FEATURES_VERSION,
            **settings,
            "device": self.device.type,
            "inputs": hashes,
        }
        path = self.work.folder / name
        if path.is_file():
            self.report.note(f"Features of epoch {epoch} are there already.")
            return path, recipe
        for stage in self.run.stage_names("select"):
            made = self.run.path(f"{stage}/{name}")
            if not made.is_file():
                continue
            try:  # before anything in it is read: a damaged file may have no recipe that can be
                self.run.stage(stage).verified(f"{stage}/{name}")
            except ArtefactError:
                continue  # made anew here
            if _same_recipe(read_recipe(made), recipe):
                self.report.note(f"Features of epoch {epoch} are those of {stage}.")
                _link(made, path)
                break
        return path, recipe


def _same_recipe(made: dict[str, Json], wanted: dict[str, Json]) -> bool:
    return {name: value for name, value in made.items() if name != "found"} == wanted


def _link(made: Path, path: Path) -> None:
    """The same file in another folder, on the same disk blocks: artefacts are only ever replaced whole."""

    def copy(temporary: Path) -> None:
        shutil.copyfile(made, temporary)

    try:
        os.link(made, path)
    except OSError:  # a file system without links
        write_atomically(path, copy)

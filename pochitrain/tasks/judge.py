"""What `infer` and `calibrate` share: a trained model, images to show it, and its answers."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from pochitrain.config.identity import canonical_settings, settings_difference
from pochitrain.config.loader import remembered_imports
from pochitrain.config.schema import Config
from pochitrain.data.folder import display_name, manifest_difference
from pochitrain.data.pick import Picked, pick_images, pick_validation
from pochitrain.data.table import is_table
from pochitrain.engine.calibration import Calibration, load_calibration
from pochitrain.engine.loading import LoadedModel, find_model, load_model, snapshot_config
from pochitrain.engine.predict import Predictions, nothing_readable, predict
from pochitrain.engine.run import choose_device, choose_precision, make_deterministic
from pochitrain.errors import ConfigError, DataError
from pochitrain.locale import _
from pochitrain.sinks.console import EpochBar, Log
from pochitrain.tasks.prepare import read_data_manifest, read_identity


@dataclass(frozen=True)
class Judge:
    """A trained model that is ready to answer on this machine; it says what it does."""

    loaded: LoadedModel
    device: torch.device
    precision: str
    batch_size: int
    log: Log

    @classmethod
    def of(cls, work_dir: Path, text: str, device: str | None, batch_size: int | None, log: Log | None) -> Judge:
        """Load the model that `text` names.

        Raises:
            ConfigError, DataError: there is no such experiment, file or device, or it cannot be used.
        """
        loaded, log = load_model(*find_model(work_dir, text)), log or Log()
        chosen = _device(loaded.config, device)
        judge = cls(loaded, chosen, _precision(loaded, chosen), batch_size or loaded.config.batch_size, log)
        make_deterministic(loaded.config)
        log.info(
            _("model       {path} ({name}, epoch {epoch})", path=loaded.path, name=loaded.name, epoch=loaded.epoch)
        )
        log.info(_("device      {device}, {precision}", device=chosen, precision=judge.precision))
        for line in _changed_code(loaded):
            log.warning(_("not as in the training: {line}", line=line))
        return judge

    def pick(self, sources: Sequence[str], *, allow_missing: bool = False) -> Picked:
        """Return the images that are named, or the validation data of the experiment."""
        classes = self.loaded.classes
        if sources:
            picked = pick_images(sources, classes, allow_missing=allow_missing)
        else:
            picked = pick_validation(_config_with_data(self.loaded), classes, allow_missing=allow_missing)
        kind = _("labelled") if picked.labelled else _("not labelled")
        count = len(picked) + len(picked.broken)
        self.log.info(_("images      {count}, {kind}: {source}", count=count, kind=kind, source=picked.source))
        then = read_data_manifest(self.loaded.experiment) if self.loaded.experiment else {}
        for note in (*picked.notes, *(() if sources else _changed_data(then, picked))):
            self.log.warning(note)
        if known := trained_on(then, self.loaded.config.train_data_root, picked):
            words = _("the model was trained on {count} of these images: it does worse on new ones", count=known)
            self.log.warning(words)
        return picked

    def calibration(self) -> Calibration | None:
        """Return the calibration that lies beside the model; one that cannot be used is told and counts as none."""
        try:
            return load_calibration(self.loaded.path)
        except DataError as error:
            problem = error.problems[0]
            told = _("{what}, so it is not used: {mend}", what=problem.what, mend=problem.mend)
            self.log.warning(f"{told} ({problem.where})")
            return None

    def answers(
        self, picked: Picked, *, precision: str | None = None, temperature: float = 1.0, tta: bool = False
    ) -> Predictions:
        """Show the images to the model, as its training showed it the validation data."""
        if not len(picked):
            raise nothing_readable(picked.broken)
        loaded, config, bar = self.loaded, self.loaded.config, EpochBar(self.log)

        def tick(step: int, steps: int, images: int) -> None:
            if bar.due:
                bar.update(_("infer"), step, steps, {}, images)

        with bar.shown():
            predictions = predict(
                cast(nn.Module, torch.compile(loaded.model)) if config.compile else loaded.model,
                loaded.classes,
                picked.items,
                picked.labels,
                loaded.transform,
                batch_size=self.batch_size,
                workers=config.num_workers,
                cache=config.cache,
                cache_gb=config.cache_gb,
                device=self.device,
                precision=precision or self.precision,
                temperature=temperature,
                tta=tta,
                channels_last=config.channels_last if isinstance(config.channels_last, bool) else None,
                seed=config.seed,
                timeout_seconds=config.worker_timeout_seconds,
                tick=tick,
            )
        return replace(predictions, broken=(*picked.broken, *predictions.broken))


def _device(config: Config, wanted: str | None) -> torch.device:
    """Return the device that is asked for, else the training's, else the best one of this machine."""
    if wanted is not None:
        return choose_device(config.model_copy(update={"device": wanted}))
    try:
        return choose_device(config)
    except ConfigError:  # trained on another machine
        return choose_device(config.model_copy(update={"device": None}))


def _precision(loaded: LoadedModel, device: torch.device) -> str:
    """Return the training's precision; where "auto" had chosen one that this device only emulates, fp32."""
    if loaded.config.precision != "auto" or loaded.precision == "fp32":
        return loaded.precision
    return choose_precision(loaded.config, device)


def _config_with_data(loaded: LoadedModel) -> Config:
    """Return a config that can find the validation data, which may be made by code of the user's."""
    if loaded.settings.get("dataset") is None or loaded.config.dataset is not None:
        return loaded.config
    if loaded.experiment is None:
        raise ConfigError(
            _("The validation data is made by code of the user's, which the file alone does not hold"),
            str(loaded.path),
            _("give the images with --data, or the experiment instead of the file"),
        )
    return snapshot_config(loaded.experiment, loaded.settings)


def _changed_code(loaded: LoadedModel) -> list[str]:
    """Return what is other than it was: when code had to be executed, a module beside the config may have changed."""
    if loaded.config.origin.path is None or loaded.experiment is None:
        return []
    identity = read_identity(loaded.experiment)
    if identity is None:
        return []
    with remembered_imports():
        now = canonical_settings(loaded.config)
    return settings_difference(identity.settings, now)


def _changed_data(manifests: Mapping[str, Any], picked: Picked) -> list[str]:
    """Return how the validation data differs from that of the training."""
    then = manifests.get("data.val") or {}
    if picked.manifest is None or "files" not in then:
        return []
    added, removed, changed = manifest_difference(then, picked.manifest)
    if not (added or removed or changed):
        return []
    return [
        _(
            "the validation data has changed since the training: +{added} −{removed} ~{changed} files",
            added=added,
            removed=removed,
            changed=changed,
        )
    ]


def trained_on(manifests: Mapping[str, Any], root: str | None, picked: Picked) -> int:
    """Return how many of the images are, by their paths, images that the model was trained on (1 s for a million).

    Args:
        manifests: of the data of the training, as `read_data_manifest` gives them.
        root: `train_data_root` of the training.
    """
    names = [name for name, _size in manifests.get("data.train", {}).get("files", ())]
    if root is None or not names or not isinstance(picked.items, list):
        return 0
    if is_table(root):  # the class stands before the path, which may be absolute or lead upwards
        folder = _spelled(os.path.dirname(root))
        known = {os.path.normpath(os.path.join(folder, name.partition(": ")[2])) for name in names}
    else:
        folder = _spelled(root)
        known = {f"{folder}/{name}" for name in names}
    return sum(_spelled(item) in known for item in picked.items)


def _spelled(path: str) -> str:
    """Return an absolute path as a manifest spells names."""
    return display_name(unicodedata.normalize("NFC", os.path.abspath(path)))

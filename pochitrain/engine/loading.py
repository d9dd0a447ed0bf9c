"""From an experiment, or a `.pt` file on its own, back to a model that answers as it did when it was saved.

What is made of torchvision's parts needs no code of the user's: the file alone is enough. A model or a transform of the
user's own is made again by the experiment's snapshot of the config, executed in the place of the original.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from pydantic import ValidationError
from torch import nn

from pochitrain.config.describe import plain_settings
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.engine.checkpoint import load_weights
from pochitrain.engine.run import PRECISIONS
from pochitrain.errors import ConfigError, DataError, Problem, file_reason
from pochitrain.experiment import Experiment, find_experiment, read_manifest
from pochitrain.locale import _
from pochitrain.parts.models import build_model, model_names
from pochitrain.parts.transforms import rebuild_transform
from pochitrain.randomness import seed_everything

FORMAT = 1
_FIELDS: dict[str, type] = {
    "id": str,
    "epoch": int,
    "record": dict,
    "model_name": str,
    "classes": list,
    "settings": dict,
    "precision": str,
    "model": dict,
}
# The plain settings that judging reads; no code is among them, so they come from the file.
_READ = (
    "train_data_root", "val_data_root", "val_fraction", "group_by", "batch_size", "num_workers", "cache", "cache_gb",
    "worker_timeout_seconds", "model_name", "pretrained", "seed", "device", "precision", "channels_last", "compile",
    "cudnn_benchmark", "confusion_matrix_config", "log_level",
)  # fmt: skip
_CODE = ("train_transform", "val_transform", "model", "dataset", "adapter", "loss", "train_epoch", "optimizer",
         "scheduler", "observers", "plots")  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, on the CPU and in evaluation mode, with everything that judging needs."""

    path: Path  # of the .pt file
    experiment: Experiment | None  # None for a file on its own
    id: str
    name: str  # of the model
    epoch: int
    record: dict[str, Any]
    classes: tuple[str, ...]
    config: Config  # of the parts that are code, it holds those that were needed
    settings: dict[str, Any]  # all settings in plain values, a name in the place of code
    precision: str  # that of the training
    model: nn.Module
    transform: Any


def find_model(work_dir: Path, text: str) -> tuple[Path, Experiment | None]:
    """Return the `.pt` file that `text` names, and the experiment it lies in.

    Args:
        text: the beginning of an id, an experiment's folder (both mean its `best.pt`), or a `.pt` file.

    Raises:
        ConfigError: nothing, or more than one thing, is meant. DataError: no epoch was finished yet.
    """
    path = Path(text)
    if path.suffix == ".pt" and path.is_file():
        beside = Experiment(path.absolute().parent, "")
        return path, find_experiment(work_dir, str(beside.dir)) if beside.experiment_json.is_file() else None
    if path.suffix == ".pt" and not path.exists():
        raise ConfigError(
            _("There is no file or folder {path}", path=text),
            "pochi infer",
            _("a relative path starts from {folder}", folder=os.getcwd()),
        )
    experiment = find_experiment(work_dir, text)
    if not experiment.best_pt.is_file() and read_manifest(experiment).get("epochs_finished"):
        raise DataError(
            _("This trial has no model: the search keeps the weights of its best ones only"),
            str(experiment.dir),
            _('search with a higher optuna["keep_weights"], or train its settings'),
        )
    if not experiment.best_pt.is_file():
        raise DataError(
            _("This experiment has no model yet: no epoch is finished"),
            str(experiment.dir),
            _("train it first: the command that began it continues"),
        )
    return experiment.best_pt, experiment


def load_model(path: Path, experiment: Experiment | None) -> LoadedModel:
    """Return the model of a `.pt` file. Nothing in the file is ever executed.

    Raises:
        DataError: the file is damaged, is no file of ours, or holds weights that do not fit.
        ConfigError: the model is made by code that is not there, or that fails.
    """
    payload = _checked(load_weights(path), path)
    if experiment is not None and experiment.id != payload["id"]:
        experiment = None  # a file of another experiment that was put here
    settings, classes = payload["settings"], tuple(payload["classes"])
    description = payload.get("val_transform")
    of_code = ["model"] if settings.get("model") is not None else []
    of_code += ["val_transform"] if description is None else []
    if of_code:
        if experiment is None:
            raise _needs_experiment(path, payload, of_code)
        config = snapshot_config(experiment, settings)
        transform = config.val_transform
    else:
        transform = _transform(description, path)
        config = _plain_config(settings, transform, path)
    seed_everything(config.seed, "init")  # a model may draw what its state does not hold
    if settings.get("model") is None:
        model = _torchvision_model(config, len(classes), path)
    else:
        model = build_model(config, classes)
    try:
        model.load_state_dict(payload["model"])
    except (RuntimeError, TypeError) as error:
        raise DataError(
            _("The weights do not fit the model {name}: {reason}", name=payload["model_name"], reason=error),
            str(path),
            _("has the code of the model changed since the training? restore it, or train again"),
        ) from error
    return LoadedModel(
        path=path,
        experiment=experiment,
        id=payload["id"],
        name=payload["model_name"],
        epoch=payload["epoch"],
        record=payload["record"],
        classes=classes,
        config=config,
        settings=settings,
        precision=payload["precision"],
        model=model.eval(),
        transform=transform,
    )


def snapshot_config(experiment: Experiment, settings: Mapping[str, Any]) -> Config:
    """Execute the experiment's `config.py` as if it were still the file that the training read; return its Config.

    So what lies beside the original can be imported and opened. Values that the command line had put over the file's
    are put over them again.

    Raises:
        ConfigError: it does not run any more.
    """
    manifest = read_manifest(experiment)
    original = Path(manifest.get("config_path") or experiment.config_py)
    path = original if original.is_file() else experiment.config_py
    folder = str(original.parent.absolute())
    if folder not in sys.path:  # the file is gone, what it imports may still be there
        sys.path.insert(0, folder)
    try:
        text = experiment.config_py.read_text(encoding="utf-8-sig")
        there = plain_settings(load_config(path, text=text))
        changed = {name: settings[name] for name in there if name in settings and settings[name] != there[name]}
        # As they were given beside the file: functions that read them as globals see them.
        return load_config(path, {name: value for name, value in changed.items() if name not in _CODE}, text=text)
    except OSError as error:
        raise ConfigError(
            _("The experiment's config.py cannot be read: {reason}", reason=file_reason(error)),
            str(experiment.config_py),
            _("restore it: the model or the transform is made by its code"),
        ) from error
    except ConfigError as error:
        where = _("a copy of {path}, which the model or the transform is made by", path=original)
        mend = _("what it imports must be where it was: beside the original file, or installed")
        problem = Problem(_("The experiment's config.py does not run any more"), where, mend)
        raise ConfigError(problems=[*error.problems, problem]) from error


def _checked(payload: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what a file holds, once it is known to be ours."""
    newer = isinstance(payload.get("format"), int) and payload["format"] > FORMAT
    missing = [name for name, kind in _FIELDS.items() if not isinstance(payload.get(name), kind)]
    named = isinstance(payload.get("classes"), list) and all(isinstance(name, str) for name in payload["classes"])
    if newer:
        what = _("The file was written by a newer version of pochitrain")
        raise DataError(what, str(path), _("install that version"))
    if missing or not named or not payload["classes"] or payload["precision"] not in PRECISIONS:
        raise DataError(
            _("The file holds no model of `pochi train`: no {names}", names=", ".join(missing or ["classes"])),
            str(path),
            _("give best.pt or last.pt of an experiment; plain weights do not say which classes they know"),
        )
    return payload


def _needs_experiment(path: Path, payload: Mapping[str, Any], of_code: list[str]) -> ConfigError:
    names = {"model": payload["settings"].get("model"), "val_transform": payload["settings"].get("val_transform")}
    parts = ", ".join(f"{name} = {names[name]}" for name in of_code)
    return ConfigError(
        _("The file alone is not enough: code of the user's made {parts}", parts=parts),
        str(path),
        _(
            "put it back into the folder of its experiment {id}, beside config.py and experiment.json",
            id=payload["id"][:12],
        ),
    )


def _transform(description: Any, path: Path) -> Any:
    try:
        return rebuild_transform(description)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            _("The transform in the file cannot be made: {reason}", reason=error),
            str(path),
            _("use the versions of torch and torchvision that it was trained with"),
        ) from error


def _plain_config(settings: Mapping[str, Any], transform: Any, path: Path) -> Config:
    """Return a Config of the settings that hold no code."""
    values = {name: settings[name] for name in _READ if name in settings}
    try:
        return Config.model_validate({**values, "train_transform": transform, "val_transform": transform})
    except ValidationError as error:
        names = ", ".join(".".join(map(str, line["loc"])) for line in error.errors())
        raise DataError(
            _("The settings in the file are not valid: {names}", names=names),
            str(path),
            _("use the version of pochitrain that wrote it"),
        ) from error


def _torchvision_model(config: Config, num_classes: int, path: Path) -> nn.Module:
    """Return the architecture with random weights: the one that pretrained weights had, without fetching these."""
    name = config.model_name
    if name not in model_names():
        raise DataError(_("Unknown model: {name}", name=name), str(path), _("install a torchvision that knows it"))
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False, "transform_input": config.pretrained}
    if config.pretrained and name.startswith("vit_"):  # some were trained on larger images
        extra = {"image_size": torchvision.models.get_model_weights(name).DEFAULT.meta["min_size"][0]}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    return model

"""`model_name` or `model` becomes a torch module with one output per class."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from pochitrain.config.inject import call_part, name_of, part_values
from pochitrain.config.mistakes import near_name
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _
from pochitrain.parts.copies import own_copy

# These two return extra outputs in training mode unless told not to.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")

# What fetching a file, reading it and putting it into the model raise.
_LOADING_ERRORS = (URLError, HTTPException, OSError, EOFError, UnpicklingError, RuntimeError, TypeError, LookupError)


def model_names() -> list[str]:
    """Return every `model_name`: the classification models of torchvision."""
    return list(torchvision.models.list_models(module=torchvision.models))


def check_model(config: Config) -> list[Problem]:
    """Return what can be said against the model before it is built."""
    if config.model is not None or config.model_name in model_names():
        return []
    near = near_name(config.model_name, model_names())
    mend = (
        _("did you mean {near}?", near=near) if near else _("for example resnet18, resnet34, resnet50, efficientnet_b0")
    )
    return [Problem(_("Unknown model: {name}", name=config.model_name), "model_name", mend)]


def build_model(config: Config, classes: tuple[str, ...]) -> nn.Module:
    """Return the model on the CPU; its initial weights come from the global generator.

    Raises:
        ConfigError: pretrained weights cannot be had, or the user's function fails to give a module.
    """
    if config.model is None:
        return _torchvision_model(config.model_name, len(classes), config.pretrained)
    if isinstance(config.model, nn.Module):
        copied: nn.Module = own_copy("model", config.model)
        return copied
    values = part_values(config, num_classes=len(classes), classes=classes)
    model = call_part("model", config.model, values)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            _("model returned {kind}, not a torch module", kind=type(model).__name__),
            "model",
            _("return an nn.Module from {name}", name=name_of(config.model)),
        )
    return model


def _torchvision_model(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    model: nn.Module
    if not pretrained:
        extra = {"aux_logits": False} if name in _WITH_AUXILIARY_HEADS else {}
        if name in _WITH_AUXILIARY_HEADS:
            extra["init_weights"] = True  # otherwise torchvision warns that its default will change
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
        return model
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        model = torchvision.models.get_model(name, weights=weights)
    except _LOADING_ERRORS as error:
        raise _weights_problem(name, weights.url, error) from error
    if name == "inception_v3":
        model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
    _replace_head(model, num_classes)
    return model


def _weights_problem(name: str, url: str, error: Exception) -> ConfigError:
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if target.exists():
        return ConfigError(
            _("The pretrained weights of {name} cannot be read: {reason}", name=name, reason=error),
            str(target),
            _("delete the file so that it is fetched again"),
        )
    return ConfigError(
        _("The pretrained weights of {name} cannot be fetched: {reason}", name=name, reason=error),
        "pretrained",
        _(
            "download {url} on another machine and put it at {target}, or set pretrained = False",
            url=url,
            target=target,
        ),
    )


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a fresh last layer with `num_classes` outputs in the place of the 1000 of ImageNet."""
    heads = [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == 1000)
        or (isinstance(module, nn.Conv2d) and module.out_channels == 1000)
    ]
    name, old = heads[-1]
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        kernel: tuple[int, int] = (old.kernel_size[0], old.kernel_size[1])
        new = nn.Conv2d(old.in_channels, num_classes, kernel, bias=old.bias is not None)
    parent, _dot, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


def display_name(config: Config) -> str:
    """Return the model's name for folders and tables."""
    return config.model_name if config.model is None else name_of(config.model).strip("<>")

"""Every torchvision transform, v1 and v2, with each constructor argument varied once: each variation has its own id."""

from __future__ import annotations

import enum
import inspect
import operator
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from pochitrain.config.canonical import canonical, difference, digest

FLIP, GREY = v1.RandomHorizontalFlip(), v1.Grayscale()

# Two values for each argument; where the signature has a default, that is the first one.
VALUES: dict[str, tuple[Any, Any]] = {
    "all_ops": (True, False),
    "alpha": (1.0, 0.7),
    "antialias": (True, False),
    "bits": (3, 4),
    "brightness": (0.1, 0.2),
    "center": ([1, 2], [1, 3]),
    "chain_depth": (-1, 2),
    "clamping_mode": ("soft", "hard"),
    "clip": (True, False),
    "contrast": (0.1, 0.2),
    "degrees": (10, 11),
    "distortion_scale": (0.5, 0.4),
    "dtype": (torch.float32, torch.float64),
    "expand": (False, True),
    "fill": (0, 3),
    "format": ("XYXY", "CXCYWH"),
    "hue": (0.1, 0.2),
    "inplace": (False, True),
    "interpolation": (v1.InterpolationMode.NEAREST, v1.InterpolationMode.BICUBIC),
    "kernel_size": (3, 5),
    "labels_getter": ("default", operator.itemgetter(1)),
    "lambd": (operator.neg, operator.pos),
    "magnitude": (9, 8),
    "max_aspect_ratio": (2.0, 2.5),
    "max_scale": (1.0, 0.9),
    "max_size": (50, 60),
    "mean": ([0.5], [0.4]),
    "mean_vector": (torch.zeros(3), torch.ones(3)),
    "min_area": (1.0, 2.0),
    "min_aspect_ratio": (0.5, 0.6),
    "min_scale": (0.3, 0.4),
    "min_size": (10, 11),
    "mixture_width": (3, 4),
    "mode": (None, "L"),
    "num_classes": (3, 4),
    "num_magnitude_bins": (31, 30),
    "num_ops": (2, 3),
    "num_output_channels": (1, 3),
    "num_samples": (2, 3),
    "p": (0.5, 0.4),
    "pad_if_needed": (False, True),
    "padding": (1, 2),
    "padding_mode": ("constant", "edge"),
    "policy": (v1.AutoAugmentPolicy.IMAGENET, v1.AutoAugmentPolicy.SVHN),
    "quality": (50, 60),
    "ratio": ((0.3, 3.3), (0.4, 3.3)),
    "sampler_options": ([0.0, 0.5], [0.0, 0.6]),
    "saturation": (0.1, 0.2),
    "scale": ((0.1, 0.9), (0.2, 0.9)),
    "scale_range": ((0.1, 2.0), (0.2, 2.0)),
    "severity": (3, 4),
    "sharpness_factor": (2, 3),
    "shear": (5, 6),
    "side_range": ((1.0, 4.0), (1.0, 3.0)),
    "sigma": (0.2, 0.3),
    "size": (24, 32),
    "std": ([0.5], [0.4]),
    "target_size": ((24, 24), (24, 32)),
    "threshold": (0.5, 0.6),
    "transformation_matrix": (torch.eye(3), 2 * torch.eye(3)),
    "transforms": ([FLIP, GREY], [GREY, FLIP]),
    "translate": ((0.1, 0.1), (0.2, 0.1)),
    "trials": (40, 41),
    "types": (object, tv_tensors.Image),
    "value": (0, 1),
    "vertical_flip": (False, True),
}
SPECIAL: dict[tuple[str, str], tuple[Any, Any]] = {
    ("RandomChoice", "p"): ([0.5, 0.5], [0.4, 0.6]),
    ("RandomPhotometricDistort", "brightness"): ((0.9, 1.1), (0.8, 1.1)),
    ("RandomPhotometricDistort", "contrast"): ((0.9, 1.1), (0.8, 1.1)),
    ("RandomPhotometricDistort", "saturation"): ((0.9, 1.1), (0.8, 1.1)),
    ("RandomPhotometricDistort", "hue"): ((-0.1, 0.1), (-0.2, 0.1)),
    ("RandomShortestSize", "min_size"): ([10, 12], [10, 13]),
    ("ToDtype", "scale"): (False, True),
    ("ConvertImageDtype", "dtype"): (torch.float32, torch.float64),
}
Case = tuple[type, str, dict[str, Any], dict[str, Any]]


def transform_classes(module: types.ModuleType) -> Iterator[type]:
    for _name, cls in sorted(vars(module).items()):
        is_transform = inspect.isclass(cls) and cls.__module__.startswith("torchvision.transforms")
        if is_transform and not issubclass(cls, enum.Enum):
            yield cls


def variations(module: types.ModuleType) -> Iterator[Case]:
    """Yield for each argument of each class: class, argument, arguments before, arguments after."""
    for cls in transform_classes(module):
        parameters = inspect.signature(cls).parameters
        values = {name: SPECIAL.get((cls.__name__, name)) or VALUES[name] for name in parameters}
        required = {name: values[name][0] for name, p in parameters.items() if p.default is p.empty and name != "types"}
        for name, parameter in parameters.items():
            before, after = values[name]
            if parameter.default is not parameter.empty:
                before = before if parameter.default is None else parameter.default
            assert before != after if not isinstance(before, torch.Tensor) else True, (cls, name)
            yield cls, name, {**required, name: before}, {**required, name: after}


def made(cls: type, arguments: dict[str, Any]) -> Any:
    given = dict(arguments)
    more = [given.pop("lambd"), given.pop("types")] if "types" in given else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated
        return cls(*more, **given)


CASES = [*variations(v1), *variations(v2)]


@pytest.mark.parametrize(
    ("cls", "name", "before", "after"), CASES, ids=[f"{c.__module__}.{c.__name__}.{n}" for c, n, *_ in CASES]
)
def test_argument_moves_the_identity(cls: type, name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    first, again, other = (
        canonical({"train_transform": made(cls, arguments)}) for arguments in (before, before, after)
    )
    assert first == again
    assert digest(first) != digest(other)
    assert difference(first, other)


def test_every_transform_has_an_identity_of_its_own() -> None:
    flats = {}
    for module in (v1, v2):
        for cls in transform_classes(module):
            parameters = inspect.signature(cls).parameters
            values = {name: SPECIAL.get((cls.__name__, name)) or VALUES[name] for name in parameters}
            required = {name: values[name][0] for name, p in parameters.items() if p.default is p.empty}
            flats[cls] = digest(canonical({"train_transform": made(cls, required)}))
    assert len(set(flats.values())) == len(flats) >= 100


def test_the_walk_covers_every_argument() -> None:
    counted = sum(len(inspect.signature(cls).parameters) for m in (v1, v2) for cls in transform_classes(m))
    assert len(CASES) == counted >= 240

"""A transform as plain values: what is rebuilt does to an image what the original does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from pochitrain.parts.transforms import describe_transform, rebuild_transform

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

KNOWN: dict[str, Any] = {
    "least": transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean=MEAN, std=STD)]),
    "bare": transforms.ToTensor(),
    "augmented": transforms.Compose(
        [
            transforms.RandomResizedCrop(24),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
            transforms.ToTensor(),
            transforms.Normalize(mean=MEAN, std=STD),
        ]
    ),
    "resized": transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize(mean=tuple(MEAN), std=tuple(STD)),
        ]
    ),
    "bicubic": transforms.Compose(
        [transforms.Resize((20, 30), interpolation=InterpolationMode.BICUBIC, antialias=True), transforms.ToTensor()]
    ),
    "rotated": transforms.Compose(
        [transforms.RandomRotation(15, fill=3), transforms.RandomCrop(16, padding=4), transforms.ToTensor()]
    ),
    "v2": v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop((24, 24), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    ),
    "v2 resized": v2.Compose(
        [v2.Resize(32), v2.CenterCrop((28, 20)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "v1 in v2": v2.Compose([transforms.Resize(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
}


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_transform_comes_back_and_does_the_same(name: str, image: Image.Image) -> None:
    description = describe_transform(KNOWN[name])
    assert description is not None
    rebuilt = rebuild_transform(json.loads(json.dumps(description)))
    for seed in range(4):
        results = []
        for transform in (KNOWN[name], rebuilt):
            torch.manual_seed(seed)
            results.append(transform(image))
        assert torch.equal(*results)
        assert type(results[0]) is type(results[1])
    assert description["name"].startswith("v2." if "v2" in name else "v1.")


class Mine:
    def __call__(self, image: Any) -> Any:
        return image


class Grown(transforms.Resize):
    """A subclass may do anything: it is no part of torchvision."""

    def forward(self, image: Any) -> Any:
        return super().forward(image)


def grown_by_hand() -> Any:
    """An attribute that the signature does not know of."""
    transform = transforms.Compose([transforms.Resize(8), transforms.ToTensor()])
    transform.transforms[0].size = 9
    transform.transforms[0].extra = 1
    return transform


UNKNOWN: dict[str, Any] = {
    "function": lambda image: image,
    "own class": transforms.Compose([Mine(), transforms.ToTensor()]),
    "subclass": transforms.Compose([Grown(8), transforms.ToTensor()]),
    "lambda": transforms.Compose([transforms.Lambda(lambda image: image), transforms.ToTensor()]),
    "module": nn.Sequential(nn.Identity()),
    "builtin": print,
    "attribute": grown_by_hand(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_more_than_known_parts_has_no_description(name: str) -> None:
    assert describe_transform(UNKNOWN[name]) is None


@pytest.mark.parametrize(
    "description",
    [
        {"name": "os.system", "arguments": {"command": "true"}},
        {"name": "v1.functional", "arguments": {}},
        {"name": "v1.__builtins__", "arguments": {}},
        {"name": "v1.torch", "arguments": {}},
        {"name": "v1.InterpolationMode", "arguments": {"value": "bilinear"}},
        {"name": "v2.get_bounding_boxes", "arguments": {"flat_inputs": []}},
        {"name": "v3.Resize", "arguments": {"size": 3}},
        {"name": "Resize"},
        {"dtype": "load"},
        {},
        {"interpolation": "nearest"},
        [],
        None,
        "v1.ToTensor",
    ],
)
def test_only_transforms_are_ever_called(description: Any) -> None:
    with pytest.raises(TypeError):
        rebuild_transform(description)

"""Crops and flips on arrays give the pixels of torchvision's own steps, and leave the generator where these leave it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from pochitrain.data.drawing import draw, on_arrays

SIZES = [(36, 48), (48, 36), (120, 24), (24, 120), (24, 24)]  # (height, width); the long ones make a crop fall back
STEPS = [
    v1.RandomHorizontalFlip(), v2.RandomHorizontalFlip(0.3), v1.RandomVerticalFlip(0.1), v2.RandomVerticalFlip(1.0),
    v1.RandomResizedCrop(16), v2.RandomResizedCrop((12, 20)), v1.RandomResizedCrop(16, scale=(0.9, 1.0)),
    v1.RandomResizedCrop(16, interpolation=InterpolationMode.BICUBIC),
    v2.RandomResizedCrop(16, (0.05, 0.1), (1.0, 1.0), InterpolationMode.NEAREST),
    v1.RandomCrop(24), v2.RandomCrop(20), v1.RandomCrop((20, 23), padding=4), v1.RandomCrop(24, padding=(1, 2), fill=7),
    v1.RandomCrop(24, padding=[1, 2, 3, 4]), v2.RandomCrop(24, padding=4), v2.RandomCrop((20, 23), padding=(1, 2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__module__[23:25]} {step}")
@pytest.mark.parametrize("size", SIZES)
def test_an_array_gets_what_the_image_gets(step: Any, size: tuple[int, int]) -> None:
    (twin,) = on_arrays([step])
    array = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    kept = array.copy()
    for seed in range(100, 120):
        torch.manual_seed(seed)
        wanted, wanted_next = np.asarray(step(Image.fromarray(array))), torch.rand(1)
        torch.manual_seed(seed)
        assert np.array_equal(draw([twin], size)(array), wanted)
        assert torch.rand(1) == wanted_next
    assert np.array_equal(array, kept)


TENSOR_STEPS = [
    v1.RandomHorizontalFlip(), v2.RandomHorizontalFlip(0.3), v1.RandomVerticalFlip(0.1), v2.RandomVerticalFlip(1.0),
    v1.RandomResizedCrop(16), v2.RandomResizedCrop((12, 20)), v2.RandomResizedCrop(16, scale=(0.9, 1.0)),
    v2.RandomResizedCrop(16, interpolation=InterpolationMode.BICUBIC), v2.RandomResizedCrop(40, antialias=False),
    v2.RandomResizedCrop(16, (0.05, 0.1), (1.0, 1.0), InterpolationMode.NEAREST),
    v1.RandomCrop(24), v2.RandomCrop(20), v1.RandomCrop(24, padding=(1, 2), fill=7),
    v2.RandomCrop((20, 23), padding=(1, 2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("step", TENSOR_STEPS, ids=lambda step: f"{type(step).__module__[23:25]} {step}")
@pytest.mark.parametrize("size", SIZES)
def test_an_array_gets_what_the_tensor_gets(step: Any, size: tuple[int, int]) -> None:
    (twin,) = on_arrays([step], tensors=True)
    array = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    array.setflags(write=False)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()
    for seed in range(100, 120):
        torch.manual_seed(seed)
        wanted, wanted_next = step(tensor), torch.rand(1)
        torch.manual_seed(seed)
        assert np.array_equal(draw([twin], size)(array), wanted.permute(1, 2, 0))
        assert torch.rand(1) == wanted_next


class Turned(v1.RandomHorizontalFlip):
    pass


@pytest.mark.parametrize(
    "step",
    [
        Turned(),
        v1.RandomCrop(8, padding=2, padding_mode="reflect"),
        v1.RandomCrop(30, pad_if_needed=True),
        v1.RandomCrop(8, padding=2, fill=(1, 2, 3)),
        v2.RandomCrop(8, padding=2, fill={Image.Image: 3}),
        v1.RandomRotation(5),
        v1.RandomHorizontalFlip("often"),
        v1.RandomCrop(8, padding=(1, 2, 3)),
    ],
    ids=repr,
)
def test_what_is_not_known_exactly_ends_the_known_steps(step: Any) -> None:
    assert len(on_arrays([v1.RandomHorizontalFlip(), step, v1.RandomVerticalFlip()])) == 1


def test_a_step_that_draws_otherwise_in_another_version_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(self: Any, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(2)[1] < self.p else image

    monkeypatch.setattr(v1.RandomHorizontalFlip, "forward", otherwise)
    assert on_arrays([v1.RandomHorizontalFlip()]) == ()


def test_to_try_the_steps_draws_nothing_from_what_a_training_draws() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert len(on_arrays([v1.RandomResizedCrop(16), v1.RandomHorizontalFlip()])) == 2
    assert torch.equal(torch.get_rng_state(), before)

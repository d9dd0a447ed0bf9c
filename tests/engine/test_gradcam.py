"""Where a model looked: against the formula by hand, and in models of every build."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pochitrain.engine.gradcam import grad_cam


class Spots(nn.Module):
    """Class 0 is lit by the red channel, class 1 by the green one; the map is the image at half its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 2, stride=2, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0] = self.conv.weight[1, 1] = 0.25
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(2)  # in place, as some models scale their input
        return self.fc(self.conv(images).mean((2, 3)))


def spot_images() -> Tensor:
    """Return two images (2, 3, 8, 8): red light in the upper left corner, green light in the lower right one."""
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, :2, :2] = 1
    images[:, 1, 6:, 6:] = 1
    return images


def test_the_light_is_where_the_class_is() -> None:
    heat = grad_cam(Spots(), spot_images(), torch.tensor([0, 1]))
    assert heat is not None
    assert heat.shape == (2, 8, 8)
    assert heat[0, 0, 0] == heat[1, 7, 7] == 1
    assert heat[0, 4:, 4:].max() == heat[1, :4, :4].max() == 0


def test_it_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    images, targets = torch.rand(3, 3, 6, 6), torch.tensor([2, 0, 3])
    heat = grad_cam(model, images, targets)
    assert heat is not None
    maps = model[1](model[0](images))
    # The score is linear in the mean of each map, so its gradient is the last layer's weight over the number of pixels.
    expected = torch.relu(torch.einsum("nk,nkhw->nhw", model[4].weight[targets] / 36, maps))
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(heat, expected.detach())


def test_nothing_in_the_model_changes_and_frozen_weights_do_not_matter() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model.requires_grad_(False)
    model.train()
    model[1].eval()  # a statistic that is held fixed while the rest is trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():  # a caller that only wants predictions
        heat = grad_cam(model, images, torch.tensor([0, 1]))
    assert heat is not None
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


MODELS = {
    "residual": lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
    "classes as maps": lambda: torchvision.models.squeezenet1_1(num_classes=3),
    "changed in place": lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3),
    "channels last inside": lambda: torchvision.models.SwinTransformer(
        [4, 4], 8, [1, 1], [1, 1], [2, 2], num_classes=3
    ),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_models_of_every_build_have_a_map(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    heat = grad_cam(build(), torch.rand(1, 3, 64, 64), torch.tensor([1]))
    assert heat is not None
    assert heat.shape == (1, 64, 64)
    assert heat.min() >= 0
    assert heat.max() in (0, 1)


def test_a_map_of_very_few_pixels_gives_way_to_a_finer_one() -> None:
    """Of 4 × 4 and then 2 × 2 pixels the first say where; a model of 2 × 2 alone is explained by these."""
    torch.manual_seed(0)
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    fine, coarse = nn.Conv2d(3, 4, 5, stride=4, padding=2), nn.Conv2d(4, 4, 2, stride=2)
    images, target = torch.rand(1, 3, 16, 16), torch.tensor([0])
    heat = grad_cam(nn.Sequential(fine, coarse, *ends), images, target)
    assert heat is not None
    maps = fine(images).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.Sequential(coarse, *ends)(maps)[0, 0], maps)
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)).detach()
    expected = nn.functional.interpolate(expected, size=(16, 16), mode="bilinear")[0]
    torch.testing.assert_close(heat, expected / expected.max())
    assert grad_cam(nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), *ends), images, target) is not None


class Tokens(nn.Module):
    """What a vision transformer does with its convolution: it cuts patches, and everything after is tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 2)),
        Tokens(),
    ],
    ids=["no convolution", "a layer on the image only", "tokens"],
)
def test_a_model_without_a_map_has_no_overlay(model: nn.Module) -> None:
    assert grad_cam(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])) is None


def test_an_image_that_says_nothing_for_a_class_has_an_empty_map() -> None:
    heat = grad_cam(Spots(), torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    assert heat is not None
    assert torch.equal(heat, torch.zeros(1, 8, 8))

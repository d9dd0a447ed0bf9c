"""Every classifier of torchvision with a head for our classes, and pretrained weights from torchvision's own cache."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pochitrain.config.loader import load_config
from pochitrain.errors import ConfigError, Problem
from pochitrain.parts.models import _replace_head, build_model, check_model, display_name, model_names

WriteConfig = Callable[..., Path]
CLASSES = ("a", "b", "c")
NO_MODEL = "del model\nmodel_name = {!r}\npretrained = {}\n"
# RegNet computes its widths with tensors and so needs real ones; the small ones stand for the large, which are one class.
REGNETS = ("regnet_x_400mf", "regnet_y_400mf")
LAZY = [name for name in model_names() if not name.startswith("regnet")]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_the_names_are_the_classifiers_of_torchvision() -> None:
    assert {"resnet18", "resnet34", "resnet50", "vit_b_16", "maxvit_t", *REGNETS} < set(model_names())
    assert not {"fcn_resnet50", "raft_large", "r3d_18", "fasterrcnn_resnet50_fpn"} & set(model_names())


@pytest.mark.filterwarnings("ignore:The default weight initialization of")
@pytest.mark.parametrize("name", [*LAZY, *REGNETS])
def test_every_model_gives_one_output_per_class(write_config: WriteConfig, name: str) -> None:
    """Without numbers in the tensors ("meta"), so that the largest takes no longer than the smallest."""
    config = load_config(write_config(NO_MODEL.format(name, False)))
    with torch.device("meta" if name in LAZY else "cpu"):
        model = build_model(config, CLASSES)
        whole = torchvision.models.get_model(name, weights=None)
        if name == "inception_v3":
            whole.AuxLogits = None
        elif name == "googlenet":
            whole.aux1 = whole.aux2 = None
    size = 224 if name == "vit_h_14" else torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    device = next(model.parameters()).device
    model.train()
    outputs = model(torch.zeros(2, 3, size, size, device=device))
    assert tuple(outputs.shape) == (2, 3)
    assert shapes(whole) != shapes(model)
    _replace_head(whole, 3)
    assert shapes(whole) == shapes(model)


# -- pretrained weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder in which torchvision looks for weights, on a machine whose network leads nowhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port, closed
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def file_of(name: str, cache: Path) -> Path:
    return cache / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


HEADS = {
    "resnet18": "fc",
    "squeezenet1_1": "classifier.1",
    "densenet121": "classifier",
    "mobilenet_v3_small": "classifier.3",
    "googlenet": "fc",
    "inception_v3": "fc",
}


@pytest.mark.parametrize("name", HEADS)
def test_the_backbone_is_the_pretrained_one_and_the_head_is_new(
    write_config: WriteConfig, cache: Path, name: str
) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(1)
    saved = torchvision.models.get_model(name, weights=None, **options).state_dict()
    torch.save(saved, file_of(name, cache))
    torch.manual_seed(2)
    model = build_model(load_config(write_config(NO_MODEL.format(name, True))), CLASSES)
    built = model.state_dict()
    head = {key for key in built if key.startswith(HEADS[name] + ".")}
    assert head == {f"{HEADS[name]}.weight", f"{HEADS[name]}.bias"}
    assert built[f"{HEADS[name]}.weight"].shape[0] == built[f"{HEADS[name]}.bias"].shape[0] == 3
    assert float(built[f"{HEADS[name]}.weight"].std()) > 0
    assert all(torch.equal(built[key], saved[key]) for key in built.keys() - head)
    assert all(key.startswith(("aux", "Aux")) for key in saved.keys() - built.keys())
    model.train()
    assert tuple(model(torch.zeros(2, 3, 80, 80)).shape) == (2, 3)


def refused(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        build_model(load_config(path), CLASSES)
    [problem] = caught.value.problems
    return problem


def test_without_network_and_file_the_message_names_both(write_config: WriteConfig, cache: Path) -> None:
    problem = refused(write_config(NO_MODEL.format("resnet18", True)))
    assert problem.what.startswith("The pretrained weights of resnet18 cannot be fetched: ")
    assert "refused" in problem.what
    assert problem.where == "pretrained"
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in problem.mend
    assert str(cache / "resnet18-f37072fd.pth") in problem.mend
    assert "pretrained = False" in problem.mend
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", ["empty", "text", "page", "half", "other", "list", "zip"])
def test_a_damaged_file_is_named(write_config: WriteConfig, cache: Path, content: str) -> None:
    path = file_of("squeezenet1_1", cache)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    whole = path.read_bytes()
    if content in ("other", "list"):
        torch.save({"weight": torch.zeros(3)} if content == "other" else [1, 2], path)
    else:
        bad = {
            "empty": b"",
            "text": b"not a file of weights",
            "page": b"<html>503</html>",
            "half": whole[: len(whole) // 2],
        }
        path.write_bytes({**bad, "zip": b"PK\x03\x04" + whole[4:2000]}[content])
    problem = refused(write_config(NO_MODEL.format("squeezenet1_1", True)))
    assert problem.what.startswith("The pretrained weights of squeezenet1_1 cannot be read: ")
    assert problem.where == str(path)
    assert "delete the file" in problem.mend


# -- names


@pytest.mark.parametrize(
    ("name", "mend"),
    [("resnet81", "did you mean resnet18?"), ("Resnet18", "did you mean resnet18?"), ("zzz", "for example resnet18")],
)
def test_an_unknown_name_gets_the_nearest(write_config: WriteConfig, name: str, mend: str) -> None:
    [problem] = check_model(load_config(write_config(NO_MODEL.format(name, False))))
    assert problem.what == f"Unknown model: {name}"
    assert problem.where == "model_name"
    assert mend in problem.mend


def test_display_names(write_config: WriteConfig) -> None:
    assert display_name(load_config(write_config(NO_MODEL.format("resnet50", False)))) == "resnet50"
    assert display_name(load_config(write_config("class Small(nn.Flatten):\n    pass\nmodel = Small\n"))) == "Small"
    partial = (
        "from functools import partial\ndef small(num_classes, width):\n    pass\nmodel = partial(small, width=3)\n"
    )
    assert display_name(load_config(write_config(partial))) == "small"
    assert check_model(load_config(write_config("model_name = 'anything'\n"))) == []

"""How fast `pochi infer` is: images per second against a plain PyTorch evaluation loop, and against batch size 1.

    python benchmarks/infer.py                                  # scikit-learn's digits at 32 pixels
    python benchmarks/infer.py --data photos/val --size 224     # class folders of your own

Every variant judges the same images with the same weights, decoding included. The variants run in turn, round after
round, so that a busy moment meets all of them; the ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from pochitrain import digits_folder
from pochitrain.config.schema import Config
from pochitrain.data.folder import scan_folder
from pochitrain.engine.predict import predict
from pochitrain.engine.run import choose_device, choose_precision

Variant = Callable[[], float]


def plain_loop(model: torch.nn.Module, root: Path, transform: transforms.Compose, device: torch.device) -> float:
    """The loop of the tutorials: default settings, fp32, one accuracy per batch."""
    model = model.to(device).eval()
    loader = DataLoader(datasets.ImageFolder(str(root), transform), batch_size=32)
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            correct += (model(images).argmax(1) == labels).sum().item()
            total += len(labels)
    return correct / total


def variants(model_name: str, root: Path, size: int) -> dict[str, Variant]:
    folder = scan_folder(root)
    transform = transforms.Compose(
        [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    )
    config = Config(train_transform=transform, val_transform=transform)
    device = choose_device(config)
    precision = choose_precision(config, device)
    torch.manual_seed(0)
    state = models.get_model(model_name, weights=None, num_classes=len(folder.classes)).state_dict()

    def fresh() -> torch.nn.Module:
        model: torch.nn.Module = models.get_model(model_name, weights=None, num_classes=len(folder.classes))
        model.load_state_dict(state)
        return model

    plain, ours = fresh(), fresh()

    def infer(precision: str, batch_size: int, workers: int = 0) -> float:
        answers = predict(
            ours, folder.classes, [folder.path(n) for n in range(len(folder.files))], folder.labels, transform,
            batch_size=batch_size, workers=workers, device=device, precision=precision,
        )  # fmt: skip
        return float((answers.predicted == answers.labels).mean())

    return {
        "plain loop, fp32": lambda: plain_loop(plain, root, transform, device),
        "infer, fp32": lambda: infer("fp32", 32),
        f"infer, {precision}": lambda: infer(precision, 32),
        f"infer, {precision}, 2 workers": lambda: infer(precision, 32, 2),
        f"infer, {precision}, batch size 1": lambda: infer(precision, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.data or digits_folder(Path(scratch, "digits")) / "val"
        chosen = variants(arguments.model, root, arguments.size)
        count = len(scan_folder(root).files)
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for _round in range(arguments.rounds + 1):  # the first one warms up
            for name, variant in chosen.items():
                started = time.perf_counter()
                variant()
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    print(f"{count} images, {arguments.size} px, {arguments.model}, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        print(f"{name:32} {count / median:8.1f} images/s   x {first / median:.2f}")


if __name__ == "__main__":
    main()

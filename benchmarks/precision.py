"""What bf16 costs in accuracy: the same trainings in fp32 and in bf16, over several seeds.

python benchmarks/precision.py --data cifar10-mini
python benchmarks/precision.py --data cifar10-mini --epochs 10 --seeds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from pochitrain import load_config, train
from pochitrain.sinks.console import Log

CONFIG = """
from torchvision import transforms
train_data_root, val_data_root, work_dir = {train!r}, {val!r}, {work_dir!r}
model_name, pretrained, batch_size, epochs, learning_rate = "resnet18", False, 128, {epochs}, 0.001
val_transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
train_transform = transforms.Compose([transforms.RandomHorizontalFlip(), val_transform])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train and val")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    best: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.py")
        train_root, val_root = (str(given.data.absolute() / name) for name in ("train", "val"))
        path.write_text(CONFIG.format(train=train_root, val=val_root, work_dir=folder, epochs=given.epochs))
        for seed in range(given.seeds):
            for precision, found in best.items():
                trained = train(load_config(path, {"seed": seed, "precision": precision}), log=Log("warning"))
                found.append(trained.metric)
                seconds = sum(record["seconds"] for record in trained.history)
                print(f"seed {seed} {precision}: {trained.metric:.2f} % in {seconds:.1f} s", flush=True)
    for precision, found in best.items():
        print(f"{precision}: {statistics.mean(found):.2f} % ± {statistics.stdev(found):.2f} between seeds")
    gains = [b - a for a, b in zip(best["fp32"], best["bf16"], strict=True)]
    print(f"bf16 − fp32: {statistics.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()

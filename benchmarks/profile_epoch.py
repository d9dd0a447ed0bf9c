"""Where an epoch's time goes: milliseconds per image of the plain loop and of `pochi train`, by kind of work.

    uv venv spy && uv pip install --python spy/bin/python py-spy
    python benchmarks/profile_epoch.py --py-spy spy/bin/py-spy               # resnet18, 224 px, random crop
    python benchmarks/profile_epoch.py --py-spy spy/bin/py-spy --size 32 --images 4000 --steps flip

py-spy looks 100 times a second at the thread that trains and at those that decode; what stands first in the list of
kinds and is somewhere in the stack gets the sample. Neither side has loading processes, so that all work is seen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from epoch import CONFIG, STEPS
from pictures import write_jpegs

RATE = 100  # samples per second
PLAIN = """
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
data = datasets.ImageFolder({root!r}, transforms.Compose({steps}))
loader = DataLoader(data, batch_size={batch}, shuffle=True)
model = models.get_model({model!r}, num_classes=len(data.classes)).train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
def train_epoch():
    for images, labels in loader:
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
for epoch in range({epochs}):
    train_epoch()
"""
KINDS = {
    "decoding": ("pil_loader", "decode.py", "jpeg.py"),
    "resizing, cropping, flipping": ("resize (", "crop (", "flip (", "get_params (", "drawing.py"),
    "to tensors, normalizing": ("to_tensor (", "normalize (", "finish ("),
    "random numbers": ("seed_everything", "randomness.py"),
    "reading the cache": ("read_into", "store.py"),
    "making batches": ("collate", "__getitems__", "_stack"),
    "waiting for threads": ("wait (threading", "result (concurrent"),
    "optimizer": ("torch/optim/", "zero_grad"),
    "backward": ("backward (torch",),
    "model and loss": ("torch/nn/", "cross_entropy"),
}


def profiled(command: list[str], spy: str, folder: Path) -> list[tuple[str, int]]:
    """Return (stack with its thread, samples) of a command."""
    output = folder / "stacks.txt"
    spying = [spy, "record", "-r", str(RATE), "-t", "-f", "raw", "-o", str(output), "-d", "3600", "--", *command]
    done = subprocess.run(spying, cwd=folder, capture_output=True, text=True)
    if done.returncode or not output.exists():
        sys.exit(done.stderr[-3000:])
    lines = [line.rpartition(" ") for line in output.read_text().splitlines()]
    return [(stack, int(count)) for stack, _space, count in lines]


def by_kind(stacks: list[tuple[str, int]]) -> dict[str, Counter[str]]:
    """Return the samples of the training thread within epochs, and of the threads that decode for it."""
    found: dict[str, Counter[str]] = {"training thread": Counter(), "decoding threads": Counter()}
    for stack, count in stacks:
        if "engine/checkpoint.py" in stack:  # written beside the next epoch: `epoch_end.py`
            continue
        thread = "decoding threads" if "concurrent/futures/thread.py" in stack else "training thread"
        if "train_epoch" not in stack if thread == "training thread" else "_worker" in stack.rpartition(";")[2]:
            continue  # before and after the epochs; a thread without work
        kind = next((kind for kind, words in KINDS.items() if any(word in stack for word in words)), "else")
        found[thread][kind] += count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--py-spy", required=True)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", choices=STEPS, default="crop")
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    spy, steps = str(Path(given.py_spy).absolute()), STEPS[given.steps].format(size=given.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = write_jpegs(folder / "images", given.images, (32, 32) if given.size <= 64 else (500, 375))
        values = {"root": str(root), "model": given.model, "batch": given.batch, "steps": steps, "epochs": given.epochs}
        (folder / "plain.py").write_text(PLAIN.format(**values))
        commands = {"plain loop, fp32": [sys.executable, "plain.py"]}
        for precision in ("fp32", "auto"):
            config = CONFIG.format(**values, precision=precision, workers=0, device=None)
            (folder / f"{precision}.py").write_text(config + f"epochs = {given.epochs}\n")
            pochi = str(Path(sys.executable).with_name("pochi"))
            commands[f"pochi train, {precision}"] = [sys.executable, pochi, "train", "-c", f"{precision}.py"]
        for title, command in commands.items():
            print(f"{title}, ms per image")
            for thread, kinds in by_kind(profiled(command, spy, folder)).items():
                if not kinds:
                    continue
                scale = 1000 / RATE / given.images / given.epochs
                print(f"  {thread:30} {scale * kinds.total():8.3f}")
                for kind, count in kinds.most_common():
                    print(f"    {kind:28} {scale * count:8.3f}")


if __name__ == "__main__":
    main()

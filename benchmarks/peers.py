"""The same training, whole command: a plain loop, Lightning, fastai, Hugging Face's Trainer, timm's script, pochitrain.

    uv venv peers
    uv pip install --python peers/bin/python torch torchvision lightning fastai transformers accelerate timm
    python benchmarks/peers.py --python peers/bin/python --data cifar10-mini/train --timm pytorch-image-models/train.py

Two epochs of resnet18 at the files' own size, SGD, batches of 128, each in a process of its own, in turns. All compute
in fp32 and read ImageFolder's files with the same transform; pochitrain also runs as it is set by default. timm's
script is not part of its package. It gets none of the random steps, and validates one image per class because it must.
What is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
steps = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
                            transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
data = datasets.ImageFolder({data!r}, steps)
model = models.resnet18(num_classes=len(data.classes))
def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
"""
SCRIPTS = {
    "plain loop": """
optimizer = sgd(model.parameters())
for epoch in range({epochs}):
    for images, labels in DataLoader(data, batch_size=128, shuffle=True):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
torch.save(model.state_dict(), "model.pt")
""",
    "lightning": """
import lightning
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return sgd(self.parameters())
trainer = lightning.Trainer(max_epochs={epochs}, accelerator="cpu", logger=False, enable_progress_bar=False)
trainer.fit(Module(), DataLoader(data, batch_size=128, shuffle=True))
""",
    "fastai": """
from functools import partial
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
loaders = DataLoaders(DataLoader(data, batch_size=128, shuffle=True), DataLoader(data, batch_size=128))
learner = Learner(loaders, model, loss_func=nn.functional.cross_entropy, path=".",
                  opt_func=partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)))
learner._do_epoch_validate = lambda *a, **k: None
learner.fit({epochs}, lr=0.01)
learner.save("model")
""",
    "huggingface trainer": """
from transformers import Trainer, TrainingArguments
class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, images, labels):
        logits = self.model(images)
        return {{"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}}
def collate(samples):
    return {{"images": torch.stack([s[0] for s in samples]), "labels": torch.tensor([s[1] for s in samples])}}
arguments = TrainingArguments("out", num_train_epochs={epochs}, per_device_train_batch_size=128, learning_rate=0.01,
                              report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="epoch",
                              remove_unused_columns=False)
wrapped = Wrapped()
Trainer(wrapped, arguments, train_dataset=data, data_collator=collate,
        optimizers=(sgd(wrapped.parameters()), None)).train()
""",
}
CONFIG = """
from torchvision import transforms
train_data_root, val_data_root = {data!r}, None
model_name, pretrained, optimizer, learning_rate, class_weights = "resnet18", False, "SGD", 0.01, "uniform"
epochs, batch_size, precision, seed = {epochs}, 128, {precision!r}, {seed}
train_transform = val_transform = transforms.Compose([
    transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
    transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
"""

TIMM = (
    "--model resnet18 --img-size 32 --batch-size 128 --opt momentum --momentum 0.9 --weight-decay 1e-4 --lr 0.01 "
    "--sched step --decay-epochs 1000 --warmup-epochs 0 --smoothing 0 --no-aug --workers 0 --no-prefetcher --device cpu"
)


def timm_command(python: str, script: Path, data: Path, folder: Path, epochs: int) -> list[str]:
    """Return the command of timm's train script, with the folders that it wants."""
    root = folder / "timm"
    classes = sorted(path for path in data.iterdir() if path.is_dir())
    for each in classes:
        (root / "val" / each.name).mkdir(parents=True)
        first = min(path for path in each.iterdir() if path.is_file())
        (root / "val" / each.name / first.name).symlink_to(first)
    (root / "train").symlink_to(data)
    sizes = ["--num-classes", str(len(classes)), "--epochs", str(epochs)]
    return [python, str(script), str(root), *TIMM.split(), *sizes, "--output", str(folder / "timm-output")]


def seconds(command: list[str], folder: Path) -> float | None:
    """Return how long a command took, None when it failed for the lack of a library."""
    started = time.perf_counter()
    # torch's threads asleep while they wait, as pochitrain lets them: on few cores all are faster then.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="where the others are installed")
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders, 32 px")
    parser.add_argument("--timm", type=Path, help="train.py of a checkout of timm")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    pochi, data = str(Path(sys.executable).with_name("pochi")), str(given.data.absolute())
    found: dict[str, list[float]] = {}
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            commands = {}
            for title, text in SCRIPTS.items():
                script = folder / f"peer_{title.split()[0]}.py"
                script.write_text((COMMON + text).format(data=data, epochs=given.epochs))
                commands[title] = [given.python, script.name]
            if given.timm is not None:
                script, root = given.timm.absolute(), given.data.absolute()
                commands["timm's train.py"] = timm_command(given.python, script, root, folder, given.epochs)
            for precision in ("fp32", "auto"):
                config = CONFIG.format(data=data, epochs=given.epochs, precision=precision, seed=number)
                (folder / f"{precision}.py").write_text(config)
                commands[f"pochi train, {precision}"] = [pochi, "train", "-c", f"{precision}.py"]
            for title, command in commands.items():
                if (taken := seconds(command, folder)) is None:
                    print(f"{title}: not installed")
                else:
                    found.setdefault(title, []).append(taken)
    ours = found["pochi train, auto"]
    for title, taken in found.items():
        ratio = statistics.median(a / b for a, b in zip(taken, ours, strict=True))
        print(f"{title:24} {statistics.median(taken):7.1f} s   {ratio:5.2f} × ours")


if __name__ == "__main__":
    main()

"""Which images a report shows, how small, and where the model looked in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pochitrain.data.decode import BrokenImage, decode_image, display_name
from pochitrain.engine.gradcam import grad_cam
from pochitrain.engine.predict import Predictions
from pochitrain.locale import _
from pochitrain.reports.style import INK, MUTED, TEXT, new_figure, readable, save_figure, shorten, shorten_all

Ints = NDArray[np.int64]

MISTAKES, UNCERTAIN = 36, 18  # images in the two galleries
CARD_PIXELS, CELL_PIXELS = 224, 96  # the longer side of a picture in a gallery, in a cell of the matrix
PER_CELL = 25
CELL_BYTES = 4_500_000  # for the pictures of all cells together; base64 makes 6 MB of them
LISTED = 20_000  # images in all cells together that are named at all
SHEET = 16  # pictures of a gallery that are drawn as PNG
WORDS = 1.4  # inches beside the name of a class: "predicted …: 100.0 %"
BATCH = 4  # images that are explained at once: never more memory than a training step took
HEAT = "inferno"


@dataclass(frozen=True)
class Card:
    """An image of a gallery as the report shows it."""

    name: str
    true: str
    predicted: str
    probability_true: float
    probability_predicted: float
    loss: float
    picture: bytes | None  # None: the image cannot be read any more, or is no file
    overlay: bytes | None  # what the model saw, with the pixels lit that spoke for its answer


def worst_mistakes(predictions: Predictions, count: int = MISTAKES) -> list[int]:
    """Return the wrong predictions with the highest loss, the worst first; equal ones in the order of the data."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return [int(at) for at in wrong[np.argsort(-predictions.losses[wrong], kind="stable")][:count]]


def least_certain(predictions: Predictions, count: int = UNCERTAIN) -> list[int]:
    """Return the right predictions with the lowest confidence, the least certain first."""
    right = np.flatnonzero(predictions.predicted == predictions.labels)
    return [int(at) for at in right[np.argsort(predictions.confidence[right], kind="stable")][:count]]


def images_of_cells(predictions: Predictions) -> dict[tuple[int, int], list[int]]:
    """Return (true, predicted) → images to show: up to 25 of each cell of the confusion matrix, of a great many fewer.

    In the diagonal the least certain come first, elsewhere those with the highest loss. The order of the cells is that
    in which they deserve pictures: mistakes first, the frequent ones before the rare.
    """
    labels, predicted = predictions.labels, predictions.predicted
    assert labels is not None
    cells: dict[tuple[int, int], list[int]] = {}
    for at in np.argsort(-predictions.losses, kind="stable").tolist():
        cells.setdefault((int(labels[at]), int(predicted[at])), []).append(at)
    sizes = np.array([len(images) for images in cells.values()])
    limit = PER_CELL
    while limit > 1 and np.minimum(sizes, limit).sum() > LISTED:
        limit -= 1
    order = sorted(cells, key=lambda cell: (cell[0] == cell[1], -len(cells[cell]), cell))
    return {cell: cells[cell][:limit] for cell in order[:LISTED]}


def cell_pictures(
    paths: Sequence[str], cells: dict[tuple[int, int], list[int]], room: int = CELL_BYTES
) -> dict[int, bytes]:
    """Return image → small picture for as many images of the cells as there is `room` for, in bytes.

    Mistakes may use two thirds of the room before the right predictions begin. Among each, cells share the room as
    parties share seats (D'Hondt): by their sizes, so that frequent mistakes are shown well before the rare ones begin.
    """
    pictures: dict[int, bytes] = {}
    for diagonal, share in ((False, 2 / 3), (True, 1.0)):
        chosen = [images for cell, images in cells.items() if (cell[0] == cell[1]) is diagonal]
        turns = [(turn / len(images), at) for images in chosen for turn, at in enumerate(images, start=1)]
        turns.sort(key=lambda one: one[0])
        floor = room * (1 - share)
        for at, picture in small_pictures(paths, (at for _turn, at in turns), CELL_PIXELS):
            if picture is not None:
                room -= len(picture)
                pictures[at] = picture
            if room <= floor:
                break
    return pictures


def small_pictures(paths: Sequence[str], images: Iterable[int], pixels: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (image, its picture, None where it cannot be read), in order, decoded on all cores a few ahead."""
    remaining = iter(images)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(remaining, 64)):
            yield from zip(some, pool.map(lambda at: _small_picture(paths[at], pixels), some), strict=True)


def cards(
    predictions: Predictions,
    images: Sequence[int],
    model: nn.Module | None = None,
    transform: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> list[Card]:
    """Return the cards of some images, with overlays when model and transform are given and the model has a map."""
    assert predictions.labels is not None
    _root, names = relative_names(predictions.paths)
    pictures = dict(small_pictures(predictions.paths, images, CARD_PIXELS))
    overlays: dict[int, bytes] = {}
    if model is not None and transform is not None:
        overlays = _overlays(predictions, [at for at in images if pictures[at] is not None], model, transform, device)
    predicted, losses = predictions.predicted, predictions.losses
    return [
        Card(
            name=names[at],
            true=predictions.classes[predictions.labels[at]],
            predicted=predictions.classes[predicted[at]],
            probability_true=float(predictions.probabilities[at, predictions.labels[at]]),
            probability_predicted=float(predictions.probabilities[at, predicted[at]]),
            loss=float(losses[at]),
            picture=pictures[at],
            overlay=overlays.get(at),
        )
        for at in images
    ]


def relative_names(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return (folder, names): the folder that all images share, and what tells them apart inside it, ready to show."""
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no image, or samples of a data set of the user's beside files
        root = ""
    return display_name(root), [display_name(path[len(root) :].lstrip("/")) for path in paths]


def draw_gallery(shown: Sequence[Card], path: Path, *, title: str) -> Figure:
    """Draw the first pictures of a gallery, four in a row, each with its overlay beside it."""
    shown = shown[:SHEET]
    rows, wide = max(-(-len(shown) // 4), 1), any(card.overlay for card in shown)
    width, tall = (3.4 if wide else 2.2), 2.35
    figure = new_figure(4 * width + 0.2, rows * tall + 0.5, constrained=False)
    size = figure.get_size_inches()
    figure.text(0.1 / size[0], 1 - 0.12 / size[1], readable(title), va="top", fontsize=13, **TEXT)
    if not shown:
        figure.text(0.5, 0.4, _("None"), ha="center", fontsize=11, **TEXT)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all pictures, in inches: axes of their own would take a second
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    axes.axis("off")
    for place, card in enumerate(shown):
        left, bottom = 0.1 + place % 4 * width, size[1] - 0.5 - (place // 4 + 1) * tall
        side = (width - 0.2) / (2 if wide else 1)
        for column, picture in enumerate((card.picture, card.overlay)):
            if picture is not None:
                _show_picture(axes, picture, (left + column * (side + 0.04), bottom + 0.62, side, tall - 0.72))
        both = [readable(card.true), readable(card.predicted)]
        true, predicted = shorten_all(both, lambda name: shorten(name, 8, width - WORDS))
        said = [
            _("true {name}: {share:.1f} %", name=true, share=100 * card.probability_true),
            _("predicted {name}: {share:.1f} %", name=predicted, share=100 * card.probability_predicted),
            card.name,
        ]
        for line, text in enumerate(said):
            points, color = (8, INK) if line < 2 else (6.5, MUTED)
            fitting = shorten(readable(text), points, width - 0.2)
            y = (bottom + 0.46 - 0.16 * line) / size[1]
            figure.text(left / size[0], y, fitting, fontsize=points, **TEXT | {"color": color})
    save_figure(figure, path)
    return figure


def _show_picture(axes: Axes, picture: bytes, box: tuple[float, float, float, float]) -> None:
    """Draw a picture as large as fits into the middle of a box (x, y, width, height)."""
    pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"))
    x, y, width, height = box
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    half_width, half_height = scale * pixels.shape[1] / 2, scale * pixels.shape[0] / 2
    middle_x, middle_y = x + width / 2, y + height / 2
    extent = (middle_x - half_width, middle_x + half_width, middle_y - half_height, middle_y + half_height)
    axes.imshow(pixels, extent=extent, aspect="auto")


def _small_picture(path: str, pixels: int) -> bytes | None:
    try:
        image = decode_image(path)
    except BrokenImage:  # gone since it was predicted, or no file: a sample of a data set of the user's
        return None
    image.thumbnail((pixels, pixels), Image.Resampling.BICUBIC)
    return _encoded(image)


def _encoded(image: Image.Image) -> bytes:
    file = BytesIO()
    small = max(image.size) <= 64  # of so few pixels each counts, and lossless costs little
    image.save(file, "WEBP", quality=78, method=2, lossless=small)
    return file.getvalue()


def _overlays(
    predictions: Predictions,
    images: Sequence[int],
    model: nn.Module,
    transform: Callable[[Any], Any],
    device: torch.device | str | None,
) -> dict[int, bytes]:
    overlays: dict[int, bytes] = {}
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        seen = torch.stack([transform(decode_image(predictions.paths[at])) for at in some])
        targets = torch.from_numpy(predictions.predicted[some])
        heat = grad_cam(model, seen.to(device), targets.to(device))
        if heat is None:
            return {}
        for at, pixels, warmth in zip(some, viewed(seen, transform), heat, strict=True):
            image = Image.fromarray(overlaid(pixels, warmth))
            image.thumbnail((CARD_PIXELS, CARD_PIXELS), Image.Resampling.BICUBIC)
            overlays[at] = _encoded(image)
    return overlays


def viewed(images: Tensor, transform: Any) -> Tensor:
    """Return what a model was shown, (N, 3, H, W), as colours of 0 to 1: `Normalize` in the transform is undone.

    Where the transform says nothing of how it scaled the colours, each image is stretched over the whole range.
    """
    for part in reversed(list(_parts(transform))):
        if hasattr(part, "mean") and hasattr(part, "std"):
            mean, std = (torch.as_tensor(value).float().view(-1, 1, 1) for value in (part.mean, part.std))
            return (images * std + mean).clamp(0, 1)
    if images.min() >= 0 and images.max() <= 1:
        return images
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def _parts(transform: Any) -> Iterator[Any]:
    """Yield the parts of a composed transform, however deep."""
    for part in getattr(transform, "transforms", ()):
        yield part
        yield from _parts(part)


def overlaid(image: Tensor, heat: Tensor) -> NDArray[np.uint8]:
    """Return `image` (3, H, W), 0 to 1, with `heat` (H, W), 0 to 1, glowing over it: (H, W, 3) bytes."""
    pixels = image.permute(1, 2, 0).numpy()
    warmth = heat.numpy()[..., None]
    light = colormaps[HEAT](heat.numpy())[..., :3]
    mixed = pixels * (1 - 0.6 * warmth) + light * 0.6 * warmth
    lit: NDArray[np.uint8] = np.rint(255 * mixed).astype(np.uint8)
    return lit

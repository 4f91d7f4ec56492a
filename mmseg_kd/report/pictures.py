"""Pictures of the page: some images with their masks and what the networks make of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmseg_kd.analysis.differences import differing, largest_region
from mmseg_kd.evaluation.labels import image_and_label
from mmseg_kd.report.measurement import Measurement
from mmseg_kd.report.subject import Subject
from mmseg_kd.report.text import signed

# Pixels of the longer side.
LARGEST = 512
QUALITY = 82


@dataclass(frozen=True)
class Layer:
    """One picture of an image: itself, its mask, or a network's prediction.

    Attributes:
        name: What the page calls it.
        source: A data URI.
        alt: What it shows, in words.
    """

    name: str
    source: str
    alt: str


@dataclass(frozen=True)
class ScenePictures:
    """An image and what was made of it.

    Attributes:
        name: Of its file.
        why: Why it was chosen.
        layers: Image, ground truth, then the networks.
        size: Width and height of its pictures.
        classes: Indices of the classes in its mask and the predictions.
        box: Where the first two networks differ most: left, top, width and height in percent of
            the picture; empty where they do not.
        outlined: What the box is, in words.
    """

    name: str
    why: str
    layers: list[Layer]
    size: tuple[int, int]
    classes: list[int]
    box: list[float]
    outlined: str


def choose(
    count: int, subject: Measurement, against: Measurement | None = None, other: str = ''
) -> list[tuple[int, str]]:
    """Which images to show, and why each: (index, reason).

    A third of them each are those that `subject` gains most on and those that it loses most on,
    by the share of pixels that are right, against another network, called `other`; the rest is
    evenly spaced.
    """
    total = len(subject.images)
    chosen: dict[int, str] = {}
    if against is not None and against.images == subject.images:
        areas = np.maximum(np.asarray(subject.annotated), 1)
        gain = 100 * (np.asarray(subject.right) - np.asarray(against.right)) / areas
        order = np.argsort(gain, kind='stable')
        third = count // 3
        for sign, what in ((1, 'gains'), (-1, 'losses')):
            for index in order[::-sign][:third]:
                if sign * gain[index] > 0:
                    points = signed(gain[index], 1)
                    chosen[int(index)] = (
                        f'{points} points of pixels right against {other}: among the largest {what}'
                    )
    rest = [i for i in range(total) if i not in chosen]
    wanted = min(count - len(chosen), len(rest))
    for number in range(wanted):
        chosen[rest[(2 * number + 1) * len(rest) // (2 * wanted)]] = 'evenly spaced'
    return list(chosen.items())


def draw_scenes(
    chosen: Sequence[tuple[int, str]], subjects: Mapping[str, Subject]
) -> list[ScenePictures]:
    """The pictures of some images.

    Args:
        chosen: As `choose` gives them.
        subjects: The networks by title, measured on the same images.
    """
    first = next(iter(subjects.values()))
    palette = first.measured.palette if first.measured else []
    indices = [index for index, _ in chosen]
    predictions = {title: subject.predictions(indices) for title, subject in subjects.items()}
    scenes = []
    for index, why in chosen:
        image, label = image_and_label(first.dataset, index)
        height, width = label.shape
        name = Path(str(first.dataset.get_data_info(index)['img_path'])).name
        shown = {'ground truth': label} | {t: found[index] for t, found in predictions.items()}
        layers = [Layer('image', _photograph(image, (width, height)), f'Image {name}')]
        for title, classes in shown.items():
            right = _right(classes, label, len(palette))
            alt = f'Ground truth of {name}, its classes as colours'
            if title != 'ground truth':
                alt = f'Prediction of {title} for {name}: {right:.1f} % of the pixels right'
            layers.append(Layer(title, _labels(classes, palette), alt))
        present = {int(v) for classes in shown.values() for v in np.unique(classes)}
        box = _box(list(predictions.values()), index, label)
        scenes.append(
            ScenePictures(
                name,
                why,
                layers,
                _bounded(width, height),
                sorted(value for value in present if value < len(palette)),
                box,
                f'; outlined: where {" and ".join(list(subjects)[:2])} differ most' if box else '',
            )
        )
    return scenes


def _box(
    predictions: Sequence[Mapping[int, NDArray[np.uint8]]], index: int, label: NDArray[np.uint8]
) -> list[float]:
    """The largest region in which one of the first two networks is right and the other wrong."""
    if len(predictions) < 2:
        return []
    first, second = predictions[0][index], predictions[1][index]
    box = largest_region(differing(first, second, label))
    if box is None:
        return []
    height, width = label.shape
    sides = (box.left, box.top, box.right - box.left, box.bottom - box.top)
    return [
        round(100 * side / whole, 2) for side, whole in zip(sides, (width, height) * 2, strict=True)
    ]


def _right(prediction: NDArray[Any], label: NDArray[Any], classes: int) -> float:
    known = label < classes
    return 100 * float((prediction == label)[known].mean()) if known.any() else 0.0


def _bounded(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _photograph(image: NDArray[np.uint8], size: tuple[int, int]) -> str:
    picture = Image.fromarray(image).resize(_bounded(*size), Image.Resampling.LANCZOS)
    return data_uri(picture, 'JPEG', quality=QUALITY)


def _labels(classes: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> str:
    """Class indices as a picture with the palette's colours; what is no class is black."""
    picture = Image.fromarray(classes, 'L').copy()
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    picture = picture.resize(_bounded(*picture.size), Image.Resampling.NEAREST)
    indexed = Image.frombytes('P', picture.size, picture.tobytes())
    indexed.putpalette(colours.tobytes())
    return data_uri(indexed, 'PNG')


def data_uri(picture: Image.Image, form: str, **options: Any) -> str:
    """A picture as a data URI.

    Args:
        picture: The picture.
        form: 'PNG' or 'JPEG'.
        options: More of `Image.save`.
    """
    buffer = BytesIO()
    picture.save(buffer, form, optimize=True, **options)
    return f'data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'

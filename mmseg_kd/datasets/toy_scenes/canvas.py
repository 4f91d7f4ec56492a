"""The canvas that scenes are painted on: camera, weather, noise and flat shapes.

A pinhole camera looks along +z over flat ground. Everything is placed in metres, and the
depth alone decides its size and its haze. The caller paints from far to near.

Shape suffixes: H, W are rows and columns of the picture, h, w those of a window in it.
World axes: x to the right, y up from the ground, z the depth, all in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[Any]
Colour = Sequence[float] | Array
Point = tuple[float, float]
Window = tuple[slice, slice]

CLASSES: tuple[str, ...] = (
    'sky',
    'road',
    'grass',
    'building',
    'tree',
    'car',
    'person',
    'pole',
    'sign',
    'water',
    'fence',
    'animal',
)
UNLABELLED = 0
SKY, ROAD, GRASS, BUILDING, TREE, CAR, PERSON, POLE, SIGN, WATER, FENCE, ANIMAL = range(1, 13)
NOTHING = 255  # inside a figure's window: not covered by the figure

SUPER = 2  # pictures are painted at this multiple of their size, then averaged down
NEAR = 2.5  # metres; nothing is drawn closer to the camera
FAR = 70.0  # metres; a street ends here
TILE = 256  # side of the noise tiles, a power of two

# Zenith, horizon and light colour; all colours are RGB in 0..1.
WEATHER: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((0.25, 0.47, 0.82), (0.73, 0.85, 0.95), (1.05, 1.02, 0.95)),
    ((0.38, 0.60, 0.85), (0.86, 0.90, 0.92), (1.02, 1.00, 0.97)),
    ((0.60, 0.64, 0.68), (0.80, 0.81, 0.82), (0.84, 0.86, 0.88)),
    ((0.42, 0.45, 0.50), (0.66, 0.67, 0.68), (0.72, 0.74, 0.78)),
    ((0.22, 0.52, 0.74), (0.80, 0.90, 0.88), (1.08, 1.02, 0.92)),
    ((0.40, 0.48, 0.70), (0.99, 0.78, 0.52), (1.06, 0.90, 0.74)),
    ((0.24, 0.29, 0.50), (0.78, 0.58, 0.60), (0.76, 0.71, 0.80)),
)


def fractal_noise(rng: np.random.Generator, power: float) -> Array:
    """Tileable noise whose amplitude falls with the spatial frequency to ``power``.

    Returns:
        float32 (TILE, TILE), mean 0, standard deviation 1.
    """
    real, imaginary = rng.standard_normal((2, TILE, TILE // 2 + 1), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf  # no constant part: the mean is 0
    noise: Array = np.fft.irfft2(
        (real + np.complex64(1j) * imaginary) * (frequency**-power).astype(np.float32)
    )
    noise = noise / noise.std()
    return noise.astype(np.float32)


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.06) -> Array:
    """One of ``colours``, jittered by a standard deviation of ``spread``, kept in 0..1."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    jitter = rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
    return np.clip(base + jitter, 0.03, 0.97).astype(np.float32)


def stripes(coordinate: Array, period: float, share: float) -> Array:
    """True on the first ``share`` (0..1) of every ``period`` along ``coordinate``."""
    return np.mod(coordinate, period) < share * period


@dataclass(frozen=True)
class Part:
    """One flat piece of a figure.

    Args:
        points: outline in metres, (right, up) from the figure's foot; two corners of the
            box around it if ``round``.
        colour: RGB in 0..1.
        label: stored label, 0 for unlabelled.
        round: an ellipse instead of a polygon.
    """

    points: Sequence[Point]
    colour: Colour
    label: int
    round: bool = False


def bar(start: Point, end: Point, width: float, colour: Colour, label: int) -> Part:
    """A straight limb from ``start`` to ``end``, ``width`` metres thick."""
    (x0, y0), (x1, y1) = start, end
    scale = width / 2 / max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
    dx, dy = (y0 - y1) * scale, (x1 - x0) * scale
    points = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
    return Part(points, colour, label)


def box(x0: float, y0: float, x1: float, y1: float, colour: Colour, label: int) -> Part:
    """An upright rectangle."""
    return Part([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, label)


def ball(x: float, y: float, rx: float, ry: float, colour: Colour, label: int) -> Part:
    """An ellipse about (x, y) with the half axes rx and ry."""
    return Part([(x - rx, y - ry), (x + rx, y + ry)], colour, label, round=True)


class Canvas:
    """The picture being painted, its camera and its weather.

    Args:
        rng: source of every random choice.
        height, width: size in painted pixels, that is SUPER times the final size.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.horizon = height * rng.uniform(0.34, 0.52)
        self.centre = width * rng.uniform(0.3, 0.7)
        self.focal = height * rng.uniform(0.85, 1.15)
        self.eye = rng.uniform(1.6, 3.2)
        zenith, horizon, light = WEATHER[int(rng.integers(len(WEATHER)))]
        self.zenith, self.haze, self.light = (
            np.asarray(c, np.float32) + rng.normal(0, 0.02, 3).astype(np.float32)
            for c in (zenith, horizon, light)
        )
        self.haze_per_metre = 1 / rng.uniform(40, 250)
        self.sun_side = float(rng.choice([-1.0, 1.0]))
        self.shadow = rng.uniform(0.5, 0.85)  # what is left of the light in a shadow
        self.fine = fractal_noise(rng, 0.9)
        self.soft = fractal_noise(rng, 1.8)
        self.rgb_HW3 = np.zeros((height, width, 3), np.float32)
        self.label_HW = np.zeros((height, width), np.uint8)

    def project(self, x: float, y: float, z: float) -> Point:
        """Column and row of a world point."""
        return (
            self.centre + self.focal * x / z,
            self.horizon + self.focal * (self.eye - y) / z,
        )

    def window(self, points: Sequence[Point]) -> Window | None:
        """The part of the picture that holds ``points``; None where they lie outside."""
        cols, rows = zip(*points, strict=True)
        left, right = max(0, int(min(cols))), min(self.width, int(max(cols)) + 2)
        top, bottom = max(0, int(min(rows))), min(self.height, int(max(rows)) + 2)
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)

    def grid(self, window: Window) -> tuple[Array, Array]:
        """Pixel centres of a window: rows (h, 1) and columns (1, w)."""
        rows, cols = window
        rows_h1 = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
        return rows_h1, np.arange(cols.start, cols.stop, dtype=np.float32)[None] + 0.5

    def noise(self, tile: Array, v: Array, u: Array, scale: float) -> Array:
        """Reads a noise tile at world or pixel places ``v``, ``u`` times ``scale``."""
        rows = (v * scale).astype(np.int32) & (TILE - 1)
        return np.asarray(tile[rows, (u * scale).astype(np.int32) & (TILE - 1)])

    def paint(
        self,
        window: Window,
        where_hw: Array,
        colour: Array,
        depth: float | Array,
        label: int | Array,
        coloured_hw: Array | None = None,
    ) -> None:
        """Puts lit and hazed colour and label on a window.

        Args:
            window: where to paint.
            where_hw: bool, the pixels that get the label.
            colour: RGB, (3,) or (h, w, 3).
            depth: metres, a number or broadcastable to (h, w); sets the haze.
            label: stored label, a number or (h, w).
            coloured_hw: bool, the pixels that get the colour; ``where_hw`` if None.
        """
        clear = np.exp(-np.asarray(depth, np.float32) * self.haze_per_metre)[..., None]
        lit = colour * (self.light * clear) + self.haze * (1 - clear)
        shown = where_hw if coloured_hw is None else coloured_hw & where_hw
        np.copyto(self.rgb_HW3[window], lit, where=shown[..., None])
        np.copyto(self.label_HW[window], np.asarray(label, np.uint8), where=where_hw)

    def outline(self, window: Window, points: Sequence[Point]) -> Array:
        """Bool (h, w): the inside of a polygon of (column, row) points."""
        rows, cols = window
        image = Image.new('L', (cols.stop - cols.start, rows.stop - rows.start))
        shifted = [(c - cols.start, r - rows.start) for c, r in points]
        ImageDraw.Draw(image).polygon(shifted, fill=1)
        return np.asarray(image, bool)

    def cast_shadow(self, x: float, z: float, radius: float) -> None:
        """Darkens an ellipse on the ground beside a thing that stands at (x, z)."""
        x -= self.sun_side * radius * 0.7
        z_far, z_near = z + radius * 0.5, max(z - radius * 0.5, NEAR)
        corners = [self.project(x - radius, 0, z_far), self.project(x + radius, 0, z_near)]
        window = self.window(corners)
        if window is None:
            return
        rows, cols = self.grid(window)
        (left, top), (right, bottom) = corners
        across = (2 * cols - left - right) / max(right - left, 1)
        along = (2 * rows - top - bottom) / max(bottom - top, 1)
        inside = np.clip(2 - 2 * (across**2 + along**2), 0, 1)
        self.rgb_HW3[window] *= (1 - (1 - self.shadow) * inside)[..., None]

    def figure(self, x: float, z: float, parts: Sequence[Part], shadow: float = 0.0) -> None:
        """Draws flat parts standing at (x, z), later parts over earlier ones.

        Args:
            x, z: foot of the figure in metres.
            parts: what to draw.
            shadow: radius of the shadow on the ground in metres, 0 for none.
        """
        if shadow:
            self.cast_shadow(x, z, shadow)
        pixels = [[self.project(x + px, py, z) for px, py in part.points] for part in parts]
        window = self.window([point for points in pixels for point in points])
        if window is None:
            return
        rows, cols = window
        size = (cols.stop - cols.start, rows.stop - rows.start)
        rgb, labels = Image.new('RGB', size), Image.new('L', size, NOTHING)
        draw_rgb, draw_label = ImageDraw.Draw(rgb), ImageDraw.Draw(labels)
        for part, points in zip(parts, pixels, strict=True):
            shifted = [(c - cols.start, r - rows.start) for c, r in points]
            red, green, blue = (int(255 * min(max(float(c), 0), 1)) for c in part.colour)
            if part.round:
                (left, right), (top, bottom) = map(sorted, zip(*shifted, strict=True))
                corners = (left, top, right, bottom)
                draw_rgb.ellipse(corners, fill=(red, green, blue))
                draw_label.ellipse(corners, fill=part.label)
            else:
                draw_rgb.polygon(shifted, fill=(red, green, blue))
                draw_label.polygon(shifted, fill=part.label)
        label_hw = np.asarray(labels)
        rows_h1, cols_1w = self.grid(window)
        u = (cols_1w - self.centre) * z / self.focal - x
        # Bodies are lit from the sun's side and a little uneven.
        shade = 1 + 0.12 * np.clip(u * self.sun_side, -1, 1)
        shade = shade + 0.06 * self.noise(self.fine, rows_h1, cols_1w, 1.0)
        colour = np.asarray(rgb, np.float32) / 255 * shade[..., None]
        self.paint(window, label_hw != NOTHING, colour, z, label_hw)

    def facade(
        self,
        points: Sequence[tuple[float, float, float]],
        texture: Callable[[Array, Array, Array], tuple[Array, Array | None]],
        label: int,
    ) -> None:
        """Paints an upright plane that faces the camera or runs along the view.

        Args:
            points: outline as (x, y, z); all of one z, or else all of one x.
            texture: maps u (metres along the plane), v (metres up) and the depth, each
                broadcastable to (h, w), to a colour and the pixels that show it (None: all).
            label: stored label of the whole outline.
        """
        pixels = [self.project(*point) for point in points]
        window = self.window(pixels)
        if window is None:
            return
        rows, cols = self.grid(window)
        x, _, z = points[0]
        if all(point[2] == z for point in points):
            depth: Array = np.full_like(cols, z)
            u = (cols - self.centre) * z / self.focal
        else:
            depth = self.focal * abs(x) / np.maximum(np.abs(cols - self.centre), 1)
            depth = np.clip(depth, NEAR, 2 * FAR)
            u = depth
        v = self.eye - (rows - self.horizon) * depth / self.focal
        colour, shown = texture(u, v, depth)
        self.paint(window, self.outline(window, pixels), colour, depth, label, shown)

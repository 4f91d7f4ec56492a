"""Paints one synthetic landscape and its label mask.

A pinhole camera looks along +z over flat ground. Everything is placed in metres and
painted from far to near, so sizes, occlusion and haze follow from the depth alone.
Many classes share their colours on purpose (water and sky, grass and leaves, asphalt and
concrete, people and animals): texture, shape and context have to tell them apart.

Shape suffixes: H, W are rows and columns of the picture, h, w those of a window in it.
World axes: x to the right, y up from the ground, z the depth, all in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

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
    ((0.36, 0.40, 0.62), (0.98, 0.70, 0.45), (1.02, 0.82, 0.66)),
    ((0.20, 0.24, 0.44), (0.72, 0.50, 0.56), (0.68, 0.62, 0.72)),
)
ASPHALT = ((0.36, 0.36, 0.38), (0.50, 0.50, 0.51), (0.55, 0.49, 0.42), (0.46, 0.38, 0.36))
MEADOW = ((0.34, 0.52, 0.20), (0.26, 0.42, 0.19), (0.60, 0.57, 0.30), (0.50, 0.42, 0.28))
LEAVES = (
    (0.22, 0.42, 0.16),
    (0.32, 0.50, 0.20),
    (0.16, 0.31, 0.18),
    (0.44, 0.46, 0.18),
    (0.68, 0.50, 0.18),
    (0.62, 0.30, 0.16),
)
WALLS = (
    (0.58, 0.30, 0.24),
    (0.80, 0.74, 0.62),
    (0.60, 0.60, 0.60),
    (0.48, 0.40, 0.34),
    (0.66, 0.74, 0.80),
    (0.82, 0.62, 0.46),
    (0.88, 0.87, 0.84),
)
PAINTS = (
    (0.78, 0.14, 0.13),
    (0.15, 0.28, 0.60),
    (0.88, 0.88, 0.88),
    (0.16, 0.16, 0.18),
    (0.52, 0.54, 0.57),
    (0.86, 0.70, 0.18),
    (0.18, 0.44, 0.32),
)
FURS = ((0.40, 0.26, 0.17), (0.86, 0.83, 0.77), (0.20, 0.18, 0.17), (0.62, 0.45, 0.28))
SKINS = ((0.93, 0.76, 0.64), (0.78, 0.56, 0.42), (0.48, 0.33, 0.25), (0.33, 0.22, 0.17))
DARK = (0.10, 0.11, 0.13)
WOOD = (0.36, 0.27, 0.20)
STEEL = (0.50, 0.52, 0.54)


def fractal_noise(rng: np.random.Generator, power: float) -> Array:
    """Tileable noise whose amplitude falls with the spatial frequency to ``power``.

    Returns:
        float32 (TILE, TILE), mean 0, standard deviation 1.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf  # no constant part: the mean is 0
    noise = np.fft.irfft2(spectrum * frequency**-power)
    return (noise / noise.std()).astype(np.float32)


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.06) -> Array:
    """One of ``colours``, jittered by a standard deviation of ``spread``, kept in 0..1."""
    base = np.asarray(colours[rng.integers(len(colours))], np.float32)
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
        zenith, horizon, light = WEATHER[rng.integers(len(WEATHER))]
        self.zenith, self.haze, self.light = (
            np.asarray(c, np.float32) + rng.normal(0, 0.02, 3).astype(np.float32)
            for c in (zenith, horizon, light)
        )
        self.haze_per_metre = 1 / rng.uniform(40, 250)
        self.sun_side = rng.choice([-1.0, 1.0])
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
        haze = 1 - np.exp(-np.asarray(depth, np.float32) * self.haze_per_metre)[..., None]
        lit = colour * self.light
        lit = lit + (self.haze - lit) * haze
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


@dataclass(frozen=True)
class Layout:
    """Where the road runs and what lies beside it.

    Args:
        half_road: half the width of the road in metres, 0 without a road.
        pavement: width of the paved strip on either side in metres.
        offset, bend: the road's middle is at ``offset + bend * z**2``.
        sides: what is on the left and on the right: 'town', 'meadow', 'wood' or 'water'.
    """

    half_road: float
    pavement: float
    offset: float
    bend: float
    sides: tuple[str, str]

    def middle(self, z: Any) -> Any:
        """x of the middle of the road at depth ``z``, both in metres."""
        return self.offset + self.bend * z**2

    @property
    def verge(self) -> float:
        """Metres from the middle of the road to the end of the pavement."""
        return self.half_road + self.pavement


def choose_layout(rng: np.random.Generator) -> Layout:
    """Draws the kind of place."""
    sides = rng.choice(['town', 'meadow', 'wood', 'water'], size=2, p=[0.4, 0.28, 0.16, 0.16])
    half_road = rng.uniform(2.2, 4.5) if 'town' in sides or rng.random() < 0.75 else 0.0
    pavement = rng.uniform(1, 3) if 'town' in sides else 0.0
    offset = rng.uniform(-1, 1) * half_road
    bend = 0.0 if 'town' in sides else rng.uniform(-0.012, 0.012)
    return Layout(half_road, pavement, offset, bend, (str(sides[0]), str(sides[1])))


def paint_sky(canvas: Canvas) -> None:
    """Sky with clouds down to the horizon, and hills, woods or a skyline in the distance."""
    rng = canvas.rng
    bottom = int(canvas.horizon) + 1
    window = (slice(0, bottom), slice(0, canvas.width))
    rows, cols = canvas.grid(window)
    height = np.clip(1 - rows / canvas.horizon, 0, 1)
    sky = canvas.haze + (canvas.zenith - canvas.haze) * height[..., None]
    # Clouds lie in a plane overhead: they shrink towards the horizon.
    distance = 1 / (height + 0.15)
    cloud = canvas.noise(canvas.soft, 50 * distance, (cols - canvas.centre) * distance, 0.6)
    cover = np.clip(cloud * rng.uniform(0.2, 0.6) + rng.uniform(-0.4, 0.3), 0, 0.9)
    white = np.clip(canvas.haze * rng.uniform(0.9, 1.2), 0, 1)
    sky = sky + (white - sky) * cover[..., None]
    canvas.rgb_HW3[window] = sky
    canvas.label_HW[window] = SKY
    for _ in range(rng.integers(0, 3)):
        kind = int(rng.choice([GRASS, TREE, TREE, BUILDING]))
        profile = canvas.soft[rng.integers(TILE)]
        step = np.arange(canvas.width)
        if kind == BUILDING:
            profile = profile[(step // rng.integers(6, 14) * 41) & (TILE - 1)]
        else:
            profile = profile[(step * TILE // (2 * canvas.width)) & (TILE - 1)]
        if kind == TREE:
            profile = profile + 0.3 * canvas.fine[0][step & (TILE - 1)]
        top = canvas.horizon - canvas.height * (0.05 + 0.03 * np.clip(profile, -1.2, 3))
        colours = {GRASS: MEADOW, TREE: LEAVES[:3], BUILDING: WALLS}[kind]
        grain = 1 + 0.1 * canvas.noise(canvas.fine, rows, cols, 1.0)
        colour = pick(rng, colours) * grain[..., None]
        canvas.paint(window, rows > top, colour, rng.uniform(40, 110), kind)


def paint_ground(canvas: Canvas, layout: Layout) -> None:
    """Grass, water and road below the horizon."""
    rng = canvas.rng
    window = (slice(int(canvas.horizon) + 1, canvas.height), slice(0, canvas.width))
    rows, cols = canvas.grid(window)
    z = canvas.focal * canvas.eye / (rows - canvas.horizon)
    x = (cols - canvas.centre) * z / canvas.focal
    near = np.exp(-z / 25)  # fine texture melts together far away
    fine = canvas.noise(canvas.fine, z, x, 24.0) * near
    soft = canvas.noise(canvas.soft, z, x, 4.0) * np.exp(-z / 60)

    shade = 1 + 0.16 * fine + 0.12 * soft
    if rng.random() < 0.3:  # mown or ploughed
        shade = shade + rng.uniform(0.05, 0.2) * stripes(x, rng.uniform(0.8, 3), 0.5) * near
    tint = rng.normal(0, 0.04, 3).astype(np.float32) * soft[..., None]
    canvas.paint(window, z > 0, pick(rng, MEADOW) * shade[..., None] + tint, z, GRASS)

    aside = x - layout.middle(z)
    flooded = np.zeros(x.shape, bool)
    shore = layout.verge + rng.uniform(0.5, 4) + 0.6 * soft
    for side, sign in zip(layout.sides, (-1, 1), strict=True):
        if side == 'water':
            flooded |= aside * sign > shore
        elif side != 'town' and rng.random() < 0.25:  # a pond
            from_z = rng.uniform(7, 20)
            length = from_z * rng.uniform(0.3, 1.2) + 2 * soft
            flooded |= (aside * sign > shore) & (z > from_z) & (z < from_z + length)
    if flooded.any():
        up = np.clip((rows - canvas.horizon) / (canvas.height - canvas.horizon), 0, 1)
        mirror = canvas.haze + (canvas.zenith - canvas.haze) * up[..., None] ** 0.7
        mirror = mirror * rng.uniform(0.7, 1.0) + pick(rng, MEADOW) * rng.uniform(0, 0.2)
        # Waves: the noise is drawn out sideways.
        waves = canvas.noise(canvas.fine, z, x + 999, 1.0) + canvas.noise(
            canvas.fine, rows * 1.5, cols * 0.12, 1.0
        )
        mirror = mirror * (1 + rng.uniform(0.04, 0.12) * waves)[..., None]
        canvas.paint(window, flooded, mirror / canvas.light, z * 0.5, WATER)

    if not layout.half_road:
        return
    surface = pick(rng, ASPHALT, 0.05)
    if layout.pavement:
        slabs = stripes(z, 1.2, 0.1) | stripes(aside, 1.2, 0.1)
        colour = pick(rng, ASPHALT, 0.08) + 0.1 - (0.1 * slabs * near)[..., None]
        paved = np.abs(aside) < layout.verge + 0.1
        canvas.paint(window, paved, colour * (1 + 0.06 * fine)[..., None], z, ROAD)
    asphalt = surface * (1 + 0.1 * fine + 0.05 * soft)[..., None]
    if rng.random() < 0.75:
        dashes = stripes(z, 4, rng.uniform(0.4, 0.7)) & (np.abs(aside) < 0.1)
        edges = np.abs(np.abs(aside) - layout.half_road + 0.3) < 0.08
        lines = dashes | edges if rng.random() < 0.7 else dashes
        asphalt = asphalt + (np.asarray((0.85, 0.85, 0.8)) - asphalt) * 0.8 * lines[..., None]
    if rng.random() < 0.25:  # a zebra crossing
        from_z = rng.uniform(6, 15)
        zebra = stripes(aside, 1.0, 0.5) & (z > from_z) & (z < from_z + 3)
        asphalt = asphalt + (0.82 - asphalt) * 0.8 * zebra[..., None]
    border = layout.half_road + (0 if layout.pavement else 0.12) * fine
    canvas.paint(window, np.abs(aside) < border, asphalt, z, ROAD)
    if rng.random() < 0.25:  # a side road
        from_z = rng.uniform(9, 25)
        crossing = (z > from_z) & (z < from_z + rng.uniform(4, 7)) & ~flooded
        plain = surface * (1 + 0.1 * fine)[..., None]
        canvas.paint(window, crossing & (np.abs(aside) >= layout.half_road), plain, z, ROAD)


def draw_building(
    canvas: Canvas, x0: float, x1: float, z0: float, z1: float, height: float
) -> None:
    """A house between x0 < x1 and z0 < z1 with windows, brick or plaster, and a roof."""
    rng = canvas.rng
    wall, pane, roof = pick(rng, WALLS), pick(rng, ((0.2, 0.24, 0.3), DARK)), pick(rng, WALLS, 0.1)
    bricks = rng.random() < 0.5
    pitch_u, pitch_v = rng.uniform(1.6, 3.4), rng.uniform(2.4, 3.4)
    open_u, open_v = rng.uniform(0.3, 0.75), rng.uniform(0.35, 0.65)
    lit_share = rng.choice([0.0, 0.0, 0.25])
    top = height - 0.4

    def texture(shade: float) -> Callable[[Array, Array, Array], tuple[Array, None]]:
        def colours(u: Array, v: Array, depth: Array) -> tuple[Array, None]:
            glass = stripes(u - 0.3, pitch_u, open_u) & stripes(v - 0.8, pitch_v, open_v)
            glass &= (v < top) & (v > 0.3)
            relief = 1 + 0.05 * canvas.noise(canvas.fine, v, u, 20.0)
            if bricks:
                row = np.floor(v / 0.35)
                joints = stripes(v, 0.35, 0.2) | stripes(u + 0.4 * np.mod(row, 2), 0.8, 0.12)
                relief = relief - 0.25 * np.exp(-depth / 15) * joints
            cell = np.floor(u / pitch_u) * 37 + np.floor(v / pitch_v) * 17
            lit = np.mod(cell, 11) < 11 * lit_share
            window = np.where(lit[..., None], np.float32((0.95, 0.8, 0.45)), pane)
            colour = np.where(glass[..., None], window, wall * relief[..., None])
            return colour * shade, None

        return colours

    front = 1.08 if rng.random() < 0.5 else 0.9
    gable = height + rng.uniform(0.25, 0.5) * (x1 - x0) if height < 7 else height
    middle = (x0 + x1) / 2
    side = x0 if x0 > 0 else x1
    if x0 > 0 or x1 < 0:
        corners = [(side, 0.0, z0), (side, 0.0, z1), (side, height, z1), (side, height, z0)]
        canvas.facade(corners, texture(1.95 - front), BUILDING)
        if gable > height:
            slope = [(side, height, z0), (side, height, z1), (middle, gable, z1)]
            pixels = [canvas.project(*point) for point in [*slope, (middle, gable, z0)]]
            window = canvas.window(pixels)
            if window is not None:
                rows, cols = canvas.grid(window)
                tiles = 1 - 0.2 * stripes(rows, canvas.focal * 0.5 / z0, 0.25) + 0 * cols
                where = canvas.outline(window, pixels)
                canvas.paint(window, where, roof * tiles[..., None], z0, BUILDING)
    corners = [(x0, 0.0, z0), (x1, 0.0, z0), (x1, height, z0)]
    corners += [(middle, gable, z0)] if gable > height else []
    canvas.facade([*corners, (x0, height, z0)], texture(front), BUILDING)


def draw_fence(canvas: Canvas, x0: float, z0: float, x1: float, z1: float) -> None:
    """A fence one can see through, along the view (x0 == x1) or across it (z0 == z1).

    The label covers the gaps as well, as an annotator would draw it.
    """
    rng = canvas.rng
    height = rng.uniform(0.9, 1.5)
    kind = rng.integers(3)
    colour = pick(rng, (WOOD, STEEL, (0.88, 0.88, 0.86), DARK))

    def texture(u: Array, v: Array, depth: Array) -> tuple[Array, Array]:
        posts = stripes(u, 2.0, 0.08)
        if kind == 0:
            shown = stripes(u, 0.32, 0.5) | stripes(v - 0.25, 0.5, 0.25)
        elif kind == 1:
            shown = posts | stripes(v - 0.2, 0.4, 0.3)
        else:
            mesh = stripes(u + v, 0.3, 0.22) | stripes(u - v, 0.3, 0.22)
            shown = posts | mesh | (v > height - 0.07)
        return colour * (1 + 0.05 * canvas.noise(canvas.fine, v, u, 20.0))[..., None], shown

    outline = [(x0, 0.0, z0), (x1, 0.0, z1), (x1, height, z1), (x0, height, z0)]
    canvas.facade(outline, texture, FENCE)


def draw_tree(canvas: Canvas, x: float, z: float) -> None:
    """A broad-leaved tree, a conifer, a poplar or a bush."""
    rng = canvas.rng
    kind = rng.choice(['round', 'round', 'conifer', 'poplar', 'bush'])
    tall = {'round': 6.0, 'conifer': 8.0, 'poplar': 9.0, 'bush': 1.8}[kind] * rng.uniform(0.7, 1.3)
    wide = {'round': 0.8, 'conifer': 0.45, 'poplar': 0.28, 'bush': 1.2}[kind] * tall
    crown = tall * (0.05 if kind == 'bush' else rng.uniform(0.15, 0.35))  # where it begins
    leaves = pick(rng, LEAVES[:3] if kind == 'conifer' else LEAVES)
    trunk = bar((0, -0.05), (0, crown + tall * 0.3), 0.03 * tall + 0.1, pick(rng, (WOOD,)), TREE)
    canvas.figure(x, z, [trunk], shadow=wide * 0.45)
    window = canvas.window(
        [
            canvas.project(x - wide * 0.6, crown - 0.2, z),
            canvas.project(x + wide * 0.6, tall * 1.05, z),
        ]
    )
    if window is None:
        return
    rows, cols = canvas.grid(window)
    metre = canvas.focal / z
    right = (cols - canvas.centre) / metre - x
    up = canvas.eye - (rows - canvas.horizon) / metre
    level = (up - crown) / (tall - crown)  # 0 at the foot of the crown, 1 at its top
    if kind == 'conifer':
        jag = 0.75 + 0.25 * np.mod(-level * rng.integers(4, 8), 1)
        inside = (1 - level) * jag - np.abs(right) * 2 / wide
        inside = np.where(level > 0, inside * 2, -1)
    else:
        inside = np.full((1, 1), -9.0, np.float32)
        for _ in range(1 if kind == 'poplar' else rng.integers(3, 7)):
            spread = 0.0 if kind == 'poplar' else 0.22
            dx, dy = rng.normal(0, spread) * wide, 0.5 + rng.uniform(-1, 1) * spread
            rx, ry = (wide * 0.5, 0.5) if kind == 'poplar' else (wide * 0.3, 0.32)
            inside = np.maximum(inside, 1 - ((right - dx) / rx) ** 2 - ((level - dy) / ry) ** 2)
    clumps = canvas.noise(canvas.fine, rows + 31 * z, cols, 1.0)
    tufts = canvas.noise(canvas.soft, up + z, right + x, 40.0)
    where = inside + 0.16 * clumps + 0.12 * tufts > 0.05
    shade = 0.85 + 0.25 * (level - 0.4) + 0.3 * canvas.sun_side * right / wide
    shade = shade + 0.16 * clumps + 0.10 * tufts
    canvas.paint(window, where, leaves * np.clip(shade, 0.25, 1.7)[..., None], z, TREE)


def car_parts(rng: np.random.Generator, across: bool) -> list[Part]:
    """A car or van from its side (``across``) or from behind or in front."""
    paint = pick(rng, PAINTS)
    glass, tyre = pick(rng, ((0.2, 0.25, 0.3), (0.5, 0.58, 0.64)), 0.04), DARK
    van = rng.random() < 0.25
    roof = 2.1 if van else 1.45
    if not across:
        lamp = (0.85, 0.2, 0.15) if rng.random() < 0.5 else (0.98, 0.95, 0.8)
        shell = [(-0.9, 0.3), (0.9, 0.3), (0.9, 0.9), (0.65, roof), (-0.65, roof), (-0.9, 0.9)]
        pane = [(-0.72, 0.95), (0.72, 0.95), (0.56, roof - 0.12), (-0.56, roof - 0.12)]
        return [
            box(-0.85, 0, -0.6, 0.4, tyre, CAR),
            box(0.6, 0, 0.85, 0.4, tyre, CAR),
            Part(shell, paint, CAR),
            Part(pane, glass, CAR),
            box(-0.86, 0.65, -0.56, 0.82, lamp, CAR),
            box(0.56, 0.65, 0.86, 0.82, lamp, CAR),
            box(-0.3, 0.45, 0.3, 0.6, (0.9, 0.9, 0.85), CAR),
            box(-0.9, 0.28, 0.9, 0.38, paint * 0.5, CAR),
        ]
    turn = rng.choice([-1.0, 1.0])
    nose = 1.9 if van else 0.9
    shell = [(-2.1, 0.3), (2.1, 0.3), (2.1, 0.75), (nose + 0.3, 0.9), (nose - 0.3, roof)]
    shell += [(-1.7 if van else -1.3, roof), (-2.1, 0.95)]
    pane = [(nose + 0.05, 0.95), (nose - 0.35, roof - 0.12), (-1.25, roof - 0.12), (-1.6, 0.95)]
    return [
        Part([(turn * px, py) for px, py in shell], paint, CAR),
        Part([(turn * px, py) for px, py in pane], glass, CAR),
        bar((turn * -0.2, 0.9), (turn * -0.2, roof), 0.12, paint, CAR),
        *(ball(px, 0.33, 0.36, 0.36, tyre, CAR) for px in (-1.3, 1.3)),
        *(ball(px, 0.33, 0.16, 0.16, STEEL, CAR) for px in (-1.3, 1.3)),
    ]


def person_parts(rng: np.random.Generator) -> list[Part]:
    """Somebody who stands or walks."""
    coat, legs = pick(rng, PAINTS + FURS, 0.1), pick(rng, (DARK, PAINTS[1], WOOD, STEEL))
    skin, hair = pick(rng, SKINS, 0.03), pick(rng, FURS)
    size = rng.uniform(0.65, 1.1)
    stride, swing = rng.uniform(0.02, 0.3), rng.uniform(0.05, 0.3)
    parts = [
        bar((-0.08, 0.9), (-0.06 - stride, 0.0), 0.19, legs, PERSON),
        bar((0.08, 0.9), (0.06 + stride, 0.0), 0.19, legs * 0.85, PERSON),
        bar((-0.2, 1.42), (-0.24 - swing, 0.85), 0.13, coat * 0.85, PERSON),
        bar((0.2, 1.42), (0.24 + swing, 0.85), 0.13, coat * 0.85, PERSON),
        Part([(-0.22, 0.8), (0.22, 0.8), (0.27, 1.48), (-0.27, 1.48)], coat, PERSON),
        ball(0, 1.66, 0.15, 0.19, hair, PERSON),
        ball(rng.uniform(-0.06, 0.06), 1.63, 0.12, 0.15, skin, PERSON),
    ]
    if rng.random() < 0.2:  # a long dress or coat
        shape = [(-0.38, 0.3), (0.38, 0.3), (0.25, 1.0), (-0.25, 1.0)]
        parts.insert(2, Part(shape, coat, PERSON))
    return [
        Part([(px * size, py * size) for px, py in part.points], part.colour, PERSON, part.round)
        for part in parts
    ]


def animal_parts(rng: np.random.Generator) -> list[Part]:
    """A cow, horse, sheep or dog from its side, head up or grazing."""
    fur, other = pick(rng, FURS), pick(rng, FURS)
    size, leg, neck, bulk = (
        (1.2, 0.55, 0.3, 0.36),
        (1.3, 0.65, 0.6, 0.30),
        (0.8, 0.40, 0.2, 0.42),
        (0.6, 0.50, 0.3, 0.24),
    )[rng.integers(4)]
    turn, grazing = rng.choice([-1.0, 1.0]), rng.random() < 0.4
    back = leg + bulk
    head = (0.95 + neck * 0.3, 0.2 if grazing else back + neck)
    parts = [
        *(
            bar((px, leg + 0.1), (px + rng.uniform(-0.1, 0.1), 0), 0.13, fur * 0.8, ANIMAL)
            for px in (-0.6, -0.45, 0.45, 0.6)
        ),
        bar((-0.72, back), (-0.9, leg), 0.07, fur * 0.7, ANIMAL),
        ball(0, leg + bulk * 0.6, 0.8, bulk * 0.75, fur, ANIMAL),
        bar((0.6, back - 0.1), head, 0.26, fur, ANIMAL),
        ball(head[0] + 0.12, head[1] - 0.03, 0.25, 0.14, fur * 0.9, ANIMAL),
        bar((head[0], head[1]), (head[0] - 0.08, head[1] + 0.22), 0.08, fur * 0.7, ANIMAL),
    ]
    if rng.random() < 0.5:  # patches
        for _ in range(3):
            px, py = rng.uniform(-0.5, 0.5), leg + bulk * rng.uniform(0.5, 0.9)
            parts.append(ball(px, py, 0.2, bulk * 0.3, other, ANIMAL))
    return [
        Part(
            [(turn * px * size, py * size) for px, py in part.points],
            part.colour,
            ANIMAL,
            part.round,
        )
        for part in parts
    ]


def post(canvas: Canvas, start: Point, end: Point, width: float, z: float, colour: Array) -> Part:
    """A bar of class pole, never thinner than a pixel of the finished picture."""
    return bar(start, end, max(width, (SUPER - 0.5) * z / canvas.focal), colour, POLE)


def pole_parts(canvas: Canvas, z: float, inwards: float, lamp: bool) -> list[Part]:
    """A street lamp with its arm towards ``inwards`` (-1 or 1), or a telegraph pole."""
    rng = canvas.rng
    colour = pick(rng, (STEEL, DARK) if lamp else (WOOD,), 0.04)
    tall = rng.uniform(5, 7)
    parts = [post(canvas, (0, 0), (0, tall), 0.14 if lamp else 0.24, z, colour)]
    if lamp:
        parts.append(post(canvas, (0, tall), (inwards * 1.3, tall + 0.2), 0.09, z, colour))
        parts.append(ball(inwards * 1.4, tall + 0.15, 0.3, 0.12, (0.9, 0.88, 0.8), POLE))
    else:
        for up in (0.4, 1.1):
            ends = ((-0.9, tall - up), (0.9, tall - up))
            parts.append(post(canvas, *ends, 0.12, z, colour))
    return parts


def sign_parts(canvas: Canvas, z: float) -> list[Part]:
    """A traffic sign on its post or a billboard on two."""
    rng = canvas.rng
    rim, face = pick(rng, PAINTS), pick(rng, ((0.9, 0.9, 0.88), *PAINTS))
    steel = pick(rng, (STEEL, WOOD), 0.04)
    if rng.random() < 0.25:
        wide, low, high = rng.uniform(1.0, 1.8), rng.uniform(0.8, 1.6), rng.uniform(2.4, 3.4)
        parts = [post(canvas, (px, 0), (px, low), 0.14, z, steel) for px in (-wide / 2, wide / 2)]
        parts += [
            box(-wide, low, wide, high, rim, SIGN),
            box(-wide + 0.1, low + 0.1, wide - 0.1, high - 0.1, face, SIGN),
        ]
        for line in np.linspace(low + 0.35, high - 0.35, 3):
            end = rng.uniform(-0.2, 0.8) * wide
            parts.append(box(-wide * 0.8, line, end, line + 0.12, rim * 0.7, SIGN))
        return parts
    up, radius = rng.uniform(1.9, 2.6), rng.uniform(0.35, 0.6)
    parts = [post(canvas, (0, 0), (0, up), 0.1, z, steel)]
    corners = int(rng.choice([3, 4, 4, 8, 40]))
    turn = {3: np.pi / 2, 4: rng.choice([0, np.pi / 4]), 8: np.pi / 8, 40: 0.0}[corners]
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    for share, colour in ((1.0, rim), (0.72, face)):
        outline = [
            (float(radius * share * np.cos(a)), float(up + radius * share * np.sin(a)))
            for a in angles
        ]
        parts.append(Part(outline, colour, SIGN))
    mark = rng.uniform(0.15, 0.35) * radius
    parts.append(box(-mark, up - mark, mark, up + mark, rim * 0.6, SIGN))
    return parts


def crate_parts(rng: np.random.Generator) -> list[Part]:
    """A box that belongs to no class: it stays unlabelled."""
    colour = pick(rng, PAINTS, 0.1)
    wide, tall = rng.uniform(0.3, 0.9), rng.uniform(0.5, 1.2)
    band = box(-wide, tall * 0.6, wide, tall * 0.75, colour * 0.6, UNLABELLED)
    return [box(-wide, 0, wide, tall, colour, UNLABELLED), band]


def furnish(canvas: Canvas, layout: Layout) -> None:
    """Chooses and paints everything that stands on the ground, far to near."""
    rng = canvas.rng
    things: list[tuple[float, Callable[[], None]]] = []

    def add(z: float, draw: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        things.append((z, lambda: draw(canvas, *args, **kwargs)))

    def stand(x: float, z: float, parts: list[Part], shadow: float) -> None:
        things.append((z, lambda: canvas.figure(x, z, parts, shadow)))

    def depth(near: float = 5, far: float = 40) -> float:
        return float(np.exp(rng.uniform(np.log(near), np.log(far))))

    for side, sign in zip(layout.sides, (-1, 1), strict=True):
        edge = layout.verge

        def beside(z: float, least: float, most: float, sign: int = sign) -> float:
            away = rng.uniform(least, max(most, least + 1))
            return float(layout.middle(z) + sign * (edge + away))

        def in_view(z: float) -> float:
            return z * canvas.width / canvas.focal * 0.6

        if side == 'town':
            wall = edge + rng.uniform(0.2, 4)
            z = rng.uniform(3, 9)
            height = rng.uniform(3, 14)
            while z < FAR:
                length = rng.uniform(5, 14)
                tall, wide = height * rng.uniform(0.7, 1.3), rng.uniform(6, 12)
                inner = layout.offset + sign * (wall + rng.uniform(0, 0.5))
                x0, x1 = sorted((inner, inner + sign * wide))
                add(z + length, draw_building, x0, x1, z, z + length, tall)
                z += length + (rng.uniform(2, 7) if rng.random() < 0.4 else 0)
            for _ in range(rng.integers(0, 4)):
                z = depth(6)
                add(z, draw_tree, beside(z, -0.6, wall - edge), z)
        if side in ('meadow', 'wood'):
            for _ in range(rng.integers(8, 16) if side == 'wood' else rng.integers(0, 5)):
                z = depth(8, 60)
                add(z, draw_tree, beside(z, 2.0, in_view(z)), z)
        if side == 'meadow':
            for _ in range(rng.integers(0, 3)):
                z, wide = depth(14, 45), rng.uniform(5, 9)
                x0 = beside(z, 3.0, in_view(z)) - (wide if sign < 0 else 0)
                tall = rng.uniform(2.6, 4.5)
                add(z, draw_building, x0, x0 + wide, z, z + rng.uniform(5, 9), tall)
            for _ in range(rng.integers(1, 6)):
                z = depth(5, 25)
                stand(beside(z, 0.8, in_view(z)), z, animal_parts(rng), 0.8)
        if side != 'town' and rng.random() < 0.5:
            if rng.random() < 0.6:
                x = layout.offset + sign * (edge + rng.uniform(0.5, 2.5))
                near, far = depth(3, 8), rng.uniform(15, 50)
                if layout.bend == 0 or far < 20:
                    add(far, draw_fence, x, near, x, far)
            elif side != 'water':
                z = depth(7, 25)
                x0, x1 = sorted((beside(z, 0.5, 1.0), beside(z, 10, 40)))
                add(z, draw_fence, x0, z, x1, z)
        if rng.random() < 0.5:  # a row of lamps or telegraph poles
            lamp = layout.half_road > 0 and rng.random() < 0.6
            z, step, away = rng.uniform(5, 12), rng.uniform(6, 14), rng.uniform(-0.4, 0.6)
            while z < 55:
                parts = pole_parts(canvas, z, -sign, lamp)
                stand(float(layout.middle(z)) + sign * (edge + away), z, parts, 0.3)
                z += step
        for _ in range(rng.integers(0, 4)):
            z = depth(5, 22)
            stand(beside(z, -0.5, 0.8), z, sign_parts(canvas, z), 0.3)
        for _ in range(rng.integers(0, 5 if side == 'town' else 3)):
            z = depth(5, 25)
            stand(beside(z, -1.5, 1.0), z, person_parts(rng), 0.4)
        if rng.random() < 0.15:
            z = depth(6, 20)
            stand(beside(z, -0.5, 1.0), z, crate_parts(rng), 0.5)
        if layout.half_road:
            for _ in range(rng.integers(0, 4)):
                z = depth(6, 45)
                lane = layout.half_road * rng.uniform(0.4, 0.75)
                across = rng.random() < 0.2
                x = float(layout.middle(z)) + sign * lane
                stand(x, z, car_parts(rng, across), 2.0 if across else 1.2)
        if side in ('meadow', 'town') and rng.random() < 0.3:
            z = depth(8, 25)
            stand(beside(z, 0.5, 5), z, car_parts(rng, across=True), 2.0)
    for z, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()


def finish(canvas: Canvas) -> tuple[Array, Array]:
    """Light falls off over the picture, the lens blurs, the sensor adds noise.

    Returns:
        Image (H, W, 3) and mask (H, W), both uint8, at the final size.
    """
    rng = canvas.rng
    height, width = canvas.height // SUPER, canvas.width // SUPER
    image = canvas.rgb_HW3.reshape(height, SUPER, width, SUPER, 3).mean((1, 3))
    mask = canvas.label_HW[::SUPER, ::SUPER].copy()
    down, right = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    slope = rng.normal(0, 0.08, 2)
    falloff = 1 + slope[0] * down + slope[1] * right - rng.uniform(0, 0.1) * (down**2 + right**2)
    image = np.clip(image * (falloff * rng.uniform(0.85, 1.12))[..., None], 0, 1)
    picture = Image.fromarray((image ** rng.uniform(0.85, 1.2) * 255).astype(np.uint8))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    grain = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(1, 7)
    noisy = np.clip(np.asarray(picture, np.float32) + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:  # annotators often leave the rim of a picture open
        rim = int(rng.integers(1, 3))
        inner = mask[rim:-rim, rim:-rim].copy()
        mask[:] = UNLABELLED
        mask[rim:-rim, rim:-rim] = inner
    return noisy, mask


def draw_bonnet(canvas: Canvas) -> None:
    """The front of the car that carries the camera; unlabelled."""
    colour = pick(canvas.rng, PAINTS)
    height = canvas.height * canvas.rng.uniform(0.06, 0.12)
    window = (slice(int(canvas.height - height), canvas.height), slice(0, canvas.width))
    rows, cols = canvas.grid(window)
    curve = (2 * cols / canvas.width - 1) ** 2
    level = (canvas.height - rows) / height
    where = level < 1 - 0.6 * curve
    canvas.paint(window, where, colour * (0.7 + 0.5 * level + 0 * cols)[..., None], 0, UNLABELLED)


def draw_scene(rng: np.random.Generator, size_hw: tuple[int, int]) -> tuple[Array, Array]:
    """Draws one landscape.

    Args:
        rng: source of every random choice; equal states give equal pictures.
        size_hw: height and width in pixels, at least 32 each.

    Returns:
        The image (H, W, 3), uint8 RGB, and the mask (H, W), uint8, in the convention that
        is stored: 0 is unlabelled, class k of ``CLASSES`` is k + 1.

    Raises:
        ValueError: a side is shorter than 32 pixels.
    """
    height, width = size_hw
    if min(height, width) < 32:
        raise ValueError(
            f'size_hw must be at least (32, 32), got {size_hw}: use a larger picture.'
        )
    canvas = Canvas(rng, height * SUPER, width * SUPER)
    layout = choose_layout(rng)
    paint_sky(canvas)
    paint_ground(canvas, layout)
    furnish(canvas, layout)
    if layout.half_road and rng.random() < 0.15:
        draw_bonnet(canvas)
    return finish(canvas)

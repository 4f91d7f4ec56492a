"""Draws one synthetic landscape and its label mask.

Many classes share their colours on purpose (water and sky, grass and leaves, asphalt and
concrete, people and animals): texture, shape and context have to tell them apart.

World axes: x to the right, y up from the ground, z the depth, all in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mmseg_kd.datasets.toy_scenes.canvas import (
    BUILDING,
    FAR,
    GRASS,
    ROAD,
    SKY,
    SUPER,
    TILE,
    TREE,
    UNLABELLED,
    WATER,
    Array,
    Canvas,
    Part,
    pick,
    stripes,
)
from mmseg_kd.datasets.toy_scenes.things import (
    ASPHALT,
    LEAVES,
    MEADOW,
    WALLS,
    animal_parts,
    car_parts,
    crate_parts,
    draw_bonnet,
    draw_building,
    draw_fence,
    draw_tree,
    person_parts,
    pole_parts,
    sign_parts,
)

LINES = np.float32(0.66)  # road paint, added to a fifth of the asphalt's own colour


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
    sides = rng.choice(['town', 'meadow', 'wood', 'water'], size=2, p=[0.36, 0.3, 0.16, 0.18])
    has_road = 'town' in sides or rng.random() < 0.6
    half_road = rng.uniform(1.8, 3.6) if has_road else 0.0
    pavement = rng.uniform(1, 3) if 'town' in sides else 0.0
    offset = rng.uniform(-1.3, 1.3) * half_road
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
    shore = layout.verge + rng.uniform(0.3, 2.5) + 0.5 * soft
    for side, sign in zip(layout.sides, (-1, 1), strict=True):
        if side == 'water':
            flooded |= aside * sign > shore
        elif side != 'town' and rng.random() < 0.4:  # a pond
            from_z = rng.uniform(5, 16)
            length = from_z * rng.uniform(0.5, 2.0) + 2 * soft
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
        asphalt = np.where(lines[..., None], 0.2 * asphalt + LINES, asphalt)
    if rng.random() < 0.25:  # a zebra crossing
        from_z = rng.uniform(6, 15)
        zebra = stripes(aside, 1.0, 0.5) & (z > from_z) & (z < from_z + 3)
        asphalt = np.where(zebra[..., None], 0.2 * asphalt + LINES, asphalt)
    border = layout.half_road + (0 if layout.pavement else 0.12) * fine
    canvas.paint(window, np.abs(aside) < border, asphalt, z, ROAD)
    if rng.random() < 0.25:  # a side road
        from_z = rng.uniform(9, 25)
        crossing = (z > from_z) & (z < from_z + rng.uniform(4, 7)) & ~flooded
        plain = surface * (1 + 0.1 * fine)[..., None]
        canvas.paint(window, crossing & (np.abs(aside) >= layout.half_road), plain, z, ROAD)


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

        def beside(
            z: float, least: float, most: float, sign: int = sign, edge: float = edge
        ) -> float:
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
            for _ in range(rng.integers(2, 8)):
                z = depth(4.5, 18)
                stand(beside(z, 0.8, in_view(z)), z, animal_parts(rng), 0.8)
        if side != 'town' and rng.random() < 0.65:
            if rng.random() < 0.6:
                x = layout.offset + sign * (edge + rng.uniform(0.5, 2.5))
                near, far = depth(3, 8), rng.uniform(15, 50)
                if layout.bend == 0 or far < 20:
                    add(far, draw_fence, x, near, x, far)
            elif side != 'water':
                z = depth(7, 25)
                x0, x1 = sorted((beside(z, 0.5, 1.0), beside(z, 10, 40)))
                add(z, draw_fence, x0, z, x1, z)
        if rng.random() < 0.35:  # a row of lamps or telegraph poles
            lamp = layout.half_road > 0 and rng.random() < 0.6
            z, step, away = rng.uniform(5, 12), rng.uniform(6, 14), rng.uniform(-0.4, 0.6)
            while z < 55:
                parts = pole_parts(canvas, z, -sign, lamp)
                stand(float(layout.middle(z)) + sign * (edge + away), z, parts, 0.3)
                z += step
        for _ in range(rng.integers(0, 4)):
            z = depth(5, 22)
            stand(beside(z, -0.5, 0.8), z, sign_parts(canvas, z), 0.3)
        for _ in range(rng.integers(0, 6 if side == 'town' else 4)):
            z = depth(4.5, 20)
            stand(beside(z, -1.5, 2.0), z, person_parts(rng), 0.4)
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
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
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
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, width, dtype=np.float32)[None]
    falloff = 1 + rng.normal(0, 0.08) * down + rng.normal(0, 0.08) * right
    falloff = falloff - rng.uniform(0, 0.1) * (down**2 + right**2)
    image = np.clip(image * (falloff * rng.uniform(0.9, 1.15))[..., None], 0, 1)
    picture = Image.fromarray((image ** rng.uniform(0.7, 1.05) * 255).astype(np.uint8))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    grain = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(1, 7)
    noisy = np.clip(np.asarray(picture, np.float32) + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:  # annotators often leave the rim of a picture open
        rim = int(rng.integers(1, 3))
        inner = mask[rim:-rim, rim:-rim].copy()
        mask[:] = UNLABELLED
        mask[rim:-rim, rim:-rim] = inner
    return noisy, mask


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
        raise ValueError(f'size_hw must be at least (32, 32), got {size_hw}: use a larger picture.')
    canvas = Canvas(rng, height * SUPER, width * SUPER)
    layout = choose_layout(rng)
    paint_sky(canvas)
    paint_ground(canvas, layout)
    furnish(canvas, layout)
    if layout.half_road and rng.random() < 0.15:
        draw_bonnet(canvas)
    return finish(canvas)

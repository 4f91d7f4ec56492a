"""What stands in a scene: buildings, fences, trees, cars, people, animals, poles and signs.

Many share their colours on purpose, so that shape and texture have to tell them apart.
Sizes are metres, colours RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mmseg_kd.datasets.toy_scenes.canvas import (
    ANIMAL,
    BUILDING,
    CAR,
    FENCE,
    PERSON,
    POLE,
    SIGN,
    SUPER,
    TREE,
    UNLABELLED,
    Array,
    Canvas,
    Part,
    Point,
    ball,
    bar,
    box,
    pick,
    stripes,
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
            window = np.where(lit[..., None], np.asarray((0.95, 0.8, 0.45), np.float32), pane)
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
    height = rng.uniform(1.0, 1.7)
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
        replace(part, points=[(px * size, py * size) for px, py in part.points]) for part in parts
    ]


def animal_parts(rng: np.random.Generator) -> list[Part]:
    """A cow, horse, sheep or dog from its side, head up or grazing."""
    fur, other = pick(rng, FURS), pick(rng, FURS)
    size, leg, neck, bulk = (
        (1.2, 0.55, 0.3, 0.36),
        (1.3, 0.65, 0.45, 0.30),
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
        replace(part, points=[(turn * px * size, py * size) for px, py in part.points])
        for part in parts
    ]


def post(canvas: Canvas, start: Point, end: Point, width: float, z: float, colour: Array) -> Part:
    """A bar of class pole, never thinner than a pixel of the finished picture."""
    return bar(start, end, max(width, (SUPER - 1) * z / canvas.focal), colour, POLE)


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

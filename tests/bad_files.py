"""Ways to spoil a file of the data set that `builders.write_dataset` writes."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Spoil = Callable[[Path, Path], None]


def _mask(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel (H, W, 3), which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + checksum

    height, width, _ = pixels.shape
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    header = struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _half_with_preview(image: Path) -> None:
    """A truncated JPEG whose header holds a whole one, as a camera's has."""
    preview = _encoded(Image.new('RGB', (8, 8)), 'JPEG')
    content = image.read_bytes()
    segment = b'\xff\xe1' + struct.pack('>H', len(preview) + 2) + preview
    image.write_bytes(content[:2] + segment + content[2 : len(content) * 3 // 4])


def _padded(path: Path) -> None:
    """The end is zeros, as after a crash of the machine that wrote it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4].ljust(len(content), b'\0'))


def _damage_png(path: Path) -> None:
    """Flip bits of the checksum of the pixels."""
    content = bytearray(path.read_bytes())
    at = content.index(b'IDAT')
    length = int.from_bytes(content[at - 4 : at], 'big')
    content[at + 4 + length] ^= 0xFF
    path.write_bytes(bytes(content))


def _change_mask(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(image: Path, mask: Path) -> None:
        Image.fromarray(change(_mask(mask))).save(mask)

    return spoil


def _with_value(value: int) -> Spoil:
    def change(mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[5, 5] = value
        return mask

    return _change_mask(change)


def _as_image(make: Callable[[Image.Image], bytes]) -> Spoil:
    def spoil(image: Path, mask: Path) -> None:
        image.write_bytes(make(Image.open(image).convert('RGB')))

    return spoil


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3
    return _encoded(image, 'JPEG', exif=exif)


def _other_unicode_form(image: Path, mask: Path) -> None:
    image.rename(image.with_name('é1.jpg'))
    mask.rename(mask.with_name(unicodedata.normalize('NFD', 'é1') + '.png'))


# What training stops at: the kind of the finding, and how to bring it about.
ERRORS: dict[str, tuple[str, Spoil]] = {
    'image of zero bytes': ('empty', lambda image, mask: image.write_bytes(b'')),
    'mask of zero bytes': ('empty', lambda image, mask: mask.write_bytes(b'')),
    'image is text': ('unreadable', lambda image, mask: image.write_text('no picture')),
    'mask is text': ('unreadable', lambda image, mask: mask.write_text('no picture')),
    'image is a pointer': (
        'unreadable',
        lambda image, mask: image.write_text('version https://git-lfs.github.com/spec/v1\n'),
    ),
    'truncated image': ('truncated', lambda image, mask: _half(image)),
    'truncated image with a preview': (
        'truncated',
        lambda image, mask: _half_with_preview(image),
    ),
    'image padded with zeros': ('truncated', lambda image, mask: _padded(image)),
    'truncated mask': ('truncated', lambda image, mask: _half(mask)),
    'missing mask': ('missing', lambda image, mask: mask.unlink()),
    'names in two Unicode forms': ('missing', _other_unicode_form),
    'mask of another size': ('size', _change_mask(lambda mask: mask[:-2])),
    'mask on its side': ('size', _change_mask(lambda mask: mask[:, :-4].T)),
    'value that is no class': ('values', _with_value(5)),
    'value just below the ignored': ('values', _with_value(254)),
    'mask of colours': ('colours', _change_mask(lambda mask: np.stack([mask] * 3, -1))),
    'mask of 16 bits': ('depth', _change_mask(lambda mask: mask.astype(np.uint16) + 256)),
    'mask of floats': (
        'depth',
        lambda image, mask: mask.write_bytes(
            _encoded(Image.fromarray(_mask(mask) + np.float32(0.5)), 'TIFF')
        ),
    ),
}

# What is read, but perhaps not as it was meant.
WARNINGS: dict[str, tuple[str, Spoil]] = {
    'grey image': ('grey', _as_image(lambda image: _encoded(image.convert('L'), 'JPEG'))),
    'CMYK image': ('cmyk', _as_image(lambda image: _encoded(image.convert('CMYK'), 'JPEG'))),
    'image with transparency': (
        'alpha',
        _as_image(lambda image: _encoded(image.convert('RGBA'), 'PNG')),
    ),
    'image of 16 bits': (
        'deep',
        _as_image(lambda image: _deep_png(np.asarray(image).astype(np.uint16) * 257)),
    ),
    'turned image': ('turned', _as_image(_turned)),
    'mask without a label': ('blank', _change_mask(lambda mask: np.full_like(mask, 255))),
}

# What is as good as any other.
SOUND: dict[str, Spoil] = {
    'mask of 16 bits that fit in 8': _change_mask(lambda mask: mask.astype(np.uint16)),
    'image with a trailer': lambda image, mask: image.write_bytes(
        image.read_bytes() + b'trailer' * 50
    ),
    'palette image': _as_image(lambda image: _encoded(image.convert('P'), 'PNG')),
    'name with spaces and other scripts': lambda image, mask: (
        image.rename(image.with_name(' 東京 straße №1 (a).jpg')),
        mask.rename(mask.with_name(' 東京 straße №1 (a).png')),
    ),
}


def damage_mask(image: Path, mask: Path) -> None:
    """A mask whose checksum is wrong: only the check of all files finds it."""
    _damage_png(mask)


def spoil(root: Path, split: str, name: str, way: Spoil) -> None:
    """Spoil the image or the mask called `name` of a split."""
    way(root / 'images' / split / f'{name}.jpg', root / 'annotations' / split / f'{name}.png')

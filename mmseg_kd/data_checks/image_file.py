"""What a file says of itself, before a decoder has a go at it.

Decoders are patient: of a JPEG that ends early most releases of OpenCV make a picture with a grey
lower half.
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mmseg_kd.data_checks.findings import Finding

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
_PNG_START, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'

# What lies where a picture should be, by its first bytes.
_IMPOSTORS = {
    b'version https://git-lfs': 'it is a pointer of Git LFS: run git lfs pull',
    b'<!DOCTYPE': 'it is a web page',
    b'<html': 'it is a web page',
    b'<?xml': 'it is an XML file',
}

_EXIF_ORIENTATION = 0x0112


def file_finding(role: str, path: str) -> Finding | None:
    """What is wrong with a file on disk that no decoder need look at.

    Args:
        role: 'image' or 'mask'.
        path: The file, which may be missing, empty or truncated (JPEG and PNG).
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return Finding('missing', role, path, f'is missing{_lookalike(Path(path))}')
        return Finding('unreadable', role, path, f'cannot be read: {error.strerror}')
    if size == 0:
        return Finding('empty', role, path, 'is empty: it has 0 bytes')
    try:
        if _is_truncated(path):
            return Finding(
                'truncated', role, path, f'is truncated: it ends after {size:,} bytes, too early'
            )
    except OSError as error:  # a folder, or no right to read
        return Finding('unreadable', role, path, f'cannot be read: {error.strerror}')
    return None


def _lookalike(path: Path) -> str:
    """A file that was perhaps meant: names may differ by case, Unicode form or a space."""
    try:
        names = _names(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return f', as is its folder {path.parent}'
    name = names.get(_plain(path.name))
    if name is None:
        return ''
    if unicodedata.normalize('NFC', name) == unicodedata.normalize('NFC', path.name):
        return f': there is {name!r}, in another Unicode form'
    return f': there is {name!r}, which differs by case or a space'


def _plain(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold().replace(' ', '')


@lru_cache(maxsize=8)
def _names(folder: Path, changed: int) -> dict[str, str]:
    """The files of a folder as it was at the time `changed`, by their names made plain."""
    return {_plain(name): name for name in os.listdir(folder)}


def _is_truncated(path: str) -> bool:
    """Whether a JPEG or PNG lacks its end mark."""
    with open(path, 'rb') as file:
        start = file.read(len(_PNG_START))
        if start.startswith(_JPEG_START):
            end = _JPEG_END
        elif start == _PNG_START:
            end = _PNG_END
        else:
            return False
        # Nearly every file ends with its mark; a few go on with something of a camera's.
        file.seek(-len(end), os.SEEK_END)
        if file.read() == end:
            return False
        file.seek(0)
        content = file.read()
    return not _has_end_of_image(content) if end == _JPEG_END else end not in content


def _has_end_of_image(content: bytes) -> bool:
    """Whether a JPEG's own end mark is there, not that of a preview inside its header."""
    at = len(_JPEG_START)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0xDA:  # the pixels begin, among which no mark can occur by chance
            return _JPEG_END in content[at:]
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return False


def impostor(path: str) -> str:
    """What a file that is no picture is instead, as the end of a sentence; '' where unknown."""
    with open(path, 'rb') as file:
        start = file.read(32).lstrip()
    return next((f' ({what})' for mark, what in _IMPOSTORS.items() if start.startswith(mark)), '')


def depth_finding(path: str) -> Finding | None:
    """Whether a mask holds what 8 bits cannot: mmseg casts masks to 8 bits without a look."""
    try:
        with Image.open(path) as image:
            if image.mode not in ('I', 'F') and not image.mode.startswith('I;'):
                return None
            values = np.asarray(image)
    except OSError:  # not Pillow's: the loading transform knows better
        return None
    if values.min() >= 0 and values.max() <= 255 and (values == values.astype(np.uint8)).all():
        return None
    return Finding(
        'depth',
        'mask',
        path,
        f'holds values from {values.min():g} to {values.max():g}; expected whole ones of 8 bits, '
        '0 to 255',
    )


# Of 8 bits, what an image of 16 uses where its own values stay below a quarter of their range.
_DARK = 64


def squeezed_finding(path: str, image_HWC: npt.NDArray[Any]) -> Finding | None:
    """Whether a decoder left next to nothing of an image of 16 bits: it takes the 8 upper ones.

    Cameras with 10 to 14 bits a channel leave those empty.

    Args:
        path: The file.
        image_HWC: What came of it.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.max(initial=0) >= _DARK:
        return None
    whole = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if whole is None or whole.dtype != np.uint16 or whole.max() <= image_HWC.max():
        return None
    return Finding(
        'squeezed',
        'image',
        path,
        f'has 16 bits a channel with values of {whole.min()} to {whole.max()}, and reading it as '
        f'8 bits leaves {image_HWC.min()} to {image_HWC.max()}',
    )


def picture_findings(path: str) -> list[Finding]:
    """Warnings about an image that is read, but perhaps not as it is meant.

    They say what happens with mmcv's `color_type='color'`.
    """

    def warning(kind: str, detail: str) -> Finding:
        return Finding(kind, 'image', path, detail)

    try:
        with Image.open(path) as image:
            mode = image.mode
            raw = ' '.join(str(tile[3]) for tile in image.tile)
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's are many, and what is read has been read by another decoder
        return []
    found = []
    if mode == 'CMYK':
        found.append(warning('cmyk', 'is CMYK'))
    if mode in ('1', 'L', 'LA', 'I', 'F') or mode.startswith('I;'):
        found.append(warning('grey', f'is grey (mode {mode})'))
    if mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa'):
        found.append(warning('alpha', f'has an alpha channel (mode {mode})'))
    # Pillow itself has no colour of 16 bits, but says how it is stored.
    if mode.startswith('I') or ';16' in raw:
        found.append(warning('deep', 'has 16 bits a channel'))
    if orientation != 1:
        found.append(warning('turned', f'has the EXIF orientation {orientation}'))
    return found


def damage_finding(role: str, path: str) -> Finding | None:
    """Whether a PNG's checksums are wrong, which decoders do not all look at."""
    try:
        with Image.open(path) as image:
            if image.format != 'PNG':
                return None
            image.verify()
    except (OSError, SyntaxError) as error:
        return Finding('damaged', role, path, f'is damaged: {error}')
    return None

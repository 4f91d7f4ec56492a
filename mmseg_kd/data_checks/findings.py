"""What can be wrong with the files of a data set: the kinds, what each means, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

# The end of an error at one bad file.
SEE_ALL = 'To see all bad files: mmseg-kd check-data CONFIG.'

# The parts of a config's data, in the order in which they are checked.
SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Kind:
    """One way in which a file can be wrong.

    Args:
        title: A heading for files of this kind.
        mend: What to do about it, as a sentence or two.
        effect: What it means for a training; '': training stops there, or skips the sample.
        error: Whether training stops at it or learns something false; else it is a warning.
    """

    title: str
    mend: str
    effect: str = ''
    error: bool = True


_ANEW = 'Fetch the file anew, or take the sample out.'

KINDS = {
    'missing': Kind('missing files', 'Put the file there, or take the sample out of the data.'),
    'empty': Kind('empty files', _ANEW),
    'unreadable': Kind('unreadable files', _ANEW),
    'truncated': Kind('truncated files', _ANEW),
    'damaged': Kind(
        'damaged files',
        _ANEW,
        'the decoder lets them pass, and training does not notice; only this check does',
    ),
    'reader': Kind(
        'files whose reader is missing',
        'Install it, or set imdecode_backend or backend_args of the loading transform to another.',
    ),
    'channels': Kind(
        'images of another number of channels',
        'Set color_type of LoadImageFromFile, or the mean and std of the data_preprocessor.',
    ),
    'size': Kind('masks of another size than their image', 'Make the mask anew at that size.'),
    'values': Kind(
        'mask values that are no class',
        'Check the masks, reduce_zero_label, and ignore_index of the data set.',
    ),
    'ignored': Kind(
        'mask values that a head neither knows nor ignores',
        'Set one value in the masks, as ignore_index of the data set and as ignore_index of all '
        'heads (255 in most), or reduce_zero_label of the data set.',
    ),
    'single': Kind(
        'a single class, and for the rest pixels that are ignored',
        'If what is ignored is the object, give it a number of its own in the masks '
        '(mask[mask == 255] = 1); if it is the background, see reduce_zero_label.',
    ),
    'squeezed': Kind(
        'images of 16 bits that 8 bits make nearly black',
        "Scale them to 0 to 255 in files of 8 bits; or set color_type='unchanged' and "
        'to_float32=True of LoadImageFromFile, with the mean and std of the data_preprocessor on '
        'their scale.',
        'next to nothing of them is seen; a training where all are so is refused',
        error=False,
    ),
    'colours': Kind(
        'masks with colours instead of class indices',
        'Convert them to one channel of 8 bits, or to a palette PNG.',
    ),
    'lossy': Kind('masks as JPEG, which changes values', 'Make them anew as PNG.'),
    'depth': Kind(
        'masks with values that 8 bits do not hold',
        'Convert them to 8 bits, with 255 for what is ignored.',
    ),
    'blank': Kind(
        'masks without a labelled pixel',
        'Take them out where they are many.',
        'these samples teach nothing, but for what a teacher says of them',
        error=False,
    ),
    'absent': Kind(
        'classes without a pixel',
        'Check the masks and the list of classes.',
        'they cannot be learnt, or not be measured',
        error=False,
    ),
    'shared': Kind(
        'the same image in train and in another split',
        'Take it out of one of them.',
        'what is measured there is too good',
        error=False,
    ),
    'grey': Kind(
        'grey images',
        'Nothing to do, unless colour was expected.',
        'read as colour, with three equal channels',
        error=False,
    ),
    'cmyk': Kind(
        'CMYK images',
        'Convert them to RGB where hues matter.',
        'converted to RGB without their ICC profile, so that hues are a little off',
        error=False,
    ),
    'alpha': Kind(
        'images with transparency',
        'Flatten them where that matters.',
        'read without it: what was transparent is seen',
        error=False,
    ),
    'deep': Kind(
        'images of 16 bits a channel',
        'Convert dark ones to 8 bits, and grey ones that pillow reads.',
        'read as colour, their 8 upper bits; the backend pillow cuts grey ones at 255',
        error=False,
    ),
    'turned': Kind(
        'images with an EXIF orientation',
        'Look whether image and mask agree; '
        "color_type='color_ignore_orientation' leaves images as stored.",
        'turned or mirrored when they are read, and masks are not',
        error=False,
    ),
    'unpaired': Kind(
        'masks without an image',
        'Look for the image, or for another suffix.',
        'never used',
        error=False,
    ),
    'unused': Kind(
        'images with another suffix',
        'Rename them, or set img_suffix.',
        'never used',
        error=False,
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with one file.

    Args:
        kind: A key of `KINDS`.
        role: What the file is: 'image', 'mask' or 'class'.
        name: Its path; of a class, its name.
        detail: What was found and what expected; it completes the sentence 'image NAME ...'.
    """

    kind: str
    role: str
    name: str
    detail: str

    @property
    def error(self) -> bool:
        return KINDS[self.kind].error

    def __str__(self) -> str:
        return f'{self.role} {self.name} {self.detail}. {KINDS[self.kind].mend}'

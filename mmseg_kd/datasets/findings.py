"""What can be wrong with the files of a data set: the kinds, what each means, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

# The end of an error at one bad file.
SEE_ALL = 'To see all bad files: python tools/check_dataset.py CONFIG.'


@dataclass(frozen=True)
class Kind:
    """One way in which a file can be wrong.

    Args:
        title: A heading for files of this kind.
        effect: What it means for a training.
        mend: What to do about it, as a sentence or two.
        error: Whether training stops at it or learns something false; else it is a warning.
    """

    title: str
    effect: str
    mend: str
    error: bool = True


_ABSENT = 'training stops there, or passes over the sample (BadDataHook)'

KINDS = {
    'missing': Kind(
        'missing files', _ABSENT, 'Put the file there, or take the sample out of the data.'
    ),
    'empty': Kind('empty files', _ABSENT, 'Fetch the file anew, or take the sample out.'),
    'unreadable': Kind('unreadable files', _ABSENT, 'Fetch the file anew, or take the sample out.'),
    'truncated': Kind('truncated files', _ABSENT, 'Fetch the file anew, or take the sample out.'),
    'damaged': Kind(
        'damaged files',
        'the decoder lets them pass: training learns from what is left and does not notice',
        'Fetch the file anew.',
    ),
    'channels': Kind(
        'images of another number of channels',
        _ABSENT,
        'Set color_type of LoadImageFromFile, or the mean and std of the data_preprocessor.',
    ),
    'size': Kind(
        'masks of another size than their image', _ABSENT, 'Make the mask anew at that size.'
    ),
    'values': Kind(
        'mask values that are no class', _ABSENT, 'Check the masks, and reduce_zero_label.'
    ),
    'colours': Kind(
        'masks with colours instead of class indices',
        _ABSENT,
        'Convert them to one channel of 8 bits, or to a palette PNG.',
    ),
    'depth': Kind(
        'masks with values above 255',
        _ABSENT + '; mmseg alone would take them modulo 256',
        'Convert them to 8 bits, with 255 for what is ignored.',
    ),
    'blank': Kind(
        'masks without a labelled pixel',
        'nothing is learnt from these samples but what the teacher says',
        'Take them out where they are many.',
        error=False,
    ),
    'absent': Kind(
        'classes without a pixel',
        'they cannot be learnt, or not be measured',
        'Check the masks and the list of classes.',
        error=False,
    ),
    'shared': Kind(
        'the same image in train and in another split',
        'what is measured there is too good',
        'Take it out of one of them.',
        error=False,
    ),
    'grey': Kind(
        'grey images',
        'read as colour, with three equal channels',
        'Nothing to do, unless colour was expected.',
        error=False,
    ),
    'cmyk': Kind(
        'CMYK images',
        'converted to colour without their ICC profile: hues are off',
        'Convert them to RGB where hues matter.',
        error=False,
    ),
    'alpha': Kind(
        'images with transparency',
        'read as colour; the fourth channel is dropped, what was hidden is seen',
        'Flatten them where that matters.',
        error=False,
    ),
    'deep': Kind(
        'images of 16 bits a channel',
        'read as colour, their 8 upper bits; with the backend pillow grey ones are cut at 255',
        'Convert them to 8 bits where they are dark, or grey and read by pillow.',
        error=False,
    ),
    'turned': Kind(
        'images with an EXIF orientation',
        'turned or mirrored when they are read, and masks are not',
        'Look whether image and mask agree; '
        "color_type='color_ignore_orientation' leaves images as stored.",
        error=False,
    ),
    'unpaired': Kind(
        'masks without an image',
        'never used',
        'Look for the image, or for another suffix.',
        error=False,
    ),
    'unused': Kind(
        'images that the data set does not list',
        'never used: they do not end with img_suffix',
        'Rename them, or set img_suffix.',
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

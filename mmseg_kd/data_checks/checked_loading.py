"""Loading that stops at a bad file, or skips so many and says which."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmseg_kd.data_checks.findings import SEE_ALL, Finding
from mmseg_kd.data_checks.heads import Head
from mmseg_kd.data_checks.loading import Expected, leaves, read, role_of
from mmseg_kd.errors import DatasetError

# Bad samples while one batch is made, after which there is no hope: mmengine's data sets give up
# after as many for one sample, with no word about the files.
HOPELESS = 1000


class Skips:
    """The bad samples that a process skips while it makes a batch.

    How many are too many is decided where the batches of all processes come together.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.draws = 0

    def add(self, finding: Finding) -> None:
        """Note a bad file.

        Raises:
            DatasetError: There is nothing but bad files.
        """
        self.found[finding.name] = str(finding)
        self.draws += 1
        if self.draws == HOPELESS:
            raise DatasetError(
                f'train data: {HOPELESS} samples drawn for one batch were bad, the last: {finding} '
                f'{SEE_ALL}'
            )

    def take(self) -> dict[str, str]:
        """What was noted since the last call: a message for each file."""
        found = self.found
        self.found, self.draws = {}, 0
        return found


class CheckedLoading:
    """A loading transform that stops at a bad file, or skips the sample.

    To skip it, it returns None, upon which mmengine's data sets draw another sample with
    numpy's generator.

    Args:
        transform: One of `loading_transforms`.
        expected: What the network takes.
        split: 'train', 'val' or 'test', for messages.
        skips: Where bad samples are noted that are let pass; None: none is.
    """

    def __init__(
        self, transform: Any, expected: Expected, split: str, skips: Skips | None = None
    ) -> None:
        self.transform = transform
        self.expected = expected
        self.split = split
        self.skips = skips

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | None:
        loaded, findings = read(self.transform, data, self.expected)
        if not findings:
            return loaded
        if self.skips is None:
            raise DatasetError(f'{self.split} data: {findings[0]} {SEE_ALL}')
        self.skips.add(findings[0])
        return None

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transform})'


def check_loading(
    dataset: Any,
    split: str,
    num_classes: int | None,
    channels: int | None,
    skips: Skips | None = None,
    heads: tuple[Head, ...] = (),
) -> None:
    """Put `CheckedLoading` in the place of a data set's loading transforms, once.

    `LoadImageFromFile(ignore_empty=True)` is left alone: the config wants bad images to pass.

    Args:
        dataset: A data set, or a wrapper around some.
        split, skips: See `CheckedLoading`.
        num_classes, channels, heads: See `Expected`.
    """
    for leaf in leaves(dataset):
        expected = Expected(num_classes, getattr(leaf, 'ignore_index', 255), channels, heads)
        pipeline = getattr(leaf, 'pipeline', None)
        for transforms in _lists(getattr(pipeline, 'transforms', [])):
            transforms[:] = [
                CheckedLoading(transform, expected, split, skips)
                if role_of(transform) and not getattr(transform, 'ignore_empty', False)
                else transform
                for transform in transforms
            ]


def _lists(transforms: list[Any]) -> Iterator[list[Any]]:
    """A pipeline's list of transforms, and those inside test-time augmentation."""
    yield transforms
    for transform in transforms:
        for inner in getattr(transform, 'subroutines', ()):
            yield from _lists(inner.transforms)


class ReportingCollate:
    """Makes a batch as before, and puts into it which bad samples were skipped.

    Args:
        collate: What makes a batch, a dict, of samples.
        skips: What the loading transforms note bad samples in.
    """

    KEY = 'skipped_samples'

    def __init__(self, collate: Any, skips: Skips) -> None:
        self.collate = collate
        self.skips = skips

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples)
        found = self.skips.take()
        if found:
            batch[self.KEY] = found
        return batch

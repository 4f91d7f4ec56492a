"""Images from a folder, without ground truth, as a data set's test pipeline makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import Compose

from mmseg_kd.data_checks.loading import Expected, read, role_of
from mmseg_kd.datasets.unlabelled import SUFFIXES, pictures_in
from mmseg_kd.errors import DatasetError


class ImageFiles:
    """Images in the order of their names, with the items of a data set of mmseg's.

    Args:
        source: A file, or a folder, of which and of whose folders the pictures are taken.
        pipeline: Of the data set that the networks know; what loads masks is left out.
        metainfo: Of that data set: classes and palette.

    Raises:
        DatasetError: There is no such file or folder, or no picture in it.
    """

    def __init__(
        self, source: str | Path, pipeline: Sequence[Any], metainfo: Mapping[str, Any]
    ) -> None:
        self.metainfo = metainfo
        source = Path(source)
        self.root = source.parent if source.is_file() else source
        if source.is_file():
            self.paths = [source]
        elif source.is_dir():
            self.paths = pictures_in(source)
            if not self.paths:
                raise DatasetError(
                    f'{source}: there are no pictures in it; expected names that end in '
                    f'{", ".join(SUFFIXES)}.'
                )
        else:
            raise DatasetError(f'{source}: there is no such file or folder.')
        transforms = Compose(list(pipeline)).transforms
        self._transforms = [one for one in transforms if role_of(one) != 'mask']

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict[str, Any]:
        """What the pipeline starts from."""
        return dict(img_path=str(self.paths[index]), reduce_zero_label=False, seg_fields=[])

    def __getitem__(self, index: int) -> Any:
        data: Any = self.get_data_info(index)
        for transform in self._transforms:
            if role_of(transform) == 'image':
                data, findings = read(transform, data, Expected(None, channels=3))
                if findings:
                    raise DatasetError(str(findings[0]))
            else:
                data = transform(data)
        return data

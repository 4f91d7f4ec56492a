"""Images and masks that a list pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_kd.datasets.class_list import read_class_list
from mmseg_kd.errors import DatasetError


@DATASETS.register_module()
class PairedDataset(BaseSegDataset):
    """Images and masks of any names, in lists as `mmseg-kd init` writes them.

    Masks hold class indices, and 255 for what is ignored.

    Args:
        ann_file: In each line the path of an image, a tab, and that of its mask, as seen from the
            folders of `data_prefix`.
        classes: A file with a class a line, as `NAME` or `R G B NAME`.
        **kwargs: Those of `BaseSegDataset`, such as `data_root`, `data_prefix` and `pipeline`.

    Raises:
        DatasetError: A file is missing, or a line is no pair.
    """

    def __init__(self, ann_file: str, classes: str, **kwargs: Any) -> None:
        found = read_class_list(classes)
        metainfo: dict[str, Any] = dict(classes=found.names)
        if found.colours is not None:
            metainfo['palette'] = [list(colour) for colour in found.colours]
        super().__init__(ann_file=ann_file, metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples in the order of the list."""
        try:
            lines = Path(self.ann_file).read_text(encoding='utf-8').splitlines()
        except OSError as error:
            raise DatasetError(f'{self.ann_file}: expected a list of pairs: {error}.') from error
        found = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            image, tab, mask = line.partition('\t')
            if not tab:
                raise DatasetError(
                    f'{self.ann_file}, line {number}: expected an image, a tab and a mask, got '
                    f'{line!r}.'
                )
            found.append(
                dict(
                    img_path=str(Path(self.data_prefix['img_path'], image)),
                    seg_map_path=str(Path(self.data_prefix['seg_map_path'], mask)),
                    label_map=self.label_map,
                    reduce_zero_label=self.reduce_zero_label,
                    seg_fields=[],
                )
            )
        return found

"""Values and colours of masks, and which class each is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmseg_kd.datasets.class_list import ClassList, class_list, read_class_list
from mmseg_kd.errors import DatasetError
from mmseg_kd.own_data.classes import name_classes, write_masks
from mmseg_kd.own_data.pairs import FindOptions, Pair, find_pairs
from mmseg_kd.own_data.survey import Survey, look_at


def survey_of(root: Path, mask: Any, mode: str | None = None, palette: Any = None) -> Survey:
    """What is found in a folder of five images that all have this mask."""
    picture = Image.fromarray(np.asarray(mask, np.uint8), mode)
    if palette is not None:
        picture.putpalette(palette)
    for kind in ('images', 'masks'):
        (root / kind).mkdir()
    for index in range(5):
        picture.save(root / f'masks/{index}.png')
        Image.new('RGB', picture.size).save(root / f'images/{index}.jpg')
    survey = Survey(find_pairs(root, FindOptions()))
    assert len(list(survey.run(0))) == 5
    return survey


def masks_of(survey: Survey, classes: Any, folder: Path) -> list[Any]:
    pairs = write_masks(survey.pairs, classes, folder)
    return np.asarray(Image.open(folder / pairs['train'][0].mask)).tolist()


def test_indices_are_left_as_they_are(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, [[0, 1, 255]])
    classes = name_classes(survey, ClassList(('a', 'b', 'c')))
    assert classes.as_they_are
    assert classes.found == ClassList(('a', 'b', 'c'))
    assert classes.counts(survey.pixels['train']) == {0: 4, 1: 4, 255: 4}


def test_palette_png_gives_the_colours(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, [[0, 1]], 'P', [1, 2, 3, 40, 50, 60])
    classes = name_classes(survey, ClassList(('a', 'b')))
    assert classes.as_they_are
    assert classes.found.colours == ((1, 2, 3), (40, 50, 60))


@pytest.mark.parametrize(
    ('mask', 'names', 'expected', 'kept'),
    [
        ([[0, 255]], ('a', 'b'), [[0, 1]], ('a', 'b')),  # 255 is a class where it is all but one
        ([[0, 100, 200, 255]], ('a', 'b', 'c'), [[0, 1, 2, 255]], ('a', 'b', 'c')),
        ([[0, 1, 2]], ('void', 'a', 'b'), [[255, 0, 1]], ('a', 'b')),
    ],
)
def test_other_values_are_numbered(
    tmp_path: Path, mask: Any, names: tuple[str, ...], expected: Any, kept: tuple[str, ...]
) -> None:
    survey = survey_of(tmp_path, mask)
    classes = name_classes(survey, ClassList(names))
    assert not classes.as_they_are
    assert classes.found.names == kept
    assert masks_of(survey, classes, tmp_path / 'new') == expected


def test_colours(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, [[[255, 0, 0], [0, 0, 9], [1, 1, 1]]])
    with pytest.raises(DatasetError, match=r'masks are in colours, 0 0 9 \(33.3%\).*R G B NAME'):
        name_classes(survey, ClassList(('a', 'b')))
    given = class_list(['0 0 9 sky', 'road,255,0,0'], 'here')
    with pytest.raises(DatasetError, match=r'no class: 1 1 1 \(33.3%\)'):
        name_classes(survey, given)
    classes = name_classes(survey, class_list(['0 0 9 sky', '255 0 0 road', '1 1 1 void'], 'here'))
    assert classes.found == ClassList(('sky', 'road'), ((0, 0, 9), (255, 0, 0)))
    assert masks_of(survey, classes, tmp_path / 'new') == [[1, 0, 255]]


def test_more_values_than_names(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, [[0, 1, 2]])
    with pytest.raises(DatasetError, match=r'3 values, 0 \(33.3%\), .* and there are 2 names'):
        name_classes(survey, ClassList(('a', 'b')))


def test_bad_files_are_found_and_left_out(tmp_path: Path) -> None:
    survey_of(tmp_path, [[0, 1]])
    (tmp_path / 'masks/0.png').write_bytes(b'')
    Image.new('L', (3, 3)).save(tmp_path / 'masks/1.png')
    (tmp_path / 'images/2.jpg').write_bytes(b'no picture')
    survey = Survey(find_pairs(tmp_path, FindOptions(val_share=0.4, seed=5)))
    list(survey.run(0))
    assert sorted(finding.kind for finding in survey.findings) == ['empty', 'size', 'unreadable']
    assert sum(map(len, survey.pairs.splits.values())) == 2
    for index in range(5):
        (tmp_path / f'masks/{index}.png').write_bytes(b'')
    with pytest.raises(DatasetError, match='no pair of train and val is sound'):
        list(Survey(find_pairs(tmp_path, FindOptions())).run(0))


def test_a_picture_that_was_taken_upright(tmp_path: Path) -> None:
    survey_of(tmp_path, [[0, 1]])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    # The file is 6 wide and 4 high; it is seen, and trained on, 4 wide and 6 high.
    Image.new('RGB', (6, 4)).save(tmp_path / 'images/0.jpg', exif=exif)
    for size, kinds in (((4, 6), []), ((6, 4), ['size'])):
        Image.new('L', size).save(tmp_path / 'masks/0.png')
        look = look_at(tmp_path, Pair('images/0.jpg', 'masks/0.png'))
        assert look.size == (6, 4)
        assert [finding.kind for finding in look.findings] == kinds


def test_colours_and_indices_together(tmp_path: Path) -> None:
    survey_of(tmp_path, [[0, 1]])
    Image.new('RGB', (2, 1)).save(tmp_path / 'masks/3.png')
    with pytest.raises(DatasetError, match='1 masks hold colours and 4 indices'):
        list(Survey(find_pairs(tmp_path, FindOptions())).run(0))


def test_a_class_whose_name_is_a_number() -> None:
    found = class_list(['255 0 0 7', '8 0 0 255'], 'classes.txt')
    assert found == ClassList(('7', '255'), ((255, 0, 0), (8, 0, 0)))


def test_class_files(tmp_path: Path) -> None:
    file = tmp_path / 'classes.txt'
    file.write_text('# ours\nname, r, g, b\nroad,1,2,3\n4 5 6\tcar park\n')
    found = read_class_list(file)
    assert found == ClassList(('road', 'car park'), ((1, 2, 3), (4, 5, 6)))
    file.write_text(str(found))
    assert read_class_list(file) == found
    for text, why in {
        '': 'a class a line, got none',
        'a\na\n': "two classes have the name 'a'",
        'a\n1 2 3 b\n': 'a colour for each of 2',
        '1 2 300 a\n': 'colours of 0 to 255',
    }.items():
        file.write_text(text)
        with pytest.raises(DatasetError, match=why):
            read_class_list(file)
    with pytest.raises(DatasetError, match=r'no\.txt'):
        read_class_list(tmp_path / 'no.txt')

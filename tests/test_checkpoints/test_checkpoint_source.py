"""Files and URLs: checksums, downloads, what is refused. The server here speaks no TLS."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import HTTPSHandler

import pytest
from mmengine.runner import get_external_models, get_mmcls_models, get_torchvision_models

from mmseg_kd.checkpoints import aliases, source
from mmseg_kd.checkpoints.aliases import resolve_alias
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.errors import CheckpointError

CONTENT = b'weights' * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()
WRONG = '0' * 64


class Server:
    """Answers what stands in `files`: a body, or where it has moved to.

    `asked` has the paths that were asked for; bodies of `torn` end too early.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes | str] = {}
        self.torn: set[str] = set()
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                found = server.files.get(self.path)
                if found is None:
                    self.send_error(404)
                elif isinstance(found, str):
                    self.send_response(302)
                    self.send_header('Location', found)
                    self.end_headers()
                else:
                    self.send_response(200)
                    self.send_header('Content-Length', str(len(found)))
                    self.end_headers()
                    self.wfile.write(found[: len(found) // (2 if self.path in server.torn else 1)])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.place = f'127.0.0.1:{self.http.server_port}'

    def serve(self, path: str, content: bytes | str = CONTENT) -> str:
        """Put a file there; returns its URL."""
        self.files[path] = content
        return f'https://{self.place}{path}'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    server = Server()
    # https to this server is http underneath.
    monkeypatch.setattr(
        HTTPSHandler, 'https_open', lambda self, request: self.do_open(HTTPConnection, request)
    )
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[str]:
    """What the cache holds, without the locks."""
    folder = tmp_path / 'torch' / 'hub' / 'checkpoints'
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock')


def refused(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        local_file(name)
    return str(caught.value)


# URLs


@pytest.mark.parametrize('digits', [8, 20, 64])
def test_checksum_in_the_name(digits: int, server: Server, tmp_path: Path) -> None:
    name = f'segformer_mit-b0_20210726-{SUM[:digits]}.pth'
    url = server.serve(f'/v0.5/{name}')
    assert local_file(url).read_bytes() == CONTENT
    assert cached(tmp_path) == [name]
    assert local_file(url).read_bytes() == CONTENT
    assert server.asked == [f'/v0.5/{name}']


def test_checksum_behind_the_url(server: Server, tmp_path: Path) -> None:
    """Files that share their names, as on Hugging Face's hub, stay apart in the cache."""
    contents = [b'one', b'two']
    for content in contents:
        digits = hashlib.sha256(content).hexdigest()
        url = server.serve(f'/{content.decode()}/model.safetensors', content)
        for written in (digits, digits.upper()):
            path = local_file(f'{url}#sha256={written}')
            assert path.read_bytes() == content
        assert path.name == f'model-{digits[:8]}.safetensors'
    assert len(server.asked) == 2
    assert len(cached(tmp_path)) == 2


def test_no_checksum(server: Server) -> None:
    for name in ('model.pth', 'model-123.pth', 'mit-b0_20210726.pth', 'model-deadbeef/a.pth'):
        message = refused(server.serve(f'/{name}'))
        assert 'expected a checksum' in message
        assert '#sha256=' in message
    assert server.asked == []


@pytest.mark.parametrize('given', [False, True])
def test_wrong_checksum(given: bool, server: Server, tmp_path: Path) -> None:
    url = server.serve('/a.pth' if given else f'/a-{WRONG[:8]}.pth')
    message = refused(f'{url}#sha256={WRONG}' if given else url)
    assert f'begins with {WRONG if given else WRONG[:8]}, got {SUM}' in message
    assert cached(tmp_path) == []
    # What the message tells to write.
    assert f'write {url}#sha256={SUM}.' in message
    assert local_file(f'{url}#sha256={SUM}').read_bytes() == CONTENT


def test_names_of_mmsegs_zoo_are_no_checksums(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(source, 'print_log', lambda line, **_: lines.append(line))
    monkeypatch.setattr(source, '_MMSEG_ZOO', re.compile(f'https://{server.place}/mmsegmentation/'))
    url = server.serve('/mmsegmentation/a-00000000.pth')
    assert local_file(url).read_bytes() == CONTENT
    assert lines[-1] == f'To keep to this file, write {url}#sha256={SUM}'
    assert local_file(f'{url}#sha256={SUM}').read_bytes() == CONTENT
    with pytest.raises(CheckpointError, match='whose sha256 begins with 0000'):
        local_file(f'{url}#sha256={WRONG}')


@pytest.mark.parametrize('host', ['download.openmmlab.com', 'mmassets.onedl.ai'])
def test_where_mmsegs_zoo_is(host: str) -> None:
    assert source._MMSEG_ZOO.match(f'https://{host}/mmsegmentation/v0.5/a.pth')
    assert not source._MMSEG_ZOO.match(f'https://{host}/pretrain/third_party/a.pth')
    assert not source._MMSEG_ZOO.match(f'https://example.org/https://{host}/mmsegmentation/a.pth')


def test_file_that_changed_in_the_cache(server: Server, tmp_path: Path) -> None:
    url = server.serve(f'/a-{SUM[:8]}.pth')
    path = local_file(url)
    path.write_bytes(CONTENT[:-1])
    assert f'Delete {path} to download it again' in refused(url)
    path.unlink()
    assert local_file(url).read_bytes() == CONTENT


def test_torn_download(server: Server, tmp_path: Path) -> None:
    name = f'a-{SUM[:8]}.pth'
    url = server.serve(f'/{name}')
    server.torn.add(f'/{name}')
    assert f'is torn, {len(CONTENT) // 2} of {len(CONTENT)} bytes came' in refused(url)
    assert cached(tmp_path) == []
    server.torn.clear()
    assert local_file(url).read_bytes() == CONTENT


def test_download_that_fails(server: Server) -> None:
    message = refused(f'https://{server.place}/a-{SUM[:8]}.pth')
    assert 'could not be downloaded (HTTP Error 404: Not Found). Download it by hand' in message
    server.http.shutdown()
    server.http.server_close()
    assert 'could not be downloaded ([Errno' in refused(f'https://{server.place}/a-{SUM[:8]}.pth')


def test_cache_that_cannot_be_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file stands where its folder should be; its file system knows no locks."""
    url = server.serve(f'/a-{SUM[:8]}.pth')

    def no_locks(path: Path) -> None:
        raise NotImplementedError('no flock')

    with monkeypatch.context() as patch:
        patch.setattr(source, 'FileLock', no_locks)
        assert 'could not be downloaded (no flock)' in refused(url)
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    assert 'could not be downloaded ([Errno' in refused(url)


def test_redirections(server: Server) -> None:
    """Followed with https alone, as from a release of GitHub to its store."""
    name = f'a-{SUM[:8]}.pth'
    stored = server.serve(f'/stored/{name}')
    plain = server.serve(f'/plain/{name}', stored.replace('https:', 'http:'))
    assert 'expected https on the whole way' in refused(plain)
    assert server.asked == [f'/plain/{name}']
    assert local_file(server.serve(f'/moved/{name}', stored)).read_bytes() == CONTENT


def test_ranks_that_come_together_download_once(server: Server) -> None:
    url = server.serve(f'/a-{SUM[:8]}.pth')
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(local_file, [url] * 8))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.asked) == 1


@pytest.mark.parametrize('scheme', ['http', 's3', 'petrel', 'pavi', 'ftp', 'file', 'name:s3'])
def test_other_schemes(scheme: str, server: Server) -> None:
    name = f'a-{SUM[:8]}.pth'
    server.serve(f'/{name}')
    assert 'expected a file or an https URL' in refused(f'{scheme}://{server.place}/{name}')
    assert server.asked == []


# Files


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / f'a #1-{WRONG[:8]}.pth'
    path.write_bytes(CONTENT)
    # The digits in a file's own name may be those of something else, as mmengine's hook gives.
    assert local_file(str(path)) == path
    assert local_file(f'~/{path.name}') == path
    assert local_file(f'{path}#sha256={SUM}') == path
    assert f'begins with {WRONG}, got {SUM}' in refused(f'{path}#sha256={WRONG}')
    assert 'there is no such checkpoint file' in refused(str(tmp_path / 'absent.pth'))
    assert 'there is no such checkpoint file' in refused(str(tmp_path))


@pytest.mark.parametrize('digits', ['', SUM[:8], SUM[:-1] + 'g', SUM + '0'])
def test_checksum_that_is_none(digits: str) -> None:
    for name in ('a.pth', 'https://example.org/a.pth'):
        assert 'expected 64 hexadecimal digits' in refused(f'{name}#sha256={digits}')


# Short names


def test_short_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    own = tmp_path / 'own' / 'a.pth'
    own.parent.mkdir()
    own.write_bytes(CONTENT)
    listed = {'own': 'own/a.pth', 'plain': f'http://example.org/a-{SUM[:8]}.pth'}
    (tmp_path / 'open_mmlab.json').write_text(json.dumps(listed))
    assert local_file('open-mmlab://own') == own
    assert 'expected a file or an https URL' in refused('openmmlab://plain')
    assert resolve_alias('open-mmlab://resnet50_v1c').startswith('https://')
    # A name that mmengine has given up for another.
    assert resolve_alias('open-mmlab://resnet50_caffe') == resolve_alias(
        'open-mmlab://detectron/resnet50_caffe'
    )
    for name in ('modelzoo://resnet18', 'torchvision://resnet18', 'mmcls://mobilenet_v2'):
        assert resolve_alias(name).startswith('https://')
    assert "there is no 'resnet5'; nearest: resnet50" in refused('torchvision://resnet5')
    monkeypatch.setitem(aliases._MODELS, 'torchvision', lambda: {'bare': None})
    assert "there is no 'bare'" in refused('torchvision://bare')
    for name in ('weights/torchvision', 'https://torchvision/a.pth', 'torchvision://'):
        assert resolve_alias(name) == name


def test_published_weights_have_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but three of mmengine's short names, which are of networks for other tasks."""

    def stop(url: str, *_: object) -> None:
        raise CheckpointError(f'{url}: has one')

    monkeypatch.setattr(source, '_download', stop)
    urls = {**get_external_models(), **get_mmcls_models(), **get_torchvision_models()}
    without = [name for name, url in urls.items() if url and 'has one' not in refused(url)]
    assert len(urls) > 150
    assert sorted(without) == ['mmedit/mobilenet_v2', 'mmedit/res34_en_nomixup', 'mmedit/vgg16']

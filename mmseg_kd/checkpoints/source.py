"""From what a config calls a checkpoint to a file on this machine that is the one meant."""

from __future__ import annotations

import re
import shutil
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import unquote, urlparse
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from filelock import FileLock
from mmengine.logging import print_log

from mmseg_kd.checkpoints.aliases import resolve_alias
from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.shipped import SHIPPED, shipped_root
from mmseg_kd.errors import CheckpointError

_GIVEN_SUM = '#sha256='

# The convention of torch's hub and of mmseg's zoo: NAME-962b98d2.pth
_SUM_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.[\w.]+$')

# mmseg publishes a file under the sum of the one that it was made from, before the optimiser was
# taken out: these names say nothing of what they name.
_MMSEG_ZOO = re.compile(r'https://(download\.openmmlab\.com|mmassets\.onedl\.ai)/mmsegmentation/')

# A server that says nothing for so long is given up.
_TIMEOUT_S = 60

_BLOCK = 1 << 20


def local_file(source: str) -> Path:
    """The file that `source` names.

    Args:
        source: A path, an https URL, `mmseg_kd::` and the path of a file that is shipped beside the
            configs, or a short name as in `resolve_alias`. `#sha256=` and 64 digits behind it are
            its checksum. A URL has one there or in its name, and is downloaded once, into torch's
            hub cache; whole or not at all. mmseg's zoo names its files by the sums of others: of
            those, the digits in the name are not compared.

    Raises:
        CheckpointError: There is no such file, it cannot be downloaded, it has no checksum or
            another one, or the URL is not https.
    """
    name, given, digits = source.partition(_GIVEN_SUM)
    if given and not re.fullmatch('[0-9a-fA-F]{64}', digits):
        raise CheckpointError(f'{source}: expected 64 hexadecimal digits behind {_GIVEN_SUM}.')
    checksum = digits.lower()
    name = resolve_alias(name)
    if name.startswith('https://'):
        return _downloaded(name, checksum)
    if '://' in name:
        raise CheckpointError(
            f'{source}: expected a file or an https URL; what comes another way can be changed on '
            'it. Download it by hand and give the path of the file.'
        )
    is_shipped = name.startswith(SHIPPED)
    path = shipped_root() / name.removeprefix(SHIPPED) if is_shipped else Path(name).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f'{source}: there is no such checkpoint file, seen from {Path.cwd()}; one that a '
            'training writes, such as that of a teacher, is there when it has come to its end.'
        )
    if checksum:
        _check(path, checksum, name)
    return path


def _downloaded(url: str, checksum: str) -> Path:
    """The file of an https URL, in torch's hub cache under a name with a checksum."""
    name = Path(unquote(urlparse(url).path)).name
    in_name = _SUM_IN_NAME.search(name)
    if in_name is None and not checksum:
        raise CheckpointError(
            f'{url}: expected a checksum, in its name (NAME-962b98d2.pth) or behind the URL: '
            f'{_GIVEN_SUM} and the 64 digits that sha256sum prints for the right file. Or download '
            'it by hand and give the path of the file.'
        )
    if in_name is None:
        # Other files may have the same name, such as model.safetensors.
        name = f'{Path(name).stem}-{checksum[:8]}{Path(name).suffix}'
    expected = checksum
    if in_name and not checksum and not _MMSEG_ZOO.match(url):
        expected = in_name[1]
    cached = Path(torch.hub.get_dir(), 'checkpoints', name)
    if not cached.exists():
        _download(url, expected, cached)
    _check(cached, expected, url, f' Delete {cached} to download it again.')
    return cached


def _download(url: str, expected: str, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of the ranks that come here at the same time one downloads, and the others wait.
        with FileLock(target.with_name(f'.{target.name}.lock')):
            if target.exists():
                return
            print_log(f'Downloading {url} to {target}', logger='current')
            with TemporaryDirectory(dir=target.parent, prefix='.download-') as folder:
                partial = Path(folder, target.name)
                with _open(url) as response, partial.open('wb') as file:
                    shutil.copyfileobj(response, file, _BLOCK)
                    _check_size(url, file.tell(), response.headers.get('Content-Length'))
                _check(partial, expected, url)
                if not expected:
                    line = f'To keep to this file, write {url}{_GIVEN_SUM}{sha256_of(partial)}'
                    print_log(line, logger='current')
                partial.replace(target)
    except (OSError, HTTPException, NotImplementedError) as error:  # the last: no locks there
        reason = error.reason if type(error) is URLError else error
        raise CheckpointError(
            f'{url}: could not be downloaded ({reason}). Download it by hand and give the path of '
            'the file.'
        ) from error


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows redirections as long as they stay with https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if not newurl.startswith('https://'):
            raise CheckpointError(
                f'{req.full_url}: leads to {newurl}; expected https on the whole way.'
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> Any:
    request = Request(url, headers={'User-Agent': 'mmseg_kd'})
    return build_opener(_HttpsRedirects).open(request, timeout=_TIMEOUT_S)


def _check_size(url: str, found: int, promised: str | None) -> None:
    """See that a download did not break off."""
    if promised is not None and found != int(promised):
        raise CheckpointError(f'{url}: the download is torn, {found} of {promised} bytes came.')


def _check(path: Path, expected: str, source: str, advice: str = '') -> None:
    """See that the sha256 of a file begins with `expected`.

    Raises:
        CheckpointError: It does not.
    """
    if not expected:
        return
    found = sha256_of(path)
    if not found.startswith(expected):
        raise CheckpointError(
            f'{source}: expected a file whose sha256 begins with {expected}, got {found}: it is '
            f'torn or not the one that was meant.{advice} If its publisher vouches for that sum, '
            f'write {source}{_GIVEN_SUM}{found}.'
        )

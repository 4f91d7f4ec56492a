"""A config file: found, read with its bases, and changed by options.

The host reads the files. It does not say which of them an error is in, and bases that go in a
circle it follows until Python gives up, so these are looked at before.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_kd.checkpoints.shipped import SHIPPED
from mmseg_kd.config.packaged import ZOO, packaged_path
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr
from mmseg_kd.host.quiet import explain


def config_path(name: str) -> Path:
    """The file of a config: a path, `mmseg::...` or `mmseg_kd::...`.

    Raises:
        ConfigError: There is no such file; for those of a package the message has the nearest
            names.
    """
    path = packaged_path(name) or Path(name)
    if not path.is_file():
        raise ConfigError(f'there is no config file {name!r} (seen from {Path.cwd()}).')
    return path


def read_config_file(name: str) -> Config:
    """The config in a file with its bases, by the name that `config_path` takes.

    Raises:
        ConfigError: A file is missing or broken, its bases go in a circle, or its code fails.
            The message names the file, and the line where there is one.
    """
    path = config_path(name)
    files = set(_files_of(path))
    if os.getcwd() not in sys.path:
        # Where custom_imports of a user's own modules are looked for, last of all.
        sys.path.append(os.getcwd())
    try:
        return Config.fromfile(path)
    except (Exception, SystemExit) as error:  # a config is code: anything can be raised in it
        if isinstance(error, ImportError) and 'custom modules' in str(error):
            raise ConfigError(
                f'{path}: custom_imports: {error.__cause__}; modules are looked for from the '
                'folder that the command runs in, and on PYTHONPATH.'
            ) from error
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f'{f.filename}, line {f.lineno}' for f in frames if _real(f.filename) in files]
        raise ConfigError(f'{[str(path), *lines][-1]}: {explain(error)}') from error


def _real(name: str | Path) -> Path:
    return Path(name).expanduser().resolve()


def _files_of(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A config's file and, before it, those of its bases.

    Args:
        path: The file.
        above: The files that it is a base of, the outermost first.

    Raises:
        ConfigError: A file is missing, cannot be parsed, or is a base of itself.
    """
    chain = (*above, path)
    if _real(path) in map(_real, above):
        circle = ' -> '.join(map(str, chain))
        raise ConfigError(f'_base_ goes in a circle: {circle}. Take it out of one of them.')
    for base in _bases_of(path):
        # What the host fills in, and other packages' configs, are its own business.
        if '{{' in base or ('::' in base and not base.startswith((ZOO, SHIPPED))):
            continue
        if '::' in base:
            try:
                file = config_path(base)
            except ConfigError as error:
                raise ConfigError(f'{path}: _base_: {error}') from error
            if base.startswith(SHIPPED):
                yield from _files_of(file, chain)
            continue
        file = path.parent / base
        if not file.is_file():
            siblings = [p.name for p in file.parent.glob(f'*{file.suffix}')]
            raise ConfigError(
                f'{path}: _base_: there is no file {base!r}, seen from the folder of this config; '
                f'{nearest(file.name, siblings)}.'
            )
        yield from _files_of(file, chain)
    yield _real(path)


def _bases_of(path: Path) -> list[str]:
    """What a config in Python has as `_base_`; nothing where that is computed."""
    if path.suffix != '.py':
        return []
    try:
        text = path.read_text(encoding='utf-8')
        statements = ast.parse(text).body
    except SyntaxError as error:
        line = (error.text or '').strip()
        raise ConfigError(
            f'{path}, line {error.lineno}: SyntaxError: {error.msg}: {line}'
        ) from error
    except ValueError as error:  # bytes that are no text
        raise ConfigError(f'{path}: expected Python code: {error}.') from error
    for one in statements:
        if not (isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)):
            continue
        if one.targets[0].id != '_base_':
            continue
        try:
            value = ast.literal_eval(one.value)
        except ValueError:
            return []
        bases = [value] if isinstance(value, str) else value
        if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
            raise ConfigError(f'{path}: _base_: expected a path or a list of paths, got {value!r}.')
        return bases
    return []


def apply_options(config: Config, options: Any, where: str) -> None:
    """Change entries of a config by their dotted names, as `--cfg-options` does.

    Args:
        config: Is changed.
        options: Values by name, such as 'model.backbone.depth' or, in a list,
            'model.distillation.0.weight'. A name that ends in something new adds it.
        where: What messages call the options.

    Raises:
        ConfigError: A name leads past the end of a list or into a value without entries;
            `ManyErrors` where that is more than one.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f'{where}: expected a dict by dotted names, got {short_repr(options)}.')
    problems = Problems()
    for name in options:
        with problems:
            _check_place(dict(config.items()), name, where)
    problems.raise_if_any()
    try:
        config.merge_from_dict(dict(options))
    except Exception as error:  # the host's words for what two options contradict each other in
        raise ConfigError(f'{where}: {explain(error)}') from error


def _check_place(node: Any, name: Any, where: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f'{where}: expected words for names, got {name!r}.')
    parts = name.split('.')
    for index, part in enumerate(parts):
        place = '.'.join(parts[:index])
        if isinstance(node, Mapping):
            if part not in node:
                return
            node = node[part]
        elif isinstance(node, list):
            if not (part.isdecimal() and int(part) < len(node)):
                raise ConfigError(
                    f'{where}: {name}: {place!r} is a list of {len(node)}; expected a number '
                    f'from 0 to {len(node) - 1} after it, got {part!r}.'
                )
            node = node[int(part)]
        else:
            raise ConfigError(
                f'{where}: {name}: {place!r} is {short_repr(node)} and has no entries.'
            )

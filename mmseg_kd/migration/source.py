"""The old config: its values, and where in its files each key stands."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_kd.errors import ConfigError
from mmseg_kd.host.quiet import explain

# The keys and indices that lead to a value, from the top of the config.
KeyPath = tuple[str | int, ...]

# Functions that read variables whose names do not stand in the file.
_READS_BY_NAME = {'eval', 'exec', 'globals', 'locals', 'vars'}


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f'{self.file}:{self.line}'


class OldConfig:
    """A config of the mmcv 1.x world, read without importing what it names.

    Args:
        path: The file. Its `_base_` files are read too.

    Raises:
        ConfigError: It is missing or is not Python that can be read.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != '.py' or not path.is_file():
            raise ConfigError(f'expected an old config, a .py file; there is none at {path}.')
        try:
            self._files = list(_File(path).with_bases())
            config = Config.fromfile(path, import_custom_modules=False, lazy_import=False)
            self.values: dict[str, Any] = config.to_dict()
        except SyntaxError as error:
            where = f'{error.filename}:{error.lineno}'
            raise ConfigError(f'{where}: cannot be read as Python: {error.msg}.') from error
        except Exception as error:  # a config is code: anything can be raised in it
            raise ConfigError(f'{path}: cannot be read: {explain(error)}') from error

    @property
    def variables(self) -> set[str]:
        """Names at the top that other lines of the config use."""
        return {name for file in self._files for name in file.names_used}

    @property
    def computes_names(self) -> bool:
        """Whether it reads variables by names that are made when it runs, as by `eval`."""
        return not _READS_BY_NAME.isdisjoint(self.variables)

    @property
    def bases(self) -> list[Path]:
        """The files that the config is based on."""
        return [file.path for file in self._files[1:]]

    def place(self, path: KeyPath) -> Place:
        """Where the key at the end of `path` stands, or the nearest one around it."""
        nearest, least = Place(str(self._files[0].path), 1), len(path) + 1
        for left, place in self._files[0].find(path):
            if left < least:
                nearest, least = place, left
            if not left:
                break
        return nearest


class _File:
    """The syntax tree of one file, in which the values that keys lead to are looked up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
        self._assignments: list[tuple[ast.expr, ast.expr]] = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Assign):
                self._assignments += [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._assignments.append((node.target, node.value))
        # The last one counts, so it is looked at first.
        self._assignments.sort(key=lambda pair: -pair[0].lineno)

    def with_bases(self) -> Iterator[_File]:
        """This file, then those it is based on."""
        yield self
        for base in self.bases:
            yield from base.with_bases()

    @cached_property
    def bases(self) -> list[_File]:
        """The files in `_base_`; one that is not written out as a string is skipped."""
        names: Any = []
        for target, value in self._assignments:
            if isinstance(target, ast.Name) and target.id == '_base_':
                try:
                    names = ast.literal_eval(value)
                except ValueError:
                    names = []
        names = [names] if isinstance(names, str) else names
        paths = [Path(os.path.normpath(self.path.parent / name)) for name in names]
        return [_File(path) for path in paths if path.is_file()]

    @cached_property
    def names_used(self) -> set[str]:
        """Variables, of this file or of its bases, that expressions of this file read."""
        used = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif isinstance(node, ast.Attribute) and _is_base(node.value):
                used.add(node.attr)
        return used

    def find(self, path: KeyPath, user: ast.expr | None = None) -> Iterator[tuple[int, Place]]:
        """Follow `path` from a name at the top, here and then in the bases.

        Args:
            user: Only what is assigned above this expression counts.

        Yields:
            Each place on the way with how many keys are left there; of those with as many left,
            the one that counts comes first.
        """
        for target, value in self._assignments:
            keys = _target_path(target)
            if keys is not None and keys == path[: len(keys)] and _is_above(value, user):
                yield from self._follow(value, path[len(keys) :], target.lineno)
        for base in self.bases:
            yield from base.find(path)

    def _follow(self, node: ast.expr, path: KeyPath, line: int) -> Iterator[tuple[int, Place]]:
        """Follow `path` into the expression that the key in `line` leads to; as in `find`."""
        yield len(path), Place(str(self.path), line)
        for child, rest, at in self._steps(node, path):
            yield from self._follow(child, rest, at or line)
        if isinstance(node, ast.Name):
            yield from self.find((node.id, *path), node)
        elif isinstance(node, ast.Attribute) and _is_base(node.value):
            for base in self.bases:
                yield from base.find((node.attr, *path))

    def _steps(
        self, node: ast.expr, path: KeyPath
    ) -> Iterator[tuple[ast.expr, KeyPath, int | None]]:
        """Expressions to go on in: each with the rest of the path, and a key's line."""
        if not path:
            return
        key, rest = path[0], path[1:]
        match node:
            case ast.Dict():
                for name, value in zip(node.keys, node.values, strict=True):
                    if name is None:
                        yield value, path, None
                    elif isinstance(name, ast.Constant) and name.value == key:
                        yield value, rest, name.lineno
            case ast.Call():
                for keyword in node.keywords:
                    if keyword.arg == key:
                        yield keyword.value, rest, keyword.lineno
                    elif keyword.arg is None:
                        yield keyword.value, path, None
                # dict(other, ...), copy.deepcopy(other), other.copy()
                yield from ((value, path, None) for value in node.args)
                if isinstance(node.func, ast.Attribute):
                    yield node.func.value, path, None
            case ast.List() | ast.Tuple() | ast.BinOp() if isinstance(key, int):
                items = self._items(node)
                if items is not None and key < len(items):
                    yield items[key], rest, items[key].lineno
            case ast.Subscript(slice=ast.Constant(value=outer)) if isinstance(outer, str | int):
                yield node.value, (outer, *path), None
            case ast.Set(elts=[inner]):
                # {{_base_.name}}
                yield inner, path, None
            case ast.IfExp():
                yield node.body, path, None
                yield node.orelse, path, None

    def _items(self, node: ast.expr) -> list[ast.expr] | None:
        """The items of a list, with those of other lists in it; None where that is not plain."""
        match node:
            case ast.List() | ast.Tuple():
                items: list[ast.expr] = []
                for item in node.elts:
                    inner = self._items(item.value) if isinstance(item, ast.Starred) else [item]
                    if inner is None:
                        return None
                    items += inner
                return items
            case ast.BinOp(op=ast.Add()):
                left, right = self._items(node.left), self._items(node.right)
                return None if left is None or right is None else left + right
            case ast.Name():
                for target, value in self._assignments:
                    if _target_path(target) == (node.id,) and _is_above(value, node):
                        return self._items(value)
        return None


def _is_above(value: ast.expr, user: ast.expr | None) -> bool:
    """Whether an assigned value ends before the expression that uses the name begins."""
    if user is None:
        return True
    end = (value.end_lineno or value.lineno, value.end_col_offset or 0)
    return end <= (user.lineno, user.col_offset)


def _is_base(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == '_base_'


def _target_path(target: ast.expr) -> KeyPath | None:
    """('model', 'type') for `model['type'] = ...`."""
    if isinstance(target, ast.Name):
        return (target.id,)
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        outer = _target_path(target.value)
        key = target.slice.value
        return None if outer is None or not isinstance(key, str | int) else (*outer, key)
    return None

"""The plan of the house: rooms on floors, and imports that only go down.

A room is a folder of the package, or a file at its root. CONTRIBUTING.md says what is in which.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import mmseg_kd

# From the ground up. A room imports from floors below its own, and from no neighbour.
FLOORS = (
    {'errors'},
    {'checks', 'registry'},
    {'datasets'},
    {'host', 'checkpoints'},
    {'runs'},
    {'losses', 'schedules', 'connectors', 'networks', 'config'},
    {'teacher', 'evaluation', 'migration', 'data_checks'},
    {'distillation'},
    {'analysis', 'export'},
    {'hooks', 'report', 'own_data'},
    {'register'},
    {'engine'},
    {'comparison'},
    {'cli'},
    {'__main__'},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

PACKAGE = Path(mmseg_kd.__file__).parent


def modules() -> dict[str, ast.Module]:
    """The parsed files of the package, by module; not its root, which imports on demand."""
    found = {}
    for path in PACKAGE.rglob('*.py'):
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        name = '.'.join(part for part in parts if part != '__init__')
        if name:
            found[name] = ast.parse(path.read_text(encoding='utf-8'))
    return found


def imports(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """What a file imports of the package, inside functions too, by module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'relative imports hide which room they lead to'
            wanted = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        for one in wanted:
            inner = one.removeprefix('mmseg_kd.')
            if inner != one:
                yield inner if inner in names else inner.rpartition('.')[0]


def room_of(module: str) -> str:
    return module.split('.')[0]


def test_every_room_is_on_a_floor() -> None:
    assert {room_of(module) for module in modules()} == FLOOR_OF.keys()


def test_imports_between_rooms_go_down() -> None:
    trees = modules()
    wrong = {
        f'{module} -> {other}'
        for module, tree in trees.items()
        for other in imports(tree, trees.keys())
        if other
        and room_of(other) != room_of(module)
        and FLOOR_OF[room_of(other)] >= FLOOR_OF[room_of(module)]
    }
    assert not wrong


def test_no_circle_of_files() -> None:
    trees = modules()
    graph = {
        module: {other for other in imports(tree, trees.keys()) if other and other != module}
        for module, tree in trees.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which has the circle

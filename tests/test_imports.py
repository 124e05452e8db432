"""How the modules of fmlab lean on each other, read from their source.

Counted is every import that runs when a module is loaded. One under ``TYPE_CHECKING`` runs for the reader of types
alone, one inside a function is made late in order not to be a part of this.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fmlab

ROOT = Path(fmlab.__file__).parent
DOORS = {"fmlab.closed_form": {"fmlab.objective"}, "fmlab.nodes": set()}  # a folder, and who outside may import it


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def when_loaded(node):
    for child in ast.iter_child_nodes(node):
        types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from when_loaded(child)


def imported(source, modules):
    """The names in ``modules`` that this source imports: ``from a import b`` gives a.b if that is one, else a."""
    for node in when_loaded(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from [n for n in (whole, node.module) if n in modules][:1]


def graph(sources):
    return {name: set(imported(source, sources)) - {name} for name, source in sources.items()}


def test_no_ring_of_imports():
    leans_on = graph({name: path.read_text(encoding="utf-8") for name, path in MODULES.items()})
    assert leans_on["fmlab.objective"] >= {"fmlab.gradients", "fmlab.closed_form"}  # the reading finds what is there
    TopologicalSorter(leans_on).prepare()


def test_fmlab_loads_torch_and_numpy_alone():
    """What else it needs it imports where that is called: every kernel and every node pays for the rest."""
    files = {name: path for name, path in MODULES.items() if not name.startswith("fmlab.nodes")}
    found = {m.split(".")[0] for path in files.values() for m in packages(path.read_text(encoding="utf-8"))}
    assert found - sys.stdlib_module_names - {"fmlab"} == {"torch", "numpy", "platformdirs"}


def packages(source):
    for node in when_loaded(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_a_ring_would_be_found():
    sources = {"a": "if True:\n    from a.b import c", "a.b": "import a.d", "a.d": "from a import b, x"}
    with pytest.raises(CycleError):
        TopologicalSorter(graph(sources)).prepare()
    for apart in ("def late():\n    from a import b", "if TYPE_CHECKING:\n    from a import b"):
        TopologicalSorter(graph(sources | {"a.d": apart})).prepare()


@pytest.mark.parametrize(("folder", "allowed"), DOORS.items())
def test_a_folder_with_one_door_is_entered_by_it(folder, allowed):
    sources = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    inside = {name for name in MODULES if name == folder or name.startswith(f"{folder}.")}
    entering = {name for name, needs in graph(sources).items() if needs & inside and name not in inside}
    assert inside
    assert entering == allowed

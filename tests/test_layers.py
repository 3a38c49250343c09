"""The package is a house of floors: a file may use only what stands below it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stylegan"

# Within a level, a file may import those that stand before it.
LEVELS = (
    ("config", "modules", "losses", "augment", "plots", "charts", "atlas", "volumes", "fetch", "pictures", "cache"),
    ("subjects", "naming", "tables", "layouts", "packing", "dataset", "stylegan2"),
    ("networks", "diagram"),
    ("checkpoint", "predict", "samples", "features", "metrics", "embedding", "directions", "projection", "findings"),
    ("train",),
    (
        "recorder",
        "runs",
        "ship",
        "bench",
        "badges",
        "notebook",
        "reference",
        "widgets",
        "execute",
        "export",
        "report",
        "__main__",
    ),
)
ORDER = {name: place for place, name in enumerate(name for level in LEVELS for name in level)}
CORE = ("config", "modules", "losses", "augment", "stylegan2", "networks", "train")
ALLOWED_IN_CORE = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "stylegan"}
FILES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(source: str) -> set[str]:
    """Dotted names of all that the source imports when run, at the top or inside functions: 'torch.nn', 'stylegan.config'."""
    names = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["stylegan" if node.level else "", node.module]))
            own = module == "stylegan"
            names |= {f"stylegan.{alias.name}" for alias in node.names} if own else {module}
    return names


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except what stands under ``if TYPE_CHECKING:``, which only names types and never runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (found for branch in node.orelse for found in (branch, *running(branch)))
        else:
            yield from (node, *running(node))


def own_modules(source: str) -> set[str]:
    """Files of the package among the imports; ``from stylegan import __version__`` is none."""
    own = {name.split(".")[1] for name in imports(source) if name.startswith("stylegan.")}
    return own - {"__version__"}


def upward(name: str, source: str) -> list[str]:
    """Imports of file ``name`` that do not point down; a file without a place stands below and above everything."""
    return sorted(other for other in own_modules(source) if ORDER.get(other, len(ORDER)) >= ORDER.get(name, -1))


def foreign(source: str) -> list[str]:
    """Imports that a core file should do without."""
    return sorted({name.split(".")[0] for name in imports(source)} - ALLOWED_IN_CORE)


def test_the_package_has_no_folders_of_code():
    assert not list(PACKAGE.glob("*/*.py"))


@pytest.mark.parametrize("name", FILES)
def test_each_file_stands_in_the_table(name):
    assert name in ORDER, f"give stylegan/{name}.py a place in LEVELS of this test"


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    assert upward(name, (PACKAGE / f"{name}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", [name for name in CORE if name in FILES])
def test_the_core_needs_torch_and_numpy_only(name):
    assert foreign((PACKAGE / f"{name}.py").read_text(encoding="utf-8")) == []


def test_the_package_itself_imports_nothing():
    assert imports((PACKAGE / "__init__.py").read_text(encoding="utf-8")) <= {"__future__"}


def test_the_check_sees_every_form_of_import():
    forms = (
        "from stylegan.train import fit",
        "from stylegan import train",
        "import stylegan.train as t",
        "from . import train",
        "from .train import fit",
        "def f():\n    from stylegan import train",
    )
    for line in forms:
        assert upward("networks", line) == ["train"], line
        assert upward("report", line) == [], line
    assert upward("networks", "if TYPE_CHECKING:\n    import os\nelse:\n    from stylegan import train") == ["train"]
    assert upward("networks", "if TYPE_CHECKING:\n    from stylegan.train import TrainingState") == []
    assert upward("layouts", "from stylegan.dataset import load_slices") == ["dataset"]  # same level, stands later
    assert upward("dataset", "from stylegan.layouts import recognise") == []
    assert upward("networks", "from stylegan import __version__, stylegan2\nimport torch") == []
    assert upward("report", "from stylegan.forgotten import x") == ["forgotten"]  # not in the table
    assert foreign("import math, torchvision.utils\nfrom torch import nn") == ["torchvision"]

"""The package is a house of floors: a file may use only what stands below it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stylegan"

# Within a level, a file may import those that stand before it.
LEVELS = (
    ("config", "distributed", "rng", "graphs", "progressive", "precision", "resampling", "modules", "losses", "augment"),
    ("plots", "charts", "cache", "lock"),
    ("data.simulate", "data.pictures", "data.volumes", "data.subjects"),
    ("data.listing", "data.tree", "data.report", "data.tables", "data.layouts", "data.pack"),
    ("dataset", "stylegan2", "stylegan1", "dcgan"),
    ("networks", "diagram", "summary"),
    ("checkpoint", "predict", "samples", "scores.intervals", "scores.features", "scores.encoder", "scores.spaces"),
    ("scores.distances", "scores.neighbours", "scores.picture_scores", "truth.embedding", "directions", "projection"),
    (
        "scores.memorisation",
        "scores.case",
        "scores.scores",
        "scores.metrics",
        "scores.findings",
        "scores.failures",
        "scores.verdict",
    ),
    (
        "truth.truth_charts",
        "truth.readers",
        "truth.evidence",
        "truth.growth",
        "truth.transfer",
        "truth.conclusions",
        "truth.groundtruth",
    ),
    ("truth.map_charts", "truth.maps", "truth.map_study", "truth.map_sheets", "truth.artefacts"),
    ("state", "train"),
    ("scores.memoriser", "scores.audit", "recorder", "run", "bench", "notebook"),
    (
        "comparing.toys",
        "comparing.style_charts",
        "comparing.compare",
        "comparing.claims",
        "comparing.judging",
        "comparing.ladder",
    ),
    ("reporting.ship", "reporting.badges", "reporting.reference", "reporting.widgets"),
    ("reporting.execute", "reporting.export", "reporting.report"),
    ("__main__",),
)
ORDER = {name: place for place, name in enumerate(name for level in LEVELS for name in level)}
CORE = ("config", "distributed", "rng", "graphs", "progressive", "precision", "resampling", "modules", "losses", "augment", "stylegan2", "stylegan1", "dcgan",
        "networks", "state", "train")  # fmt: skip
ALLOWED_IN_CORE = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "stylegan"}
ROOMS = ("data", "scores", "truth", "comparing", "reporting")
FILES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"
)


def read(name: str) -> str:
    return (PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def imports(source: str) -> set[str]:
    """Dotted names of all that the source imports when run, at the top or inside functions: 'torch.nn', 'stylegan.config'."""
    names = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["stylegan" if node.level else "", node.module]))
            own = module in ("stylegan", *(f"stylegan.{room}" for room in ROOMS))
            names |= {f"{module}.{alias.name}" for alias in node.names} if own else {module}
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
    own = {name.removeprefix("stylegan.") for name in imports(source) if name.startswith("stylegan.")}
    return own - {"__version__"}


def upward(name: str, source: str) -> list[str]:
    """Imports of file ``name`` that do not point down; a file without a place stands below and above everything."""
    return sorted(other for other in own_modules(source) if ORDER.get(other, len(ORDER)) >= ORDER.get(name, -1))


def foreign(source: str) -> list[str]:
    """Imports that a core file should do without."""
    return sorted({name.split(".")[0] for name in imports(source)} - ALLOWED_IN_CORE)


def test_the_package_has_its_rooms_and_no_more():
    assert {path.parent.name for path in PACKAGE.glob("*/**/*.py")} == set(ROOMS)


@pytest.mark.parametrize("name", FILES)
def test_each_file_stands_in_the_table(name):
    assert name in ORDER, f"give stylegan/{name}.py a place in LEVELS of this test"


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    assert upward(name, read(name)) == []


@pytest.mark.parametrize("name", [name for name in CORE if name in FILES])
def test_the_core_needs_torch_and_numpy_only(name):
    assert foreign(read(name)) == []


@pytest.mark.parametrize("init", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_the_packages_themselves_import_nothing(init):
    assert imports(init.read_text(encoding="utf-8")) <= {"__future__"}


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
        assert upward("reporting.report", line) == [], line
    assert upward("networks", "if TYPE_CHECKING:\n    import os\nelse:\n    from stylegan import train") == ["train"]
    assert upward("networks", "if TYPE_CHECKING:\n    from stylegan.train import TrainingState") == []
    assert upward("data.layouts", "from stylegan.dataset import load_slices") == ["dataset"]  # stands later
    assert upward("dataset", "from stylegan.data.layouts import recognise") == []
    assert upward("networks", "from stylegan import __version__, stylegan2\nimport torch") == []
    assert upward("reporting.report", "from stylegan.forgotten import x") == ["forgotten"]  # not in the table
    assert foreign("import math, torchvision.utils\nfrom torch import nn") == ["torchvision"]

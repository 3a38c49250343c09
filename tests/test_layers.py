"""The package stays a small house: few files, short ones, imports that point down, and training that needs little."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "stylegan"
MOST_FILES, MOST_LINES, MOST_LINES_OF_TESTS, LONGEST_FILE, LONGEST_FUNCTION = 46, 10907, 6500, 350, 50
ORDER = """
config files distributed rng resampling modules losses augment stylegan2 stylegan1 dcgan networks checkpoint
data.subjects data.simulate data.pictures data.volumes data.listing data.tables data.layouts data.pack dataset train predict run
plots charts latent scores.intervals scores.features scores.metrics scores.evidence scores.memorisation
scores.evaluate scores.verdict truth.embedding truth.readers truth.maps truth.groundtruth notebook
reporting.explorer reporting.front reporting.execute reporting.html __main__
""".split()  # a file may import those before it
FILES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py") if p.stem != "__init__"}


def lines(path):
    return path.read_text(encoding="utf-8").count("\n")


def imported(tree):
    """The package's own modules that a file needs in order to be imported; a function may reach up when it is called."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stylegan"):
            inner = node.module.removeprefix("stylegan").removeprefix(".")
            names = {".".join(filter(None, (inner, alias.name))) for alias in node.names}
            yield from names & set(FILES) or {inner}


def test_the_house_stays_small():
    sizes = {str(path): lines(path) for path in PACKAGE.rglob("*.py")}
    assert len(sizes) <= MOST_FILES and sum(sizes.values()) <= MOST_LINES
    assert sum(map(lines, Path(__file__).parent.glob("*.py"))) <= MOST_LINES_OF_TESTS
    assert {path: size for path, size in sizes.items() if size > LONGEST_FILE} == {}
    functions = {f"{name}.{node.name}": node.end_lineno - node.lineno + 1 for name, path in FILES.items()
                 for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert {name: length for name, length in functions.items() if length > LONGEST_FUNCTION} == {}


def test_imports_point_down():
    assert sorted(FILES) == sorted(ORDER)
    for name, path in FILES.items():
        assert set(imported(ast.parse(path.read_text(encoding="utf-8")))) <= {"", *ORDER[: ORDER.index(name)]}, name


LIGHT = """import sys
import stylegan.run, stylegan.predict
print({"matplotlib", "sklearn", "torchvision"} & set(sys.modules))
import stylegan.scores.features, stylegan.truth.embedding
print({"umap", "sklearn", "efficientnet_lite_pytorch"} & set(sys.modules))
import stylegan.notebook
stylegan.notebook.load_generator("models/oasis1-stylegan2-64.safetensors")
print({"torchvision", "torch._dynamo"} & set(sys.modules))  # two seconds each"""


def test_nothing_imports_what_it_does_not_need():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()"] * 3

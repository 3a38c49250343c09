"""What several test files need."""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: a second thread costs more than it brings
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # else the first UMAP gives torch a second one

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

# the fixtures' builders are plain modules beside the tests; tools and benchmarks are scripts beside the package
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
sys.modules.setdefault("rfc3987_syntax", None)  # two seconds, for a check of addresses that nbformat never asks jsonschema for

from stylegan.checkpoint import save_generator  # noqa: E402
from stylegan.config import make_config  # noqa: E402
from stylegan.modules import NoiseInjection  # noqa: E402
from stylegan.networks import Generator  # noqa: E402

# Files that take long, the longest first: a process takes the next file when it is done with one, so that all end together.
# The two that look at the report do not start at once, or one would wait for the other's.
FIRST = ("report", "evaluate", "distributed", "tools", "maps", "groundtruth", "kill", "notebook", "runs")


def pytest_collection_modifyitems(items):
    names = [f"test_{name}.py" for name in FIRST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(scope="session")
def simulated():
    """A tiny simulated SliceDataset: 12 subjects x 4 levels of 32 px, both groups in each split."""
    return _tiny(32)


@pytest.fixture(scope="session")
def slices():
    """The same people at 16 px, the size of the preset `smoke`."""
    return _tiny(16)


def _tiny(resolution):
    from stylegan.data import simulate as atlas
    from stylegan.dataset import SliceDataset, split_by_subject

    found = atlas.simulate(num_subjects=12, num_levels=4, resolution=resolution)
    splits, _ = split_by_subject(found.subjects, found.labels)
    return SliceDataset(**vars(found), splits=splits, layout="simulated", key="simulated-for-tests")


@pytest.fixture(name="G", scope="module")
def untrained_generator():
    """A generator of the preset `smoke`, always the same."""
    torch.manual_seed(0)
    return Generator(make_config("smoke")).to(memory_format=torch.channels_last).eval()


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """Class folders of 5 NonDemented and 3 MildDemented subjects."""
    import layouts_fixtures as fixtures

    root = tmp_path_factory.mktemp("classes") / "slices"
    fixtures.class_folders(root, {"NonDemented": 5, "MildDemented": 3})
    return root


def script(path):
    """A script of the checkout as a module, found as when it is run."""
    sys.path.insert(0, str((ROOT / path).parent))
    return importlib.import_module(Path(path).stem)


def save_untrained(path, config, slices=None, strength=None, **info):
    """Save the generator of a config before its first step, its noise as strong as given, with this header; the file."""
    torch.manual_seed(0)
    G = Generator(config).eval()
    for layer in (layer for layer in G.modules() if isinstance(layer, NoiseInjection) and strength is not None):
        torch.nn.init.constant_(layer.strength, strength)
    known = {"config": config.to_dict(), "classes": [], "train_subjects": [], "cur_nimg": 0, "data": {}}
    if slices is not None:
        trained_on = sorted(set(slices.split("train").subjects.tolist()))
        known |= {"classes": list(slices.classes), "train_subjects": trained_on}
    save_generator(path, G, known | info)
    return path


def notebook_of(*sources):
    """A notebook with one cell for each source: Markdown where it begins with '#', else code."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    return new_notebook(cells=[(new_markdown_cell if text.startswith("#") else new_code_cell)(text) for text in sources])


class Made(NamedTuple):
    run: Path
    slices: Path
    pages: Path  # of the report: the folder of index.html and the executed copies


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id):
    """A run of the preset `smoke`, a few steps long, on simulated slices in two class folders; to be copied, not changed."""
    from stylegan.run import train_run
    from stylegan.scores.evaluate import validation_scorer

    def train(made, patch):
        train_run(make_config("smoke", total_kimg=0.1), made.slices, made.run, scorer=validation_scorer)

    return _made_once(tmp_path_factory, worker_id, "trained", train)


@pytest.fixture(scope="session")
def made(tmp_path_factory, worker_id):
    """The report at the preset `smoke` of a few simulated slices in class folders, made once for all processes of pytest."""
    pytest.importorskip("nbclient")
    from stylegan.reporting.html import report

    def write(made, patch):
        patch.chdir(ROOT)
        patch.setenv("MPLBACKEND", "module://a_backend_of_another_program")
        with _one_kernel(patch):
            report(made.slices, made.run, "smoke", made.pages, total_kimg=0.1, num=40, fakes=100)

    return _made_once(tmp_path_factory, worker_id, "report", write)


@contextlib.contextmanager
def _one_kernel(patch):
    """One kernel for all notebooks, emptied after each: seven would load everything seven times and compile UMAP twice."""
    from jupyter_core.utils import run_sync

    from stylegan.reporting import execute

    async def empty(client):
        await client.kc.execute("%reset -f", reply=True)
        client.kc.stop_channels()

    manager = execute.AsyncKernelManager(kernel_name="python3", kernel_spec_manager=execute.KernelSpecManager(kernel_dirs=[]))
    patch.setattr(execute, "AsyncKernelManager", lambda **_: manager)
    patch.setattr(execute._Client, "_async_cleanup_kernel", empty)
    try:
        yield
    finally:
        run_sync(manager.shutdown_kernel)(now=True)


def _made_once(tmp_path_factory, worker_id, name, make):
    """Folders that all processes of pytest share, with simulated slices in two class folders and what ``make`` adds."""
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / name
    place.mkdir(exist_ok=True)
    made = Made(place / "run", place / "slices", place / "out")
    with FileLock(place / "lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        if not (place / "done").exists():
            write_slices(made.slices)
            make(made, patch)
            (place / "done").touch()
    return made


def write_slices(folder, classes=(), people=12, levels=6, named=True):
    """Simulated slices in folders of their two classes, or of these in the order of people, so many people in each."""
    from stylegan.data import simulate as atlas

    found = atlas.simulate(num_subjects=(len(classes) or 2) * people, num_levels=levels, resolution=16)
    labels = np.unique(found.subjects, return_inverse=True)[1] // people if classes else found.labels
    for k, (image, label, who, level) in enumerate(zip(found.images, labels, found.subjects, found.levels, strict=True)):
        path = folder / (classes or found.classes)[label] / (f"{who}_slice_{level}.png" if named else f"picture{k}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    """No test depends on the numbers that another has drawn, or reads or fills the caches of the checkout."""
    torch.manual_seed(0)
    monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path_factory.getbasetemp() / "data"))

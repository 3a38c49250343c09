"""A report on a stranger's slices: what names say in HTML, TeX or Markdown is shown as text; and cells that are run twice do no harm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

from stylegan import charts, notebook, plots  # noqa: E402
from stylegan.data import simulate as atlas  # noqa: E402
from stylegan.reporting import report  # noqa: E402
from stylegan.reporting.execute import execute, set_parameters  # noqa: E402

ROOT = Path(__file__).parents[1]
# Names that a folder can have; without slashes, and without backslashes, which count as slashes.
CLASSES = ("<script>alert(1)<b>", "<img src=x onerror=alert(2)>")
SUBJECT = "$x_{$ <svg onload=alert(3)> [a](javascript:alert(4)) {0} %s `x`"
FOLDER = "<iframe src=x>&lt;script&gt;"


def write_slices(folder):
    found = atlas.simulate(num_subjects=16, num_levels=4, resolution=16)
    for image, label, subject, level in zip(found.images, found.labels, found.subjects, found.levels, strict=True):
        path = folder / CLASSES[label] / f"{SUBJECT} {subject}_slice_{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def check_harmless(html: str) -> bs4.BeautifulSoup:
    """No element or attribute of a page can run anything or ask the network."""
    soup = bs4.BeautifulSoup(html, "html.parser")
    assert not soup(["script", "iframe", "object", "embed", "svg", "form", "base"])
    for tag in soup(True):
        assert not [name for name in tag.attrs if name.startswith("on")], tag
        for name in ("src", "href"):
            assert re.match(r"data:(image/|,$)|#|https://|[\w.]+\.html", tag.get(name, "#")), tag
    return soup


@pytest.mark.long
def test_names_with_html_are_text_on_every_page(tmp_path, monkeypatch):
    write_slices(tmp_path / FOLDER)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path / "cache"))
    run = tmp_path / f"run {FOLDER}"
    report.report(tmp_path / FOLDER, run, "smoke", tmp_path / "out", total_kimg=0.1, num=40)
    pages = {path.name: check_harmless(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").glob("*.html")}
    assert len(pages) == 6
    for name in CLASSES:
        assert name in pages["01_data_preview.html"].get_text() and name in pages["index.html"].get_text()


@pytest.mark.parametrize("name", [*CLASSES, SUBJECT, "$\\frac{$", "a_b^c$d", "\\", "${", "x" * 300, ""])
def test_figures_draw_any_name_as_it_is(name, slices):
    """matplotlib would take what stands between two dollars for a formula, and stop at one that is none."""
    figures = [
        plots.grid(slices.images[:4], 2, caption=name, column_titles=[name, f"${name}$"], row_titles=[name, "b"]),
        charts.scatter([[0.0, 0.0], [1.0, 1.0]], [name, "b"], title=name, order=(name, "b")),
    ]
    for figure in figures:
        figure.savefig(Path("/dev/null") if Path("/dev/null").exists() else "figure.png", format="png")


def doubled(path: Path, **parameters) -> nbformat.NotebookNode:
    """The notebook with every code cell, but for the parameters, standing there twice."""
    read = nbformat.read(path, as_version=4)
    set_parameters(read, {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()})
    cells = []
    for cell in read.cells:
        again = nbformat.v4.new_code_cell(cell.source) if cell.cell_type == "code" else None
        cells += [cell, again] if again else [cell]
    read.cells = cells
    return read


@pytest.mark.long
@pytest.mark.parametrize("name", report.NAMES)
def test_every_cell_can_be_run_twice(made, name, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path / "cache"))
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    path = ROOT / "notebooks" / f"{name}.ipynb"
    execute(doubled(path, run_dir=run, data=made.slices, preset="smoke", num=40, total_kimg=0.2), path)
    after = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = {str(name) for name in before if before[name] != after.get(name)}
    assert changed <= {"evaluation.json", "embedding.csv", "environment.txt"} and not {
        path for path in after if path.suffix == ".tmp"
    }


def test_a_sentence_about_a_stranger_is_shown_as_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    notebook.table([{"class": name, "n": 1} for name in (*CLASSES, SUBJECT)])
    assert all("<" not in re.sub(r"\\<|`[^`]*`", "", markdown.data) for markdown in shown)

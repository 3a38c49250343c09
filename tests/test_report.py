"""The report: all notebooks run from end to end at the preset `smoke`, and what the pages hold."""

import csv
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("nbclient")
bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")

from stylegan.checkpoint import load_generator  # noqa: E402
from stylegan.reporting import report  # noqa: E402
from stylegan.reporting.execute import NotebookError, set_parameters  # noqa: E402

ROOT = Path(__file__).parents[1]


def v4():
    return nbformat.v4


def notebook_of(*sources):
    cells = [v4().new_code_cell(text) if not text.startswith("#") else v4().new_markdown_cell(text) for text in sources]
    return v4().new_notebook(cells=cells)


# --- The whole road -------------------------------------------------------------------------------------------------------


def pages(out):
    return {
        path.name: bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in sorted(out.glob("*.html"))
    }


def test_every_notebook_ran_and_has_its_page(made):
    out, run = made.pages, made.run
    assert set(pages(out)) == {"index.html", *(f"{name}.html" for name in report.NAMES)}
    for name in report.NAMES:
        notebook = nbformat.read(out / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for cell in cells for o in cell.outputs), name
        assert "execution" not in str([cell.metadata for cell in cells])
    assert (run / "evaluation.json").is_file()
    with open(run / "embedding.csv", newline="", encoding="utf-8") as file:
        kinds = [row["kind"] for row in csv.DictReader(file) if (row["method"], row["mode"]) == ("pca", "joint")]
    assert kinds.count("real") == kinds.count("generated") == len(kinds) / 2 > 15


def test_opening_a_page_asks_the_network_for_nothing(made):
    for name, soup in pages(made.pages).items():
        loaded = [tag.get(key, "") for tag in soup(True) for key in ("src", "srcset", "data", "poster") if tag.get(key)]
        loaded += [tag["href"] for tag in soup("link")]
        assert all(target.startswith("data:") for target in loaded), name
        assert not soup("script") and not soup("iframe")
        assert not re.search(r"@import|url\(", "".join(style.text for style in soup("style")))


def test_every_picture_is_described(made):
    for soup in pages(made.pages).values():
        texts = [image.get("alt", "").strip() for image in soup("img")]
        assert texts and all(len(text) > 15 and not text.startswith("No description") for text in texts)


def test_ids_are_unique_links_lead_somewhere_and_headings_go_down_step_by_step(made):
    found = pages(made.pages)
    for name, soup in found.items():
        ids = [tag["id"] for tag in soup(id=True)]
        assert len(set(ids)) == len(ids)
        for link in soup("a", href=True):
            target = link["href"]
            if not target.startswith("http"):
                assert target.lstrip("#") in ids if target.startswith("#") else target in found, (name, target)
        levels = [int(tag.name[1]) for tag in soup(re.compile("^h[1-6]$"))]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), name


def test_formulas_are_mathml_and_code_is_folded(made):
    soup = pages(made.pages)["index.html"]
    assert len(soup("math")) > 10 and not re.search(r"\$\$|\\frac", soup.main.get_text())
    assert all(block.find_parent("details") for block in soup(class_="highlight"))
    assert len(soup(class_="highlight")) > 40


def test_the_index_holds_all_notebooks_and_stays_small(made):
    soup = pages(made.pages)["index.html"]
    assert len(soup("section")) == len(report.NAMES) + 1 and len(soup.nav("a")) > 20
    assert (made.pages / "index.html").stat().st_size < 15e6


def test_the_index_ends_with_what_it_takes_to_get_its_numbers_again(made):
    soup, (_, info) = pages(made.pages)["index.html"], load_generator(made.run)
    last = soup("section")[-1]
    told = {row.th.text: row.td.text for row in last("tr")}
    assert list(told) == ["Data", "Model", "Seeds", "Run time", "Device", "Versions"] and not last.find_next("section")
    assert info["model_hash"] in told["Model"] and info["data"]["key"][:16] in told["Data"]
    assert (
        all(name in told["Run time"] for name in report.NAMES)
        and f"torch {torch.__version__.split('+')[0]}" in told["Versions"]
    )
    assert any(link["href"] == f"#{last.h2['id']}" for link in soup.nav("a"))


def test_plain_nbconvert_makes_pages_too(made, tmp_path):
    notebooks = [str(path) for path in sorted(made.pages.glob("*.ipynb"))]
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", tmp_path, *notebooks], check=True)
    for name in report.NAMES:
        soup = bs4.BeautifulSoup((tmp_path / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        assert soup.h1 and soup(class_="highlight") and soup("table")


def test_no_path_of_this_machine_is_on_a_page(made):
    run, data = made.run, made.slices
    text = (made.pages / "index.html").read_text(encoding="utf-8")
    told = text.count(str(run)) + text.count(str(data))  # in the cells of parameters, where they were given
    assert told == 2 * len(report.NAMES) - 1 and str(ROOT) not in text


# --- Parts ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A checkout with notebooks of one line, to be filled by the test: the folder of notebooks."""
    folder = tmp_path / "clone" / "notebooks"
    folder.mkdir(parents=True)
    (folder.parent / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    for name in report.NAMES:
        nbformat.write(notebook_of(f"# {name}", "1 + 1"), folder / f"{name}.ipynb")
    monkeypatch.chdir(folder.parent)
    return folder


def test_a_notebook_that_stops_is_named_and_the_pages_before_it_are_kept(clone):
    nbformat.write(notebook_of("# Second", "a = 1", "raise ValueError('no such slice')", "b = 2"), clone / "02_train.ipynb")
    with pytest.raises(ValueError, match=r"02_train.ipynb, code cell 2, stopped with ValueError: no such slice$"):
        report.report(preset="smoke")
    out = clone.parent / "report"
    assert {path.name for path in out.glob("*.html")} == {"01_data_preview.html", "02_train.html", "index.html"}
    assert (
        f"1 of {len(report.NAMES)}" in (out / "index.html").read_text()
        and "no such slice" in (out / "02_train.html").read_text()
    )


def test_a_kernel_that_dies_is_said_to_have_died(clone):
    nbformat.write(notebook_of("# First", "import os", "os.kill(os.getpid(), 9)"), clone / "01_data_preview.ipynb")
    with pytest.raises(NotebookError, match=r"01_data_preview.ipynb, code cell 2: its kernel died"):
        report.report(preset="smoke")


def test_outside_a_clone_it_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="inside a clone of the repository"):
        report.report()


def test_notebooks_run_in_this_python_whatever_kernel_is_installed(clone, monkeypatch, tmp_path):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    from stylegan.reporting.execute import execute

    notebook = notebook_of("import os, sys; print(sys.executable, os.environ.get('MPLBACKEND'), os.getcwd())")
    monkeypatch.setenv("MPLBACKEND", "module://a_backend_of_another_program")
    execute(notebook, clone / "x.ipynb")
    printed = notebook.cells[0].outputs[0].text
    assert str(Path(printed.split()[0]).parent) == str(Path(report.os.sys.executable).parent)
    assert "another_program" not in printed and printed.split()[-1] == str(clone)


def test_parameters_are_replaced_by_name_and_keep_their_comments():
    notebook = notebook_of("x = 1", 'data = None  # where\npreset = "quick"  # row\nnum = 3')
    notebook.cells[1].metadata.tags = ["parameters"]
    set_parameters(notebook, {"data": "a # b", "num": 5, "x": 9, "unknown": 1})
    assert notebook.cells[1].source == "data = 'a # b'  # where\npreset = \"quick\"  # row\nnum = 5"
    assert notebook.cells[0].source == "x = 1"


def test_paths_in_the_checkout_are_told_from_the_notebooks(clone):
    assert report._seen_from(clone, clone.parent / "runs" / "quick") == "../runs/quick"
    assert report._seen_from(clone, None) is None
    assert Path(report._seen_from(clone, "/")).is_absolute()

"""The report: all notebooks run from end to end at the preset `smoke`, and what the page holds."""

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nbclient")
bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")

from conftest import ROOT, notebook_of  # noqa: E402

from stylegan.checkpoint import load_generator  # noqa: E402
from stylegan.files import read_json  # noqa: E402
from stylegan.notebook import open_run  # noqa: E402
from stylegan.reporting import explorer, front, html  # noqa: E402
from stylegan.reporting.execute import execute, set_parameters  # noqa: E402
from stylegan.scores import verdict  # noqa: E402
from stylegan.scores.evidence import read_answers  # noqa: E402


@pytest.fixture(scope="module")
def soup(made):
    return bs4.BeautifulSoup((made.pages / "index.html").read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def scores(made):
    return read_json(made.run / "evaluation.json")


def test_every_notebook_ran_and_is_on_the_one_page(made, soup):
    assert {path.name for path in made.pages.iterdir()} == {"index.html", *(f"{name}.ipynb" for name in html.NAMES)}
    for name in html.NAMES:
        notebook = nbformat.read(made.pages / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
        assert not any(set(o.get("data", ())) == {"text/plain"} for o in outputs)
        assert "execution" not in str([cell.metadata for cell in cells]) and "widgets" not in notebook.metadata
        assert soup.find(id=f"notebook-{name[:2]}")
    assert (made.run / "evaluation.json").is_file() and (made.run / "embedding.csv").is_file()
    assert len(soup("section")) == len(html.NAMES) + 3 and len(soup.nav("a")) > 20
    assert (made.pages / "index.html").stat().st_size < 15e6
    assert not re.search(r"widget-view|jupyter-widgets|interactive\(|Traceback", str(soup.main))


def test_the_front_page_says_what_the_run_found(soup, scores):
    summary, split, card = soup.find(id="summary"), scores["splits"]["test"], verdict.verdict_rows(scores)
    text, told = summary.get_text(), soup.find(id="end").get_text()
    assert f"distance is {split['fd']['value']:.0f} where real people are {split['fd_floor']['value']:.0f} apart" in text
    assert f"{split['fd']['value'] / split['fd_floor']['value']:.1f}" in text and f"{split['subjects']} more" in text
    assert 100 < len(soup.find(class_="printed-text").get_text().split()) < 190 and soup.title.text.startswith("StyleGAN2 ")
    assert verdict.summary(card).split("**")[1] in text and "memory" in scores
    assert sum(len(row("td")[2].text.split("; ")) for row in summary.table.tbody("tr")) == len(card)
    assert len(summary("figure")) >= 2 and summary.find(class_="explorer")
    assert all(words in told for words in ("What held", "What failed", "What would be next", "Woodland"))


def test_the_quiz_shows_each_held_out_person_once_and_evaluate_takes_its_answers(made, soup, scores, tmp_path):
    quiz, run = json.loads(soup.find(class_="quiz").script.text), open_run(made.run)
    whose = {True: [], False: []}
    for one in quiz["slices"]:
        pixels = np.asarray(Image.open(urlopen(one["src"])))
        whose[one["real"]] += [run.slices.subjects[(run.slices.images == pixels).all(axis=(1, 2))]]
    people = {who[0] for who in whose[True]}
    assert len(people) == len(whose[True]) == len(whose[False]) and not people & set(run.info["train_subjects"])
    assert not any(map(len, whose[False])) and len(quiz["results"]) == len(quiz["slices"]) + 1
    path, answers = tmp_path / "answers.json", [{"real": one["real"], "said_real": True} for one in quiz["slices"]]
    path.write_text(json.dumps({"model_hash": quiz["model_hash"], "answers": answers}))
    found, n = read_answers([path, path], run.info), 2 * len(answers)
    assert (found["value"], found["n"], found["readers"]) == (0.5, n, 2) and 0.2 < found["low"] < found["high"] < 0.8
    assert f"told apart by people (n = {n})" in [row["score"] for row in verdict.verdict_rows(scores | {"people": found})]
    for text, says in (("{}", "no answers"), (json.dumps({"model_hash": "x", "answers": answers}), "about the generator x")):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            read_answers([path], run.info)


def test_without_a_quiz_and_with_too_few_people(made, scores):
    run = open_run(made.run)
    assert "quiz" not in str(front.before(run, scores, {}, quiz=False))
    few = dataclasses.replace(run, slices=run.slices.select(run.slices.splits == "train"))
    assert "takes 4 people" in front.questions(few, scores)


def test_opening_it_asks_the_network_for_nothing(soup):
    loaded = [tag[key] for tag in soup(True) for key in ("src", "srcset", "data", "poster") if tag.get(key)]
    assert all(target.startswith("data:") for target in [*loaded, *(tag["href"] for tag in soup("link"))])
    scripts = [tag.text for tag in soup("script") if tag.get("type") != "application/json"]
    assert soup.find("meta", {"http-equiv": True})["content"] == explorer.csp(*scripts)
    assert len(scripts) == 2 and not soup("iframe")
    assert not re.search(r"@import|url\(", "".join(style.text for style in soup("style")))


def test_pictures_are_described_code_is_folded_links_lead_somewhere_and_headings_go_down_step_by_step(soup):
    texts = [image.get("alt", "").strip() for image in soup("img")]
    assert len(texts) > 20 and all(len(text) > 15 and not text.startswith("No description") for text in texts)
    assert len(soup("math")) > 10 and not re.search(r"\$\$|\\frac", soup.main.get_text())
    assert len(soup(class_="highlight")) > 40 and all(block.find_parent("details") for block in soup(class_="highlight"))
    ids = [tag["id"] for tag in soup(id=True)]
    assert len(set(ids)) == len(ids)
    targets = {link["href"] for link in soup("a", href=True) if not link["href"].startswith("https://")}
    assert targets <= {f"#{name}" for name in ids}
    levels = [int(tag.name[1]) for tag in soup(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_it_ends_with_what_it_takes_to_get_its_numbers_again(made, soup):
    info = load_generator(made.run)[1]
    found = {row.th.text: row.td.text for row in soup("section")[-1]("tr")}
    assert list(found) == ["Command", "Data", "Key of the data", "Generator", "Notebooks", "Device", "Versions"]
    assert info["model_hash"] in found["Generator"] and info["data"]["key"][:16] == found["Key of the data"]
    assert "--preset smoke of a run trained with total_kimg = 0.1, with" in found["Command"]
    assert all(name in found["Notebooks"] for name in html.NAMES)
    assert f"torch {torch.__version__.split('+')[0]}" in found["Versions"]
    text = str(soup)  # without a path of this machine
    told = text.count(str(made.run)) + text.count(str(made.slices))  # in the cells of parameters, where they were given
    assert told == 2 * len(html.NAMES) and str(ROOT) not in text


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A checkout with notebooks of one line, to be filled by the test: the folder of notebooks."""
    folder = tmp_path / "clone" / "notebooks"
    folder.mkdir(parents=True)
    (folder.parent / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    for name in html.NAMES:
        nbformat.write(notebook_of(f"# {name}", "1 + 1"), folder / f"{name}.ipynb")
    monkeypatch.chdir(folder.parent)
    return folder


@pytest.mark.parametrize(("line", "says"), [("raise ValueError('no such slice')", ", stopped with ValueError: no such slice$"),
                                            ("import os; os.kill(os.getpid(), 9)", ": its kernel died")])  # fmt: skip
def test_a_notebook_that_stops_is_named_and_shown_up_to_there(clone, line, says):
    nbformat.write(notebook_of("# Second", "a = 1", line, "b = 2"), clone / "02_train.ipynb")
    with pytest.raises(ValueError, match=f"02_train.ipynb, code cell 2{says}"):
        html.report(preset="smoke")
    text = (clone.parent / "report" / "index.html").read_text()
    assert f"1 of {len(html.NAMES)}" in text and "Second" in text and ("no such slice" in text) == ("slice" in line)


def test_notebooks_run_in_this_python_whatever_kernel_is_installed(clone, monkeypatch, tmp_path):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = notebook_of("import os, sys; print(sys.executable, os.getcwd())")
    execute(notebook, clone / "x.ipynb")
    python, folder = notebook.cells[0].outputs[0].text.split()
    assert Path(python).parent == Path(sys.executable).parent and folder == str(clone)


def test_parameters_are_replaced_by_name_and_keep_their_comments():
    notebook = notebook_of("x = 1", 'data = None  # where\npreset = "quick"  # row\nnum = 3')
    notebook.cells[1].metadata.tags = ["parameters"]
    set_parameters(notebook, {"data": r"a\1 # b", "num": 5, "x": 9, "unknown": 1})
    assert notebook.cells[1].source == "data = 'a\\\\1 # b'  # where\npreset = \"quick\"  # row\nnum = 5"
    assert notebook.cells[0].source == "x = 1"


def test_paths_are_seen_from_the_notebooks_and_outside_a_clone_it_says_where_to_run(clone, monkeypatch, tmp_path):
    assert html.seen_from(clone, clone.parent / "runs" / "quick") == "../runs/quick"
    assert Path(html.seen_from(clone, Path("/"))).is_absolute()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="inside a clone of the repository"):
        html.report()

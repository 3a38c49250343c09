"""The report: all notebooks run from end to end at the preset `smoke`, what the page holds, and how cells become a page."""

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
mistune = pytest.importorskip("nbconvert.filters.markdown_mistune")

from conftest import ROOT, notebook_of  # noqa: E402

from stylegan.checkpoint import load_generator  # noqa: E402
from stylegan.files import read_json  # noqa: E402
from stylegan.notebook import open_run, table, tell  # noqa: E402
from stylegan.plots import data_uri  # noqa: E402
from stylegan.reporting import explorer, front, html  # noqa: E402
from stylegan.reporting.execute import execute, set_parameters  # noqa: E402
from stylegan.scores import verdict  # noqa: E402
from stylegan.scores.evidence import read_answers  # noqa: E402

new_output = nbformat.v4.new_output
HOSTILE = '<script>alert("x")</script>'


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


def test_the_quiz_shows_each_of_enough_people_once_and_evaluate_takes_its_answers(made, soup, scores, tmp_path):
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

    assert "quiz" not in str(front.before(run, scores, {}, quiz=False))
    few = dataclasses.replace(run, slices=run.slices.select(run.slices.splits == "train"))
    assert "takes 4 people" in front.questions(few, scores)


def test_it_asks_the_network_for_nothing_describes_pictures_folds_code_and_its_links_and_headings_lead_somewhere(soup):
    loaded = [tag[key] for tag in soup(True) for key in ("src", "srcset", "data", "poster") if tag.get(key)]
    assert all(target.startswith("data:") for target in [*loaded, *(tag["href"] for tag in soup("link"))])
    scripts = [tag.text for tag in soup("script") if tag.get("type") != "application/json"]
    assert soup.find("meta", {"http-equiv": True})["content"] == explorer.csp(*scripts)
    assert len(scripts) == 2 and not soup("iframe")
    assert not re.search(r"@import|url\(", "".join(style.text for style in soup("style")))
    texts = [image.get("alt", "").strip() for image in soup("img")]
    assert len(texts) > 20 and all(len(text) > 15 and not text.startswith("No description") for text in texts)
    assert len(soup("math")) > 10 and not re.search(r"\$\$|\\frac", soup.main.get_text())
    assert len(soup(class_="highlight")) > 40 and all(block.find_parent("details") for block in soup(class_="highlight"))
    captions = [figure.figcaption.text for figure in soup("figure") if not figure.find_parent(class_="explorer")]
    numbers, titles = zip(*(re.fullmatch(r"Figure (\d+)(: .+)?", caption).groups() for caption in captions), strict=True)
    assert [int(number) for number in numbers] == list(range(1, len(captions) + 1)) and all(titles)
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


def test_notebooks_run_in_this_python_with_parameters_by_name_and_only_inside_a_clone(clone, monkeypatch, tmp_path):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = notebook_of("import os, sys; print(sys.executable, os.getcwd())")
    execute(notebook, clone / "x.ipynb")
    python, folder = notebook.cells[0].outputs[0].text.split()
    assert Path(python).parent == Path(sys.executable).parent and folder == str(clone)
    notebook = notebook_of("x = 1", 'data = None  # where\npreset = "quick"  # row\nnum = 3')
    notebook.cells[1].metadata.tags = ["parameters"]
    set_parameters(notebook, {"data": r"a\1 # b", "num": 5, "x": 9, "unknown": 1})
    assert notebook.cells[1].source == "data = 'a\\\\1 # b'  # where\npreset = \"quick\"  # row\nnum = 5"
    assert notebook.cells[0].source == "x = 1"
    assert html.seen_from(clone, clone.parent / "runs" / "quick") == "../runs/quick"
    assert Path(html.seen_from(clone, Path("/"))).is_absolute()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="inside a clone of the repository"):
        html.report()


def page(*notebooks, **parts):
    """(soup of the page, its text as HTML) of notebooks 01, 02 and so on."""
    text = html.page({f"0{k}_x": notebook for k, notebook in enumerate(notebooks, 1)}, **parts)
    return bs4.BeautifulSoup(text, "html.parser"), text


def test_formulas_links_headings_and_tables_become_html():
    soup, text = page(
        notebook_of("# A **b**\n\n## Same\n\n## Same\n\n$x^2$ and [two](02_x.ipynb)\n\n$$\\frac{1}{2}$$"),
        notebook_of("# B\n\n[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/one)"),
    )
    assert [section["id"] for section in soup("section")] == ["notebook-01", "notebook-02", "reproducibility"]
    assert [(tag.name, tag["id"]) for tag in soup.find(id="notebook-01")(re.compile("h[1-6]"))] == [
        ("h2", "notebook-01-a-b"), ("h3", "notebook-01-same"), ("h3", "notebook-01-same-2")
    ]  # fmt: skip
    assert [a["href"] for a in soup.nav("a")][-2:] == ["#notebook-02-b", "#reproducibility-heading"]
    assert 'href="#notebook-02"' in text and len(soup("math")) == 2 and 'display="block"' in text and "$" not in soup.main.text
    assert '<a href="https://colab.example/one">Open in Colab</a>' in text and "<img" not in text  # a badge is a plain link
    few, many = "| | |\n| --- | --- |\n| **a** | 1 |", "| | b | c | d |\n| --- | --- | --- | --- |\n| **a** | 1 | 2 | 3 |"
    few, many = (page(notebook_of(f"# T\n\n{text}"))[0].find(id="notebook-01") for text in (few, many))
    assert not few.thead and few.th["scope"] == "row" and not few(class_="box")
    assert [th.text for th in many.thead("th")] == ["b", "c", "d"] and many.table.parent["tabindex"] == "0"


def test_references_are_merged_sorted_and_moved_to_the_end():
    head = "\n\nText.\n\n### References\n\n"
    one = notebook_of(f"# One{head}- Zoe 2019. *A style GAN.* arXiv:1.2 (mixing)\n- Ärzte 2001. *On y.* J 1")
    two = notebook_of(f"# Two{head}- Zoe, Abel 2019. *A style-based GAN.* arXiv:1.2\n\nNext: [x](01_x.ipynb)", "1 + 1")
    two.cells[1].id = "02-closing"
    notebooks = {"01_x": one, "02_x": two}
    merged = ["Ärzte 2001. *On y.* J 1", "Zoe, Abel 2019. *A style-based GAN.* [arXiv:1.2](https://arxiv.org/abs/1.2)"]
    assert front.references(notebooks) == merged
    soup, _ = page(one, two, after=front.after(notebooks))
    assert [item.text[:4] for item in soup.find(id="end")("li")] == ["Ärzt", "Zoe,"]
    assert soup.text.count("A style") == 1 and not soup.find(id="notebook-02").find(class_="cell")
    assert "### References" in one.cells[0].source  # the notebook keeps its own


def test_scripts_run_only_where_there_is_something_to_run_and_the_title_names_the_system():
    cell = notebook_of("x").cells[0]
    cell.outputs = [new_output("display_data", {"text/html": '<div class="quiz"></div>'})]
    for before, count, system in (([], 0, "DCGAN"), ([cell], 1, "StyleGAN1")):
        soup, _ = page(notebook_of("# One"), before=before, system=system)
        policy = soup.find("meta", {"http-equiv": True})["content"]
        assert len(soup("script")) == policy.count("sha256-") == count and ("script-src" in policy) == bool(count)
        assert soup.title.text == soup.h1.text == f"{system} for brain MRI slices"


def test_what_cells_print_is_text_and_never_html(monkeypatch):
    sentence = f"**{HOSTILE}** `{HOSTILE}` $\\text{{{HOSTILE}}}$ $\\frac{{$ [a](javascript:alert(1)) ![b](https://e.org/b.png)"
    printed = f"| class |\n| --- |\n| {HOSTILE} |\n\n{HOSTILE}\n"
    notebook = notebook_of("# One", "code")
    notebook.cells[1].source = f"# {HOSTILE}\n'{HOSTILE}'"
    texts = (("text/markdown", sentence), ("text/markdown", printed), ("text/plain", HOSTILE))
    shown = [new_output("display_data", {kind: text}) for kind, text in texts]
    notebook.cells[1].outputs = [*shown, new_output("stream", text=HOSTILE), new_output("error", ename="E", evalue=HOSTILE)]
    soup, text = page(notebook, origin={HOSTILE: HOSTILE})
    assert not soup("script") and not soup("img") and not soup("a", href=re.compile("javascript"))
    assert soup.main.get_text().count(HOSTILE) == 12 and "<code>\\frac{</code>" in text
    shown = []  # and in a notebook, for every reader of Markdown
    monkeypatch.setattr("IPython.display.display", shown.append)
    tell(f"**{HOSTILE}** and `{HOSTILE}`, p < 0.05")
    table({HOSTILE: HOSTILE})
    renderer = mistune.IPythonRenderer(escape=False)
    plain = "".join(mistune.MarkdownWithMath(renderer=renderer).render(markdown.data) for markdown in shown)
    assert "<script" not in plain and bs4.BeautifulSoup(plain, "html.parser").get_text().count(HOSTILE) == 4
    assert "p &lt; 0.05" in plain


def picture(mode, colour, size):
    """(the output of a cell that shows a PNG with one pixel of another shade, the picture)."""
    image = Image.new(mode, size, colour)
    image.putpixel((3, 4), tuple(c // 2 for c in colour[:3]) + colour[3:])
    data = {"image/png": data_uri(image).partition(",")[2], "text/plain": "x"}
    return new_output("display_data", data, metadata={"image/png": {"alt": HOSTILE}}), image


@pytest.mark.parametrize(("mode", "colour", "kept"), [
    ("RGBA", (200, 200, 200, 255), "L"), ("RGBA", (200, 100, 0, 255), "RGB"), ("RGBA", (200, 200, 200, 9), "RGBA"),
    ("RGB", (9, 9, 9), "L"),
])  # fmt: skip
def test_a_picture_keeps_its_pixels_and_its_description_which_it_must_have_and_only_a_wide_one_scrolls(mode, colour, kept):
    notebook, pictures = notebook_of("pictures"), [picture(mode, colour, (width, 10)) for width in (700, 701)]
    notebook.cells[0].outputs = [output for output, _ in pictures]
    for img, (_, image), wide in zip(page(notebook)[0]("img"), pictures, (None, ["wide"]), strict=True):
        small = Image.open(urlopen(img["src"]))
        assert small.mode == kept and np.array_equal(np.asarray(small.convert("RGBA")), np.asarray(image.convert("RGBA")))
        assert img["alt"] == HOSTILE and img.parent.get("class") == wide
    notebook.cells[0].outputs[0].metadata["image/png"]["alt"] = " "
    with pytest.raises(ValueError, match="no alt text"):
        page(notebook)

"""The page of executed notebooks: formulas, headings, links, pictures and tables, and that what cells print is text."""

import re
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")
html = pytest.importorskip("stylegan.reporting.html", reason="needs nbconvert, of the extra notebook")
mistune = pytest.importorskip("nbconvert.filters.markdown_mistune")

from conftest import notebook_of  # noqa: E402

from stylegan.notebook import table, tell  # noqa: E402
from stylegan.plots import data_uri  # noqa: E402
from stylegan.reporting import front  # noqa: E402

new_output = nbformat.v4.new_output
HOSTILE = '<script>alert("x")</script>'


def page(*notebooks, **parts):
    """(soup of the page, its text as HTML) of notebooks 01, 02 and so on."""
    text = html.page({f"0{k}_x": notebook for k, notebook in enumerate(notebooks, 1)}, **parts)
    return bs4.BeautifulSoup(text, "html.parser"), text


def test_formulas_links_and_headings_become_html():
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


def test_tables_name_their_rows_and_many_columns_get_a_box():
    few, many = "| | |\n| --- | --- |\n| **a** | 1 |", "| | b | c | d |\n| --- | --- | --- | --- |\n| **a** | 1 | 2 | 3 |"
    few, many = (page(notebook_of(f"# T\n\n{text}"))[0].find(id="notebook-01") for text in (few, many))
    assert not few.thead and few.th["scope"] == "row" and not few(class_="box")
    assert [th.text for th in many.thead("th")] == ["b", "c", "d"] and many.table.parent["tabindex"] == "0"

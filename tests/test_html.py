"""The page of executed notebooks: formulas, headings, links, pictures and tables, and that what cells print is text."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")
html = pytest.importorskip("stylegan.reporting.html", reason="needs nbconvert, of the extra notebook")
mistune = pytest.importorskip("nbconvert.filters.markdown_mistune")

from conftest import notebook_of  # noqa: E402

from stylegan.notebook import table, tell  # noqa: E402

HOSTILE = '<script>alert("x")</script>'


def page(*notebooks):
    """(soup of the page, its text as HTML) of notebooks 01, 02 and so on."""
    text = html.page({f"0{k}_x": notebook for k, notebook in enumerate(notebooks, 1)}, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE})
    return bs4.BeautifulSoup(text, "html.parser"), text


def outputs(*found):
    return [nbformat.v4.new_output(kind, **values) for kind, values in found]


def test_formulas_links_and_headings_become_html():
    soup, text = page(
        notebook_of("# A **b**\n\n## Same\n\n## Same\n\n$x^2$ and [two](02_x.ipynb)\n\n$$\\frac{1}{2}$$"), notebook_of("# B")
    )
    sections = [section["id"] for section in soup("section")]
    assert sections == ["notebook-01", "notebook-02", "reproducibility"]
    assert [(tag.name, tag["id"]) for tag in soup.find(id="notebook-01")(re.compile("h[1-6]"))] == [
        ("h2", "notebook-01-a-b"), ("h3", "notebook-01-same"), ("h3", "notebook-01-same-2")
    ]  # fmt: skip
    assert [a["href"] for a in soup.nav("a")][-2:] == ["#notebook-02-b", "#reproducibility-heading"]
    assert 'href="#notebook-02"' in text and len(soup("math")) == 2 and 'display="block"' in text and "$" not in soup.main.text


def test_a_badge_becomes_a_plain_link():
    _, text = page(notebook_of("# One\n\n[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/one)"))
    assert '<a href="https://colab.example/one">Open in Colab</a>' in text and "<img" not in text


def test_what_cells_print_is_text_and_never_html():
    sentence = (
        f"**{HOSTILE}** `{HOSTILE}` $\\text{{{HOSTILE}}}$ $\\frac{{$ [a](javascript:alert(1)) ![b](https://example.org/b.png)"
    )
    printed = f"| class |\n| --- |\n| {HOSTILE} |\n\n{HOSTILE}\n"
    notebook = notebook_of("# One", "code")
    notebook.cells[1].source = f"# {HOSTILE}\n'{HOSTILE}'"
    notebook.cells[1].outputs = outputs(
        ("display_data", {"data": {"text/markdown": sentence}}), ("display_data", {"data": {"text/markdown": printed}}),
        ("stream", {"text": HOSTILE}), ("error", {"ename": "E", "evalue": HOSTILE}), ("display_data", {"data": {"text/plain": HOSTILE}}),
    )  # fmt: skip
    soup, text = page(notebook)
    assert not soup("script") and not soup("img") and not soup("a", href=re.compile("javascript"))
    assert soup.main.get_text().count(HOSTILE) == 12 and soup.header.get_text().count(HOSTILE) == 2
    assert "<code>\\frac{</code>" in text


def test_a_sentence_in_a_notebook_is_text_for_every_reader(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    tell(f"**{HOSTILE}** and `{HOSTILE}`, p < 0.05")
    table({HOSTILE: HOSTILE})
    plain = "".join(
        mistune.MarkdownWithMath(renderer=mistune.IPythonRenderer(escape=False)).render(markdown.data) for markdown in shown
    )
    assert "<script" not in plain and bs4.BeautifulSoup(plain, "html.parser").get_text().count(HOSTILE) == 4
    assert "p &lt; 0.05" in plain


def picture(mode, colour, size=(20, 10)):
    """A PNG as a notebook holds it, with one pixel of another shade."""
    image = Image.new(mode, size, colour)
    image.putpixel((3, 4), tuple(c // 2 for c in colour[:3]) + colour[3:])
    png = io.BytesIO()
    image.save(png, "png")
    return {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "x"}, image


@pytest.mark.parametrize(
    ("mode", "colour", "kept"),
    [("RGBA", (200, 200, 200, 255), "L"), ("RGBA", (200, 100, 0, 255), "RGB"), ("RGBA", (200, 200, 200, 9), "RGBA"), ("RGB", (9, 9, 9), "L")],
)  # fmt: skip
def test_pictures_lose_bytes_and_no_pixel(mode, colour, kept):
    data, image = picture(mode, colour)
    found = html._picture(nbformat.v4.new_output("display_data", data, metadata={"image/png": {"alt": "A head."}}))
    small = Image.open(io.BytesIO(base64.b64decode(found["src"].split(",")[1])))
    assert small.mode == kept and (found["width"], found["height"], found["wide"]) == (20, 10, False)
    assert np.array_equal(np.asarray(small.convert("RGBA")), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize(("width", "wide"), [(700, False), (701, True)])
def test_a_picture_keeps_its_description_and_only_a_wide_one_scrolls(width, wide):
    notebook = notebook_of("picture")
    data, _ = picture("RGB", (9, 9, 9), (width, 10))
    notebook.cells[0].outputs = outputs(("display_data", {"data": data, "metadata": {"image/png": {"alt": "A head."}}}))
    soup, _ = page(notebook)
    assert soup.img["alt"] == "A head." and soup.img.parent.get("class") == (["wide"] if wide else None)
    notebook.cells[0].outputs[0].metadata = {}
    with pytest.raises(ValueError, match="no alt text"):
        page(notebook)


def test_tables_name_their_rows_and_many_columns_get_a_box():
    few, many = "| | |\n| --- | --- |\n| **a** | 1 |", "| | b | c | d |\n| --- | --- | --- | --- |\n| **a** | 1 | 2 | 3 |"
    few, many = (page(notebook_of(f"# T\n\n{text}"))[0].find(id="notebook-01") for text in (few, many))
    assert not few.thead and few.th["scope"] == "row" and not few(class_="box")
    assert [th.text for th in many.thead("th")] == ["b", "c", "d"] and many.table.parent["tabindex"] == "0"

"""Notebooks as HTML: formulas, headings, links, pictures and tables, and that what cells print is text."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")
mistune = pytest.importorskip("nbconvert.filters.markdown_mistune")

from stylegan.notebook import table, tell  # noqa: E402
from stylegan.reporting import export  # noqa: E402


def v4():
    return nbformat.v4


def notebook_of(*sources):
    cells = [v4().new_code_cell(text) if not text.startswith("#") else v4().new_markdown_cell(text) for text in sources]
    return v4().new_notebook(cells=cells)


def test_a_page_turns_formulas_links_and_headings_into_html():
    notebook = notebook_of("# A **b**\n\n## Same\n\n## Same\n\n$x^2$ and [two](02_train.ipynb)\n\n$$\\frac{1}{2}$$")
    alone, merged = (export.render(notebook, "01_data_preview", merged=merged) for merged in (False, True))
    assert [h.id for h in alone.headings] == ["01-a-b", "01-same", "01-same-2"]
    assert [h.level for h in alone.headings] == [1, 2, 2] and [h.level for h in merged.headings] == [2, 3, 3]
    assert 'href="02_train.html"' in alone.html and 'href="#notebook-02"' in merged.html
    assert alone.html.count("<math") == 2 and 'display="block"' in alone.html and "$" not in alone.html


def test_a_badge_becomes_a_plain_link():
    notebook = notebook_of("# One\n\n[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/one)")
    html = export.render(notebook, "01_x").html
    assert '<a href="https://colab.example/one">Open in Colab</a>' in html and "<img" not in html


HOSTILE = '<script>alert("x")</script>'


def test_what_cells_print_is_text_and_never_html():
    sentence = (
        f"**{HOSTILE}** `{HOSTILE}` $\\text{{{HOSTILE}}}$ $\\frac{{$ [a](javascript:alert(1)) ![b](https://example.org/b.png)"
    )
    table = f"| class |\n| --- |\n| {HOSTILE} |\n\n{HOSTILE}\n"
    notebook = notebook_of("# One", "code")
    notebook.cells[1].source = f"# {HOSTILE}\n'{HOSTILE}'"
    outputs = [v4().new_output("display_data", {"text/markdown": text}) for text in (sentence, table)]
    outputs += [v4().new_output("stream", text=HOSTILE), v4().new_output("error", ename="E", evalue=HOSTILE)]
    notebook.cells[1].outputs = [*outputs, v4().new_output("display_data", {"text/plain": HOSTILE})]
    fragment = export.render(notebook, "01_x")
    soup = bs4.BeautifulSoup(export.page(HOSTILE, [fragment], head=export.facts({HOSTILE: HOSTILE})), "html.parser")
    assert not soup("script") and not soup("img") and not soup("a", href=re.compile("javascript"))
    assert soup.title.text == HOSTILE and soup.main.get_text().count(HOSTILE) == 10
    assert "<code>\\frac{</code>" in fragment.html


def test_notebook_tell_keeps_html_from_every_reader(capsys):
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", shown.append)
        tell(f"**{HOSTILE}** and `{HOSTILE}`, p < 0.05")
        table({HOSTILE: HOSTILE})
    html = "".join(
        mistune.MarkdownWithMath(renderer=mistune.IPythonRenderer(escape=False)).render(markdown.data) for markdown in shown
    )
    assert "<script" not in html and bs4.BeautifulSoup(html, "html.parser").get_text().count(HOSTILE) == 4
    assert "p &lt; 0.05" in html


def picture(mode, colour, size=(20, 10)):
    """A PNG as a notebook holds it, with one pixel of another shade."""
    image = Image.new(mode, size, colour)
    image.putpixel((3, 4), tuple(c // 2 for c in colour[:3]) + colour[3:])
    png = io.BytesIO()
    image.save(png, "png")
    return {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "x"}, image


@pytest.mark.parametrize(
    ("mode", "colour", "kept"),
    [
        ("RGBA", (200, 200, 200, 255), "L"),
        ("RGBA", (200, 100, 0, 255), "RGB"),
        ("RGBA", (200, 200, 200, 9), "RGBA"),
        ("RGB", (9, 9, 9), "L"),
    ],
)
def test_pictures_lose_bytes_and_no_pixel(mode, colour, kept):
    data, image = picture(mode, colour)
    found = export._picture(v4().new_output("display_data", data, metadata={"image/png": {"alt": "A head."}}))
    small = Image.open(io.BytesIO(base64.b64decode(found["src"].split(",")[1])))
    assert small.mode == kept and (found["width"], found["height"], found["wide"]) == (20, 10, False)
    assert np.array_equal(np.asarray(small.convert("RGBA")), np.asarray(image.convert("RGBA")))


def test_only_a_wide_picture_is_a_box_to_scroll_in():
    notebook = notebook_of("picture")
    for width, wide in ((700, False), (701, True)):
        data, _ = picture("RGB", (9, 9, 9), (width, 10))
        notebook.cells[0].outputs = [v4().new_output("display_data", data, metadata={"image/png": {"alt": "A head."}})]
        assert ('class="wide" tabindex="0"' in export.render(notebook, "01_x").html) == wide


def test_tables_name_their_rows_and_many_columns_get_a_box():
    few, many = "| | |\n| --- | --- |\n| **a** | 1 |", "| | b | c | d |\n| --- | --- | --- | --- |\n| **a** | 1 | 2 | 3 |"
    few, many = (bs4.BeautifulSoup(export.render(notebook_of(f"# T\n\n{t}"), "01_x").html, "html.parser") for t in (few, many))
    assert not few.thead and few.th["scope"] == "row" and not few(class_="box")
    assert [th.text for th in many.thead("th")] == ["b", "c", "d"] and many.table.parent["tabindex"] == "0"


def test_a_figure_without_alt_text_is_an_error():
    notebook = notebook_of("picture")
    data, _ = picture("RGB", (9, 9, 9))
    notebook.cells[0].outputs = [v4().new_output("display_data", data, metadata={"image/png": {"alt": "A head."}})]
    assert 'alt="A head."' in export.render(notebook, "01_x").html
    notebook.cells[0].outputs = [v4().new_output("display_data", data)]
    with pytest.raises(ValueError, match="no alt text"):
        export.render(notebook, "01_x")

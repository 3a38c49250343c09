"""Executed notebooks as HTML that needs nothing else: no script, no request to the network, formulas as MathML.

nbconvert renders the cells; the templates here decide what stands around them. Notebooks are trusted to hold HTML, what they
print is not: names of classes and folders come from strangers' files, and appear as text.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, pass_context
from latex2mathml.converter import convert as mathml
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image, ImageChops
from pygments.formatters import HtmlFormatter

TEMPLATES = Path(__file__).with_name("templates")
WIDE = 700  # pixels from which on a phone shows a picture in a box to scroll in, for its words would be too small


@dataclass(frozen=True)
class Heading:
    level: int
    id: str
    html: str


@dataclass
class Fragment:
    """One notebook as HTML without a page around it, and its headings in order."""

    name: str  # file name without ending
    html: str = ""
    headings: list[Heading] = field(default_factory=list)


def render(notebook: NotebookNode, name: str, *, merged: bool = False) -> Fragment:
    """The fragment of one notebook; ``merged``: for one page with others, so headings go down a level and links stay inside."""
    fragment = Fragment(name)
    exporter = _Exporter(fragment, merged)
    fragment.html, _ = exporter.from_notebook_node(notebook)
    return fragment


def page(title: str, fragments: Sequence[Fragment], *, head: str = "", links: Sequence[tuple[str, str]] = ()) -> str:
    """A whole HTML page of one fragment or, with ``head`` above, of several; ``links``: words and target of other pages."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES / "report"), autoescape=False)
    return environment.get_template("page.html.j2").render(
        title=title,
        style=_style(),
        head=head,
        contents=[h for f in fragments for h in f.headings if h.level <= 3 - (not head)],
        links=links,
        sections=[(_section(f.name), f.html) for f in fragments],
    )


def plain(html: str) -> str:
    """The words of a heading without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def facts(rows: dict[str, object]) -> str:
    """Pairs of a name and a value, neither of them HTML, as a table."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in rows.items()
    )
    return f'<table class="facts">{lines}</table>'


def _section(name: str) -> str:
    number = name.split("_")[0]
    return f"notebook-{number}" if number.isdigit() else name


def _style() -> str:
    """The style sheet, with the colours of code in light and dark: two sets that can be read on our backgrounds."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("xcode", "github-dark"))
    plain = ".highlight, .highlight pre { background: var(--code); }"  # the page's own background, also in the dark
    css = (TEMPLATES / "report" / "reporting.css").read_text(encoding="utf-8")
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{css}\n{plain}"


# --- Parts ----------------------------------------------------------------------------------------------------------------


class _Exporter(HTMLExporter):
    """nbconvert's exporter with our template, our Markdown and no style sheets of its own."""

    def __init__(self, fragment: Fragment, merged: bool):
        super().__init__(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
        self.fragment, self.merged = fragment, merged
        self.register_filter("summary", _summary)
        self.register_filter("picture", _picture)
        self.register_filter("told", self._told)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(renderer=_Renderer(self.fragment, self.merged, attachments=attachments)).render(source)

    def _told(self, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(self.fragment, self.merged, escape=True)).render(source)


class _Renderer(IPythonRenderer):
    """Markdown to HTML: unique heading ids, MathML, links between notebooks, boxes around what may be wider than a phone."""

    def __init__(self, fragment: Fragment, merged: bool, escape: bool = False, attachments: dict | None = None):
        super().__init__(escape=escape, allow_harmful_protocols=False, attachments=attachments)
        self.fragment, self.merged = fragment, merged

    def heading(self, text: str, level: int, **attrs) -> str:
        level = min(level + self.merged, 6)
        words = re.sub(r"\W+", "-", plain(text).lower()).strip("-")
        ids, name = {h.id for h in self.fragment.headings}, f"{self.fragment.name.split('_')[0]}-{words}"
        unique = next(i for n in range(1, len(ids) + 2) if (i := name if n == 1 else f"{name}-{n}") not in ids)
        self.fragment.headings.append(Heading(level, unique, text))
        return f'<h{level} id="{unique}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a notebook leads to its page, in the merged report to its section."""
        notebook = re.fullmatch(r"(\d\d_\w+)\.ipynb", url)
        if notebook:
            url = f"#{_section(notebook[1])}" if self.merged else f"{notebook[1]}.html"
        return super().link(text, url, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture from elsewhere, such as a badge, becomes its words: a page asks nobody for anything."""
        return super().image(text, url, title) if url.startswith(("attachment:", "data:")) else text

    def table(self, text: str) -> str:
        """Bold first cells name rows; a column without a name has no heading; a box around a table of many columns."""
        text = re.sub(r"<tr>\s*<td><strong>(.*?)</strong></td>", r'<tr><th scope="row">\1</th>', text)
        text = re.sub(r"<th\b[^>]*></th>", "<td></td>", text)
        head, end, body = text.partition("</thead>")
        columns = head.count("</th>")
        table = f"<table>{head + end if columns else ''}{body}</table>\n"
        return _box("table", "Table", table) if columns > 2 else table

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def block_math(self, body: str) -> str:
        """Formulas beside one another each in a box of its own, so that they may stand below one another."""
        parts = re.split(r"\\qquad(?![a-zA-Z])", body.strip())
        return "".join(['<div class="formulas">', *(_box("formula", "Formula", _formula(p, "block")) for p in parts), "</div>"])

    def latex_environment(self, name: str, body: str) -> str:
        return _box("formula", "Formula", _formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block"))


def _box(kind: str, label: str, html: str) -> str:
    """A box to scroll in where its content is too wide, by keyboard as well."""
    return f'<div class="box {kind}" role="group" aria-label="{label}" tabindex="0">{html}</div>\n'


def _formula(tex: str, display: str) -> str:
    """TeX as MathML; what is no formula stays as it was typed."""
    safe = tex.replace("<", r"\lt ").replace(">", r"\gt ")  # latex2mathml would pass tags in \text through
    try:
        return mathml(safe, display=display)
    except Exception:  # its many errors have no base of their own
        return f"<code>{escape(tex)}</code>"


def _summary(source: str) -> str:
    """What a folded cell says of itself: its first line where that is a comment."""
    first = source.strip().splitlines()[:1]
    return f"Code: {first[0].lstrip('# ').replace('`', '')}" if first and first[0].startswith("#") else "Code"


# --- Pictures -------------------------------------------------------------------------------------------------------------


def _picture(output: NotebookNode) -> dict[str, object]:
    """src, width, height, alt and whether it is wide. ValueError for a figure that brought no description."""
    alt = output.metadata.get("image/png", {}).get("alt", "")
    if not alt.strip():
        raise ValueError("A figure has no alt text; give it one with plots.set_alt_text.")
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as image:
        width, height = image.size
        small = io.BytesIO()
        _same_pixels(image).save(small, "png", optimize=True)
    src = f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
    return {"src": src, "width": width, "height": height, "alt": alt, "wide": width > WIDE}


def _same_pixels(image: Image.Image) -> Image.Image:
    """The picture without an alpha channel that says nothing, and with one channel where all of it is grey."""
    if image.mode not in ("RGB", "RGBA") or (image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)):
        return image
    red, green, blue = image.convert("RGB").split()
    grey = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if grey else image.convert("RGB")

"""Executed notebooks as HTML that needs nothing else: no script, no request to the network, formulas as MathML.

nbconvert renders the cells; the templates here decide what stands around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, pass_context
from latex2mathml.converter import convert as mathml
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

TEMPLATES = Path(__file__).with_name("templates")


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
    """A whole HTML page of one fragment or, with ``head`` above, of several."""
    sections = [f'<section id="{_section(f.name)}">\n{f.html}\n</section>' for f in fragments]
    contents = [h for f in fragments for h in f.headings if h.level <= 3 - (not head)]
    environment = Environment(loader=FileSystemLoader(TEMPLATES / "report"), autoescape=False)
    html = environment.get_template("page.html.j2").render(
        title=title, style=_style(), contents=contents, links=links, body="\n".join([head, *sections])
    )
    return html.replace("<body>", '<body class="index">') if head else html


def _section(name: str) -> str:
    return f"notebook-{name.split('_')[0]}"


def _style() -> str:
    """The style sheet, with the colours of code in light and dark."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    plain = ".highlight, .highlight pre { background: var(--code); }"  # the page's own background, also in the dark
    css = (TEMPLATES / "report" / "report.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{css}\n{plain}"


# --- Parts ----------------------------------------------------------------------------------------------------------------


class _Exporter(HTMLExporter):
    """nbconvert's exporter with our template, our Markdown and no style sheets of its own."""

    def __init__(self, fragment: Fragment, merged: bool):
        super().__init__(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
        self.fragment, self.merged = fragment, merged
        self.register_filter("summary", _summary)
        self.register_filter("alt_text", _alt_text)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(self.fragment, self.merged)).render(source)


class _Renderer(IPythonRenderer):
    """Markdown to HTML: unique heading ids, MathML, links between notebooks."""

    def __init__(self, fragment: Fragment, merged: bool):
        super().__init__(escape=False)
        self.fragment, self.merged = fragment, merged

    def heading(self, text: str, level: int, **attrs) -> str:
        level = min(level + self.merged, 6)
        words = re.sub(r"\W+", "-", unescape(re.sub(r"<[^>]+>", "", text)).lower()).strip("-")
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
        """A picture from the network, such as a badge, becomes its words: a page asks the network for nothing."""
        return text if re.match(r"https?:", url) else super().image(text, url, title)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body.strip(), display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")


def _summary(source: str) -> str:
    """What a folded cell says of itself: its first line where that is a comment."""
    first = source.strip().splitlines()[:1]
    return f"Code: {first[0].lstrip('# ').replace('`', '')}" if first and first[0].startswith("#") else "Code"


def _alt_text(output: NotebookNode) -> str:
    """The description a figure brought with it. ValueError for a figure without one."""
    text = output.metadata.get("image/png", {}).get("alt", "")
    if not text.strip():
        raise ValueError("A figure has no alt text; give it one with plots.describe.")
    return text

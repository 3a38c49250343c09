"""The course report: the notebooks run in order, and all of them as one HTML page that needs nothing else.

nbconvert renders the cells, those of the front page (`front.py`) as well; the templates decide what stands around them. No request to
the network, no script but the two that the page's policy names by their hash, formulas as MathML.
Notebooks are trusted to hold HTML, what they print is not: class and folder names come from users' files and are shown as text.
"""

import base64
import copy
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape, unescape
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert as mathml
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image
from pygments.formatters import HtmlFormatter

from stylegan.config import ARCHITECTURES
from stylegan.files import checkout, read_json, replacing
from stylegan.notebook import Run, machine, open_run, provenance, run_folder
from stylegan.plots import data_uri
from stylegan.reporting import explorer, front
from stylegan.reporting.execute import execute, set_parameters

NAMES = ("01_data_preview", "02_train", "03_generate", "04_evaluate", "05_umap_embedding", "06_styles_compared",
         "07_how_to_fool_yourself")  # fmt: skip
TEMPLATES = Path(__file__).with_name("templates")
WIDE = 700  # pixels: on a phone a wider picture gets a box to scroll in, because its words would be too small


# --- The report -------------------------------------------------------------------------------------------------------------


def report(
    data: str | Path | None = None,
    run_dir: str | Path | None = None,
    preset: str = "quick",
    out: str | Path = "report",
    quiz: bool = True,
    author: str = "",
    **parameters: object,
) -> Path:
    """Run the notebooks, write the executed copies and ``index.html`` into ``out``, and return the path of the page.

    ``data``: a folder or .zip, or None for the simulated slices. ``run_dir``: as in `run_folder`; what is trained there already
    is not trained again. ``quiz``: with the quiz, which shows held-out slices one by one. ``author``: stands below the title.
    ``parameters``: further values for the notebooks' own, such as ``max_minutes``; None keeps theirs. Raises FileNotFoundError
    where there are no notebooks, and a ValueError naming notebook and cell where one stops; the page then shows all up to there.
    """
    folder, out = checkout() / "notebooks", Path(out).resolve()
    if not all((folder / f"{name}.ipynb").is_file() for name in NAMES):
        raise FileNotFoundError(f"{folder} lacks the notebooks of the report; run it inside a clone of the repository.")
    out.mkdir(parents=True, exist_ok=True)
    place = run_folder(run_dir, preset, data).resolve()
    given = {"data": data and Path(data), "run_dir": place, "preset": preset, **parameters}
    values = {name: seen_from(folder, x) if isinstance(x, Path) else x for name, x in given.items() if x is not None}
    notebooks, seconds, run, before, after = {}, {}, None, [], []
    try:
        for name in NAMES:
            begin = time.perf_counter()
            notebooks[name] = nbformat.read(folder / f"{name}.ipynb", as_version=4)
            set_parameters(notebooks[name], values)
            execute(notebooks[name], folder / f"{name}.ipynb")
            seconds[name] = time.perf_counter() - begin
            print(f"{name:25}{seconds[name]:5.0f} s", flush=True)
        run, scores = open_run(place, preset, data), read_json(place / "evaluation.json")
        before, after = front.before(run, scores, notebooks, quiz), front.after(notebooks, run, scores)
    finally:
        for name, notebook in notebooks.items():
            nbformat.write(notebook, out / f"{name}.ipynb")
        with replacing(out / "index.html") as temporary:
            system = ARCHITECTURES[run.config.architecture if run else "stylegan2"]
            text = page(notebooks, before, after or front.after(notebooks), origin(seconds, preset, run), system, author)
            temporary.write_text(text, encoding="utf-8")
    return out / "index.html"


def seen_from(folder: Path, path: Path) -> str:
    """A path as the notebooks see it: relative inside the checkout, so that the page does not show the name of a home folder."""
    path = Path(os.path.expanduser(path)).resolve()
    return Path(os.path.relpath(path, folder)).as_posix() if path.is_relative_to(folder.parent) else str(path)


def origin(seconds: Mapping[str, float], preset: str, run: Run | None) -> dict[str, str]:
    """What it takes to get the numbers of the page again; ``run``: None where the report stopped on its way."""
    times = [f"{name} {int(took) // 60}:{int(took) % 60:02}" for name, took in seconds.items()]
    ran = f"{len(seconds)} of {len(NAMES)} ran to the end, in minutes: {', '.join(times)}"
    known = {"Run": "not finished"} if run is None else provenance(run.slices, run)
    changed = ", ".join(f"{k} = {v}" for k, v in run.config.departures().items()) if run else ""
    trained = changed and f" of a run trained with {changed}"
    command = f"python -m stylegan report --preset {run.config.preset if run else preset}{trained}, with the same --data"
    return {"Command": command, **known, "Notebooks": ran, **machine()}


# --- The page ---------------------------------------------------------------------------------------------------------------


def page(
    notebooks: Mapping[str, NotebookNode],
    before: Sequence[NotebookNode] = (),
    after: Sequence[NotebookNode] = (),
    origin: Mapping[str, object] | None = None,
    system: str = "StyleGAN2",
    author: str = "",
) -> str:
    """Executed notebooks, by file name without ending, as one HTML page between the cells ``before`` and ``after``. ``origin``:
    the table that it ends with. ``system``: what its title names. ``author``: whose name stands below that, beside the date."""
    exporter = _Exporter()
    body = [cell for name, notebook in notebooks.items() for cell in _section(f"notebook-{name[:2]}", notebook.cells)]
    parts = {"before": _section("summary", before), "body": body, "after": _section("end", after)}
    html = {name: exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells))[0] for name, cells in parts.items()}
    known = {"explorer": explorer.SCRIPT, "quiz": front.QUIZ.read_text(encoding="utf-8")}
    scripts = [text for kind, text in known.items() if f'<div class="{kind}"' in html["before"]]
    # The colours of code in light and dark: two sets that can be read on the page's own background.
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("xcode", "github-dark"))
    return exporter.environment.get_template("page.html.j2").render(
        system=system, author=author, date=date.today().isoformat(), policy=explorer.csp(*scripts), scripts=scripts,
        contents=[heading for heading in exporter.headings if heading["level"] <= 3], origin=origin or {}, **html,
        light=light, dark=dark, explorer_style=explorer.STYLE,
    )  # fmt: skip


def _section(name: str, cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Copies of these cells that are one section, without references and table of versions: the page has them once for all."""
    cells = [copy.deepcopy(cell) for cell in cells if not cell.id.endswith("-closing")]
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[!\[Open in Colab.*\n+", "", cell.source.partition("### References")[0]).rstrip()
    if cells:
        cells[0].metadata["begins"], cells[-1].metadata["ends"] = name, True
    return cells


class _Exporter(HTMLExporter):
    """nbconvert's exporter with our template, our Markdown and no style sheets of its own; collects the headings in order."""

    def __init__(self):
        super().__init__(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
        self.headings: list[dict] = []  # level, id, html
        self.section, self.figures = "", 0
        self.register_filter("title", _title)
        self.register_filter("picture", self._picture)
        self.register_filter("printed", MarkdownWithMath(renderer=_Renderer(self, escape=True)).render)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        self.section = context.get("cell", {}).get("metadata", {}).get("begins", self.section)
        return MarkdownWithMath(renderer=_Renderer(self)).render(source)

    def _picture(self, output: NotebookNode) -> dict[str, object]:
        """number, src, width, height, alt and whether it is wide. ValueError for a figure without a description."""
        alt, self.figures = output.metadata.get("image/png", {}).get("alt", ""), self.figures + 1
        if not alt.strip():
            raise ValueError("A figure has no alt text; give it one with plots.set_alt_text.")
        with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as image:
            # Without an opaque alpha channel, and with one channel where all of it is grey.
            same = [less for less in map(image.convert, ("L", "RGB")) if less.convert("RGBA") == image.convert("RGBA")]
            src, (width, height) = data_uri((*same, image)[0]), image.size
        return {"number": self.figures, "src": src, "width": width, "height": height, "alt": alt, "wide": width > WIDE}


class _Renderer(IPythonRenderer):
    """Markdown to HTML: unique heading ids, MathML, links between notebooks, boxes around what may be wider than a phone."""

    def __init__(self, exporter: _Exporter, escape: bool = False):
        super().__init__(escape=escape, allow_harmful_protocols=False)
        self.exporter = exporter

    def heading(self, text: str, level: int, **attrs) -> str:
        """One level down, below the title of the page."""
        level, known = min(level + 1, 6), {heading["id"] for heading in self.exporter.headings}
        words = re.sub(r"\W+", "-", unescape(re.sub(r"<[^>]+>", "", text)).lower()).strip("-")
        name = f"{self.exporter.section}-{words}"
        unique = next(some for some in (name, *(f"{name}-{n}" for n in range(2, len(known) + 2))) if some not in known)
        self.exporter.headings.append({"level": level, "id": unique, "html": text})
        return f'<h{level} id="{unique}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to another notebook leads to its section."""
        return super().link(text, re.sub(r"^(\d\d)_\w+\.ipynb$", r"#notebook-\1", url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture from elsewhere, such as a badge, becomes its words: the page loads nothing."""
        return super().image(text, url, title) if url.startswith("data:") else text

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
        """Formulas side by side, each in a box of its own, so that they wrap on a narrow screen."""
        parts = re.split(r"\\qquad(?![a-zA-Z])", body.strip())
        return "".join(['<div class="formulas">', *(_box("formula", "Formula", _formula(p, "block")) for p in parts), "</div>"])


def _box(kind: str, label: str, html: str) -> str:
    """A box that scrolls where its content is too wide, by keyboard as well."""
    return f'<div class="box {kind}" role="group" aria-label="{label}" tabindex="0">{html}</div>\n'


def _formula(tex: str, display: str) -> str:
    """TeX as MathML; what is no formula stays as it was typed."""
    safe = tex.replace("<", r"\lt ").replace(">", r"\gt ")  # latex2mathml would pass tags in \text through
    try:
        return mathml(safe, display=display)
    except Exception:  # its many errors share no base class
        return f"<code>{escape(tex)}</code>"


def _title(source: str) -> str:
    """What a cell and its figures are called: by its first line, where that is a comment."""
    first = source.strip().partition("\n")[0]
    return f": {first.lstrip('# ').replace('`', '')}" if first.startswith("#") else ""

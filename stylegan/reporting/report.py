"""The course report: copies of the notebooks run top to bottom, a page for each, and all in one ``index.html``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stylegan.files import checkout, read_json, replacing
from stylegan.notebook import run_folder

if TYPE_CHECKING:
    from nbformat import NotebookNode

NAMES = ("01_data_preview", "02_train", "03_generate", "04_evaluate", "05_umap_embedding", "06_styles_compared",
         "07_how_to_fool_yourself")  # fmt: skip
TITLE = "StyleGAN2 for brain MRI slices"


def report(
    data: str | Path | None = None,
    run_dir: str | Path | None = None,
    preset: str = "quick",
    out: str | Path = "report",
    **parameters: object,
) -> Path:
    """Run the notebooks and write executed copies, one page each and ``index.html`` into ``out``; returns the index.

    ``data``: a folder or .zip, or None for the simulated slices. ``run_dir``: as of `run_folder`; what is trained there already
    is not trained again. ``parameters``: further values for the notebooks' parameters by name, such as ``max_minutes``; None
    keeps the notebook's own. Needs the extra ``notebook``. Raises FileNotFoundError where there are no notebooks, and a
    ValueError naming notebook and cell where one stops; the pages before it are kept.
    """
    _need_jupyter()
    folder, out = find_notebooks(), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = run_folder(run_dir, preset, data).resolve()
    values = {"data": _seen_from(folder, data), "run_dir": _seen_from(folder, run), "preset": preset, **parameters}
    values = {name: value for name, value in values.items() if value is not None}
    done: dict[str, tuple[NotebookNode, float]] = {}
    try:
        for name in NAMES:
            begin = time.perf_counter()
            done[name] = _run_and_write(folder / f"{name}.ipynb", values, out), time.perf_counter() - begin
            print(f"{name:20} {done[name][1]:6.0f} s", flush=True)
    finally:
        if done:
            write_index(done, run, out / "index.html")
    return out / "index.html"


def find_notebooks() -> Path:
    """The folder of the notebooks in the checkout around the working directory."""
    folder = checkout() / "notebooks"
    missing = [f"{name}.ipynb" for name in NAMES if not (folder / f"{name}.ipynb").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; the report is made from the notebooks, so run it inside a clone of the repository."
        )
    return folder


def _need_jupyter() -> None:
    try:
        import ipykernel  # noqa: F401
        import latex2mathml  # noqa: F401
        import nbclient  # noqa: F401
        import nbconvert  # noqa: F401
    except ImportError as error:
        raise ValueError(f"The report needs {error.name}; install it with: pip install -e '.[notebook]'") from error


def _seen_from(folder: Path, path: str | Path | None) -> str | None:
    """A path as the notebooks see it: relative where it lies in the checkout, so that no page tells a home folder's name."""
    if path is None:
        return None
    path = Path(path).resolve()
    inside = path.is_relative_to(folder.parent)
    return Path(os.path.relpath(path, folder)).as_posix() if inside else str(path)


# --- Running --------------------------------------------------------------------------------------------------------------


def _run_and_write(path: Path, values: dict, out: Path) -> NotebookNode:
    """Run one notebook and write its copy and its page, also where it stops half-way."""
    import nbformat

    from stylegan.reporting.execute import execute, set_parameters

    notebook = nbformat.read(path, as_version=4)
    set_parameters(notebook, values)
    try:
        execute(notebook, path)
    finally:
        nbformat.write(notebook, out / path.name)
        _write_page(notebook, path.stem, out)
    return notebook


# --- Writing --------------------------------------------------------------------------------------------------------------


def _write_page(notebook: NotebookNode, name: str, out: Path) -> None:
    from stylegan.reporting.export import page, plain, render

    links = [("the whole report", "index.html"), *((other, f"{other}.html") for other in NAMES if other != name)]
    fragment = render(notebook, name)
    title = f"{plain(fragment.headings[0].html) if fragment.headings else name} · {TITLE}"
    _write(out / f"{name}.html", page(title, [fragment], links=links))


def write_index(done: dict[str, tuple[NotebookNode, float]], run: Path, path: Path) -> None:
    """All notebooks that ran as one page; what stands in its head and at its end comes from the run folder."""
    from stylegan.reporting.export import Fragment, Heading, facts, page, render

    fragments = [render(notebook, name, merged=True) for name, (notebook, _) in done.items()]
    heading = Heading(2, "reproducibility-heading", "How this report was made")
    html = f'<h2 id="{heading.id}">{heading.html}</h2>\n{facts(_origin(done, run))}'
    known = read_json(run / "config.json") or {}
    short = {
        "Slices": known.get("data", {}).get("title", "none trained on yet"),
        "Preset": f"{known['config']['preset']}, seed {known['config']['seed']}" if known else "none",
        "Notebooks": f"{len(done)} of {len(NAMES)} ran to the end, in {_duration(sum(s for _, s in done.values()))}",
    }
    lead = (
        "Training, pictures and scores of one run, told by these notebooks. Its numbers were computed by this run; those of the "
        "shipped generator in part 3 are marked."
    )
    head = f'<h1>{TITLE}</h1>\n<p class="byline">{lead}</p>\n{facts(short)}'
    fragments.append(Fragment("reproducibility", html, [heading]))
    _write(path, page(TITLE, fragments, head=head, links=[(name, f"{name}.html") for name in done]))


def _origin(done: dict[str, tuple[NotebookNode, float]], run: Path) -> dict[str, str]:
    """What it takes to get the numbers of the report again, as far as the run folder holds it."""
    from stylegan.notebook import machine

    known = read_json(run / "config.json")
    if known is None:
        return {"Run": "nothing was trained yet", **_run_time(done), **machine()}
    data, config = known["data"], known["config"]
    return {
        "Data": f"{data['title']}, layout {data['layout']}, key {data['key'][:16]}",
        "Model": _model(run),
        "Seeds": f"{config['seed']} for training; those of the pictures stand in their captions",
        **_run_time(done),
        **machine(),
    }


def _model(run: Path) -> str:
    from stylegan.checkpoint import load_generator

    try:
        _, info = load_generator(run)
    except FileNotFoundError:
        return "none yet"
    return f"{info['model_hash']}, preset {info['config']['preset']}, the best of the run, at {info['cur_nimg'] / 1000:g} kimg"


def _run_time(done: dict[str, tuple[NotebookNode, float]]) -> dict[str, str]:
    each = ", ".join(f"{name} {_duration(seconds)}" for name, (_, seconds) in done.items())
    return {"Run time": f"{_duration(sum(seconds for _, seconds in done.values()))}: {each}"}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _write(path: Path, html: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")

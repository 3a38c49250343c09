"""What stands around the notebooks: abstract, pictures, map, verdict, generator and quiz before them; discussion and references after.

All of it is computed from the run and from what its notebooks showed. Texts are Markdown, because they hold names from users' files.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Template
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image
from scipy.optimize import linear_sum_assignment

from stylegan.config import ARCHITECTURES
from stylegan.data.subjects import people_of
from stylegan.latent import make_gauges
from stylegan.notebook import Run, markdown_table
from stylegan.plots import data_uri
from stylegan.reporting import explorer
from stylegan.scores import verdict
from stylegan.scores.evidence import open_evidence
from stylegan.scores.intervals import share

QUIZ = Path(__file__).with_name("templates") / "report" / "quiz.js"
EACH, LEAST = 10, 4  # real and generated slices of the quiz; people that it takes at least
CHOICE = 10  # generated slices among which the quiz takes one of about the height of a real slice
Cells = list[NotebookNode]


def before(run: Run, scores: Mapping, notebooks: Mapping[str, NotebookNode], quiz: bool = True) -> Cells:
    """The front page of a finished run as cells; ``scores``: its ``evaluation.json``; ``quiz``: with held-out slices one by one."""
    cells = [cell for notebook in notebooks.values() for cell in notebook.cells]

    def shown(name: str, kind: str) -> Cells:
        own = [cell for cell in cells if cell.id == name]
        found = [(cell.source, [part for part in cell.outputs if kind in part.get("data", {})]) for cell in own]
        return [_shown(outputs, source) for source, outputs in found if outputs]

    card = verdict.verdict_rows(scores)
    named = {sign: [row["score"] for row in card if row["verdict"] == sign] for sign in verdict.SIGNS.values()}
    rows = [{"verdict": sign, "how many": len(found), "which": "; ".join(found)} for sign, found in named.items() if found]
    text = f"{counted(card)}. The questions, scores, floors and rules: [4 · Scores](04_evaluate.ipynb)."
    parts = {
        "Abstract": [_text(abstract(run, scores, card))],
        "Real and generated slices": shown("03-beside", "image/png"),
        "A map, and what it may claim": shown("05-fit", "image/png") + shown("05-summary", "text/markdown"),
        "The verdict in short": [_text(markdown_table(rows)), _text(text)],
        "Try the generator": [_text(explorer.fragment(run.folder, make_gauges(run.slices)), "text/html")],
        "Real or generated?": [_text(questions(run, scores), "text/html")] if quiz else [],
    }
    return [cell for title, inside in parts.items() if inside for cell in (new_markdown_cell(f"# {title}"), *inside)]


def after(notebooks: Mapping[str, NotebookNode], run: Run | None = None, scores: Mapping | None = None) -> Cells:
    """Discussion, where there is a finished run, and the references of all notebooks as cells."""
    listed = "\n".join(f"- {reference}" for reference in references(notebooks))
    cells = [] if run is None else [new_markdown_cell("# Discussion"), _text(discussion(run, scores))]
    return [*cells, new_markdown_cell(f"# References\n\n{listed}")] if listed else cells


def _shown(outputs: list[NotebookNode], source: str = "") -> NotebookNode:
    """Only the outputs of a cell; its first line is the caption of its figures."""
    return new_code_cell(source, outputs=outputs, metadata={"tags": ["front"]})


def _text(text: str, kind: str = "text/markdown") -> NotebookNode:
    return _shown([new_output("display_data", {kind: text})])


# --- Words --------------------------------------------------------------------------------------------------------------------


def abstract(run: Run, scores: Mapping, card: Sequence[Mapping]) -> str:
    """About 150 words: data, people, split, training, distance, variety, memory, verdict."""
    slices, last, people = run.slices, run.history[-1], people_of(run.slices)
    counts = {name: len(set(people[slices.splits == name])) for name in ("train", "val", "test")}
    hidden = "groups", "who is who is hidden: one person may be in two of these splits, and the scores too good"
    who, apart = ("people", "nobody is in two of these splits") if slices.subjects_known else hidden
    chosen = f"The best generator was chosen on {counts['val']} others and is judged"
    chosen = "The last generator is judged" if last.get("best_kid") is None else chosen
    judged = f"{chosen} on {counts['test']} more; {apart}" if counts["test"] else "Nobody is held out for judging it"
    text = (
        "What has a network understood of brains when it draws slices of people who do not exist? A "
        f"{ARCHITECTURES[run.config.architecture]} of {run.config.img_resolution} px was trained on "
        f"{(slices.splits == 'train').sum():,} slices of {counts['train']} {who}: {slices.title}. {judged}. Training took "
        f"{last['seconds'] / 60:,.1f} minutes and showed {1000 * last['kimg']:,.0f} slices."
    )
    if split := verdict.last_split(scores):
        away, floor = split["fd"]["value"], split["fd_floor"]["value"]
        relative = f"a relative distance (Woodland et al. 2024) of **{verdict.times_floor(split):.1f}**"
        text += f" On `{list(scores['splits'])[-1]}` people the Fréchet distance is {away:.0f} where real people are {floor:.0f} apart, "
        text += f"{relative}. {verdict.variety_sentence(scores)}"
    if slices.layout == "simulated":
        text += " Here *real* slices and *people* are held-out ones of the simulation: no scan of anybody was used."
    questions = {question for question, *_ in verdict.MEMORY.values()}
    doubt = "But *{score}* gives {generated (95 %)}; without memory: {real people}. "
    bad = [verdict.SIGNS[sign] for sign in (verdict.BORDERLINE, verdict.FAIL)]
    doubts = [doubt.format(**row) for row in card if row["question"] in questions and row["verdict"] in bad]
    return f"{text} {verdict.copies_sentence(scores['memorisation'])} {''.join(doubts)}Of the checks below, {counted(card)}."


def counted(card: Sequence[Mapping]) -> str:
    """How many of the checks pass, and how many do not, without their names."""
    return verdict.summary(card).partition(":")[0].rstrip(".")


def discussion(run: Run, scores: Mapping) -> str:
    """What held, what failed, and what would be next, by rules that are the same for every run."""
    card, split = verdict.verdict_rows(scores), verdict.last_split(scores)
    lines = [f"{verdict.distance_sentence(split)} {verdict.splits_sentence(scores)}", ""] if split else []
    for sign, title in ((verdict.PASS, "What held"), (verdict.BORDERLINE, "What is open"), (verdict.FAIL, "What failed")):
        found = [row for row in card if row["verdict"] == verdict.SIGNS[sign]]
        told = [f"- {row['score']}: {row['generated (95 %)']}, real people {row['real people']}" for row in found]
        lines += [f"**{title}**", "", *(told or ["- nothing"]), ""]
    return "\n".join([*lines, "**What would be next**", "", *(f"- {step}" for step in next_steps(run, scores))])


def next_steps(run: Run, scores: Mapping) -> list[str]:
    """What the numbers ask for first."""
    split, memory = verdict.last_split(scores), scores["memorisation"]
    simulated = "Real slices. The simulated ones share one folding pattern: they prove the plumbing, and not the model."
    steps = [simulated] if run.slices.layout == "simulated" else []
    if len(scored := [line for line in run.history if line.get("kid_val") is not None]) > 1:
        best, end = min(scored, key=lambda line: line["kid_val"]), scored[-1]["kimg"]
        late = f"Longer training: the score on validation people was still falling when it ended, at {end:g} kimg."
        early = f"Not simply longer training: KID on validation people was best at {best['kimg']:g} kimg, {best['kid_val']:.0f}, and "
        steps.append(late if best is scored[-1] else f"{early}{scored[-1]['kid_val']:.0f} at the end, {end:g} kimg.")
    if not split:
        return [*steps, "People to judge by: nobody is held out here, so that no score could be taken."]
    dimensions = split["dimensions"]
    off = [f"`{name}`" for name in ("pixel_deviation", "dither") if not getattr(run.config, name)]
    tried = "the full `participation_weight` of 1 for a long run" if run.config.participation_weight < 1 else "wider networks"
    tried = f"{' and '.join(off)}, which let D compare heads pixel by pixel" if off else tried
    times = verdict.times_floor(split)
    asked = {
        f"Longer training first: the Fréchet distance is {times:.0f} times its floor.": len(scored) < 2 and times > 4,
        f"Variety: {dimensions['value']:.0f} dimensions of {dimensions['real']:.0f}. To try: {tried}.":
            dimensions["value"] < 0.75 * dimensions["real"],
        "Texture: the power spectrum is off by more than between people; notebook 4 shows at which frequencies.":
            split["spectrum"]["low"] > split["spectrum_floor"]["high"],
        "Fewer steps or more people: generated slices lie nearer to training slices than people do.":
            memory["ratio"] is not None and memory["ratio"] < 0.8 and memory["p_value"] < 0.05,
        f"More people to judge by: {split['subjects']} give wide intervals.": split["subjects"] < 30 and run.slices.subjects_known,
    }  # fmt: skip
    return steps + [step for step, holds in asked.items() if holds]


# --- References -----------------------------------------------------------------------------------------------------------------


def references(notebooks: Mapping[str, NotebookNode]) -> list[str]:
    """The lists below the headings "References" of all notebooks as one, by name; of each work the longest entry."""
    found: dict[str, str] = {}
    for cell in (cell for notebook in notebooks.values() for cell in notebook.cells if cell.cell_type == "markdown"):
        for line in re.findall(r"^- (.+)$", cell.source.partition("### References")[2], re.M):
            text = re.sub(r" \([^()]*\)$", "", line)  # what the notebook took from it
            number = re.search(r"arXiv:([\d.]+\d)", text)
            key = number[1] if number else text.casefold().rstrip(".")
            text = text.replace(number[0], f"[{number[0]}](https://arxiv.org/abs/{key})") if number else text
            found[key] = max(found.get(key, ""), text, key=len)
    return sorted(found.values(), key=lambda text: unicodedata.normalize("NFKD", text.casefold()))


# --- The quiz -------------------------------------------------------------------------------------------------------------------


def questions(run: Run, scores: Mapping, seed: int = 0) -> str:
    """The quiz as HTML, to which `QUIZ` gives life; a sentence where too few people are held out."""
    e, rng = open_evidence(run.folder, run.slices), np.random.default_rng(seed)
    count = 0 if e.held is None else min(EACH, len(set(people_of(e.held))))
    if count < LEAST:
        return f"<p>The quiz takes {LEAST} people whom the generator never saw, and there are {count}.</p>"
    rows = rng.permutation(len(e.held))
    first = np.unique(people_of(e.held)[rows], return_index=True)[1]  # a slice of each person
    real = e.held.select(rows[np.sort(first)[:count]])
    gauge = make_gauges(run.slices).get("level")
    drawn = e.pictures(real, count if gauge is None else CHOICE * count)
    if gauge is not None:  # by height, as it is read off both, and by nothing else
        drawn = drawn[linear_sum_assignment(np.abs(gauge(real.images)[:, None] - gauge(drawn)))[1]]
    pictures, order = np.concatenate([real.images, drawn[:count]]), rng.permutation(2 * count)
    classifier = verdict.last_split(scores).get("classifier")
    asked = {
        "model_hash": e.info["model_hash"],
        "slices": [{"src": data_uri(Image.fromarray(pictures[i])), "real": bool(i < count)} for i in order],
        "results": [result(right, 2 * count, classifier) for right in range(2 * count + 1)],
    }
    page = Template(QUIZ.with_suffix(".html.j2").read_text(encoding="utf-8"), keep_trailing_newline=True)
    known = {"simulated": run.slices.layout == "simulated", "known": run.slices.subjects_known, "height": gauge is not None}
    return page.render(count=count, data=json.dumps(asked), **known)


def result(right: int, n: int, classifier: Mapping | None) -> str:
    """What so many right answers say, against chance and against the classifier of notebook 4."""
    found, form = share(right, n), "{value:.0%} (95 % interval {low:.0%} to {high:.0%})"
    words = "no better than by chance" if found["low"] <= 0.5 <= found["high"] else "better than by chance"
    words = words if found["high"] >= 0.5 else "worse than by chance: what you took for real is not"
    text = f"You were right in {right} of {n}: {form.format(**found)} (Clopper and Pearson). Chance gives 50%; this is {words}."
    return text if classifier is None else f"{text} The classifier of notebook 4 is right in {form.format(**classifier)}."

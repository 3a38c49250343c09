"""The command line: ``python -m stylegan COMMAND``. A command is one public function, its options the arguments."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from stylegan.config import CHOICES, FIELDS, PRESETS, ending, make_config
from stylegan.files import printable


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show is spelt out, and ends nothing
            stream.reconfigure(errors="backslashreplace")
    options = vars(build_parser().parse_args(argv))
    run = options.pop("run")
    try:
        with contextlib.ExitStack() as stack:
            if "LOCAL_RANK" in os.environ:  # torchrun started several, which share the work of train, sample and evaluate
                from stylegan.distributed import process_group

                stack.enter_context(process_group())
            run(**options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads what is printed, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself writes at its end
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("RANK", "0") == "0" or type(error).__name__ == "LostProcessError":  # what all say, one says
            system = isinstance(error, OSError) and error.strerror
            text = f"{error.filename or 'A file cannot be written'}: {error.strerror}." if system else str(error)
            print(f"stylegan: {printable(text)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stylegan", description="StyleGANs for brain MRI slices.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, text, options) in COMMANDS.items():
        child = commands.add_parser(name, help=text, description=text)
        child.set_defaults(run=run)
        for flags, settings in options:
            child.add_argument(*flags, **settings)
    group = commands.choices["train"].add_argument_group("fields of the config, in place of the preset's")
    for name, field in FIELDS.items():
        if name not in ("preset", "c_dim"):
            kind, about = type(field.default), {"default": None, "help": field.metadata["help"].replace("%", "%%")}
            given = {"choices": CHOICES[name]} if name in CHOICES else {"type": kind, "metavar": kind.__name__}
            if kind is bool:
                given = {"action": argparse.BooleanOptionalAction}
            group.add_argument("--" + name.replace("_", "-"), **given, **about)
    return parser


# --- What each command does -------------------------------------------------------------------------------------------------


def _data(data: Path | None, resolution: int, as_json: bool, csv: Path | None, **reading: object) -> None:
    from stylegan.dataset import load_slices, render_report, write_csv

    slices = load_slices(data, resolution, **reading)
    report = slices.describe()
    print(json.dumps(report, indent=2) if as_json else render_report(report))
    if csv:
        write_csv(slices, csv)


def _train(data: Path | None, run_dir: Path, preset: str, **options: object) -> None:
    from stylegan.run import read_settings, train_run
    from stylegan.scores.evaluate import validation_scorer

    fields = {name: value for name in FIELDS if (value := options.pop(name, None)) is not None}
    if known := read_settings(run_dir):  # a run keeps the end that its rates have
        fields = {"lr_end_kimg": known["config"].get("lr_end_kimg", 0.0)} | fields
    config = make_config(preset, **ending(preset, fields))
    train_run(config, data, run_dir, scorer=validation_scorer, **options)


def _presets(as_json: bool) -> None:
    from stylegan.networks import preset_rows

    rows = preset_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = f"{row['resolution']:4} px  G {row['parameters_g'] / 1e6:6.2f} M  D {row['parameters_d'] / 1e6:6.2f} M"
        print(f"{row['name']:26}{size}  {row['loss']}\n{'':26}{row['note']} [{row['source']}]")


def _sample(path: Path, out: Path, seeds: str, **options: object) -> None:
    from stylegan.predict import parse_seeds, sample

    written = sample(path, out, seeds=parse_seeds(seeds), **options)
    print(f"Wrote {len(written)} files to {out}; all of them say that they are synthetic.")


def _evaluate(path: Path, data: Path | None, as_json: bool, **options: object) -> None:
    from stylegan.scores.evaluate import evaluate
    from stylegan.scores.verdict import plain_scores

    scores = evaluate(path, data, **options)
    print(json.dumps(scores, indent=2) if as_json else "\n".join(plain_scores(scores)))


def _embed(path: Path, data: Path | None, out: Path, seeds: str, **options: object) -> None:
    from stylegan.notebook import markdown_table
    from stylegan.predict import parse_seeds
    from stylegan.truth.maps import stability, study, write_study

    found = study(path, data, seeds=parse_seeds(seeds), **options)
    for note in filter(None, (*found.sample.evidence.warnings, found.sample.note)):
        print(f"Note: {note}")
    for name, claim in found.result["claims"].items():
        print(f"{name}: {claim['claim']}")
    print(markdown_table(stability(found.result["maps"])))
    for control in found.controls:
        print(f"control, {control.name}: {control.claim}")
    print(f"Wrote {len(write_study(found, out))} files to {out}.")


def _groundtruth(path: Path, data: Path | None, out: Path | None, as_json: bool, **options: object) -> None:
    from stylegan.truth.groundtruth import conclusions, ground_truth, write_ground_truth

    result, strip = ground_truth(path, data, **options)
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"- {line}" for line in conclusions(result)))
    if out:
        write_ground_truth(result, strip, out)


def _project(path: Path, out: Path, **options: object) -> None:
    from stylegan.latent import project_held_out

    found = project_held_out(path, out, **options)
    for name, value in found["mean"].items():
        print(f"{name:32} {value:6.1f} grey levels")
    print(f"Wrote projection.png and projection.json to {out}; the picture shows real slices of {found['data']}.")


def _report(**options: object) -> None:
    try:
        from stylegan.reporting.html import report
    except ModuleNotFoundError as error:
        raise ValueError(f"The report needs {error.name}; install it with: pip install -e '.[notebook]'") from error

    print(f"The report is {report(**options)}.")


# --- The table --------------------------------------------------------------------------------------------------------------


def _opt(*flags: str, **settings: object) -> tuple[tuple[str, ...], dict]:
    """One option or argument, as `add_argument` takes it; a default is part of its help."""
    if settings.get("default") not in (None, []):
        settings["help"] += " (default: %(default)s)"
    return flags, settings


def _path(text: str) -> Path:
    """A path as it was typed. An empty one, as of a shell variable that was never set, does not mean the folder one is in."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or folder.")
    return Path(os.path.expanduser(text))


def _folder(text: str) -> Path:
    """A folder to write to, there already or not: that it cannot be is said before the work, not after it."""
    path = _path(text)
    there = next(some for some in (path, *path.parents) if some.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{there} is no folder that can be written to.")
    return path


SLICES = [
    _opt("--subjects", dest="subjects_csv", type=_path, metavar="CSV", help="table of people, joined by id"),
    _opt("--levels", metavar="A-B", help="range of axial levels to take from each head"),
    _opt("--contrast", metavar="NAME", help="MRI contrast to read where a folder holds several, such as T2w; without it T1"),
]
FROM = {"type": _path, "metavar": "DIR|ZIP"}
DATA = [_opt("--data", **FROM, help="slices or volumes; without it the simulated slices"), *SLICES]
DATA_OF_RUN = [_opt("--data", **FROM, help="slices to compare with; without it those of its training"), *SLICES]
GENERATOR = _opt("path", type=_path, metavar="RUN|FILE", help="run folder or .safetensors file")
PRESET = _opt("--preset", default="quick", choices=list(PRESETS), help="settings to start from; see the command presets")
DEVICE = _opt("--device", default="auto", choices=CHOICES["device"], help="where to compute")
JSON = _opt("--json", dest="as_json", action="store_true", help="print JSON")
OUT = _opt("--out", type=_folder, required=True, metavar="DIR", help="folder to write to")

COMMANDS = {  # name: (what runs it, with the options as arguments; what it does; its options)
    "data": (_data, "Say what a folder of slices holds: layout, people, classes, splits, what was left out.", [
        _opt("data", nargs="?", **FROM, help="slices or volumes; without it the simulated slices"),
        _opt("--resolution", type=int, default=64, metavar="R", help="side of the slices in pixels, a power of two"),
        *SLICES, JSON,
        _opt("--csv", type=_path, metavar="FILE", help="also write one line per slice"),
    ]),
    "train": (_train, "Train in a run folder, or go on where it stopped.", [
        PRESET, *DATA,
        _opt("--run-dir", type=_folder, required=True, metavar="DIR", help="folder of the run; the same command resumes it"),
    ]),
    "presets": (_presets, "List the presets: size, loss, source, and where each departs from it.", [JSON]),
    "sample": (_sample, "Write generated slices, each from its seed alone, and pictures of the latent space.", [
        GENERATOR,
        _opt("--seeds", default="0-63", help="seeds such as 0-63 or 1,5,7-9"),
        _opt("--truncation-psi", type=float, default=0.7, metavar="PSI", help="1: all variety, 0: the average slice"),
        _opt("--truncation-cutoff", type=int, metavar="N", help="truncate only the first N layers"),
        _opt("--noise-mode", default="const", choices=("const", "random", "none"), help="noise of each layer: fixed, drawn from the seed, or none"),
        _opt("--class", dest="class_name", metavar="NAME", help="class to draw, of a generator trained with --conditional class"),
        _opt("--extras", nargs="*", default=[], metavar="PICTURE", help="also: truncation mixing interpolation noise classes explorer"),
        DEVICE, OUT,
    ]),
    "evaluate": (_evaluate, "Score a generator on people it has never seen, with the floor that real slices set.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--split", default="all", choices=("train", "val", "test", "all"), help="people to score on; all: val, test and as many of its training people"),
        _opt("--train-data", **FROM, help="the slices it was trained on, where --data is another folder"),
        _opt("--num", "-n", type=int, default=1000, help="slices of each kind at most"),  # torchrun keeps --num for its own
        _opt("--fakes", type=int, default=5000, metavar="N", help="generated slices among which copies are looked for"),
        _opt("--space", default="efficientnet-lite0", help="feature space: efficientnet-lite0 or inception"),
        _opt("--no-controls", dest="controls", action="store_false", help="leave out the sets with a known fault"),
        _opt("--all", action="store_true", help="also memory, attacks and projections: minutes more, with a verdict"),
        _opt("--answers", type=_path, nargs="+", default=[], metavar="FILE", help="answers that the quiz of a report saved"),
        _opt("--out", type=_folder, metavar="DIR", help="folder for the result as JSON and its pictures"),
        DEVICE, JSON,
    ]),
    "embed": (_embed, "Draw maps of real and generated slices in many settings, with tests and controls.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--num", "-n", type=int, default=400, help="slices of each kind at most"),
        _opt("--seeds", default="0-4", help="seeds of the maps"),
        _opt("--neighbors", dest="neighbours", type=int, nargs="+", default=[5, 15, 50, 150], metavar="K", help="n_neighbors of UMAP"),
        _opt("--early", type=_path, metavar="RUN|FILE", help="an early generator as a control; without it an untrained one"),
        DEVICE, OUT,
    ]),
    "groundtruth": (_groundtruth, "Read class, level, ventricles and brain off generated slices with models of real people.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--num", "-n", type=int, default=2000, help="generated slices"),
        DEVICE, JSON,
        _opt("--out", type=_folder, metavar="DIR", help="folder for groundtruth.json and the figures"),
    ]),
    "project": (_project, "Search the w that draws held-out slices best, and say how far they stay apart.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--slices", dest="count", type=int, default=6, metavar="N", help="how many slices"),
        _opt("--space", default="w", choices=("w", "w+"), help="one style for all layers, or one for each"),
        DEVICE, OUT,
    ]),
    "report": (_report, "Run the notebooks in order and write them as one HTML page.", [
        PRESET, *DATA,
        _opt("--run-dir", type=_folder, metavar="DIR", help="default: runs/PRESET, or runs/PRESET-NAME for a folder of that name"),
        _opt("--author", default="", metavar="NAME", help="who wrote it and for which course, to stand below the title"),
        _opt("--no-quiz", dest="quiz", action="store_false", help="leave out the quiz, which shows single held-out slices"),
        _opt("--out", type=_folder, default=Path("report"), metavar="DIR", help="folder to write to"),
    ]),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())

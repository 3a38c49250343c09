"""The command line: ``python -m stylegan COMMAND``. Each command is one public function of the package."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stylegan.config import CHOICES, PRESETS, Config, make_config
from stylegan.files import printable


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show is spelt out, and ends nothing
            stream.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(argv)
    try:
        with contextlib.ExitStack() as stack:
            if "LOCAL_RANK" in os.environ:  # torchrun started several, which share the work of train, sample and evaluate
                from stylegan.distributed import process_group

                stack.enter_context(process_group())
            args.run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # who reads what is printed, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself writes at its end
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("RANK", "0") == "0" or type(error).__name__ == "LostProcessError":  # what all say, one says
            system = isinstance(error, OSError) and error.strerror
            text = f"{error.filename or 'A file cannot be written'}: {error.strerror}." if system else str(error)
            print(f"stylegan: {printable(text)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stylegan", description="StyleGANs for brain MRI slices.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        child = commands.add_parser(name, help=command.text, description=command.text)
        child.set_defaults(run=command.run)
        for flags, settings in command.options:
            child.add_argument(*flags, **settings)
        if name == "train":
            _config_options(child.add_argument_group("fields of the config, in place of the preset's"))
    return parser


def _config_options(group: argparse._ArgumentGroup) -> None:
    for field in dataclasses.fields(Config):
        if field.name in ("preset", "c_dim"):
            continue
        flag, kind = "--" + field.name.replace("_", "-"), type(field.default)
        about = {"default": None, "help": field.metadata.get("help", "").replace("%", "%%")}
        given = {"choices": CHOICES[field.name]} if field.name in CHOICES else {"type": kind, "metavar": kind.__name__}
        group.add_argument(flag, **({"action": argparse.BooleanOptionalAction} if kind is bool else given), **about)


# --- What each command does -------------------------------------------------------------------------------------------------


def _from(args: argparse.Namespace, *names: str) -> dict:
    """How the slices are to be read, for every function that loads them, and further options that keep their names."""
    slices = {"subjects_csv": args.subjects, "levels": args.levels, "contrast": args.contrast}
    return slices | {name: getattr(args, name) for name in names}


def _data(args: argparse.Namespace) -> None:
    from stylegan.dataset import load_slices, render_report, write_csv

    slices = load_slices(args.dir, args.resolution, **_from(args))
    report = slices.describe()
    print(json.dumps(report, indent=2) if args.json else render_report(report))
    if args.csv:
        write_csv(slices, args.csv)


def _train(args: argparse.Namespace) -> None:
    from stylegan.run import train_run
    from stylegan.scores.evaluate import validation_scorer

    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Config) if f.name != "preset"}
    config = make_config(args.preset, **{name: value for name, value in given.items() if value is not None})
    train_run(config, args.data, args.run_dir, **_from(args), scorer=validation_scorer)


def _presets(args: argparse.Namespace) -> None:
    from stylegan.networks import preset_rows

    if args.json:
        print(json.dumps(preset_rows(), indent=2))
    for row in [] if args.json else preset_rows():
        size = f"{row['resolution']:4} px  G {row['parameters_g'] / 1e6:6.2f} M  D {row['parameters_d'] / 1e6:6.2f} M"
        print(f"{row['name']:26}{size}  {row['loss']}\n{'':26}{row['note']} [{row['source']}]")


def _sample(args: argparse.Namespace) -> None:
    from stylegan.predict import parse_seeds, sample

    names = ("truncation_psi", "truncation_cutoff", "noise_mode", "class_name", "device", "extras")
    written = sample(args.path, args.out, seeds=parse_seeds(args.seeds), **{name: getattr(args, name) for name in names})
    print(f"Wrote {len(written)} files to {args.out}; all of them say that they are synthetic.")


def _evaluate(args: argparse.Namespace) -> None:
    from stylegan.scores.evaluate import evaluate
    from stylegan.scores.verdict import plain_scores

    names = ("split", "train_data", "num", "fakes", "controls", "space", "device", "all", "answers", "out")
    scores = evaluate(args.path, args.data, **_from(args, *names))
    print(json.dumps(scores, indent=2) if args.json else "\n".join(plain_scores(scores)))


def _embed(args: argparse.Namespace) -> None:
    from stylegan.notebook import markdown_table
    from stylegan.predict import parse_seeds
    from stylegan.truth.maps import stability, study, write_study

    options = _from(args, "num", "early", "device") | {"neighbours": args.neighbors, "seeds": parse_seeds(args.seeds)}
    found = study(args.path, args.data, **options)
    for note in filter(None, (*found.sample.evidence.warnings, found.sample.note)):
        print(f"Note: {note}")
    for name, claim in found.result["claims"].items():
        print(f"{name}: {claim['claim']}")
    print(markdown_table(stability(found.result["maps"])))
    for control in found.controls:
        print(f"control, {control.name}: {control.claim}")
    print(f"Wrote {len(write_study(found, args.out))} files to {args.out}.")


def _groundtruth(args: argparse.Namespace) -> None:
    from stylegan.truth.groundtruth import conclusions, ground_truth, write_ground_truth

    result, strip = ground_truth(args.path, args.data, **_from(args, "num", "device"))
    print(json.dumps(result, indent=2) if args.json else "\n".join(f"- {line}" for line in conclusions(result)))
    if args.out:
        write_ground_truth(result, strip, args.out)


def _project(args: argparse.Namespace) -> None:
    from stylegan.latent import project_held_out

    found = project_held_out(args.path, args.out, args.data, count=args.slices, **_from(args, "space", "device"))
    for name, value in found["mean"].items():
        print(f"{name:32} {value:6.1f} grey levels")
    print(f"Wrote projection.png and projection.json to {args.out}; the picture shows real slices of {found['data']}.")


def _report(args: argparse.Namespace) -> None:
    try:
        from stylegan.reporting.html import report
    except ModuleNotFoundError as error:
        raise ValueError(f"The report needs {error.name}; install it with: pip install -e '.[notebook]'") from error

    page = report(args.data, args.run_dir, args.preset, args.out, quiz=args.quiz, **_from(args))
    print(f"The report is {page}.")


# --- The table --------------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    run: Callable[[argparse.Namespace], None]
    text: str
    options: list[tuple[tuple[str, ...], dict]]


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


def _num(default: int, what: str = "slices of each kind at most") -> tuple[tuple[str, ...], dict]:
    return _opt("--num", "-n", type=int, default=default, help=what)  # torchrun takes --num for its own: -n works under it


SLICES = [
    _opt("--subjects", type=_path, metavar="CSV", help="table of people, joined by id"),
    _opt("--levels", metavar="A-B", help="range of axial levels to take from each head"),
    _opt("--contrast", metavar="NAME", help="MRI contrast to read where a folder holds several, such as T2w; without it T1"),
]
DATA, DATA_OF_RUN = (
    [_opt("--data", type=_path, metavar="DIR|ZIP", help=f"{what}; without it {otherwise}"), *SLICES]
    for what, otherwise in (("slices or volumes", "the simulated slices"), ("slices to compare with", "those of its training"))
)
GENERATOR = _opt("path", type=_path, metavar="RUN|FILE", help="run folder or .safetensors file")
PRESET = _opt("--preset", default="quick", choices=list(PRESETS), help="settings to start from; see the command presets")
DEVICE = _opt("--device", default="auto", choices=CHOICES["device"], help="where to compute")
JSON = _opt("--json", action="store_true", help="print JSON")
OUT = _opt("--out", type=_folder, required=True, metavar="DIR", help="folder to write to")

COMMANDS = {
    "data": Command(_data, "Say what a folder of slices holds: layout, people, classes, splits, what was left out.", [
        _opt("dir", nargs="?", type=_path, metavar="DIR|ZIP", help="slices or volumes; without it the simulated slices"),
        _opt("--resolution", type=int, default=64, metavar="R", help="side of the slices in pixels, a power of two"),
        *SLICES, JSON,
        _opt("--csv", type=_path, metavar="FILE", help="also write one line per slice"),
    ]),
    "train": Command(_train, "Train in a run folder, or go on where it stopped.", [
        PRESET, *DATA,
        _opt("--run-dir", type=_folder, required=True, metavar="DIR", help="folder of the run; the same command resumes it"),
    ]),
    "presets": Command(_presets, "List the presets: size, loss, source, and where each departs from it.", [JSON]),
    "sample": Command(_sample, "Write generated slices, each from its seed alone, and pictures of the latent space.", [
        GENERATOR,
        _opt("--seeds", default="0-63", help="seeds such as 0-63 or 1,5,7-9"),
        _opt("--truncation-psi", type=float, default=0.7, metavar="PSI", help="1: all variety, 0: the average slice"),
        _opt("--truncation-cutoff", type=int, metavar="N", help="truncate only the first N layers"),
        _opt("--noise-mode", default="const", choices=("const", "random", "none"), help="fixed, fresh or no noise in each layer"),
        _opt("--class", dest="class_name", metavar="NAME", help="class to draw, of a generator trained with --conditional class"),
        _opt("--extras", nargs="*", default=[], metavar="PICTURE", help="also: truncation mixing interpolation noise classes explorer"),
        DEVICE, OUT,
    ]),
    "evaluate": Command(_evaluate, "Score a generator on people it has never seen, with the floor that real slices set.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--split", default="all", choices=("train", "val", "test", "all"), help="people to score on; all: val and test"),
        _opt("--train-data", type=_path, metavar="DIR|ZIP", help="the slices it was trained on, where --data is another folder"),
        _num(1000),
        _opt("--fakes", type=int, default=5000, metavar="N", help="generated slices among which copies are looked for"),
        _opt("--space", default="efficientnet-lite0", help="feature space: efficientnet-lite0 or inception"),
        _opt("--no-controls", dest="controls", action="store_false", help="leave out the sets that must fail"),
        _opt("--all", action="store_true", help="also memory, attacks and projections: minutes more, with a verdict"),
        _opt("--answers", type=_path, nargs="+", default=[], metavar="FILE", help="answers that the quiz of a report saved"),
        _opt("--out", type=_folder, metavar="DIR", help="folder for the result as JSON and its pictures"),
        DEVICE, JSON,
    ]),
    "embed": Command(_embed, "Draw maps of real and generated slices in many settings, with tests and controls.", [
        GENERATOR, *DATA_OF_RUN, _num(400),
        _opt("--seeds", default="0-4", help="seeds of the maps"),
        _opt("--neighbors", type=int, nargs="+", default=[5, 15, 50, 150], metavar="K", help="n_neighbors of UMAP"),
        _opt("--early", type=_path, metavar="RUN|FILE", help="an early generator as a control; without it an untrained one"),
        DEVICE, OUT,
    ]),
    "groundtruth": Command(_groundtruth, "Read class, level, ventricles and brain off generated slices with models of real people.", [
        GENERATOR, *DATA_OF_RUN, _num(2000, "generated slices"), DEVICE, JSON,
        _opt("--out", type=_folder, metavar="DIR", help="folder for groundtruth.json and the figures"),
    ]),
    "project": Command(_project, "Search the w that draws held-out slices best, and say how far they stay apart.", [
        GENERATOR, *DATA_OF_RUN,
        _opt("--slices", type=int, default=6, metavar="N", help="how many slices"),
        _opt("--space", default="w", choices=("w", "w+"), help="one style for all layers, or one for each"),
        DEVICE, OUT,
    ]),
    "report": Command(_report, "Run the notebooks in order and write them as one HTML page.", [
        PRESET, *DATA,
        _opt("--run-dir", type=_folder, metavar="DIR", help="default: runs/PRESET, or runs/PRESET-NAME for a folder of that name"),
        _opt("--no-quiz", dest="quiz", action="store_false", help="leave out the quiz, which shows single held-out slices"),
        _opt("--out", type=_folder, default=Path("report"), metavar="DIR", help="folder to write to"),
    ]),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m stylegan COMMAND`. Each command is one public function of the package."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path

from stylegan.config import CHOICES, PRESETS, Config, make_config


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with _processes():
            return args.command(args) or 0
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        from stylegan.data.naming import shown  # messages quote names that strangers gave to files

        if os.environ.get("RANK", "0") == "0" or type(error).__name__ == "LostProcessError":  # what all say, one says
            print(f"stylegan: {shown(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _processes() -> contextlib.AbstractContextManager:
    """The group of processes where torchrun started several (train, sample and evaluate share their work), else nothing."""
    if "LOCAL_RANK" not in os.environ:
        return contextlib.nullcontext()
    from stylegan.distributed import together

    return together()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stylegan", description="StyleGANs for brain MRI slices.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    return parser


# What several commands take, in the same words.
SHARED = {
    "generator": ("path", {"type": Path, "metavar": "RUN|FILE", "help": "run folder or .safetensors file"}),
    "data": ("--data", {"type": Path, "help": "folder or .zip; without it the simulated slices"}),
    "preset": ("--preset", {"default": "quick", "choices": list(PRESETS)}),
    "fakes": ("--fakes", {"type": int, "default": 5000, "help": "among which copies are looked for (default 5000)"}),
    "device": ("--device", {"default": "auto", "choices": CHOICES["device"]}),
    "json": ("--json", {"action": "store_true", "help": "print JSON"}),
    "out": ("--out", {"type": Path, "required": True}),
}


def _share(parser: argparse.ArgumentParser, *names: str) -> None:
    for flag, options in map(SHARED.get, names):
        parser.add_argument(flag, **options)


def _add_num(parser: argparse.ArgumentParser, default: int, what: str = "slices of each kind at most") -> None:
    # torchrun takes --num for an option of its own, wherever it stands
    parser.add_argument("--num", "-n", type=int, default=default, help=f"{what} (default {default})")


def _slices_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subjects", type=Path, metavar="CSV", help="table of people, joined by id")
    parser.add_argument("--levels", metavar="A-B", help="range of axial levels to take from volumes")


# --- data, fetch ------------------------------------------------------------------------------------------------------------------


def _add_data(commands) -> None:
    parser = _command(
        commands, "data", _data, "Say what a folder of slices holds: layout, subjects, classes, splits, what was left out."
    )
    parser.add_argument("dir", nargs="?", type=Path, help="folder or .zip; without it the simulated slices")
    parser.add_argument("--resolution", type=int, default=64)
    _share(parser, "json")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="also write one line per slice")
    _slices_options(parser)


def _data(args: argparse.Namespace) -> None:
    from stylegan.dataset import load_slices, render_report, report_data, write_csv

    slices = load_slices(args.dir, args.resolution, subjects_csv=args.subjects, levels=args.levels)
    report = report_data(slices)
    print(json.dumps(report, indent=2) if args.json else render_report(report))
    if args.csv:
        write_csv(slices, args.csv)


def _add_fetch(commands) -> None:
    parser = _command(commands, "fetch", _fetch, "Download one file, check its sha256 and unpack it safely.")
    parser.add_argument("url")
    parser.add_argument("--sha256", required=True)
    _share(parser, "out")


def _fetch(args: argparse.Namespace) -> None:
    from stylegan.data.fetch import fetch

    print(fetch(args.url, args.sha256, args.out))


# --- train ------------------------------------------------------------------------------------------------------------------------


def _add_train(commands) -> None:
    parser = _command(commands, "train", _train, "Train in a run folder, or go on where it stopped.")
    _share(parser, "preset", "data")
    parser.add_argument("--run-dir", type=Path, required=True)
    _slices_options(parser)
    _config_options(parser)


def _config_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fields of the config, in place of the preset's")
    for field in dataclasses.fields(Config):
        if field.name not in ("preset", "c_dim"):
            _add_field(group, field)


def _chosen(args: argparse.Namespace) -> Config:
    """The preset with the fields that were given."""
    fields = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Config) if f.name != "preset"}
    return make_config(args.preset, **{k: v for k, v in fields.items() if v is not None})


def _add_field(group, field: dataclasses.Field) -> None:
    flag, kind = "--" + field.name.replace("_", "-"), type(field.default)
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
    else:
        group.add_argument(
            flag,
            type=kind,
            default=None,
            choices=CHOICES.get(field.name),
            metavar=None if field.name in CHOICES else kind.__name__,
        )


def _train(args: argparse.Namespace) -> None:
    from stylegan.run import train_run

    train_run(_chosen(args), args.data, args.run_dir, subjects_csv=args.subjects, levels=args.levels)


def _add_presets(commands) -> None:
    parser = _command(
        commands, "presets", _presets, "List the presets: size, loss, what each is after and where it departs from it."
    )
    _share(parser, "json")


def _presets(args: argparse.Namespace) -> None:
    from stylegan.summary import preset_rows, render_presets

    rows = preset_rows()
    print(json.dumps(rows, indent=2) if args.json else render_presets(rows))


def _add_summary(commands) -> None:
    parser = _command(commands, "summary", _summary, "Print a preset's layers: shape, parameters and multiplications of each.")
    parser.add_argument("preset", choices=list(PRESETS), metavar="PRESET")


def _summary(args: argparse.Namespace) -> None:
    from stylegan.summary import layers, render_layers

    for title, rows in zip(("generator", "discriminator"), layers(make_config(args.preset)), strict=True):
        print(render_layers(title, rows), end="\n\n")


# --- sample, project, evaluate ----------------------------------------------------------------------------------------------------


def _add_sample(commands) -> None:
    parser = _command(
        commands, "sample", _sample, "Write generated slices, each from its seed alone, and pictures of the latent space."
    )
    _share(parser, "generator")
    parser.add_argument("--seeds", default="0-63", help="such as 0-63 or 1,5,7-9")
    parser.add_argument("--truncation-psi", type=float, default=0.7)
    parser.add_argument("--truncation-cutoff", type=int, help="truncate only so many layers")
    parser.add_argument("--noise-mode", default="const", choices=("const", "random", "none"))
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="of a generator trained with --conditional class")
    parser.add_argument(
        "--extras", nargs="*", default=[], metavar="PICTURE", help="truncation mixing interpolation noise classes"
    )
    _share(parser, "device", "out")


def _sample(args: argparse.Namespace) -> None:
    from stylegan.predict import parse_seeds, sample

    written = sample(
        args.path,
        args.out,
        seeds=parse_seeds(args.seeds),
        truncation_psi=args.truncation_psi,
        truncation_cutoff=args.truncation_cutoff,
        noise_mode=args.noise_mode,
        class_name=args.class_name,
        device=args.device,
        extras=args.extras,
    )
    print(f"Wrote {len(written)} files to {args.out}; all of them say that they are synthetic.")


def _add_project(commands) -> None:
    text = "Search the w that draws held-out slices best; write them beside their projections, and how far they stay apart."
    parser = _command(commands, "project", _project, text)
    _share(parser, "generator", "data")
    parser.add_argument("--slices", type=int, default=6, help="how many (default 6)")
    parser.add_argument("--space", default="w", choices=("w", "w+"), help="one style for all layers, or one for each")
    _share(parser, "device", "out")


def _project(args: argparse.Namespace) -> None:
    from stylegan.latent import project_held_out

    found = project_held_out(args.path, args.out, args.data, count=args.slices, space=args.space, device=args.device)
    for name, value in found["mean"].items():
        print(f"{name:32} {value:6.1f} grey levels")
    print(f"Wrote projection.png and projection.json to {args.out}; the picture shows real slices of {found['data']}.")


def _add_evaluate(commands) -> None:
    text = "Score a generator on people it has never seen, beside the floor of real slices."
    parser = _command(commands, "evaluate", _evaluate, text)
    _share(parser, "generator", "data")
    parser.add_argument("--split", default="all", choices=("train", "val", "test", "all"), help="all: val and test (default)")
    parser.add_argument("--train-data", type=Path, help="the slices it was trained on, where they are another folder")
    _add_num(parser, 1000)
    _share(parser, "fakes")
    parser.add_argument(
        "--space", default="efficientnet-lite0", help="feature space: inception, pixel-pca, own-encoder, discriminator"
    )
    parser.add_argument("--no-controls", dest="controls", action="store_false", help="leave out the sets that must fail")
    _share(parser, "device", "json")


def _evaluate(args: argparse.Namespace) -> None:
    from stylegan.scores.evaluate import evaluate

    names = ("split", "train_data", "num", "fakes", "controls", "space", "device")
    scores = evaluate(args.path, args.data, **{name: getattr(args, name) for name in names})
    print(json.dumps(scores, indent=2) if args.json else _render_scores(scores))


def _render_scores(scores: dict) -> str:
    from stylegan.scores.verdict import plain_scores

    return "\n".join([*plain_scores(scores), *(f"Note: {warning}" for warning in scores["warnings"])])


def _add_groundtruth(commands) -> None:
    text = (
        "Read group, level, ventricles and brain off generated slices with models trained on real people; write what was found."
    )
    parser = _command(commands, "groundtruth", _groundtruth, text)
    _share(parser, "generator", "data")
    _add_num(parser, 2000, "generated slices")
    _share(parser, "device", "json")
    parser.add_argument("--out", type=Path, help="folder for groundtruth.json and the figures")


def _groundtruth(args: argparse.Namespace) -> None:
    from stylegan.truth.groundtruth import conclusions, ground_truth, write_ground_truth

    result, strip = ground_truth(args.path, args.data, num=args.num, device=args.device)
    print(json.dumps(result, indent=2) if args.json else "\n".join(f"- {line}" for line in conclusions(result)))
    if args.out:
        write_ground_truth(result, strip, args.out)


def _add_audit(commands) -> None:
    text = "Everything a reviewer may ask: evaluate, memory, attacks, projections, failure cases; kept as audit.json."
    parser = _command(commands, "audit", _audit, text)
    _share(parser, "generator", "data")
    _add_num(parser, 1000)
    _share(parser, "fakes")
    parser.add_argument("--projections", type=int, default=24, help="people on either side (default 24), 0: none")
    parser.add_argument(
        "--control-kimg", type=float, default=0, help="train a memoriser for so long (60: two minutes), 0: none"
    )
    _share(parser, "device")
    parser.add_argument("--out", type=Path, required=True, help="folder for audit.json and pictures; a run folder will do")


def _audit(args: argparse.Namespace) -> None:
    from stylegan.scores.audit import audit
    from stylegan.scores.findings import plain_table
    from stylegan.scores.verdict import summary, verdict_rows

    names = ("num", "fakes", "projections", "control_kimg", "device")
    found = audit(args.path, args.data, args.out, **{name: getattr(args, name) for name in names})
    rows = verdict_rows(found["evaluation"], found["memory"])
    print(
        f"{plain_table(rows)}\n{summary(rows).replace('**', '')}\nWrote audit.json and pictures to {args.out}; pairs.png shows real slices."
    )


def _add_embed(commands) -> None:
    text = (
        "Draw maps of real and generated slices in many settings, each claim tested in feature space; write them with controls."
    )
    parser = _command(commands, "embed", _embed, text)
    _share(parser, "generator", "data")
    _add_num(parser, 400)
    parser.add_argument("--seeds", default="0-4", help="of the maps, such as 0-4")
    parser.add_argument("--neighbors", type=int, nargs="+", default=[5, 15, 50, 150], metavar="K", help="n_neighbors of UMAP")
    parser.add_argument(
        "--early", type=Path, metavar="RUN|FILE", help="an early generator as a control (default: an untrained one)"
    )
    _share(parser, "device", "out")


def _embed(args: argparse.Namespace) -> None:
    from stylegan.predict import parse_seeds
    from stylegan.scores.findings import markdown_table
    from stylegan.truth.maps import stability, study, write_study

    options = {"num": args.num, "early": args.early, "device": args.device}
    found = study(args.path, args.data, seeds=parse_seeds(args.seeds), neighbours=args.neighbors, **options)
    for name, claim in found.result["claims"].items():
        print(f"{name}: {claim['claim']}")
    print(markdown_table(stability(found.result["maps"])))
    for control in found.controls:
        print(f"control, {control.name}: {control.claim}")
    print(f"Wrote {len(write_study(found, args.out))} files to {args.out}.")


def _add_memoriser(commands) -> None:
    text = "Train a generator that memorises 64 slices, the positive control of the search for copies."
    parser = _command(commands, "memoriser", _memoriser, text)
    _share(parser, "data")
    parser.add_argument("--kimg", type=float, help="thousand examples to teach it by (default: enough at 32 px)")
    parser.add_argument("--out", type=Path, required=True, help="folder whose audit.json shall tell of it")


def _memoriser(args: argparse.Namespace) -> None:
    from stylegan.scores.audit import add_control
    from stylegan.scores.verdict import control_sentence

    given = {} if args.kimg is None else {"kimg": args.kimg}
    print(control_sentence(add_control(args.data, args.out, **given)))


def _add_ship(commands) -> None:
    text = "Make a reference generator of a run: half precision, scores and card, for others to use."
    parser = _command(commands, "ship", _ship, text)
    parser.add_argument("run_dir", type=Path, metavar="RUN|FILE", help="a shipped file is scored again and its card rewritten")
    parser.add_argument("--data", type=Path, required=True, help="the folder or .zip it was trained on")
    parser.add_argument("--name", required=True, help="of the files, such as oasis1-stylegan2-64")
    parser.add_argument("--title", default="", help="what the reader calls the data (default: what was recognised)")
    parser.add_argument("--terms", default="own", choices=("oasis1", "simulated", "own"))
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--audited", type=Path, metavar="DIR", help="where `audit` has judged this file already")


def _ship(args: argparse.Namespace) -> None:
    from stylegan.reporting.ship import ship

    names = ("title", "terms", "out", "audited")
    print(f"Wrote {ship(args.run_dir, args.data, args.name, **{name: getattr(args, name) for name in names})}.")


# --- report, bench ----------------------------------------------------------------------------------------------------------------


def _add_report(commands) -> None:
    parser = _command(commands, "report", _report, "Run the notebooks in order and export them to HTML.")
    _share(parser, "data")
    parser.add_argument("--run-dir", type=Path, help="default: runs/PRESET, or runs/PRESET-NAME for a folder of that name")
    _share(parser, "preset")
    parser.add_argument("--out", type=Path, default=Path("report"))


def _report(args: argparse.Namespace) -> None:
    from stylegan.reporting.report import report

    page = report(data=args.data, run_dir=args.run_dir, preset=args.preset, out=args.out)
    print(f"The report is {page}.")


def _add_bench(commands) -> None:
    parser = _command(commands, "bench", _bench, "Time full training steps and sampling on this machine.")
    _share(parser, "data", "preset", "json")
    _config_options(parser)


def _bench(args: argparse.Namespace) -> None:
    from stylegan.bench import bench
    from stylegan.dataset import load_slices

    config = _chosen(args)
    found = bench(config, load_slices(args.data, config.img_resolution))
    if args.json:
        print(json.dumps(found, indent=2))
        return
    phases = "  ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in found["phases"].items())
    print(f"{found['preset']} on {found['device']} ({found['threads']} threads, {found['precision']}, torch {found['torch']})")
    print(
        f"training {found['img_s']:.1f} img/s, {found['of_limit']:.0%} of {found['limit_img_s']:.1f} img/s of its convolutions alone"
    )
    print(f"sampling {found['sample_img_s']:.1f} img/s, peak memory {found['peak_memory_mb']:.0f} MiB")
    print(f"per step of {found['batch_size']}: {phases}  (of these the optimisers {1000 * found['optimizer']:.1f} ms)")


# --- compare ----------------------------------------------------------------------------------------------------------------------


def _add_compare(commands) -> None:
    text = "Train systems side by side on the same slices and seeds, and score them in one table. The same command resumes."
    parser = _command(commands, "compare", _compare, text)
    parser.add_argument(
        "--presets",
        default="",
        metavar="A,B",
        help="rows: PRESET or PRESET+field=value+..., commas between (default: all systems)",
    )
    parser.add_argument("--claims", action="store_true", help="also the rows that the seeds' claims need")
    _share(parser, "data")
    parser.add_argument("--total-kimg", type=float, default=0.0, metavar="K", help="budget of a run in thousand slices")
    parser.add_argument("--minutes", type=float, default=0.0, metavar="M", help="budget of a run in minutes of training steps")
    parser.add_argument("--seeds", default="0,1,2", help="such as 0,1,2 or 0-4 (default 0,1,2)")
    parser.add_argument("--resolution", type=int, metavar="R", help="of all runs (default: each preset's own)")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="[PRESET:]FIELD=VALUE",
        help="a field of all rows, or of one",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process of its own (default 1)")
    _add_num(parser, 1000, "slices of each kind in a score")
    parser.add_argument("--no-score", action="store_true", help="train only; the same command without this scores")
    parser.add_argument("--no-train", action="store_true", help="score what is finished")
    _share(parser, "out")


def _compare(args: argparse.Namespace) -> None:
    from stylegan.comparing import claims, compare, ladder
    from stylegan.predict import parse_seeds

    rows = compare.split_rows(args.presets) or list(compare.SYSTEMS)
    rows += list(claims.CLAIM_ROWS) if args.claims else []
    settings = ([f"img_resolution={args.resolution}"] if args.resolution else []) + args.settings
    budget = compare.Budget(args.total_kimg, args.minutes)
    runs = compare.plan(rows, parse_seeds(args.seeds), args.out, budget, settings)
    if not args.no_train:
        compare.train_all(runs, args.data, args.jobs, claims.CURVES)
    if not args.no_score:
        found = ladder.judge(runs, args.data, compare.describe_budget(budget, settings, args.jobs), args.num, args.out)
        print(ladder.render(found))


COMMANDS = (
    _add_data,
    _add_fetch,
    _add_train,
    _add_presets,
    _add_summary,
    _add_sample,
    _add_project,
    _add_evaluate,
    _add_audit,
    _add_memoriser,
    _add_groundtruth,
    _add_embed,
    _add_ship,
    _add_report,
    _add_bench,
    _add_compare,
)

if __name__ == "__main__":
    sys.exit(main())

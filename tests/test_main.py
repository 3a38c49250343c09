"""The command line, as a user types it, and its settings: bad values are named, presets and files make valid ones."""

import argparse
import io
import json
import os
import pickle

import layouts_fixtures as fixtures
import numpy as np
import pytest
import torch
from PIL import Image

from stylegan.__main__ import COMMANDS, build_parser, main
from stylegan.config import CHOICES, FIELDS, NOTES, PRESETS, Config, make_config
from stylegan.data import pack
from stylegan.networks import build_networks, count_parameters, part_rows


@pytest.fixture(autouse=True)
def few_people(monkeypatch):
    monkeypatch.setattr(pack, "SIMULATED_SUBJECTS", 8)
    monkeypatch.setattr(pack, "SIMULATED_LEVELS", 4)


def test_train_sample_and_the_same_command_resumes(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "pictures"
    command = ["train", "--preset", "smoke", "--tick-kimg", "0.016", "--run-dir", str(run), "--total-kimg"]
    assert main([*command, "0.016"]) == 0
    assert main(["sample", str(run), "--seeds", "0,5-6", "--out", str(out), "--extras", "truncation"]) == 0
    names = {"seed0000.png", "seed0005.png", "seed0006.png", "grid.png", "truncation.png", "manifest.json"}
    assert {path.name for path in out.iterdir()} == names
    assert np.asarray(Image.open(out / "seed0005.png")).shape == (16, 16)
    assert "synthetic" in capsys.readouterr().out
    assert main([*command, "0.032"]) == 0
    assert "at 0.016 kimg" in capsys.readouterr().out


def test_data_prints_the_promised_keys_and_writes_the_table(tmp_path, capsys):
    assert main(["data", "--resolution", "16", "--json", "--csv", str(tmp_path / "slices.csv")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"layout", "slices", "subjects", "classes", "splits", "left_out", "published_split_leaks"} <= set(report)
    assert (report["layout"], report["slices"], report["subjects"]) == ("simulated", 32, 8)
    head, *lines = (tmp_path / "slices.csv").read_text().splitlines()
    assert head == "path,class,subject,level,split" and len(lines) == 32


@pytest.mark.parametrize("command", [
    "data no-such-folder", "data ~nobody/x", "train --run-dir x --r1-gamma -1", "sample no-such-run --out x", "sample snapshot.pkl --out x",
    "sample 550000.pt --out x", "evaluate no-such-run", "report --data no-such-folder --out x",
])  # fmt: skip
def test_a_mistake_gets_one_sentence_and_exit_status_2(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps({"G_ema": None}))
    torch.save({"g_ema": torch.zeros(3)}, tmp_path / "550000.pt")
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("stylegan: ") and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arguments", [["data", ""], ["sample", "x", "--out", "file/x"], ["report", "--out", "file"]])
def test_a_path_that_cannot_be_used_is_refused_before_the_work(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error: argument" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_closed_pipe_and_letters_that_a_terminal_lacks_end_nothing(monkeypatch, tmp_path):
    fixtures.class_folders(tmp_path / "für", {"sä": 2, "ё": 2}, levels=1)
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert main(["data", str(tmp_path / "für"), "--resolution", "16"]) == 0
        out.flush()
        assert b"f\\xfcr" in out.buffer.getvalue()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert main(["presets"]) == 0


def test_every_option_has_help_and_every_field_is_an_option(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # which ~ means after an equals sign too
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    options = {name: {a.dest for a in command._actions} for name, command in commands.items()}
    assert set(options) == set(COMMANDS)
    assert [(name, a.dest) for name, command in commands.items() for a in command._actions if not a.help] == []
    reading = {"subjects_csv", "levels", "contrast"}  # as `load_slices` names them
    assert all(reading <= found for name, found in options.items() if name not in ("presets", "sample"))
    assert set(FIELDS) - {"c_dim"} <= options["train"]
    args = build_parser().parse_args(["train", "--run-dir=~/x", "--conditional", "class", "--no-mirror", "--lr", "0.001"])
    assert (args.run_dir, args.conditional, args.mirror, args.lr) == (tmp_path / "x", "class", False, 0.001)


def test_presets_are_listed_with_source_sizes_loss_options_and_a_note(capsys):
    assert main(["presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = ["name", "source", "resolution", "parameters_g", "parameters_d", "loss", "options", "note"]
    assert [list(row) for row in rows] == [keys] * len(PRESETS) and {row["name"] for row in rows} == set(PRESETS) == set(NOTES)
    assert all(row["note"] and "\n" not in row["note"] and row["source"] for row in rows)
    losses = {row["name"]: row["loss"] for row in rows}
    assert (losses["stylegan1"], losses["dcgan"]) == ("logistic + R1 10", "logistic")
    assert losses["seed000-stylegan2"] == "wgan + GP 10 + drift 0.001 + path length 2 / 16"
    assert losses["quick"] == "logistic + R1 1 / 16 + participation 0.5"
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(row["name"] in printed and row["note"] in printed for row in rows)


@pytest.mark.parametrize("preset", ["smoke", "seed003-progressive", "seed004-course", "dcgan"])
def test_every_weight_stands_in_the_table_of_parts_once(preset):
    c_dim = 3 if "conditional" in PRESETS[preset] else 0
    config = make_config(preset, img_resolution=32, channel_base=256, channel_max=16, c_dim=c_dim)
    rows = part_rows(config)
    assert sum(row["parameters"] for row in rows) == sum(map(count_parameters, build_networks(config)))
    assert len({row["part"] for row in rows}) == len(rows)


OUTSIDE = {"> 0": (0, -1), ">= 0": (-1,), "0 to 1": (-0.1, 1.01), "1 to 4096": (0, 4097)}
BAD = {
    "img_resolution": (48, 4, 2048, -64), "channel_base": (32,), "batch_size": (6, "16", 16.0, True), "mapping_layers": (0,),
    "lr": (float("nan"), float("inf"), "fast", True), "r1_gamma": (float("nan"),), "device": ("tpu",), "mirror": (1,),
    "preset": (3,), "img_channels": (2,), "kid_samples": (1,), "seed": (-1, 2**63),
}  # fmt: skip
DCGAN = {"architecture": "dcgan", "mapping_layers": 0, "style_mixing_prob": 0.0}
TOGETHER = {  # what the sentence says: fields that do not go together, at 32 px
    "stylegan2 takes 0": ({"grow_from": 4},),
    "0, 4, 8, 16, 32": ({"architecture": "stylegan1", "grow_from": 5},),
    "participation": ({"batch_size": 2, "participation_weight": 1.0},),
    "total_kimg is 81": ({"lr_end_kimg": 80, "total_kimg": 81},),
    "attention is .*8, 16": tuple({"attention": wrong} for wrong in ("32", "4", "7", "8,8", "")),
    "dcgan": tuple({**DCGAN, name: value} for name, value in (("conditional", "class"), ("pl_weight", 1.0), ("z_dim", 4))),
    "dcgan has none": ({**DCGAN, "attention": "8"},),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_names_a_bad_value(name):
    field = FIELDS[name]
    assert name == "preset" or len(field.metadata["help"]) > 5
    allowed = field.metadata.get("allowed")
    outside = [type(field.default)(value) for value in OUTSIDE.get(allowed, ())] if isinstance(allowed, str) else []
    for value in (*outside, *BAD.get(name, ())):
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            Config(**{name: value})


def test_choices_are_listed_in_the_message_and_what_does_not_go_together_is_refused():
    for name, allowed in CHOICES.items():
        with pytest.raises(ValueError, match=", ".join(allowed)):
            Config(**{name: "something else"})
        for value in allowed:
            assert getattr(Config(**{name: value, **(DCGAN if value == "dcgan" else {})}), name) == value
    for says, fields in ((says, fields) for says, refused in TOGETHER.items() for fields in refused):
        with pytest.raises(ValueError, match=says):
            Config(img_resolution=32, **fields)


def test_unknown_fields_and_presets_and_in_what_a_config_departs_from_its_own():
    with pytest.raises(ValueError, match=r"r1_gama.*r1_gamma"):
        Config.from_dict({"r1_gama": 1.0})
    with pytest.raises(ValueError, match=r"'fast'.*quick"):
        make_config("fast")
    assert make_config("smoke", lr=0.1, total_kimg=1.0, c_dim=2).departures() == {"lr": 0.1, "total_kimg": 1.0}
    unknown = Config(lr=0.1).departures()  # from a preset that is not there
    assert {"preset": "custom", "lr": 0.1, "r1_gamma": 0.1}.items() < unknown.items()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_configs_that_survive_a_file(preset):
    config = make_config(preset, seed=5, total_kimg=40)  # a whole number is taken for a length
    assert config.preset == preset and config.seed == 5
    assert all(getattr(config, name) == value for name, value in PRESETS[preset].items() if name != "total_kimg")
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert all(type(value) is type(FIELDS[name].default) for name, value in again.to_dict().items())

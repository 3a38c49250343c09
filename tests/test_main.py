"""The command line, as a user types it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan.__main__ import build_parser, main
from stylegan.bench import _Convolutions, bench
from stylegan.config import PRESETS, Config, make_config
from stylegan.data import pack as packing


@pytest.fixture(autouse=True)
def few_people(monkeypatch):
    monkeypatch.setattr(packing, "SIMULATED_SUBJECTS", 8)
    monkeypatch.setattr(packing, "SIMULATED_LEVELS", 4)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "--preset", "smoke", "--total-kimg", "0.016", "--tick-kimg", "0.016", "--run-dir", str(folder)]) == 0
    return folder


def test_train_then_sample(run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["sample", str(run), "--seeds", "0,5-6", "--out", str(out), "--extras", "truncation"]) == 0
    assert {p.name for p in out.iterdir()} == {
        "seed0000.png", "seed0005.png", "seed0006.png", "grid.png", "truncation.png", "manifest.json"
    }  # fmt: skip
    assert np.asarray(Image.open(out / "seed0005.png")).shape == (16, 16)
    assert "synthetic" in capsys.readouterr().out


def test_the_same_command_resumes(run, capsys):
    command = ["train", "--preset", "smoke", "--tick-kimg", "0.016", "--run-dir", str(run)]
    assert main([*command, "--total-kimg", "0.032"]) == 0
    assert "at 0.016 kimg" in capsys.readouterr().out
    assert main([*command, "--total-kimg", "0.032", "--lr", "0.1"]) == 2
    assert "lr (0.0025 there, 0.1 asked)" in capsys.readouterr().err


def test_data_prints_the_promised_keys_and_writes_the_table(tmp_path, capsys):
    assert main(["data", "--resolution", "16", "--json", "--csv", str(tmp_path / "slices.csv")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"layout", "slices", "subjects", "classes", "splits", "left_out", "published_split_leaks"} <= set(report)
    assert (report["layout"], report["slices"], report["subjects"]) == ("simulated", 32, 8)
    head, *lines = (tmp_path / "slices.csv").read_text().splitlines()
    assert head == "path,class,subject,level,split" and len(lines) == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "no-such-folder"], "no folder no-such-folder"),
        (["train", "--run-dir", "x", "--r1-gamma", "-1"], "r1_gamma is -1.0"),
        (["train", "--run-dir", "x", "--batch-size", "10"], "not a multiple of mbstd_group_size"),
        (["sample", "no-such-run", "--out", "x"], "no file no-such-run"),
        (["evaluate", "no-such-run"], "no file no-such-run"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("stylegan: ") and words in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_field_of_the_config_is_an_option():
    known = build_parser().parse_args(["train", "--run-dir", "x"])
    assert {f.name for f in dataclasses.fields(Config)} - {"c_dim"} <= set(vars(known))
    args = build_parser().parse_args(["train", "--run-dir", "x", "--conditional", "class", "--no-mirror", "--lr", "0.001"])
    assert (args.conditional, args.mirror, args.lr) == ("class", False, 0.001)


def test_presets_are_listed(capsys):
    assert main(["presets", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(PRESETS)


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "stylegan", "--help"], capture_output=True, text=True, check=True)
    for command in ("data", "fetch", "train", "sample", "project", "evaluate", "presets", "summary", "ship", "report", "bench"):
        assert f" {command} " in done.stdout


def test_bench_measures_every_phase(slices):
    found = bench(make_config("smoke", pl_weight=1.0, device="cpu"), slices, rounds=1)
    assert set(found["phases"]) == {"data", "d", "g", "r1", "path_length", "ema"}
    assert found["img_s"] > 0 and found["sample_img_s"] > 0
    assert found["limit_img_s"] > 0 and found["of_limit"] == pytest.approx(found["img_s"] / found["limit_img_s"])


def test_the_limit_counts_dense_convolutions_forward_and_backward():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with _Convolutions() as seen:
        for _ in range(3):
            torch.nn.functional.conv2d(x, torch.ones(4, 4, 3, 3)).sum().backward()
            torch.nn.functional.conv2d(x, torch.ones(4, 1, 3, 3), groups=4)  # depthwise: a filter, not counted
    assert sorted((function.name(), count) for (function, _), count in seen.calls.items()) == [
        ("aten::convolution", 3), ("aten::convolution_backward", 3)
    ]  # fmt: skip

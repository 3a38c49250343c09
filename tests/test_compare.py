"""The ladder: rows and budgets, runs that resume and are not repeated, and what is concluded from known scores."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from stylegan.__main__ import main
from stylegan.comparing import claims, compare, judging, ladder
from stylegan.comparing.compare import Budget, parse_row, plan, settings_for, split_rows
from stylegan.config import FREE_TO_CHANGE, make_config
from stylegan.progressive import stage
from stylegan.run import read_metrics

# --- Rows -------------------------------------------------------------------------------------------------------------------------


def test_rows_are_presets_with_changes():
    assert parse_row("modern") == ("modern", {})
    found = parse_row("oasis64+mirror=false+lr=0.002+attention=8,16+batch_size=8")
    assert found == ("oasis64", {"mirror": False, "lr": 0.002, "attention": "8,16", "batch_size": 8})
    assert split_rows("dcgan,oasis64+attention=8,16,modern") == ["dcgan", "oasis64+attention=8,16", "modern"]
    for wrong, words in (
        ("moden", "no preset 'moden'"),
        ("modern+lr", "not FIELD=VALUE"),
        ("modern+speed=1", "a field of the config"),
        ("modern+mirror=maybe", "write true or false"),
        ("modern+batch_size=big", "of type int"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_row(wrong)


def test_settings_reach_all_rows_or_those_of_one_preset():
    settings = ["ema_kimg=2", "dcgan:ema_kimg=0", "channel_base=64"]
    assert settings_for("dcgan", settings) == {"ema_kimg": 0.0, "channel_base": 64}
    assert settings_for("modern", settings) == {"ema_kimg": 2.0, "channel_base": 64}
    with pytest.raises(ValueError, match="no preset 'modrn'"):
        settings_for("modern", ["modrn:lr=1"])


def test_the_plan_goes_seed_by_seed_and_a_row_s_own_change_wins(tmp_path):
    runs = plan(
        ["oasis64", "oasis64+ema_kimg=0", "oasis64"], [3, 1], tmp_path, Budget(kimg=2), ["ema_kimg=5", "img_resolution=32"]
    )
    assert [(run.row, run.seed) for run in runs] == [
        ("oasis64", 3), ("oasis64+ema_kimg=0", 3), ("oasis64", 1), ("oasis64+ema_kimg=0", 1)
    ]  # fmt: skip
    assert [run.config.ema_kimg for run in runs] == [5, 0, 5, 0]
    assert {run.config.img_resolution for run in runs} == {32} and {run.config.total_kimg for run in runs} == {2}
    assert len({run.folder for run in runs}) == 4 and all(run.config.kid_ticks == 0 for run in runs)


def test_every_row_of_the_claims_is_a_valid_run_at_32_px(tmp_path):
    runs = plan(
        [*compare.SYSTEMS, *claims.CLAIM_ROWS], [0], tmp_path, Budget(kimg=4), ["img_resolution=32", "channel_base=256"]
    )
    assert {run.row for run in runs} >= {*compare.SYSTEMS, *claims.CURVES}
    by_row = {run.row: run.config for run in runs}
    for claim in claims.CLAIMS:
        ours, other = by_row[claim.row].to_dict(), by_row[claim.other].to_dict()
        changed = {name for name in ours if ours[name] != other[name]} - {"preset", "grow_kimg", "fade_kimg"}
        assert len(changed) == 1 or claim.row == "modern" or "style_mixing_prob" in claim.other, (
            claim
        )  # no preset of ours mixes now


def test_growing_is_over_after_half_of_any_budget():
    for total in (2.0, 40.0):
        config = compare.fit_growth(make_config("stylegan1", img_resolution=64, total_kimg=total))
        assert stage(config, int(total * 500) + 1) == (64, 1)
        assert stage(config, int(total * 490)).fading and stage(config, 0) == (8, 1)


def test_a_run_gets_what_is_left_of_its_minutes(tmp_path):
    (run,) = plan(["seed003-progressive+mirror=false"], [7], tmp_path, Budget(kimg=3, minutes=2), ["batch_size=8"])
    config = run.now(snapshots=True)
    assert (config.max_minutes, config.snapshot_ticks, config.seed, config.mirror) == (2, 1, 7, False)
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text('{"cur_nimg": 800, "kimg": 0.8, "seconds": 90.0}\n')
    assert run.now().max_minutes == pytest.approx(0.5) and not run.is_done()
    changed = {name for name, value in run.config.to_dict().items() if getattr(run.now(True), name) != value}
    assert changed == {"max_minutes", "snapshot_ticks"} <= FREE_TO_CHANGE  # so that the same folder goes on


# --- Runs -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, simulated):
    """A few simulated slices as class folders."""
    for image, label, subject, level in zip(
        simulated.images, simulated.labels, simulated.subjects, simulated.levels, strict=True
    ):
        path = tmp_path / "slices" / simulated.classes[label] / f"{subject}_slice_{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(path)
    return tmp_path / "slices"


@pytest.fixture
def here(monkeypatch):
    """Runs train in this process, which has torch loaded; returns their configs."""
    called = []

    def call(self, config, data, folder):
        called.append(config)
        return compare.guarded(config, data, folder)

    monkeypatch.setattr(compare.Children, "_call", call)
    return called


def arguments(folder, out, *more):
    return ["compare", "--presets", "smoke,smoke+mirror=false", "--data", str(folder), "--seeds", "0,1", "--total-kimg", "0.048",
            "--num", "12", "--out", str(out), *more]  # fmt: skip


def test_training_and_scoring_are_apart_and_nothing_is_done_twice(folder, tmp_path, here, capsys):
    out = tmp_path / "ladder"
    assert main(arguments(folder, out, "--no-score")) == 0
    assert len(here) == 4 and not (out / "ladder.json").exists()
    for run in (out / "runs").glob("*/seed*/"):
        assert not list((run / "checkpoints").glob("*")) and not (run / "samples").exists()
    assert main(arguments(folder, out)) == 0
    assert len(here) == 4
    found = json.loads((out / "ladder.json").read_text())
    assert {row["row"] for row in found["rows"]} == {"smoke", "smoke+mirror=false"}
    for row in found["rows"]:
        assert (
            row["seeds"] == [0, 1] and row["kid"]["low"] < row["kid"]["value"] < row["kid"]["high"] and row["fd"]["value"] > 0
        )
        assert row["kimg"] == pytest.approx(0.048) and row["img_s"] > 0 and row["parameters_g"] == 11_456
    assert found["rows"][0]["kid"]["value"] <= found["rows"][1]["kid"]["value"]
    assert {"kid", "fd", "precision", "recall"} <= set(found["floors"]) and found["n"] == 12
    text = (out / "ladder.md").read_text()
    assert "`smoke+mirror=false`" in text and "*real people*" in text and text.strip() in capsys.readouterr().out
    sheet = np.asarray(Image.open(out / "ladder.png").convert("L"))
    assert sheet.shape[0] > 3 * 16 and sheet.std() > 10
    (out / "ladder.json").unlink()
    assert main(arguments(folder, out, "--no-train")) == 0 and (out / "ladder.json").is_file()


def test_a_run_that_was_stopped_resumes_and_one_that_broke_down_is_left(folder, tmp_path, here, monkeypatch, capsys):
    out = tmp_path / "ladder"
    first, other, *_ = plan(["smoke", "smoke+mirror=false"], [0], out, Budget(kimg=0.048))
    compare.guarded(dataclasses.replace(first.config, total_kimg=0.024), folder, first.folder)
    assert not first.is_done()
    other.folder.parent.mkdir(parents=True)
    other.folder.with_suffix(".failed").write_text("Training broke down before 1 kimg: loss_D not finite.")
    compare.train_all([first, other], folder)
    assert "Resuming" in capsys.readouterr().out and first.is_done() and len(here) == 1
    assert read_metrics(first.folder)[-1]["cur_nimg"] == 48
    entries = judging.score_runs([first, other], folder, 12)
    assert "kid" in entries[0] and "not finite" in entries[1]["failed"]
    (row,) = [row for row in ladder.summarise(entries, {"text": ""})["rows"] if row["row"] == other.row]
    assert row["failed"] == [0] and row["kid"] is None


def test_a_mistake_in_a_run_is_noted_beside_it(folder, tmp_path):
    (run,) = plan(["smoke"], [0], tmp_path / "ladder", Budget(kimg=0.048))
    run.folder.mkdir(parents=True)
    (run.folder / "notes.txt").write_text("not a run")
    compare.train_all([run], folder)
    assert "is not a run folder" in run.failure() and "\n" not in run.failure()
    compare.train_all([run], folder)  # not tried again


def test_runs_with_minutes_alone_train_for_so_long_and_are_done(folder, tmp_path, here):
    (run,) = plan(["smoke"], [0], tmp_path / "ladder", Budget(minutes=0.03), ["device=cpu", "total_kimg=1000"])
    compare.train_all([run], folder)
    assert run.is_done() and 0.98 * 1.8 < run.metrics()["seconds"] < 5  # 1.8 seconds of steps, and the step that passed them
    entry = judging.score_runs([run], folder, 12)[0]
    assert entry["kimg"] == run.metrics()["kimg"] > 0 and entry["kid"]["value"] is not None


def test_a_run_that_can_make_no_progress_is_left_and_not_tried_for_ever(folder, tmp_path, here, capsys):
    (run,) = plan(["smoke"], [0], tmp_path / "ladder", Budget(kimg=0.016), ["device=cpu"])
    compare.guarded(run.config, folder, run.folder)
    (run.folder / "generator_last.safetensors").unlink()
    compare.train_all([run], folder)
    assert len(here) == 1 and not run.is_done() and "stopped at 0.016 kimg" in capsys.readouterr().out


def test_runs_train_in_processes_of_their_own(folder, tmp_path):
    (run,) = plan(["smoke"], [0], tmp_path / "ladder", Budget(kimg=0.016), ["device=cpu"])
    compare.train_all([run], folder, snapshots=["smoke"])
    assert run.is_done(), run.folder.with_suffix(".log").read_text()
    assert [p.name for p in (run.folder / "snapshots").iterdir()]


# --- What is concluded ------------------------------------------------------------------------------------------------------------


def scored(row: str, kids: list[float]) -> list[dict]:
    return [{"row": row, "seed": seed, "kid": {"value": kid}} for seed, kid in enumerate(kids)]


@pytest.mark.parametrize(
    ("kids", "verdict"),
    [
        ([50, 55, 52], "held"),
        ([200, 220, 190], "not held"),
        ([50, 200, 110], "undecided"),
        ([50], "undecided"),
        ([], "undecided"),
    ],
)
def test_a_claim_is_decided_by_the_interval_over_seeds(kids, verdict):
    claim = claims.Claim("It helps.", "somebody", "a", "b")
    found = claims.decide(claim, scored("a", kids) + scored("b", [100, 105, 98]))
    assert found["verdict"] == verdict
    assert (found["low"] is not None) == (len(kids) >= 2)
    if kids:
        pairs = list(zip(kids, [100, 105, 98], strict=False))
        assert found["ratio"] == pytest.approx(math.exp(np.mean([math.log(a / b) for a, b in pairs])))


def curve(kids: list[float], pace: float) -> list[dict]:
    return [{"kimg": 10.0 * (i + 1), "seconds": pace * (i + 1), "kid": kid} for i, kid in enumerate(kids)]


def test_growing_is_judged_at_the_same_kid():
    """Fixed: 400, 200, 100 at 10, 20, 30 kimg. Growing: 200, 100, 50. Both reach 100, the growing one at 20 kimg."""

    def two_seeds(growing: int, fixed: int) -> list[dict]:
        curves = {growing: ([200, 100, 50], 3), fixed: ([400, 200, 100], 6)}
        return [{"row": claims.CURVES[i], "seed": seed, "curve": curve(kids, pace + seed)}
                for i, (kids, pace) in curves.items() for seed in (0, 1)]  # fmt: skip

    found = claims.growing_pays(two_seeds(growing=0, fixed=1))
    assert found["kimg"]["ratio"] == pytest.approx(20 / 30)
    assert found["seconds"]["ratio"] == pytest.approx(math.sqrt(6 / 18 * 8 / 21))
    assert ladder.growing_sentence(found).startswith("Growing paid: to the same KID it took 0.36 times the time (0.15 to 0.83)")
    assert "Growing did not pay" in ladder.growing_sentence(claims.growing_pays(two_seeds(growing=1, fixed=0)))
    one = claims.growing_pays(two_seeds(growing=0, fixed=1)[::2])
    assert "undecided: to the same KID it took 0.33 times the time and 0.67" in ladder.growing_sentence(one)
    between = claims._reached(curve([400, 100], pace=1), 200)
    assert between == {"kimg": pytest.approx(15), "seconds": pytest.approx(1.5)}  # half-way on a log scale


def test_without_two_curves_growing_is_not_judged():
    assert ladder.growing_sentence(claims.growing_pays([])) == "Growing was not compared."

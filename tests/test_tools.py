"""What lies outside the package: the ladder, the memorising generator and the card of a shipped generator, each tried once."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, script
from test_evaluate import dataset_of

from stylegan.checkpoint import load_generator, load_tensors
from stylegan.config import make_config
from stylegan.dataset import load_slices
from stylegan.predict import generate
from stylegan.run import train_run
from stylegan.stylegan1 import stage

compare, memoriser, ship = script("benchmarks/compare.py"), script("benchmarks/memoriser.py"), script("tools/ship.py")
pairs = script("tools/pairs.py")
ladder = compare.ladder


def test_rows_are_presets_with_changes(tmp_path):
    changes = {"mirror": False, "lr": 0.002, "attention": "8,16"}
    assert compare.parse_row("oasis64+mirror=false+lr=0.002+attention=8,16") == ("oasis64", changes)
    assert compare.split_rows("dcgan,oasis64+attention=8,16,modern") == ["dcgan", "oasis64+attention=8,16", "modern"]
    for wrong, words in {"moden": "no preset", "modern+lr": "not FIELD=VALUE", "modern+mirror=maybe": "bool"}.items():
        with pytest.raises(ValueError, match=words):
            compare.parse_row(wrong)
    rows = [*compare.SYSTEMS, *(row for claim in ladder.CLAIMS for row in (claim.row, claim.other))]
    settings = ["img_resolution=32", "channel_base=256", "ema_kimg=2", "dcgan:ema_kimg=0"]
    by_row = {run.row: run.config for run in compare.plan(rows, [0], tmp_path, kimg=4, settings=settings)}
    assert by_row["dcgan"].ema_kimg == 0 and by_row["modern"].ema_kimg == 2 and by_row["oasis64+ema_kimg=0"].ema_kimg == 0
    assert stage(by_row["stylegan1"], 2001) == (32, 1) and stage(by_row["stylegan1"], 1900).fading  # until half of the run
    for claim in ladder.CLAIMS:
        ours, other = by_row[claim.row].to_dict(), by_row[claim.other].to_dict()
        unlike = {name for name in ours if ours[name] != other[name]} - {"grow_kimg", "fade_kimg"}
        assert len(unlike) == 1 or unlike == {"loss", "r2_gamma", "d_reg_interval"}, claim  # one is three things by its text


def test_a_ladder_is_trained_resumed_scored_and_not_repeated(trained, tmp_path, monkeypatch, capsys):
    out, folder = tmp_path / "ladder", trained.slices
    asked = ["--rows", "smoke,smoke+mirror=false", "--data", str(folder), "--seeds", "0", "--total-kimg", "0.016", "--num", "8",
             "--set", "device=cpu", "--jobs", "2", "--out", str(out)]  # fmt: skip
    whole, other = compare.plan(["smoke", "smoke+mirror=false"], [0], out, kimg=0.016, settings=["device=cpu"])
    train_run(whole.config, folder, whole.folder)
    train_run(dataclasses.replace(other.config, total_kimg=0.008), folder, other.folder)
    assert whole.is_done() and not other.is_done()
    assert compare.main([*asked, "--no-score"]) == 0 and not (out / "ladder.json").exists()
    assert "Resuming" in other.folder.with_suffix(".log").read_text() and other.is_done()
    assert not list((other.folder / "checkpoints").glob("*"))
    monkeypatch.setattr(compare.subprocess, "Popen", lambda *_, **__: pytest.fail("trained again"))
    assert compare.main(asked) == 0
    found = json.loads((out / "ladder.json").read_text())
    assert {row["row"] for row in found["rows"]} == {"smoke", "smoke+mirror=false"} and found["n"] == 8
    for row in found["rows"]:
        assert row["seeds"] == [0] and row["kid"]["low"] < row["kid"]["value"] < row["kid"]["high"]
        assert min(row["dimensions"], row["memory"]) > 0
    assert {"kid", "fd", "recall", "dimensions", "spread"} <= set(found["floors"])
    assert (out / "ladder.md").read_text().strip() in capsys.readouterr().out and (out / "ladder.png").stat().st_size


def test_a_run_that_breaks_down_is_noted_and_a_budget_in_minutes_is_shared_out(tmp_path, monkeypatch):
    (run,) = compare.plan(["smoke"], [0], tmp_path / "ladder", kimg=3, minutes=2)
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text('{"cur_nimg": 800, "kimg": 0.8, "seconds": 90.0}\n')
    command = run.command(None)
    assert command[command.index("--max-minutes") + 1] == "0.5" and command[command.index("--total-kimg") + 1] == "3.0"
    refusing = [sys.executable, "-c", "import sys; print('Training.'); print('It broke down.'); sys.exit(2)"]
    monkeypatch.setattr(compare.Run, "command", lambda *_: refusing)
    compare.train_all([run], None)
    assert run.failure() == "It broke down." and not run.is_done()
    assert "failed" in compare.score_runs([run], None)[0]


def test_a_claim_is_decided_by_the_interval_over_seeds_and_growing_at_the_same_kid():
    others = [100, 105, 98]
    table = ([50, 55, 52], "held"), ([200, 220, 190], "not held"), ([50, 200, 110], "undecided"), ([50], "undecided")
    for kids, verdict in table:
        both = [(row, seed, kid) for row, found in (("a", kids), ("b", others)) for seed, kid in enumerate(found)]
        rows = [{"row": row, "seed": seed, "kid": {"value": kid}} for row, seed, kid in both]
        found = ladder.decide(ladder.Claim("It helps.", "somebody", "a", "b"), rows)
        ratio = math.exp(np.mean([math.log(a / b) for a, b in zip(kids, others, strict=False)]))
        assert found["verdict"] == verdict and found["ratio"] == pytest.approx(ratio)
    # Fixed: 400, 200, 100 at 10, 20, 30 kimg. Growing: 200, 100, 50. Both reach 100, the growing one at 20 kimg.
    kids, pace = ([200, 100, 50], [400, 200, 100]), (3, 6)
    runs = [{"row": ladder.CURVES[i], "seed": seed, "curve": [{"kimg": 10.0 * k, "seconds": (pace[i] + seed) * k, "kid": kid} for k, kid in
             enumerate(kids[i], 1)]} for i in (0, 1) for seed in (0, 1)]  # fmt: skip
    found = ladder.growing_pays(runs)
    assert found["kimg"]["ratio"] == pytest.approx(20 / 30)
    assert found["seconds"]["ratio"] == pytest.approx(math.sqrt(6 / 18 * 8 / 21))
    assert ladder.growing_sentence(found) != ladder.growing_sentence(ladder.growing_pays([]))


def test_the_memoriser_trains_on_one_slice_of_each_of_64_people_at_most(slices):
    found = memoriser.positive_control(slices, kimg=0.05, fakes=20, img_resolution=16, channel_base=128, channel_max=16)
    assert set(found) >= {"memorisation", "copied", "people", "attack", "logits"} and found["slices"] == 8
    few = memoriser.chosen_few(dataset_of(people=200, levels=2))
    assert len(few) == 64 == len(set(few.subjects.tolist())) and set(few.splits) == {"train"}


@pytest.mark.long
def test_a_generator_trained_until_it_memorises_is_found_out():
    found = memoriser.positive_control(load_slices(None, 32), kimg=60)
    assert found["memorisation"]["ratio"] < 0.8 and found["memorisation"]["p_value"] < 0.01
    assert found["people"]["p_value"] < 0.01 and found["attack"]["value"] > 0.7


def test_a_shipped_generator_is_scored_as_it_is_shipped_and_says_what_it_is(trained, tmp_path, monkeypatch):
    run, folder = trained.run, trained.slices
    assert ship.changes(make_config("smoke", lr=0.002, total_kimg=9).to_dict()) == {"lr": 0.002}
    path = ship.ship(run, folder, "tiny-16", title="Phantoms", out=tmp_path / "models", projections=0, fakes=40, num=20)
    shipped, metrics = path.with_suffix(".safetensors"), path.parent / "metrics.json"
    G, info = load_generator(shipped)
    assert all(v.dtype == torch.float16 for v in load_tensors(shipped)[0].values())
    torch.testing.assert_close(generate(G, [1, 2]), generate(load_generator(run)[0], [1, 2]), atol=0.02, rtol=0)
    entry = json.loads(metrics.read_text())["tiny-16"]
    assert entry["model_hash"] == entry["scores"]["model_hash"] == info["model_hash"] and entry["changes"] == {}
    assert set(entry["audit"]) == {"memory", "duplicates", "spectra", "failures", "control"} and entry["scores"]["variety"]
    train = load_slices(folder, 16).split("train")
    parts = "Phantoms", entry["model_hash"], "times the floor", "dimensions", "✘ fail", train.subjects[0]
    text = path.read_text()
    assert all(part in text for part in parts) and ship.rewrite_head(shipped).read_text() == text
    for file in path.parent.iterdir():  # where the slices lay is nobody's business
        assert str(folder.parent).encode() not in file.read_bytes(), file.name
    control = {"slices": 64}
    metrics.write_text(json.dumps({"tiny-16": {**entry, "audit": {"control": control}}, "other": {"model_hash": "1"}}))
    monkeypatch.setattr(ship, "evaluate", lambda *_, **__: {**entry["scores"], **entry["audit"]})
    monkeypatch.setattr(ship.verdict, "control_sentence", str)
    assert ship.ship(shipped, folder) == path  # scored again
    again = json.loads(metrics.read_text())
    assert again["other"] == {"model_hash": "1"} and again["tiny-16"]["audit"]["control"] == control
    doubted = {**entry, "scores": {**entry["scores"], "warnings": ["who knows"]}}
    text = ship.card("tiny-16", doubted, dataclasses.replace(train, subjects_known=False))
    assert "hides who is who" in text and "**Mind:** who knows" in text
    wrong = {"no terms 'mine'": {"terms": "mine"}, "as --name": {"name": ""}, "no folder": {"data": tmp_path / "x"}}
    for says, changes in wrong.items():
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            ship.ship(**{"run_dir": run, "data": folder, "name": "x", "out": tmp_path / "nothing", **changes})
    assert not (tmp_path / "nothing").exists()


def test_a_card_has_the_head_that_hugging_face_reads():
    yaml, name = pytest.importorskip("yaml"), "oasis1-stylegan2-64"
    entry = json.loads((ROOT / "models" / "metrics.json").read_text(encoding="utf-8"))[name]
    text = ship.head(name, entry)
    assert (ROOT / "models" / f"{name}.md").read_text(encoding="utf-8").startswith(text)
    head, scores = yaml.safe_load(text.split("---\n")[1]), entry["scores"]["splits"]["test"]
    metrics = {row["type"]: row["value"] for row in head["model-index"][0]["results"][0]["metrics"]}
    assert head["license"] == "other" and min(metrics.values()) > 0
    assert {name: scores[name]["value"] for name in metrics} == pytest.approx(metrics, rel=1e-3)


def test_pairs_say_where_classes_differ(trained, tmp_path):
    with pytest.raises(ValueError, match="conditional class"):
        pairs.main(trained.run, tmp_path)
    train_run(make_config("smoke", conditional="class", total_kimg=0.02), trained.slices, tmp_path / "run")
    pairs.main(tmp_path / "run", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert (tmp_path / "out" / "pairs.png").is_file() and -1 <= found["agreement"] <= 1 and found["ratio"] > 0

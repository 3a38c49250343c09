"""Run folders: exact resume for every preset, refusal of what does not belong together, what is recorded, and one writer each.

The writer: on file systems with locks and without, on one machine and on two. The cache folder and its limits.
"""

import errno
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan import checkpoint, files
from stylegan import run as runs
from stylegan.augment import dither
from stylegan.checkpoint import checkpoints, load_discriminator, load_generator, load_tensors
from stylegan.config import PRESETS, make_config
from stylegan.losses import LOSSES
from stylegan.rng import BatchRNG
from stylegan.train import new_state

TIMES = ("seconds", "sec_per_kimg", "peak_memory_mb")  # what may differ between two runs


@pytest.fixture(autouse=True)
def tiny_population(slices, monkeypatch):
    monkeypatch.setattr(runs, "load_slices", lambda data, resolution, **kwargs: slices)
    monkeypatch.setattr(runs, "MONITORED", runs.MONITORED[:8])


def config(**fields):
    settings = {"total_kimg": 0.064, "tick_kimg": 0.016, "device": "cpu", "pl_weight": 1.0,
                "participation_weight": 1.0, "d_reg_interval": 2, "g_reg_interval": 2, "ada_kimg": 1.0}  # fmt: skip
    return make_config("smoke", **{**settings, **fields})


def tiny(preset, **fields):
    """A preset at 16 px and 8 steps of 4 slices, with all that it does in them."""
    given, dcgan = make_config(preset), preset == "dcgan"
    small = {"img_resolution": 16, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "batch_size": 4, "device": "cpu",
             "mapping_layers": 0 if dcgan else 2, "total_kimg": 0.032, "tick_kimg": 0.008, "kid_ticks": 2, "max_minutes": 0.0,
             "d_reg_interval": min(given.d_reg_interval, 2), "g_reg_interval": 2, "ada_interval": 2, "ada_kimg": 0.1,
             "attention": "8" if given.attention != "none" else "none"}  # fmt: skip
    growth = {"grow_from": 4, "grow_kimg": 0.004, "fade_kimg": 0.008, "grow_batch_max": 8} if given.grow_from else {}
    return make_config(preset, **{**small, **growth, **fields})


def scorer(values=()):
    """Scores in place of real ones: the given values in turn, then the mean of a weight."""
    given = iter(values)

    def make(val_slices, config, device):
        assert set(val_slices.splits) == {"val"}

        def score(G_ema, full):
            kid = next(given, G_ema.mapping.w_avg.abs().sum().item()) if full else 0.0
            scores = {"kid": kid, "precision": 0.5, "recall": 0.25, "coverage": 0.1} if full else {}
            return {"spread": 2.0, "style_participation": [1.0, 0.5], **scores}

        return score

    return make


def train(config, folder, kids=None):
    return runs.train_run(config, None, folder, scorer=None if kids is None else scorer(kids))


def train_until(monkeypatch, cur_nimg, *args):
    """Train until there, as if the run were out of time."""
    wishes = runs.Recorder.wishes
    with monkeypatch.context() as patch:
        patch.setattr(runs.Recorder, "wishes", lambda self: (wishes(self)[0], self.state.cur_nimg >= cur_nimg))
        return train(*args)


def outcome(run):
    """All of a finished run that must not depend on how often it was stopped."""
    files = {path.name: load_tensors(path) for path in (checkpoints(run)[-1], *run.glob("*.safetensors"))}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": {name: {k: v.numpy().tobytes() for k, v in found.items()} for name, (found, _) in files.items()},
        "headers": {name: {k: v for k, v in header.items() if k not in TIMES} for name, (_, header) in files.items()},
        "lines": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "samples": {path.name: path.read_bytes() for path in sorted((run / "samples").iterdir())},
        "left over": sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp")),
    }


def differences(run, whole):
    """What a run has else than one that nothing has broken."""
    found, expected = outcome(run), outcome(whole)
    return [key for key in expected if expected[key] != found[key]]


FAST = ("oasis64", "seed003-progressive", "dcgan")  # one of each architecture; the others are long


@pytest.mark.parametrize("preset", [name if name in FAST else pytest.param(name, marks=pytest.mark.long) for name in PRESETS])
def test_of_every_preset_neither_a_stop_nor_what_is_free_to_change_changes_the_end(preset, tmp_path, monkeypatch):
    train(tiny(preset), tmp_path / "whole", [])
    other = {"tick_kimg": 0.012, "kid_ticks": 1, "snapshot_ticks": 2, "max_minutes": 9.0, "keep_checkpoints": 3, "checkpoint_minutes": 0.0}  # fmt: skip
    train_until(monkeypatch, 12, tiny(preset, **other), tmp_path / "broken")
    train(tiny(preset, **other), tmp_path / "broken", [])
    whole, broken = (load_tensors(checkpoints(tmp_path / name)[-1]) for name in ("whole", "broken"))
    assert all(whole[1][name] == broken[1][name] for name in ("augment_p", "cur_nimg", "step"))
    assert whole[0].keys() == broken[0].keys() and len(whole[0]) > 40
    # The sums are those since the last tick.
    assert [k for k in whole[0] if not torch.equal(whole[0][k], broken[0][k]) and not k.startswith("sums.")] == []


@pytest.mark.parametrize("fields", [{}, {"precision": "fp16", "one_fake_batch": True}], ids=str)
def test_a_run_that_the_clock_stops_is_scored_there_and_goes_on_as_an_unbroken_one(tmp_path, monkeypatch, capsys, fields):
    """Its last minutes count; but the best of a whole run is the best of its ticks, however often it was stopped."""
    cfg, whole, broken = config(kid_ticks=1, **fields), tmp_path / "whole", tmp_path / "broken"
    train(cfg, whole, [9.0, 8.0, 7.0, 6.0])
    last = train_until(monkeypatch, 40, cfg, broken, [9.0, 8.0, 5.0])
    assert (last["kid_val"], last["best_kid"], last["stopped"]) == (5.0, 5.0, True)
    assert load_generator(broken)[1]["cur_nimg"] == 40 and "run this command or cell again" in capsys.readouterr().out
    last = train_until(monkeypatch, 48, cfg, broken, [7.0])
    assert last["cur_nimg"] == 48 and "stopped" not in last  # at a tick it is the tick's line
    assert f"Resuming {broken} at 0.04 kimg" in capsys.readouterr().out
    train(cfg, broken, [6.0])
    assert differences(broken, whole) == []
    assert [(line["cur_nimg"], line["best_kid"]) for line in runs.read_metrics(whole)] == [(16, 9), (32, 8), (48, 7), (64, 6)]


def test_a_finished_run_is_left_as_it_is_and_goes_on_when_asked_for_more(tmp_path):
    """Also one of an older version: a field it did not know has its default; one that is gone is ignored where it had that."""
    last = train(config(), tmp_path)
    assert train(config(), tmp_path) == last and len(runs.read_metrics(tmp_path)) == 4
    known = json.loads((tmp_path / "config.json").read_text())
    del known["config"]["one_fake_batch"]
    for pieces, fields, says in ((2, {}, "accumulate .2 there"), (1, {"one_fake_batch": True}, "one_fake_batch .False there")):
        (tmp_path / "config.json").write_text(json.dumps({**known, "config": {**known["config"], "accumulate": pieces}}))
        with pytest.raises(ValueError, match=says):
            train(config(**fields), tmp_path)
    assert train(config(total_kimg=0.08), tmp_path)["cur_nimg"] == 80
    whole = outcome(tmp_path)
    assert train(config(total_kimg=0.03), tmp_path)["cur_nimg"] == 80 and outcome(tmp_path) == whole  # nothing is taken back
    assert [line["cur_nimg"] for line in runs.read_metrics(tmp_path)] == [16, 32, 48, 64, 80]
    (tmp_path / "generator.safetensors").unlink()
    assert train(config(total_kimg=0.08), tmp_path) and load_generator(tmp_path)[1]["cur_nimg"] == 80
    with pytest.raises(ValueError, match="is a checkpoint to resume from; name its run folder"):
        load_generator(checkpoints(tmp_path)[-1])


def test_a_full_disk_is_one_sentence_and_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    def full(path, mode):
        raise OSError(28, "No space left on device")

    train(config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "open", full, raising=False)
        with pytest.raises(ValueError, match=r"Cannot write \S+safetensors: No space left on device"):
            train(config(), tmp_path / "broken")
    train(config(), tmp_path / "broken")
    assert differences(tmp_path / "broken", tmp_path / "whole") == []
    train_until(monkeypatch, 32, config(), tmp_path / "not finite")
    good = checkpoints(tmp_path / "not finite")[-1].read_bytes()
    broken = LOSSES["logistic"]._replace(d=lambda real, fake: (real.sum() + fake.sum()) * float("nan"))
    monkeypatch.setitem(LOSSES, "logistic", broken)
    with pytest.raises(FloatingPointError, match=r"loss_D.* not finite.*last good checkpoint"):
        train(config(), tmp_path / "not finite")
    assert checkpoints(tmp_path / "not finite")[-1].read_bytes() == good


def test_run_folder_holds_what_it_promises(tmp_path, slices, monkeypatch):
    line = train(config(keep_checkpoints=1, seed=7), tmp_path)
    names = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")}
    files = {"config.json", "metrics.jsonl", "generator.safetensors", "generator_last.safetensors", "environment.txt"}
    assert names == files | {"checkpoints", "samples"}
    assert [p.name for p in checkpoints(tmp_path)] == ["000000064.safetensors"]
    assert len(list((tmp_path / "samples").glob("*.png"))) == 5  # before the first step, then each tick
    assert Image.open(tmp_path / "samples" / "fakes000000064.png").size == (8 * 16, 3 * 16)
    _, info = load_generator(tmp_path)
    assert info["train_subjects"] == sorted(set(slices.split("train").subjects))
    assert not set(info["train_subjects"]) & set(slices.subjects[slices.splits != "train"])
    assert "torch" in (tmp_path / "environment.txt").read_text()
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["config"]["seed"] == 7 and kept["data"]["layout"] == "simulated"
    wanted = {"kimg", "loss_D", "loss_G", "r1", "path_length", "logits_real", "logits_fake", "logits_heldout", "augment_p", "grad_norm_D",
              "grad_norm_G", "sec_per_kimg", "peak_memory_mb", "kid_val", "precision_val", "recall_val", "coverage_val", "best_kid"}  # fmt: skip
    assert wanted <= set(line) and all(isinstance(line[k], float) for k in ("logits_real", "logits_fake", "logits_heldout"))
    monkeypatch.setattr(runs, "MOST_SAMPLES", 6)
    train(config(tick_kimg=0.008), tmp_path / "many")
    shown = [int(path.stem[5:]) for path in sorted((tmp_path / "many" / "samples").iterdir())]
    assert shown == [0, 16, 32, 48, 56, 64]  # of many grids every other one goes, but the first and the last


def test_how_the_slices_were_chosen_is_recorded_so_that_they_are_found_again(tmp_path, monkeypatch, slices):
    asked = []
    monkeypatch.setattr(runs, "load_slices", lambda data, resolution, **kwargs: asked.append(kwargs) or slices)
    monkeypatch.chdir(tmp_path)
    runs.train_run(config(total_kimg=0.016), "folder", "run", subjects_csv="people.csv", levels=(0, 31), contrast="t1")
    runs.train_run(config(total_kimg=0.016), None, "plain")
    assert asked == [{"subjects_csv": "people.csv", "levels": "0-31", "contrast": "t1"}, {}]
    found = runs.read_settings("run")["data"]
    assert found["path"] == str(tmp_path / "folder") and found["subjects_csv"] == str(tmp_path / "people.csv")
    assert (found["levels"], found["contrast"]) == ("0-31", "t1") and runs.read_settings("plain")["data"]["path"] is None


def test_best_generator_is_the_one_with_the_lowest_validation_kid_and_never_ahead_of_the_checkpoints(tmp_path, monkeypatch):
    last = train(config(kid_ticks=1, keep_checkpoints=4), tmp_path, [3.0, 1.0, 2.0, 4.0])
    assert (last["kid_val"], last["best_kid"], last["precision_val"], last["coverage_val"]) == (4.0, 1.0, 0.5, 0.1)
    assert load_generator(tmp_path)[1]["cur_nimg"] == 32
    assert load_generator(tmp_path / "generator_last.safetensors")[1]["cur_nimg"] == 64
    assert [load_tensors(path)[1]["best_kid"] for path in checkpoints(tmp_path)] == [3.0, 1.0, 1.0]  # at 16, 32 and the end
    for path in checkpoints(tmp_path):
        path.unlink()
    with pytest.raises(ValueError, match="checkpoints are gone"):
        train(config(kid_ticks=1), tmp_path)


def test_scores_and_snapshots_fall_on_every_so_manyth_tick_and_the_end_and_variety_on_all_and_colours_have_none(tmp_path):
    cfg = config(batch_size=12, tick_kimg=0.02, total_kimg=0.12, kid_ticks=4, snapshot_ticks=3)  # ticks are no whole batches
    train(cfg, tmp_path, [])
    lines = runs.read_metrics(tmp_path)
    assert [line["cur_nimg"] for line in lines if line["kid_val"] is not None] == [84, 120]
    assert all(line["spread"] == 2.0 and line["style_participation"] == [1.0, 0.5] for line in lines)
    assert [path.stem for path in sorted(tmp_path.glob("snapshots/*"))] == ["000000060", "000000120"]
    assert train(config(img_channels=3), tmp_path / "colour", [])["kid_val"] is None


def test_another_config_other_slices_a_second_writer_and_other_folders_are_refused(tmp_path, slices, monkeypatch):
    train(config(total_kimg=0.016), tmp_path / "run")
    with pytest.raises(ValueError, match=r"r1_gamma \(0\.01 there, 5\.0 asked\)"):
        train(config(r1_gamma=5.0), tmp_path / "run")
    with files.hold_run_dir(tmp_path / "run"), pytest.raises(ValueError, match="training in"):
        train(config(), tmp_path / "run")
    monkeypatch.setattr(runs, "load_slices", lambda *args, **kwargs: replace(slices, key="other", title="others"))
    with pytest.raises(ValueError, match="others asked"):
        train(config(), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a run folder"):
        train(config(), tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]
    with pytest.raises(FileNotFoundError, match="train there"):
        runs.read_metrics(tmp_path)


def test_conditional_runs_need_labels(slices, capsys):
    conditional = runs.with_classes(config(conditional="class"), slices)
    assert conditional.c_dim == 2 and "told the class" in capsys.readouterr().out
    assert runs.with_classes(config(), slices).c_dim == 0
    with pytest.raises(ValueError, match="a label for every slice"):
        runs.with_classes(config(conditional="class"), replace(slices, labels=slices.labels - 1))
    with pytest.raises(ValueError, match="has none of"):  # a published split may keep a class from training
        runs.with_classes(config(conditional="class"), slices.select((slices.splits != "train") | (slices.labels == 0)))


@pytest.mark.parametrize(("batch", "held"), [(2, 6), (8, 1)])
def test_batches_smaller_than_a_group_and_a_single_validation_slice_reach_the_end(batch, held, slices, tmp_path, monkeypatch):
    from stylegan.scores.evaluate import validation_scorer  # whoever imports this file goes without scikit-learn

    rows = [np.flatnonzero(slices.splits == split)[:n] for split, n in (("train", 16), ("val", held))]
    monkeypatch.setattr(runs, "load_slices", lambda *_, **__: slices.select(np.concatenate(rows)))
    fields = {"batch_size": batch, "kid_ticks": 1, "kid_samples": 8, "total_kimg": 0.016, "participation_weight": 0.0}
    assert runs.train_run(config(**fields), None, tmp_path, scorer=validation_scorer)["kimg"] == 0.016


@pytest.mark.parametrize("on", [True, False])
def test_the_discriminator_is_watched_on_pictures_as_it_sees_them(on, slices, tmp_path):
    (tmp_path / "samples").mkdir()
    img = 1.5 * torch.randn(4, 1, 16, 16)
    seen = dither(img, BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(0))) if on else img
    with runs.Recorder(new_state(config(dither=on)), slices, tmp_path, None, lambda: None) as watcher:
        assert watcher._mean_logit(img, None) == pytest.approx(watcher.state.D(seen).mean().item(), abs=1e-6)
        assert watcher._mean_logit(img, None) == watcher._mean_logit(img, None)


def test_a_grown_discriminator_is_loaded_at_the_stage_it_has_reached(tmp_path, monkeypatch, slices):
    train_until(monkeypatch, 16, tiny("stylegan1"), tmp_path)
    D, known = load_discriminator(tmp_path)
    state = new_state(known)
    checkpoint.resume(state, tmp_path)
    assert D.now == state.D.now and D.now.resolution > known.grow_from and not D.training
    img = slices.tensor()[:4]
    torch.testing.assert_close(D(img), state.D.eval()(img))


def test_asked_to_stop_it_saves_without_a_score_and_once_more_at_once_means_nothing(tmp_path, monkeypatch, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    after_step = runs.Recorder.after_step

    def ask(self, tick):
        after_step(self, tick)
        for number in (signal.SIGHUP, signal.SIGINT) if self.state.cur_nimg == 40 else ():  # a closed terminal
            os.kill(os.getpid(), number)

    monkeypatch.setattr(runs.Recorder, "after_step", ask)
    with pytest.raises(KeyboardInterrupt):
        train(config(kid_ticks=2), tmp_path / "once", [9.0])
    assert "Stopped and saved at 0.04 of 0.064 kimg" in capsys.readouterr().out
    assert checkpoints(tmp_path / "once")[-1].name == "000000040.safetensors"
    assert runs.read_metrics(tmp_path / "once")[-1]["kid_val"] is None
    assert load_generator(tmp_path / "once")[1]["cur_nimg"] == 32
    monkeypatch.setattr(runs, "PATIENCE", -1.0)  # who asks again after a while cannot wait
    with pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path / "twice")
    assert not checkpoints(tmp_path / "twice")


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def locks(request, monkeypatch):
    """With kernel locks, and on a file system that answers as a mounted Drive does."""

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not request.param:
        monkeypatch.setattr(files.fcntl, "flock", refuse)


def left_behind(folder, host, silent):
    """The record of a writer that was heard of so many seconds ago."""
    files.write_json(folder / ".writer.json", {"pid": 1, "host": host, "token": "theirs"})
    os.utime(folder / ".writer.json", (time.time() - silent,) * 2)


def refused(folder, says):
    with pytest.raises(ValueError, match=says), files.hold_run_dir(folder):
        pass


def test_a_folder_has_one_writer_and_another_machine_counts_for_ten_minutes(locks, tmp_path):
    with files.hold_run_dir(tmp_path):
        refused(tmp_path, rf"Process {os.getpid()} on .* training in .*take another --run-dir")
        assert (tmp_path / ".writer.json").exists()  # who was refused took nothing away
    assert not (tmp_path / ".writer.json").exists()
    left_behind(tmp_path, "elsewhere", 60)
    refused(tmp_path, r"Process 1 on elsewhere was training in .* 60 s ago")
    left_behind(tmp_path, "elsewhere", 660)
    with files.hold_run_dir(tmp_path):
        pass


def test_signs_of_life_renew_the_record_and_find_out_who_took_over(tmp_path, monkeypatch):
    now, record = [1000.0], tmp_path / ".writer.json"
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    with files.hold_run_dir(tmp_path) as sign_of_life:
        os.utime(record, (0, 0))
        sign_of_life()
        assert record.stat().st_mtime == 0  # not at every step
        now[0] += files.BEAT
        sign_of_life()
        assert record.stat().st_mtime > 0
        left_behind(tmp_path, "elsewhere", 0)
        now[0] += files.BEAT
        with pytest.raises(ValueError, match="taken over by Process 1 on elsewhere"):
            sign_of_life()
    assert files.read_json(record)["token"] == "theirs"


def test_outside_a_checkout_caches_lie_with_the_user_s(tmp_path, monkeypatch):
    for name in ("STYLEGAN_DATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "somewhere").mkdir()
    monkeypatch.chdir(tmp_path / "somewhere")
    assert files.cache_folder() == tmp_path / "caches/stylegan" and not list(Path.cwd().iterdir())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    assert files.cache_folder() == tmp_path / "data/cache" and files.checkout() == tmp_path
    assert files.cache_folder(tmp_path / "given") == tmp_path / "given/cache"


def test_the_features_unused_for_longest_go_and_a_terminal_is_shown_nothing_it_might_obey(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FEATURES_AT_MOST", 25)
    for age, name in enumerate(("features-a", "features-b", "features-c", "slices")):
        (tmp_path / f"{name}.npy").write_bytes(bytes(10))
        os.utime(tmp_path / f"{name}.npy", (time.time() - age * 100,) * 2)
    (tmp_path / ".half.tmp").touch()
    os.utime(tmp_path / ".half.tmp", (0, 0))
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features-a.npy", "features-b.npy", "slices.npy"]
    assert files.printable("brain\x1b[2J\n\udcff") == "brain\\x1b[2J\\n\\udcff"

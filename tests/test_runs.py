"""Run folders: exact resume, refusal of what does not belong together, and what is recorded."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from stylegan import recorder
from stylegan import run as runs
from stylegan.cache import append_line
from stylegan.checkpoint import checkpoints, load_generator, load_tensors
from stylegan.config import make_config
from stylegan.losses import LOSSES


@pytest.fixture(autouse=True)
def tiny_population(slices, monkeypatch):
    monkeypatch.setattr(runs, "load_slices", lambda data, resolution, **kwargs: slices)


def config(**fields):
    settings = {
        "total_kimg": 0.064,
        "tick_kimg": 0.016,
        "device": "cpu",
        "pl_weight": 1.0,
        "d_reg_interval": 2,
        "g_reg_interval": 2,
        "ada_kimg": 1.0,
    }
    return make_config("smoke", **{**settings, **fields})


def stop_at(monkeypatch, cur_nimg):
    """Let a run end there as if it were out of time."""
    monkeypatch.setattr(recorder.Recorder, "_out_of_time", lambda self, now: self.state.cur_nimg == cur_nimg)


def without_times(line):
    return {k: v for k, v in line.items() if k not in ("seconds", "sec_per_kimg", "peak_memory_mb")}


@pytest.mark.parametrize(
    ("stop", "fields"), [(32, {}), (40, {}), (40, {"precision": "fp16", "one_fake_batch": True})]
)  # at a tick, and between two
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(tmp_path, monkeypatch, capsys, stop, fields):
    runs.train_run(config(**fields), None, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        last = runs.train_run(config(**fields), None, tmp_path / "broken")
    assert last["cur_nimg"] == stop  # what it has reached is told, and between two ticks taken back
    assert last.get("stopped", False) == (stop == 40)
    assert "run the same command again" in capsys.readouterr().out
    runs.train_run(config(**fields), None, tmp_path / "broken")
    assert f"Resuming {tmp_path / 'broken'} at {stop / 1000:g} kimg" in capsys.readouterr().out

    whole, broken = (load_tensors(checkpoints(tmp_path / name)[-1]) for name in ("whole", "broken"))
    assert whole[0].keys() == broken[0].keys() and len(whole[0]) > 100
    assert all(torch.equal(whole[0][k], broken[0][k]) for k in whole[0])
    assert {k: v for k, v in whole[1].items() if k != "seconds"} == {k: v for k, v in broken[1].items() if k != "seconds"}
    lines = [[without_times(line) for line in runs.read_metrics(tmp_path / name)] for name in ("whole", "broken")]
    assert lines[0] == lines[1] and [line["cur_nimg"] for line in lines[0]] == [16, 32, 48, 64]


def test_a_run_that_is_out_of_time_before_its_first_tick_says_what_it_reached(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        last = runs.train_run(config(), None, tmp_path)
    assert last["cur_nimg"] == 8 and last["kid_val"] is None and last["seconds"] > 0 and last["stopped"]


def test_a_finished_run_is_left_as_it_is_and_goes_on_when_asked_for_more(tmp_path):
    last = runs.train_run(config(), None, tmp_path)
    again = runs.train_run(config(), None, tmp_path)
    assert last == again and len(runs.read_metrics(tmp_path)) == 4
    longer = runs.train_run(config(total_kimg=0.08), None, tmp_path)
    assert longer["cur_nimg"] == 80 and [line["cur_nimg"] for line in runs.read_metrics(tmp_path)] == [16, 32, 48, 64, 80]


def test_run_folder_holds_what_it_promises(tmp_path, slices):
    runs.train_run(config(keep_checkpoints=1), None, tmp_path)
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


def test_metrics_tell_real_fake_and_held_out_apart(tmp_path):
    line = runs.train_run(config(), None, tmp_path)
    wanted = {"kimg", "loss_D", "loss_G", "r1", "path_length", "logits_real", "logits_fake", "logits_heldout", "augment_p",
              "grad_norm_D", "grad_norm_G", "sec_per_kimg", "peak_memory_mb", "kid_val", "precision_val", "recall_val", "best_kid"}  # fmt: skip
    assert wanted <= set(line)
    assert all(isinstance(line[k], float) for k in ("logits_real", "logits_fake", "logits_heldout"))


def test_best_generator_is_the_one_with_the_lowest_validation_kid(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(recorder, "features", lambda images, **kwargs: images)
    found = {"precision": 0.5, "recall": 0.25}
    monkeypatch.setattr(recorder, "scores_while_training", lambda real, people, fake, **_: {"kid": next(scores), **found})
    last = runs.train_run(config(kid_ticks=1), None, tmp_path)
    assert last["kid_val"] == pytest.approx(4.0) and last["best_kid"] == pytest.approx(1.0)
    assert last["precision_val"] == 0.5 and last["recall_val"] == 0.25
    assert load_generator(tmp_path)[1]["cur_nimg"] == 32
    assert load_generator(tmp_path / "generator_last.safetensors")[1]["cur_nimg"] == 64


def test_a_run_of_a_version_without_a_field_goes_on_with_its_default(tmp_path):
    runs.train_run(config(), None, tmp_path)
    known = json.loads((tmp_path / "config.json").read_text())
    del known["config"]["one_fake_batch"]
    (tmp_path / "config.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"one_fake_batch \(False there, True asked\)"):
        runs.train_run(config(one_fake_batch=True), None, tmp_path)
    assert runs.train_run(config(total_kimg=0.08), None, tmp_path)["cur_nimg"] == 80


def test_another_config_or_other_slices_are_refused_with_the_difference(tmp_path, slices, monkeypatch):
    runs.train_run(config(), None, tmp_path)
    with pytest.raises(ValueError, match=r"r1_gamma \(0\.01 there, 5\.0 asked\)"):
        runs.train_run(config(r1_gamma=5.0), None, tmp_path)
    monkeypatch.setattr(runs, "load_slices", lambda *args, **kwargs: replace(slices, key="other", title="others"))
    with pytest.raises(ValueError, match="others asked"):
        runs.train_run(config(), None, tmp_path)


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a run folder"):
        runs.train_run(config(), None, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    code = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process is training"):
            runs.train_run(config(), None, tmp_path)
        other.kill()
    assert runs.train_run(config(), None, tmp_path)["cur_nimg"] == 64  # a dead process holds nothing


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, capsys):
    runs.train_run(config(checkpoint_minutes=0.0), None, tmp_path)
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    runs.train_run(config(checkpoint_minutes=0.0), None, tmp_path)
    out = capsys.readouterr().out
    assert "Going back to the checkpoint before it" in out and "at 0.056 kimg" in out
    assert [line["cur_nimg"] for line in runs.read_metrics(tmp_path)] == [16, 32, 48, 64]


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    assert threading.current_thread() is threading.main_thread()
    tick = recorder.Recorder._tick
    monkeypatch.setattr(recorder.Recorder, "_tick", lambda self: (tick(self), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(config(), None, tmp_path)
    assert "Stopped and saved at 0.016 of 0.064 kimg" in capsys.readouterr().out
    assert [p.name for p in checkpoints(tmp_path)] == ["000000016.safetensors"]


def test_a_wish_to_stop_that_comes_twice_at_once_is_one_and_a_later_one_cannot_wait(tmp_path, monkeypatch):
    tick = recorder.Recorder._tick

    def ask_twice(self):
        tick(self)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(recorder.Recorder, "_tick", ask_twice)
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(config(), None, tmp_path / "once")
    assert [p.name for p in checkpoints(tmp_path / "once")] == ["000000016.safetensors"]
    monkeypatch.setattr(recorder, "PATIENCE", -1.0)
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(config(), None, tmp_path / "twice")
    assert not checkpoints(tmp_path / "twice")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 32)
        runs.train_run(config(), None, tmp_path)
    good = checkpoints(tmp_path)[-1].read_bytes()
    broken = LOSSES["logistic"]._replace(d=lambda real, fake: (real.sum() + fake.sum()) * float("nan"))
    monkeypatch.setitem(LOSSES, "logistic", broken)
    with pytest.raises(FloatingPointError, match=r"loss_D.* not finite.*last good checkpoint"):
        runs.train_run(config(), None, tmp_path)
    assert checkpoints(tmp_path)[-1].read_bytes() == good


def test_conditional_runs_need_labels(slices, capsys):
    conditional = runs.with_classes(config(conditional="class"), slices)
    assert conditional.c_dim == 2 and "told the class" in capsys.readouterr().out
    assert runs.with_classes(config(), slices).c_dim == 0
    assert "not used" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a label for every slice"):
        runs.with_classes(config(conditional="class"), replace(slices, labels=slices.labels - 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is there on Linux only")
def test_a_line_that_finds_no_room_is_one_sentence():
    with pytest.raises(ValueError, match=r"Cannot write /dev/full: No space left on device; free some space"):
        append_line(Path("/dev/full"), "{}")


def test_a_tick_that_finds_no_room_leaves_what_was_saved(tmp_path, monkeypatch):
    """The line of the second tick is cut in the middle; the run stops in a sentence and goes on without a gap or a double line."""
    whole = recorder.append_line

    def full(path, line):
        if '"cur_nimg": 32' in line:
            path.write_text(path.read_text() + line[:50])
            raise ValueError(f"Cannot write {path}: No space left on device; free some space or choose another folder.")
        whole(path, line)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="No space left"):
        patch.setattr(recorder, "append_line", full)
        runs.train_run(config(checkpoint_minutes=0.0), None, tmp_path)
    runs.train_run(config(checkpoint_minutes=0.0), None, tmp_path)
    assert [line["cur_nimg"] for line in runs.read_metrics(tmp_path)] == [16, 32, 48, 64]


def test_metrics_of_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="train there first"):
        runs.read_metrics(tmp_path)


def test_config_json_is_what_was_asked(tmp_path):
    runs.train_run(config(seed=7), None, tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["config"]["seed"] == 7 and kept["data"]["layout"] == "simulated"


def test_training_needs_none_of_the_packages_it_only_reports(monkeypatch):
    def absent(name):
        raise runs.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(runs.importlib.metadata, "version", absent)
    assert "umap-learn not installed" in runs.environment()

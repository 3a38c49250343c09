"""Several processes train as one process with the whole batch does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from stylegan.__main__ import build_parser
from stylegan.checkpoint import checkpoints, save_generator
from stylegan.config import make_config
from stylegan.modules import MinibatchStdDev
from stylegan.rng import BatchRNG, Shard
from stylegan.train import new_state, path_length_step

OPTIONS = ["--preset", "smoke", "--batch-size", "16", "--pl-weight", "2", "--g-reg-interval", "2", "--pl-batch-shrink", "2",
           "--participation-weight", "1", "--conditional", "class", "--augment", "fixed", "--augment-p", "0.4", "--tick-kimg", "0.032", "--kid-ticks", "0",
           "--device", "cpu"]  # fmt: skip


COMPARED = {"loss_D", "loss_G", "r1", "path_length", "grad_norm_D", "grad_norm_G", "pl_mean", "augment_p", "participation"}


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds threads and processes by Linux's /proc")


@pytest.mark.parametrize(("total", "count", "group"), [(16, 2, 4), (16, 4, 4), (32, 4, 4), (24, 3, 4), (8, 4, 4)])
def test_shards_are_the_batch_and_cut_no_group(total, count, group):
    rows = torch.cat([torch.arange(total)[Shard(i, count, group).rows(total)] for i in range(count)])
    assert sorted(rows.tolist()) == list(range(total))


def test_groups_of_the_minibatch_deviation_stay_together():
    x = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = MinibatchStdDev(4)(x)
    for index in range(2):
        shard = Shard(index, 2, 4)
        torch.testing.assert_close(MinibatchStdDev(4)(shard.take(x)), shard.take(whole))


def test_a_shard_draws_its_rows_of_the_whole_batch():
    def draws(shard):
        return BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(5), shard)

    whole = draws(Shard())
    numbers = whole.normal(16, 3), whole.uniform(16), whole.integers(0, 9, 16)
    for index in range(4):
        shard = Shard(index, 4, 4)
        mine = draws(shard)
        for drawn, all_rows in zip((mine.normal(4, 3), mine.uniform(4), mine.integers(0, 9, 4)), numbers, strict=True):
            assert torch.equal(drawn, shard.take(all_rows))


@pytest.mark.parametrize(("batch", "world"), [(16, 3), (24, 4)])
def test_a_batch_that_the_processes_cannot_share_is_refused(batch, world, monkeypatch):
    monkeypatch.setattr("stylegan.distributed.world", lambda: world)
    with pytest.raises(ValueError, match=f"multiple of {4 * world}"):
        Shard.own(batch, 4)


@pytest.mark.parametrize(("batch", "world"), [(24, 2), (40, 2), (48, 4), (16, 4)])
def test_path_lengths_are_taken_of_any_batch_that_the_processes_can_share(batch, world, monkeypatch):
    """Rows of a smaller batch need not be whole groups of the minibatch deviation: G knows none."""
    seen = []
    monkeypatch.setattr("stylegan.distributed.world", lambda: world)
    monkeypatch.setattr(
        "stylegan.train.path_lengths", lambda img, ws, y: seen.append(ws.detach()) or ws.square().sum(dim=[1, 2])
    )
    monkeypatch.setattr("stylegan.train.distributed.gather_keep_grad", lambda lengths: lengths)
    monkeypatch.setattr("stylegan.train.distributed.average_", lambda gradients: None)
    for index in range(world):
        monkeypatch.setattr("stylegan.distributed.rank", lambda index=index: index)
        path_length_step(new_state(make_config("smoke", batch_size=batch, pl_weight=2.0, device="cpu")), None)
    ws = torch.cat(seen)
    assert len(ws) == batch // 2 and len(torch.unique(ws[:, 0], dim=0)) == len(ws)  # each row once


def stylegan(processes, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *launcher, "-m", "stylegan", *map(str, arguments)]


def command(processes, class_folders, run_dir, kimg, *more):
    return stylegan(processes, "train", "--data", class_folders, "--run-dir", run_dir, "--total-kimg", kimg, *OPTIONS, *more)


def environment(tmp_path):
    return {**os.environ, "STYLEGAN_DATA": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_and_four_processes_train_as_one(class_folders, tmp_path):
    found, env = {}, environment(tmp_path)
    for processes in (1, 2, 4):
        run_dir = tmp_path / str(processes)
        done = subprocess.run(command(processes, class_folders, run_dir, 0.064), env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Labels in the data") == 1  # one process speaks
        found[processes] = lines(run_dir), load_file(run_dir / "generator_last.safetensors")
    for processes in (2, 4):
        for line, alone in zip(found[processes][0], found[1][0], strict=True):
            for name in COMPARED & alone.keys():
                assert line[name] == pytest.approx(alone[name], rel=1e-3), (processes, name, line["kimg"])
        for name, tensor in found[1][1].items():
            torch.testing.assert_close(found[processes][1][name], tensor, rtol=1e-2, atol=2e-3)


LEAVES = """
import glob
from stylegan.distributed import average_, process_group
import torch
with process_group():
    import torch._dynamo  # as the first step of an optimiser does
    average_([torch.ones(3)])
print(sorted(open(path).read().strip() for path in glob.glob("/proc/self/task/*/comm")))
"""


@needs_proc
def test_no_thread_of_the_group_outlives_it(tmp_path):
    port = {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, "-c", LEAVES], env=environment(tmp_path) | port, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout


@needs_proc
def test_a_lost_process_stops_all_and_another_number_goes_on(class_folders, tmp_path):
    run_dir, env = tmp_path / "run", environment(tmp_path)
    line = command(2, class_folders, run_dir, 50, "--checkpoint-minutes", "0.001")
    running = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoints(run_dir) and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, error = running.communicate(timeout=120)
    assert running.returncode != 0 and "lost touch with the others" in error and "run the same command again" in error
    reached = lines(run_dir)[-1]["kimg"]
    done = subprocess.run(command(1, class_folders, run_dir, reached + 0.032), env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "Resuming" in done.stdout, done.stderr
    assert [line["step"] for line in lines(run_dir)] == sorted({line["step"] for line in lines(run_dir)})


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_torchrun_leaves_every_option_to_us(command):
    """It looks for its own, abbreviated too, among all that stands behind the module's name."""
    (subcommands,) = (action for action in build_parser()._actions if action.choices and command in action.choices)
    flags = [action.option_strings[-1] for action in subcommands.choices[command]._actions if action.option_strings]
    assert len(flags) > 5
    for flag in flags:
        given = ["--nproc-per-node", "2", "-m", "stylegan", command, "run", flag, "1"]
        assert get_args_parser().parse_args(given).training_script_args == [command, "run", flag, "1"]


def test_processes_share_samples_and_scores(G, class_folders, tmp_path):
    env, found, untrained = environment(tmp_path), {}, tmp_path / "untrained.safetensors"
    info = {"config": make_config("smoke").to_dict(), "classes": [], "train_subjects": [], "data": {}, "cur_nimg": 0}
    save_generator(untrained, G, info)
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        sampled = stylegan(processes, "sample", untrained, "--seeds", "0-129", "--device", "cpu", "--out", out)
        scored = stylegan(
            processes, "evaluate", untrained, "--data", class_folders, "--split", "train", "--fakes", 16,
            "--no-controls", "--device", "cpu", "--json",
        )  # fmt: skip
        for line in (sampled, scored):
            done = subprocess.run(line, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        found[processes] = {path.name: path.read_bytes() for path in out.iterdir()}, json.loads(done.stdout)["splits"]
    assert len(found[1][0]) == 130 + 2  # the sheet and the list
    assert found[2] == found[1]

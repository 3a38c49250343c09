"""Several processes train as one process with the whole batch does.

The test runs this file as a script, whose forks run commands in groups, as torchrun does, with everything loaded.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from conftest import save_untrained
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from stylegan.__main__ import build_parser, main
from stylegan.checkpoint import checkpoints
from stylegan.config import make_config
from stylegan.modules import MinibatchStdDev
from stylegan.rng import BatchRNG, Shard
from stylegan.run import read_metrics

OPTIONS = ["--preset", "smoke", "--batch-size", "16", "--pl-weight", "2", "--g-reg-interval", "2", "--pl-batch-shrink", "2",
           "--participation-weight", "1", "--conditional", "class", "--augment", "fixed", "--augment-p", "0.4",
           "--tick-kimg", "0.032", "--kid-ticks", "0", "--device", "cpu"]  # fmt: skip
COMPARED = {"loss_D", "loss_G", "r1", "path_length", "grad_norm_D", "grad_norm_G", "pl_mean", "augment_p", "participation"}


def test_shards_are_the_batch_cut_no_group_and_draw_their_rows_of_the_whole(monkeypatch):
    x = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for total, count in ((16, 2), (16, 4), (32, 4), (24, 3), (8, 4)):
        rows = torch.cat([Shard(i, count, 4).take(torch.arange(total)) for i in range(count)])
        assert sorted(rows.tolist()) == list(range(total))
    for shard in (Shard(0, 2), Shard(1, 2), Shard(2, 4)):
        torch.testing.assert_close(MinibatchStdDev(4)(shard.take(x)), shard.take(MinibatchStdDev(4)(x)))
        whole, mine = (BatchRNG(x.device, torch.Generator().manual_seed(5), part) for part in (Shard(), shard))
        n = 16 // shard.count
        assert torch.equal(mine.normal(n, 3), shard.take(whole.normal(16, 3)))
        assert torch.equal(mine.uniform(n), shard.take(whole.uniform(16)))
        assert torch.equal(mine.integers(0, 9, n), shard.take(whole.integers(0, 9, 16)))
    for batch, world in ((16, 3), (24, 4)):  # which the processes cannot share
        monkeypatch.setattr("stylegan.distributed.world", lambda world=world: world)
        with pytest.raises(ValueError, match=f"multiple of {4 * world}"):
            Shard.own(batch, 4)


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_torchrun_leaves_every_option_to_us(command):
    """It looks for its own, abbreviated too, among all that stands behind the module's name."""
    (subcommands,) = (action for action in build_parser()._actions if action.choices and command in action.choices)
    flags = [action.option_strings[-1] for action in subcommands.choices[command]._actions if action.option_strings]
    assert len(flags) > 5
    for flag in flags:
        given = ["--nproc-per-node", "2", "-m", "stylegan", command, "run", flag, "1"]
        assert get_args_parser().parse_args(given).training_script_args == [command, "run", flag, "1"]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="forks, and finds threads and processes in /proc")


def environment(place):
    return os.environ | {"STYLEGAN_DATA": str(place / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}


def training(class_folders, run_dir, kimg, *more):
    return ["train", "--data", str(class_folders), "--run-dir", str(run_dir), "--total-kimg", str(kimg), *OPTIONS, *more]


def run_group(processes: int, arguments: list[str], said: str) -> list[int]:
    """The status of a command in each process of a group, 9 where threads of the group outlive it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        names = {"WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": free.getsockname()[1]}
    pids = []
    for rank in range(processes):
        if pid := os.fork():
            pids.append(pid)
            continue
        if processes > 1:
            os.environ.update({name: str(value) for name, value in {**names, "RANK": rank, "LOCAL_RANK": rank}.items()})
        status = 8
        with open(said, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                status = main(arguments)
                if any("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm")):
                    status = 9
            except BaseException:
                traceback.print_exc()
        os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.fixture(scope="module")
def place(class_folders, tmp_path_factory):
    """One, two and four processes have trained in the folders 1, 2 and 4; one and two have sampled and scored; texts beside them."""
    place = tmp_path_factory.mktemp("groups")
    save_untrained(place / "G.safetensors", make_config("smoke"))
    sample = ["sample", str(place / "G.safetensors"), "--seeds", "0-129", "--device", "cpu", "--out"]
    evaluate = ["evaluate", str(place / "G.safetensors"), "--data", str(class_folders), "--split", "train", "--fakes", "16",
                "--no-controls", "--device", "cpu", "--json"]  # fmt: skip
    groups = [(n, training(class_folders, place / str(n), 0.064), str(place / f"train{n}")) for n in (1, 2, 4)]
    for n in (1, 2):
        groups += [(n, [*sample, str(place / f"out{n}")], str(place / f"sample{n}")), (n, evaluate, str(place / f"scores{n}"))]
    command = [sys.executable, __file__]
    done = subprocess.run(command, input=json.dumps(groups), env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = [Path(said).read_text() for (_, _, said), found in zip(groups, json.loads(done.stdout), strict=True) if any(found)]
    assert not wrong, wrong  # a 9 stands for threads that outlive the group, which now and then abort a process at its end
    return place


@needs_proc
def test_two_and_four_processes_train_as_one_and_two_share_samples_and_scores(place):
    alone, weights = read_metrics(place / "1"), load_file(place / "1" / "generator_last.safetensors")
    for n in (2, 4):
        assert (place / f"train{n}").read_text().count("Labels in the data") == 1  # one process speaks
        for line, expected in zip(read_metrics(place / str(n)), alone, strict=True):
            for name in COMPARED & expected.keys():
                assert line[name] == pytest.approx(expected[name], rel=1e-3), (n, name, line["kimg"])
        for name, tensor in load_file(place / str(n) / "generator_last.safetensors").items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-2, atol=2e-3)
    one, two = ({path.name: path.read_bytes() for path in (place / f"out{n}").iterdir()} for n in (1, 2))
    assert len(one) == 130 + 2 and one == two  # with the sheet and the list
    one, two = (json.loads((place / f"scores{n}").read_text())["splits"] for n in (1, 2))
    assert one == two


@needs_proc
def test_a_lost_process_stops_all_and_another_number_goes_on(class_folders, tmp_path, monkeypatch, capsys):
    """Under torchrun itself."""
    monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path / "cache"))
    run_dir, launcher = tmp_path / "run", "-m torch.distributed.run --standalone --nproc-per-node 2 -m stylegan"
    command = [sys.executable, *launcher.split(), *training(class_folders, run_dir, 50, "--checkpoint-minutes", "0.001")]
    running = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoints(run_dir) and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, error = running.communicate(timeout=120)
    assert running.returncode != 0 and "lost touch with the others" in error and "run the same command again" in error
    assert main(training(class_folders, run_dir, read_metrics(run_dir)[-1]["kimg"] + 0.032)) == 0
    assert "Resuming" in capsys.readouterr().out
    steps = [line["step"] for line in read_metrics(run_dir)]
    assert steps == sorted(set(steps))


if __name__ == "__main__":
    for name in ("torchvision.utils", "stylegan.run", "stylegan.scores.evaluate", "stylegan.scores.verdict"):
        importlib.import_module(name)
    torch.set_num_threads(1)  # a child of a process with more threads would wait for those it does not have
    print(json.dumps([run_group(*group) for group in json.load(sys.stdin)]))

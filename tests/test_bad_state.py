"""Configs and run folders that are wrong, damaged or poisoned: a sentence, and nothing is executed."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_bad_data import recipe, told

from stylegan import run as runs
from stylegan.__main__ import main
from stylegan.checkpoint import FORMAT, checkpoints, load_generator, load_tensors, save_tensors

COMMAND = ("train", "--preset", "smoke", "--total-kimg", "0.064", "--tick-kimg", "0.016", "--checkpoint-minutes", "0",
           "--device", "cpu", "--kid-samples", "32")  # fmt: skip
BACK = r"Going back to the checkpoint before it"


class Trap:
    """An object whose unpickling writes a file."""

    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.fixture(autouse=True)
def tiny_population(slices, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "load_slices", lambda data, resolution, **kwargs: slices)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path, tmp_path_factory):
    """A copy of a finished run; its checkpoints are at 56 and 64."""
    folder = tmp_path_factory.getbasetemp() / "finished"
    if not folder.exists():
        assert main([*COMMAND, "--run-dir", str(folder)]) == 0
    return Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.mark.parametrize(("options", "says"), [
    (["--batch-size", "6"], r"batch_size 6 is not a multiple of mbstd_group_size 4"),
    (["--device", "mps"], r"There is no device 'mps' here"),
    (["--z-dim", "8000000", "--w-dim", "8000000"], r"There is not enough memory for batches of 8 at 16 px"),  # 256 TB: nothing is taken
])  # fmt: skip
def test_a_bad_setting_is_one_sentence_and_writes_nothing(options, says, tmp_path, capsys):
    status, text = told(capsys, *COMMAND, "--run-dir", tmp_path / "run", *options)
    assert status == 2 and re.search(says, text) and text.splitlines()[-1].startswith("stylegan: "), text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@recipe
def pickled(run: Path, first: int) -> None:
    """Pickles in the place of the checkpoints from this one on."""
    for path in checkpoints(run)[first:]:
        path.write_bytes(pickle.dumps(Trap()))


def poisoned(run: Path) -> None:
    """A checkpoints folder with bad things under every name."""
    for name in ("999999999.safetensors", "latest.pt", "model.pth", "000000099.pkl", "pytorch_model.bin", "__init__.py"):
        torch.save({"G": Trap()}, run / "checkpoints" / name)  # a .zip with a pickle in it
    (run / "checkpoints/999999998.safetensors").mkdir()
    (run / "checkpoints/999999997.safetensors").symlink_to("/dev/zero")
    os.mkfifo(run / "checkpoints/999999996.safetensors")


@recipe
def newest_with(run: Path, change: Callable[[dict, dict], object]) -> None:
    """The newest checkpoint with tensors or header changed."""
    tensors, header = load_tensors(checkpoints(run)[-1])
    change(tensors, header)
    save_tensors(checkpoints(run)[-1], tensors, header)


@recipe
def lead_elsewhere(run: Path, name: str) -> None:
    """A file of the run folder that is a link to somebody's letter."""
    (run / name).unlink(missing_ok=True)
    (run.parent / "letter").write_text("dear reader")
    (run / name).symlink_to(run.parent / "letter")


CASES = {  # kind: (what spoils the run, whether it goes on or is refused, what the text matches)
    "nothing is wrong": (lambda run: None, True, r"Resuming .* at 0\.064 kimg"),
    "cut short": (lambda run: os.truncate(checkpoints(run)[-1], 1000), True, rf"not a whole \.safetensors file.*{BACK}.*at 0\.056"),
    "a pickle": (pickled(-1), True, rf"other formats are never opened.*{BACK}"),
    "tensors of somebody else": (lambda run: save_file({"x": torch.ones(2)}, checkpoints(run)[-1]), True, BACK),
    "a tensor of another shape": (newest_with(lambda t, h: t.update({"sums.loss_D": torch.zeros(3, 5)})), True, BACK),
    "progress that is none": (newest_with(lambda t, h: h.update(cur_nimg=-8)), True, BACK),
    "a scaler is a word": (newest_with(lambda t, h: h.update(scaler_G="big")), True, BACK),
    "of another experiment": (newest_with(lambda t, h: h["config"].update(seed=5)), True, rf"another config.*seed.*{BACK}"),
    "of a newer version": (newest_with(lambda t, h: h.update(format=FORMAT + 1)), False, r"newer than this package reads.*update it"),
    "all are pickles": (pickled(0), False, r"No checkpoint in .* can be read; take a new --run-dir"),
    "a poisoned folder": (poisoned, True, rf"{BACK}.*Resuming .* at 0\.064 kimg"),
    "a folder is a file": (lambda run: (shutil.rmtree(run / "samples"), (run / "samples").touch()), False, r"exists.*samples"),
    "config.json has no end": (lambda run: (run / "config.json").write_text("[" * 100_000), False, r"not a run folder"),
    "its config is a number": (lambda run: (run / "config.json").write_text('{"config": 5}'), False, r"config\.json .*damaged"),
    "lines that are none": (lambda run: (m := run / "metrics.jsonl").write_text("{x\n[]\n" + m.read_text()), True, "2 damaged"),
    "lines as folder": (lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()), False, r"directory"),
    "metrics.jsonl leads elsewhere": (lead_elsewhere("metrics.jsonl"), True, r"Resuming"),
    "the lock leads elsewhere": (lead_elsewhere(".lock"), True, r"Resuming"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_the_user_is_told_and_nothing_is_executed(kind, run, capsys):
    spoil, goes_on, says = CASES[kind]
    spoil(run)
    status, text = told(capsys, *COMMAND, "--run-dir", run)
    assert re.search(says, text, re.DOTALL), text
    assert "Traceback" not in text and not (run.parent / "executed").exists()
    assert (status == 0) == goes_on, text
    if goes_on:
        reached = [line["cur_nimg"] for line in runs.read_metrics(run)]
        assert reached == [16, 32, 48, 64] or ("metrics" in kind and reached == [])
        assert checkpoints(run)[-1].name == "000000064.safetensors" and load_tensors(checkpoints(run)[-1])
    else:
        assert text.splitlines()[-1].startswith("stylegan: ")
    assert all(letter.read_text() == "dear reader" for letter in run.parent.glob("letter"))


def test_a_file_that_is_missing_or_of_somebody_else_says_what_to_do_and_is_never_executed(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    missing = {"": "train there", "none.safetensors": "There is no file", "other.safetensors": "not written by this package"}
    for name, says in missing.items():
        with pytest.raises(ValueError if name == "other.safetensors" else FileNotFoundError, match=says):
            load_generator(tmp_path / name)
    torch.save({"G": Trap()}, tmp_path / "generator.safetensors")
    with pytest.raises(ValueError, match=r"generator\.safetensors is not a whole \.safetensors file"):
        load_generator(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("info", "says"), [
    ({"config": {"channel_base": 2**40, "channel_max": 2**40}}, "does not fit this network"),  # before memory is taken for it
    ({"config": {"mapping_layers": 10**9}}, "does not fit this network"),
    ({"config": {"img_resolution": 17}}, "take a power of two"),
    ({"config": {"unknown": 1}}, "Unknown config field unknown"),
    ({"config": 5, "classes": 7, "model_hash": 3}, "config, classes, model_hash in its header"),
], ids=str)  # fmt: skip
def test_a_generator_whose_header_is_wrong_is_refused(info, says, run, capsys):
    tensors, known = load_tensors(run / "generator.safetensors")
    info = {key: {**known[key], **value} if isinstance(value, dict) else value for key, value in info.items()}
    save_tensors(run / "generator.safetensors", tensors, known | info)
    status, text = told(capsys, "sample", run, "--out", run.parent / "out")
    assert status == 2 and says in text and text.startswith("stylegan: ") and text.count("\n") == 1, text

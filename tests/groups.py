"""Runs commands in groups of processes, as torchrun does, each a fork of one process that has everything loaded.

`python tests/groups.py < JSON`: a list of [processes, arguments, file for what is said]; prints the statuses of each group.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

import torch
import torchvision.utils  # noqa: F401  what a run loads when it draws

import stylegan.run
import stylegan.scores.evaluate
import stylegan.scores.verdict  # noqa: F401
from stylegan.__main__ import main


def run(processes: int, arguments: list[str], said: str) -> list[int]:
    """The statuses of the command in each process of a group; 9 where threads of the group outlive it."""
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


if __name__ == "__main__":
    torch.set_num_threads(1)  # a child of a process with more threads would wait for those it does not have
    print(json.dumps([run(*group) for group in json.load(sys.stdin)]))

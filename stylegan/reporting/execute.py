"""Running one notebook in a kernel of its own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode


class NotebookError(ValueError):
    """A notebook stopped; the message names notebook and cell."""


def set_parameters(notebook: NotebookNode, values: dict) -> None:
    """Replace values in the cell tagged ``parameters``, line by line; a name without such a line is left out."""

    def replaced(line: str) -> str:
        parts = re.match(r"(\w+) = .*?(  #.*)?$", line)
        return f"{parts[1]} = {values[parts[1]]!r}{parts[2] or ''}" if parts and parts[1] in values else line

    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(map(replaced, cell.source.splitlines()))


def execute(notebook: NotebookNode, path: Path) -> None:
    """Run all cells in place, in a kernel of this very Python and in the notebook's own folder.

    What cells tagged ``progress`` print appears here as well. Raises NotebookError where a cell stops and KeyboardInterrupt,
    after the kernel has stopped and saved, when the user wants to stop.
    """
    specs = KernelSpecManager(kernel_dirs=[])  # only the kernel of sys.executable, whatever else is installed as python3
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, shutdown_wait_time=20)
    client = _Client(
        notebook, km=manager, timeout=None, coalesce_streams=True, record_timing=False, store_widget_state=False,
        extra_arguments=["--log-level=CRITICAL"], resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    try:
        client.execute(env=_environment(), cleanup_kc=True)
    except CellExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        place = f"{path.name}, code cell {client.code_cells_executed}"  # counted when it is sent to the kernel
        raise NotebookError(f"{place}, stopped with {error.ename}: {error.evalue}") from None
    except DeadKernelError:
        if manager.shutting_down:  # a signal came, and nbclient stopped the kernel
            raise KeyboardInterrupt from None
        cause = "its kernel died, most likely for lack of memory; close other programs or take a smaller preset."
        raise NotebookError(f"{path.name}, code cell {client.code_cells_executed}: {cause}") from None
    notebook.metadata.pop("widgets", None)  # without their state GitHub refuses to show the notebook


class _Client(NotebookClient):
    """nbclient's runner, passing on what a cell prints while it runs."""

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout" and "progress" in cell.metadata.get("tags", []):
            sys.stdout.write(msg["content"]["text"])
            sys.stdout.flush()
        return super().process_message(msg, cell, cell_index)

    async def _async_cleanup_kernel(self) -> None:
        """Once is enough: after a signal nbclient would clean up what is gone already, and fail."""
        if self.km is not None:
            await super()._async_cleanup_kernel()


def _environment() -> dict[str, str]:
    """This process's environment, without a plotting backend that belongs to another program, with the package to import.

    ``STYLEGAN_STILL`` says that the notebook runs for a page, where no slider can move.
    """
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    places = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH")]
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # of tqdm without widgets
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "STYLEGAN_STILL": "1", **quiet}

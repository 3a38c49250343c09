"""Running one notebook in a kernel of its own."""

import os
import re
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode


def set_parameters(notebook: NotebookNode, values: dict) -> None:
    """Replace values in the cell tagged ``parameters``, line by line; a name without such a line is left out."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in values.items():
                given = f"{name} = {value!r}".replace("\\", r"\\")  # as `sub` takes it
                cell.source = re.sub(rf"^{name} = .*?(?=  #|$)", given, cell.source, flags=re.M)


def execute(notebook: NotebookNode, path: Path) -> None:
    """Run all cells in place, in a kernel of this very Python and in the notebook's own folder. Raises ValueError, naming
    notebook and cell, where one stops, and KeyboardInterrupt, after the kernel has saved, where the user stops it."""
    # STYLEGAN_STILL: the notebook runs for a page, where no slider can move. The last two keep tqdm quiet without widgets.
    paths = filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])  # with the package to import
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "STYLEGAN_STILL": "1"}
    environment |= {"PYTHONWARNINGS": "ignore:IProgress not found", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment.pop("MPLBACKEND", None)  # that of another program
    specs = KernelSpecManager(kernel_dirs=[])  # only the kernel of sys.executable, whatever else is installed as python3
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, shutdown_wait_time=20)
    client = _Client(
        notebook, km=manager, timeout=None, coalesce_streams=True, record_timing=False, store_widget_state=False,
        extra_arguments=["--log-level=CRITICAL"], resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    try:
        client.execute(env=environment, cleanup_kc=True)
    except CellExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        place = f"{path.name}, code cell {client.code_cells_executed}"  # counted when it is sent to the kernel
        raise ValueError(f"{place}, stopped with {error.ename}: {error.evalue}") from None
    except DeadKernelError:
        if manager.shutting_down:  # a signal came, and nbclient stopped the kernel
            raise KeyboardInterrupt from None
        cause = "its kernel died, most likely for lack of memory; close other programs or take a smaller preset."
        raise ValueError(f"{path.name}, code cell {client.code_cells_executed}: {cause}") from None
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

"""The badge and the set-up cell that all notebooks share, written from the one public address in pyproject.toml.

Run it (`make badges`) after that address has changed. It changes nothing else in the notebooks, and nothing at a second run.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from stylegan.files import checkout, replacing

COLAB = "https://colab.research.google.com"
BADGE = "[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{repository}/blob/main/notebooks/{name})"

# On Colab the working directory becomes the clone's, as it is everywhere else: that is how models/ and figures/ are found.
# The package is installed as it is, and what Colab has already is held where it is: without that, pip takes the newest nilearn
# and upgrades pandas for it. A session that starts anew finds its clone. What DRIVE names is mounted when it is first asked for
# (`notebook.home`).
SET_UP = """\
# Set-up: on Colab the repository is cloned and installed here, elsewhere `make setup` has done it
import os
import sys

REPOSITORY = "{address}"  # from pyproject.toml, by `make badges`
DRIVE = None  # a folder of your Drive, such as "brains": slices.zip in it, and the runs are kept there
if "google.colab" in sys.modules and not os.path.isfile("../pyproject.toml"):
    !test -d course-repository || git clone -q --depth 1 {{REPOSITORY}} course-repository
    %pip list --format=freeze > installed.txt
    %pip install -q -c installed.txt ./course-repository
    os.chdir("course-repository/notebooks")
os.environ["STYLEGAN_DRIVE"] = DRIVE or os.environ.get("STYLEGAN_DRIVE", "")"""


def address(pyproject: Path) -> str:
    """The public address of the repository. ValueError where there is none that Colab can open."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = project.get("urls", {}).get("Repository", "").removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", found):
        raise ValueError(f"{pyproject.name} names {found or 'no repository'}; Colab opens https://github.com/OWNER/NAME only.")
    return found


def stamped(notebook: dict, name: str, repository: str) -> dict:
    """The notebook of that file name with the badge below its heading and the common set-up in its first code cell."""
    line = BADGE.format(colab=COLAB, repository=repository.removeprefix("https://github.com/"), name=name)
    first = notebook["cells"][0]
    set_up = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    blocks = "".join(first["source"]).split("\n\n")
    heading, *rest = [block for block in blocks if not block.startswith("[![Open in Colab]")]  # in place of the old one
    first["source"] = "\n\n".join([heading, line, *rest]).splitlines(keepends=True)
    set_up["source"] = SET_UP.format(address=repository).splitlines(keepends=True)
    return notebook


def text_of(notebook: dict) -> str:
    """A notebook as Jupyter writes it to a file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(root: Path | None = None) -> None:
    root = root or checkout()
    repository = address(root / "pyproject.toml")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        text = text_of(stamped(json.loads(path.read_text(encoding="utf-8")), path.name, repository))
        if text != path.read_text(encoding="utf-8"):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    print(f"The badges and set-up cells lead to {repository}.")


if __name__ == "__main__":
    main()

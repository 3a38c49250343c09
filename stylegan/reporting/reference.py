"""The generator that comes with the project, trained for longer than a report can wait, and its card of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stylegan.cache import checkout, read_json
from stylegan.checkpoint import load_generator
from stylegan.networks import Generator, pick_device
from stylegan.scores.findings import duration
from stylegan.scores.verdict import score_rows

NAME, FOLDER = "oasis1-stylegan2-64", "oasis64"  # its file in models/, its pictures in figures/


@dataclass(frozen=True)
class Reference:
    """A shipped generator and what its card says; nothing of it was computed by the run that shows it."""

    G: Generator
    info: dict  # as of `load_generator`
    card: dict  # scores (as of `evaluate`), kimg, hours, train_subjects, data, model_hash

    @property
    def about(self) -> str:
        """One sentence: what it saw, for how long."""
        card = self.card
        return (
            f"The shipped generator `{self.info['model_hash']}` saw {card['kimg']:,.0f} kimg of {card['train_subjects']} subjects "
            f"in {duration(card['hours'])}. Data: {card['data']}; scored on {card['scores']['feature_space']} features."
        )

    def scores(self) -> list[dict]:
        """The rows of `findings.score_rows`, each marked as not of this run."""
        return [{**row, "computed": "before, shipped with the model"} for row in score_rows(self.card["scores"])]


def reference(name: str = NAME) -> Reference | None:
    """The generator ``models/<name>.safetensors`` of the checkout and its entry in ``models/metrics.json``, None where it is not there (`absence` says why).

    Raises ValueError where the card is missing, damaged or of another generator: scores would stand under the wrong pictures.
    """
    path = checkout() / "models" / f"{name}.safetensors"
    if not path.is_file():
        return None
    G, info = load_generator(path, pick_device())
    card = (read_json(path.with_name("metrics.json")) or {}).get(name)
    if card is None or card.get("model_hash") != info["model_hash"]:
        told = "tells nothing of it" if card is None else f"is of model {card.get('model_hash')}"
        raise ValueError(
            f"metrics.json beside {path.name} {told}, and the generator is {info['model_hash']}; fetch both files anew."
        )
    return Reference(G, info, card)


def absence(name: str = NAME) -> str:
    """Why there is no reference generator, and what to do."""
    if (checkout() / "notebooks").is_dir():
        return f"This checkout holds no `models/{name}.safetensors`; pull it anew to see the shipped generator here."
    return "The shipped generator lies in `models/` of the repository, and this is no checkout of it: clone it to see it here."


def written(what: str, folder: str = FOLDER) -> tuple[dict, Path] | None:
    """(numbers, folder) that the command ``what`` wrote about the shipped generator; None where the checkout lacks them.

    The folder is figures/oasis64/<what> with <what>.json; made beforehand, since it takes longer than a report can wait.
    """
    place = checkout() / "figures" / folder / what
    found = read_json(place / f"{what}.json")
    return None if found is None else (found, place)

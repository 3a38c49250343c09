"""The same seeds as two classes, drawn by a conditional generator of simulated slices, where it is known what a class changes.

``python tools/pairs.py RUN OUT`` writes ``pairs.png`` and ``pairs.json``, which notebook 03 shows. The shipped ones are of

    python -m stylegan train --preset quick --img-resolution 32 --channel-base 1024 --conditional class \
        --total-kimg 64 --max-minutes 0 --run-dir RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from stylegan import plots, predict
from stylegan.files import write_json
from stylegan.scores.evidence import Evidence, open_evidence
from stylegan.truth.readers import notes_on

SHOWN, COUNTED = range(1, 7), 400  # seeds of the sheet; seeds of the numbers


def where_classes_differ(e: Evidence) -> tuple[float, float]:
    """Of the mean change of generated slices: its correlation with that of people, how much larger it is where they change most.

    Real: training people of the last class minus those of the first. Most: the tenth of the head's pixels with the largest change.
    """
    pairs = predict.to_uint8(predict.class_sweep(e.G, range(COUNTED), (0, e.G.c_dim - 1)).flatten(0, 1)).astype(float)
    drawn = np.diff(pairs.reshape(COUNTED, 2, *pairs.shape[1:]).mean(axis=0), axis=0)[0]
    first, last = (e.train.images[e.train.labels == label].mean(axis=0) for label in (0, len(e.train.classes) - 1))
    head = e.train.images.mean(axis=0) > 25
    real = last - first
    most = head & (np.abs(real) >= np.quantile(np.abs(real[head]), 0.9))
    ratio = np.abs(drawn[most]).mean() / np.abs(drawn[head & ~most]).mean()
    return float(np.corrcoef(real[head], drawn[head])[0, 1]), float(ratio)


def main(run: str, out: str) -> None:
    e, place = open_evidence(run), Path(out)
    if e.G.c_dim < 2 or e.train is None:
        raise ValueError(f"{run} holds no generator with classes and their training slices; train with --conditional class.")
    pairs, names = predict.class_sweep(e.G, SHOWN, (0, e.G.c_dim - 1)), [e.info["classes"][i] for i in (0, -1)]
    agreement, ratio = where_classes_differ(e)
    notes = notes_on(e, predict.to_uint8(pairs.transpose(0, 1).flatten(0, 1)))
    caption = f"generated, ψ = 1; noted: the class as read, the ventricles in % of the head · model {e.info['model_hash']}"
    titles = {"column_titles": [f"seed {seed}" for seed in SHOWN], "notes": notes, "caption": caption}
    figure = plots.compare(pairs[:, 0], pairs[:, 1], names, difference=True, **titles)
    told = (
        f"`{e.info['model_hash']}`, {e.info['cur_nimg'] / 1000:g} kimg of {e.slices.title}. From {names[0]} to {names[1]} the mean of "
        f"{COUNTED} seeds changes where the means of people do: the correlation over the head is **{agreement:.2f}**, and in the tenth "
        f"of the head that differs most between people, the ventricles and their border, the change is **{ratio:.1f} times** that elsewhere."
    )
    place.mkdir(parents=True, exist_ok=True)
    plots.save(place / "pairs.png", figure, {"Description": predict.NOTICE})
    write_json(place / "pairs.json", {"told": told, "model_hash": e.info["model_hash"], "agreement": agreement, "ratio": ratio})
    print(told)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Write a generator as ONNX: inputs z, psi (and the class), output one slice in [-1, 1]; the noise is the fixed one.

python tools/export_onnx.py RUN|FILE --out generator.onnx           # needs: pip install -e '.[onnx]'

Its slices are compared with torch's before the file counts as written.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stylegan.checkpoint import load_generator
from stylegan.files import replacing
from stylegan.networks import Generator
from stylegan.predict import choose_classes, latents

OPSET, TOLERANCE = 18, 1e-3


class Drawing(nn.Module):
    """z [1, z_dim], psi [], one-hot c [1, c_dim] where there are classes -> a slice [1, C, R, R]."""

    def __init__(self, G: Generator):
        super().__init__()
        self.G = G

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        ws = self.G.mapping(z, c)
        centre = self.G.mapping.centre(c).unsqueeze(1)
        return self.G.synthesis(centre + psi * (ws - centre), "const")


def export(path: str | Path, out: str | Path) -> float:
    """Write the generator of a run folder or file as ``out``; returns the largest difference from torch's slices.

    Raises ValueError where that is above `TOLERANCE`, and nothing is written then.
    """
    import onnxruntime

    G, _ = load_generator(path)
    model = Drawing(G).eval()
    tried = [_inputs(G, seed, psi) for seed, psi in ((1, 0.7), (2, 1.0))]
    names = ["z", "psi", "c"][: len(tried[0])]
    with replacing(Path(out)) as temporary, warnings.catch_warnings(), torch.no_grad():
        # Before the export, which would leave tensors without values in the cache of filters.
        expected = [model(*given).numpy() for given in tried]
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, tried[1], str(temporary), input_names=names, output_names=["img"], opset_version=OPSET, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        fed = [{name: x.numpy() for name, x in zip(names, given, strict=True)} for given in tried]
        worst = max(float(np.abs(session.run(None, x)[0] - y).max()) for x, y in zip(fed, expected, strict=True))
        if worst > TOLERANCE:
            raise ValueError(f"The slices of the ONNX file differ from torch's by {worst:.2g}; {out} is not written.")
    return worst


def _inputs(G: Generator, seed: int, psi: float) -> tuple[Tensor, ...]:
    classes = choose_classes(G, None, [seed])
    one_hot = () if classes is None else (nn.functional.one_hot(classes, G.c_dim).float(),)
    return latents([seed], G.z_dim), torch.tensor(psi), *one_hot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, metavar="RUN|FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    args = parser.parse_args()
    worst = export(args.path, args.out)
    print(f"Wrote {args.out}; its slices differ from torch's by {worst:.1g} at most.")


if __name__ == "__main__":
    main()

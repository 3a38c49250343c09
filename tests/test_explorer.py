"""The generator that draws in the page: its slices are torch's, and the page is as sound as the report."""

import numpy as np
import pytest
import torch
from test_browser import LOOKS, browser, opened, pytestmark, serious  # noqa: F401

from stylegan import predict
from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import make_config
from stylegan.files import write_json
from stylegan.latent import Direction
from stylegan.networks import Generator
from stylegan.reporting import explorer

SMALL = {"img_resolution": 64, "z_dim": 16, "w_dim": 16, "channel_base": 512, "channel_max": 32}
NETWORKS = {
    "stylegan2": ("quick", {"mapping_layers": 2}),
    "stylegan2, classes": ("quick", {"conditional": "class", "c_dim": 2, "leaky_slope": 0.1}),
    "stylegan1, classes": ("seed004-course", {"c_dim": 2}),
    "stylegan1 that grew": ("stylegan1", {"grow_from": 32}),
    "dcgan": ("dcgan", {}),
}
SET = """values => { const form = document.querySelector('form');
    for (const [name, value] of Object.entries(values)) {
        const one = form.querySelector(`[name=${name}]`);
        if (one.type === 'checkbox') one.checked = value; else one.value = value;
    }
    form.dispatchEvent(new Event('change')); }"""
GREY = """() => { const c = document.querySelector('canvas');
    return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, n) => n % 4 === 0); }"""


@pytest.fixture(autouse=True)
def _one_direction(monkeypatch, request):
    """A direction at once, where the true ones would take 500 slices."""
    if "sample" not in request.node.name:
        step = torch.randn(16, generator=torch.Generator().manual_seed(1))
        monkeypatch.setattr(explorer, "find_directions", lambda *_: [Direction("PCA", 1, 0.3 * step, 0.5, {}, {})])


def made(folder, preset="quick", **changes):
    """The file of an untrained generator in which everything does something."""
    torch.manual_seed(0)
    config = make_config(preset, **{**SMALL, **changes})
    G = Generator(config).eval().requires_grad_(False)
    for name, tensor in G.state_dict().items():
        if name.endswith(("bias", "strength", "const", "w_avg", "running_mean")):
            tensor += 0.1 * torch.randn(tensor.shape)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape))
    if config.architecture == "dcgan":
        G.synthesis.blocks[-1].conv.weight *= 20
    else:
        torgb = G.synthesis.blocks[-1].torgb
        getattr(torgb, "conv", torgb).weight.mul_(0.5)
    info = {"classes": ["<i>well</i>", "ill"][: config.c_dim], "train_subjects": [], "data": {}, "cur_nimg": 10**7}
    save_generator(folder / "G.safetensors", G, {"config": config.to_dict(), **info})
    return folder / "G.safetensors"


@pytest.fixture
def visit(opened, tmp_path):  # noqa: F811
    """visit(generator's file, viewport, dark) -> the page of its explorer."""
    return lambda path, *look: opened(explorer.write(path, tmp_path), *look)


def drawn(page, **values):
    """Grey levels [R, R] with the controls of these names at these values; ``step`` is that of the first direction."""
    page.wait_for_selector("[data-state=drawn]")
    page.evaluate(SET, values)
    page.wait_for_selector("[data-state=drawn]")
    grey = np.array(page.evaluate(GREY), int)
    return grey.reshape(int(len(grey) ** 0.5), -1)


def expected(path, seed=1, second=5, layer=99, psi=0.7, kind=None, step=0.0, noise=True):
    G, _ = load_generator(path)
    first, other = predict.styles(G, [seed, second], truncation_psi=psi, class_index=kind).split(1)
    ws = torch.cat([first[:, :layer], other[:, layer:]], dim=1)
    if step:
        ws = ws + step * next(iter(explorer.named_directions(G, path, "").values()))
    return predict.to_uint8(predict.synthesize(G, ws, noise_mode="const" if noise else "none"))[0].astype(int)


@pytest.mark.parametrize("name", NETWORKS)
def test_its_slices_are_those_of_torch(visit, tmp_path, name):
    preset, changes = NETWORKS[name]
    path, kind = made(tmp_path, preset, **changes), {"kind": 1} if changes.get("c_dim") else {}
    page = visit(path)
    moved = {"seed": 3, "second": 8, "layer": 4, "psi": 0.3, "step": 2.5, "noise": False}
    for setting in [{"seed": 99, "psi": 1}, *([] if name == "dcgan" else [moved])]:
        torchs = expected(path, **setting, **kind)
        assert torchs.std() > 10 and np.abs(drawn(page, **setting, **kind) - torchs).max() <= 2
    assert page.said == [] and all(url.startswith(("file:", "data:", "blob:")) for url in page.asked)


@pytest.mark.parametrize(("viewport", "dark"), LOOKS)
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(visit, tmp_path, viewport, dark):
    page = visit(made(tmp_path, **NETWORKS["stylegan2, classes"][1]), viewport, dark)
    page.wait_for_selector("[data-state=drawn]")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_keys_move_it_and_paper_shows_the_sheet(visit, tmp_path):
    page = visit(made(tmp_path))
    before = drawn(page)
    page.focus("[name=seed]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=/^Seed 2,.* Drawn/")
    assert np.abs(drawn(page) - before).max() > 0 and not page.is_visible(".sheet")
    page.click("[type=reset]")
    page.wait_for_selector("text=/^Seed 1,.* Drawn/")
    page.emulate_media(media="print")
    assert page.is_visible(".sheet") and not page.is_visible("canvas")


def test_a_slow_one_draws_its_skip_picture_while_a_slider_moves(visit, tmp_path):
    page = visit(made(tmp_path))
    page.wait_for_selector("[data-state=drawn]")
    page.evaluate("""window.sizes = []; const own = CanvasRenderingContext2D.prototype.putImageData;
        CanvasRenderingContext2D.prototype.putImageData = function (...rest) { sizes.push(rest[0].width); own.apply(this, rest); };
        document.querySelector('.explorer').dataset.slow = '';
        document.querySelector('form').dispatchEvent(new Event('input'));""")
    page.wait_for_selector("[data-state=drawn]")
    assert page.evaluate("sizes") == [32, 64]


def test_it_draws_in_the_frame_of_a_notebook(opened, tmp_path, monkeypatch):  # noqa: F811
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data["text/html"]))
    explorer.show(made(tmp_path))
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html>{shown[0]}", encoding="utf-8")
    opened(tmp_path / "notebook.html").frame_locator("iframe").locator("[data-state=drawn]").wait_for()


def test_the_direction_of_ventricles_has_a_slider_where_it_held(tmp_path):
    G, info = load_generator(made(tmp_path))
    (tmp_path / "groundtruth").mkdir()
    for high, names in ((0.5, ["PCA 1", "Ventricles"]), (1.5, ["PCA 1"])):
        found = {"step": [0.1] * 16, "per_step": 1.0, "agreed": 1.0, "random": {"high": high}}
        write_json(tmp_path / "groundtruth" / "groundtruth.json", {"model_hash": info["model_hash"], "direction": found})
        assert [name.partition(" (")[0] for name in explorer.named_directions(G, tmp_path, info["model_hash"])] == names


def test_sample_writes_it_the_classes_are_text_and_what_cannot_draw_in_a_page_says_why(tmp_path):
    predict.sample(made(tmp_path, img_channels=3), tmp_path / "colour", seeds=[0], extras=["explorer"], device="cpu")
    path = made(tmp_path, **NETWORKS["stylegan2, classes"][1])
    written = predict.sample(path, tmp_path / "out", seeds=[0], extras=["explorer"], device="cpu")
    text = (tmp_path / "out" / "explorer.html").read_text(encoding="utf-8")
    assert written[-1].name == "explorer.html" and text.count('name="step"') == 3
    assert "<i>well" not in text and explorer.csp(explorer.SCRIPT) in text
    assert explorer.csp() == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "unsafe-eval" not in explorer.csp(explorer.SCRIPT)
    for changes in ({"channel_base": 8192, "channel_max": 256}, {"attention": "16"}):
        text = explorer.fragment(made(tmp_path, **changes))
        assert "It does not draw in the page: " in text and "data:image/png" in text and "<form" not in text


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_draws_the_same_slices(tmp_path, name):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from tools.export_onnx import TOLERANCE, export

    preset, changes = NETWORKS[name]
    assert export(made(tmp_path, preset, **changes), tmp_path / "G.onnx") <= TOLERANCE
    assert (tmp_path / "G.onnx").stat().st_size > 10_000

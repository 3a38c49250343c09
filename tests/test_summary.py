"""Presets as rows and layers as tables, against counts taken otherwise."""

import json

import pytest

from stylegan.__main__ import main
from stylegan.config import NOTES, PRESETS, make_config
from stylegan.networks import build_networks, count_parameters
from stylegan.summary import describe_loss, full_grown, layers

SEEDS = {"seed000-stylegan2", "seed001-stylegan1-classes", "seed002-stylegan2-umap", "seed003-progressive", "seed004-course"}


def test_presets_are_listed_with_source_sizes_loss_options_and_a_note(capsys):
    assert main(["presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = ["name", "source", "resolution", "parameters_g", "parameters_d", "loss", "options", "note"]
    assert [list(row) for row in rows] == [keys] * len(PRESETS)
    names = [row["name"] for row in rows]
    assert set(names) == set(PRESETS) == set(NOTES) and {*SEEDS, "stylegan1", "dcgan", "modern"} <= set(names)
    assert all(row["note"] and "\n" not in row["note"] and row["source"] for row in rows)
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(row["name"] in printed and row["note"] in printed for row in rows)


def test_losses_are_described_with_weights_and_intervals():
    assert describe_loss(make_config("stylegan1")) == "logistic + R1 10"
    assert describe_loss(make_config("seed000-stylegan2")) == "wgan + GP 10 + drift 0.001 + path length 2 / 16"
    assert describe_loss(make_config("dcgan")) == "logistic"


@pytest.mark.parametrize("preset", ["smoke", "seed004-course", "seed003-progressive", "dcgan"])
def test_every_weight_stands_in_the_layer_table_once(preset):
    config = full_grown(make_config(preset, img_resolution=32, channel_base=256, channel_max=16))
    for net, rows in zip(build_networks(config), layers(config), strict=True):
        assert sum(row.parameters for row in rows) == count_parameters(net)
        assert len({row.name for row in rows}) == len(rows)


def test_multiplications_are_those_of_the_shapes():
    G, D = ({row.name: row for row in rows} for rows in layers(make_config("smoke")))
    assert D["from_rgb"].macs == 16 * 16 * 8 and D["from_rgb"].shape == (8, 16, 16)
    assert D["blocks.0.conv0"].macs == 16 * 16 * 8 * 8 * 9
    assert D["blocks.0.conv1"].macs == 8 * 8 * 16 * 8 * 9 + 8 * 17 * 17 * 16  # and the filter of 16 taps before it
    assert G["mapping.layers.0"].macs == 16 * 16 and G["synthesis.blocks.0.torgb.conv"].macs == 4 * 4 * 16
    assert D["epilogue.fc"].macs == 16 * 16 * 16


def test_the_table_is_printed(capsys):
    assert main(["summary", "smoke"]) == 0
    text = capsys.readouterr().out
    assert "generator" in text and "discriminator" in text and "16 x 8 x 8" in text
    assert [line.split()[1:] for line in text.splitlines() if line.startswith("total")] == [
        ["11,456", "498,112"], ["13,385", "533,136"]
    ]  # fmt: skip

"""Bad values are named at the border; presets and files make valid configs."""

import json

import pytest

from stylegan.config import CHOICES, FIELDS, PRESETS, Config, make_config

OUTSIDE = {"> 0": (0, -1), ">= 0": (-1,), "0 to 1": (-0.1, 1.01), "1 to 4096": (0, 4097)}
BAD = {
    "img_resolution": (48, 4, 2048, -64), "channel_base": (32,), "batch_size": (6, "16", 16.0, True), "mapping_layers": (0,),
    "lr": (float("nan"), float("inf"), "fast", True), "r1_gamma": (float("nan"),), "device": ("tpu",), "mirror": (1,),
    "preset": (3,), "img_channels": (2,), "kid_samples": (1,), "seed": (-1, 2**63),
}  # fmt: skip
DCGAN = {"architecture": "dcgan", "mapping_layers": 0, "style_mixing_prob": 0.0}
TOGETHER = {  # what the sentence says: fields that do not go together, at 32 px
    "stylegan2 takes 0": ({"grow_from": 4},),
    "0, 4, 8, 16, 32": ({"architecture": "stylegan1", "grow_from": 5},),
    "participation": ({"batch_size": 2, "participation_weight": 1.0},),
    "total_kimg is 81": ({"lr_end_kimg": 80, "total_kimg": 81},),
    "attention is .*8, 16": tuple({"attention": wrong} for wrong in ("32", "4", "7", "8,8", "")),
    "dcgan": tuple({**DCGAN, name: value} for name, value in (("conditional", "class"), ("pl_weight", 1.0), ("z_dim", 4))),
    "dcgan has none": ({**DCGAN, "attention": "8"},),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_names_a_bad_value(name):
    field = FIELDS[name]
    assert name == "preset" or len(field.metadata["help"]) > 5
    allowed = field.metadata.get("allowed")
    outside = [type(field.default)(value) for value in OUTSIDE.get(allowed, ())] if isinstance(allowed, str) else []
    for value in (*outside, *BAD.get(name, ())):
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            Config(**{name: value})


def test_choices_are_listed_in_the_message():
    for name, allowed in CHOICES.items():
        with pytest.raises(ValueError, match=", ".join(allowed)):
            Config(**{name: "something else"})
        for value in allowed:
            assert getattr(Config(**{name: value, **(DCGAN if value == "dcgan" else {})}), name) == value


@pytest.mark.parametrize("says", TOGETHER)
def test_what_does_not_go_together_is_refused(says):
    for fields in TOGETHER[says]:
        with pytest.raises(ValueError, match=says):
            Config(img_resolution=32, **fields)


def test_unknown_fields_and_presets():
    with pytest.raises(ValueError, match=r"r1_gama.*r1_gamma"):
        Config.from_dict({"r1_gama": 1.0})
    with pytest.raises(ValueError, match=r"'fast'.*quick"):
        make_config("fast")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_configs_that_survive_a_file(preset):
    config = make_config(preset, seed=5, total_kimg=40)  # a whole number is taken for a length
    assert config.preset == preset and config.seed == 5
    assert all(getattr(config, name) == value for name, value in PRESETS[preset].items() if name != "total_kimg")
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert all(type(value) is type(FIELDS[name].default) for name, value in again.to_dict().items())

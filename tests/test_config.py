"""Bad values are named at the border; presets and files make valid configs."""

import json

import pytest

from stylegan.config import CHOICES, FIELDS, PRESETS, Config, make_config

BAD = [
    ("img_resolution", 48), ("img_resolution", 4), ("img_resolution", 2048), ("img_resolution", -64), ("channel_base", 32), ("batch_size", 6),
    ("batch_size", 0), ("mapping_layers", 0), ("lr", 0.0), ("lr", float("nan")), ("lr", float("inf")), ("r1_gamma", -0.1),
    ("r1_gamma", float("nan")), ("seed", -1), ("augment_p", 1.5), ("augment_p", -0.1), ("augment", "sometimes"), ("device", "tpu"),
    ("batch_size", "16"), ("batch_size", 16.0), ("batch_size", True), ("mirror", 1), ("lr", "fast"), ("lr", True), ("preset", 3),
    ("img_channels", 2), ("kid_samples", 1), ("seed", 2**63),
]  # fmt: skip
OUTSIDE = {"> 0": (0, -1), ">= 0": (-1,), "0 to 1": (-0.1, 1.01)}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_keeps_its_range(name):
    field = FIELDS[name]
    assert name == "preset" or len(field.metadata["help"]) > 5
    allowed = field.metadata.get("allowed")
    for value in OUTSIDE.get(allowed, ()) if isinstance(allowed, str) else ():
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            Config(**{name: type(field.default)(value)})


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        Config(**{name: value})


def test_choices_are_listed_in_the_message():
    for name, allowed in CHOICES.items():
        with pytest.raises(ValueError, match=", ".join(allowed)):
            Config(**{name: "something else"})
        for value in allowed:
            others = {"mapping_layers": 0, "style_mixing_prob": 0.0} if value == "dcgan" else {}
            assert getattr(Config(**{name: value, **others}), name) == value


def test_unknown_fields_and_presets():
    with pytest.raises(ValueError, match=r"r1_gama.*r1_gamma"):
        Config.from_dict({"r1_gama": 1.0})
    with pytest.raises(ValueError, match=r"'fast'.*quick"):
        make_config("fast")


def test_whole_numbers_are_taken_for_lengths():
    config = Config(total_kimg=40, r1_gamma=1)
    assert (config.total_kimg, config.r1_gamma) == (40.0, 1.0)
    assert isinstance(config.total_kimg, float) and isinstance(config.r1_gamma, float)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_configs_that_survive_a_file(preset):
    config = make_config(preset, seed=5)
    assert config.preset == preset and config.seed == 5
    assert all(getattr(config, name) == value for name, value in PRESETS[preset].items())
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert all(type(value) is type(FIELDS[name].default) for name, value in again.to_dict().items())


def test_resolutions_and_channels():
    config = Config(img_resolution=64, channel_base=1024, channel_max=128)
    assert config.resolutions == (4, 8, 16, 32, 64)
    assert [config.channels(r) for r in config.resolutions] == [128, 128, 64, 32, 16]
    assert [Config(img_resolution=r, channel_base=1024).num_ws for r in (8, 64, 512, 1024)] == [4, 10, 16, 18]


def test_what_an_architecture_cannot_do_is_refused():
    plain = {"architecture": "dcgan", "mapping_layers": 0, "style_mixing_prob": 0.0, "img_resolution": 16}
    Config(**plain)
    for wrong in ({"conditional": "class"}, {"pl_weight": 1.0}, {"z_dim": 4}, {"grow_from": 4}, {"attention": "8"}):
        with pytest.raises(ValueError, match=r"dcgan"):
            Config(**plain, **wrong)
    for fields, says in (({"grow_from": 4}, "only the architecture stylegan1 grows"), ({"batch_size": 2, "participation_weight": 1.0}, "participation"),
                         ({"lr_end_kimg": 80, "total_kimg": 81}, "total_kimg is 81"),
                         ({"architecture": "stylegan1", "grow_from": 5}, r"grow_from is 5; take one of 0, 4, 8, 16, 32")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            Config(img_resolution=32, **fields)
    for wrong in ("32", "4", "7", "8,8", ""):
        with pytest.raises(ValueError, match=r"attention is .*8, 16"):
            Config(attention=wrong, img_resolution=32)

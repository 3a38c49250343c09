"""Every hyperparameter of a run in one frozen dataclass, and the presets as one table.

The command line offers each field below as an option (``--r1-gamma 0.1``); the run folder keeps them in ``config.json``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

CHOICES = {
    "conditional": ("none", "class"),
    "augment": ("none", "adaptive", "fixed"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "device": ("auto", "cpu", "cuda", "mps"),
}

# What a resumed run may change: how long it goes on and where, how often it speaks. Everything else is the experiment.
FREE_TO_CHANGE = frozenset(
    {
        "total_kimg",
        "max_minutes",
        "device",
        "tick_kimg",
        "kid_ticks",
        "checkpoint_minutes",
        "keep_checkpoints",
        "accumulate",
        "cuda_graphs",
    }
)


@dataclass(frozen=True)
class Config:
    """One run. Lengths are counted in kimg, thousands of real slices shown to the discriminator."""

    preset: str = "custom"
    # Data
    img_resolution: int = 64
    img_channels: int = 1
    conditional: str = "none"  # "class": G and D are told the class of each slice
    c_dim: int = 0  # number of classes the networks know, filled in from the data
    mirror: bool = True  # left-right flips double the training slices
    # Networks (Karras et al. 2020a, arXiv:1912.04958)
    z_dim: int = 128
    w_dim: int = 128
    mapping_layers: int = 4
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 1024  # channels(res) = min(channel_base / res, channel_max)
    channel_max: int = 128
    noise_lr_multiplier: float = 1.0  # below 1 the noise inputs grow more slowly; 0: no noise
    mbstd_group_size: int = 4
    # Losses
    one_fake_batch: bool = False  # G learns from the fakes that D has just seen: a tenth faster than drawing new ones
    r1_gamma: float = 0.1
    d_reg_interval: int = 16
    pl_weight: float = 0.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    g_reg_interval: int = 4
    style_mixing_prob: float = 0.9
    # Discriminator augmentation (Karras et al. 2020b, arXiv:2006.06676)
    augment: str = "adaptive"
    augment_p: float = 0.0  # probability at the start; stays there with augment="fixed"
    augment_p_max: float = 0.8
    ada_target: float = 0.6
    ada_interval: int = 4
    ada_kimg: float = 100.0
    # Optimiser and averages
    batch_size: int = 16
    lr: float = 2.5e-3
    beta1: float = 0.0
    beta2: float = 0.99
    adam_eps: float = 1e-8
    ema_kimg: float = 5.0  # half-life of G_ema
    ema_rampup: float = 0.05  # at most this fraction of the slices shown so far; 0 turns the ramp off
    w_avg_beta: float = 0.995
    # The run
    total_kimg: float = 400.0
    max_minutes: float = 0.0  # stop (resumably) after so many minutes of training; 0: no limit
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"  # "auto": bf16 where the hardware is fast at it, fp16 on a GPU that is not
    accumulate: int = 1  # pieces that a process works a batch off in, where memory is short
    cuda_graphs: bool = True  # on one GPU: record each step and replay it
    tick_kimg: float = 4.0
    kid_ticks: int = 4  # score on validation subjects every so many ticks; 0: never
    kid_samples: int = 512
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field, getattr(self, field.name)))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
        _check_numbers(self)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of the synthesis blocks, 4 up to ``img_resolution``."""
        return tuple(2**i for i in range(2, int(math.log2(self.img_resolution)) + 1))

    @property
    def num_ws(self) -> int:
        """Style vectors that the synthesis network takes: 2 log2(resolution) - 2 in both papers."""
        return 2 * len(self.resolutions)

    def channels(self, resolution: int) -> int:
        """Feature maps at one resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """The config with these fields; an unknown name is an error that lists the known ones."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"Unknown config field {', '.join(unknown)}; the fields are {', '.join(sorted(known))}.")
        return cls(**values)


def _typed(field: dataclasses.Field, value: object) -> object:
    """The value in the field's type, so that 1 is accepted for a float and "fast" is not."""
    expected = type(field.default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{field.name} must be of type {expected.__name__}, not {value!r}.")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{field.name} is {value}; give a finite number.")
    return value


def differences(old: dict, config: Config) -> list[str]:
    """In words, how the settings ``old`` of a file differ from the config in what a resumed run may not change."""
    old, new = {**Config().to_dict(), **old}, config.to_dict()  # an older version knew fewer fields
    changed = [f"{k} ({old[k]} there, {new[k]} asked)" for k in new if k not in FREE_TO_CHANGE and old[k] != new[k]]
    return changed + [f"{k} ({old[k]} there, unknown here)" for k in old if k not in new]


def _check_numbers(config: Config) -> None:
    resolution = config.img_resolution
    if resolution < 8 or resolution > 1024 or resolution & (resolution - 1):
        raise ValueError(f"img_resolution is {resolution}; take a power of two from 8 to 1024.")
    if config.channel_base < resolution:
        raise ValueError(
            f"channel_base {config.channel_base} leaves no channel at {resolution} px; take at least {resolution}."
        )
    positive = ("img_channels", "z_dim", "w_dim", "mapping_layers", "channel_max", "mbstd_group_size", "batch_size", "lr",
                "d_reg_interval", "g_reg_interval", "pl_batch_shrink", "ada_interval", "ada_kimg", "total_kimg", "tick_kimg",
                "keep_checkpoints", "kid_samples", "accumulate", "mapping_lr_multiplier")  # fmt: skip
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0.")
    not_negative = ("r1_gamma", "noise_lr_multiplier", "pl_weight", "ema_kimg", "ema_rampup", "c_dim", "kid_ticks", "max_minutes",
                    "checkpoint_minutes", "adam_eps", "seed")  # fmt: skip
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must not be negative.")
    for name in ("style_mixing_prob", "augment_p", "augment_p_max", "ada_target", "beta1", "beta2", "w_avg_beta", "pl_decay"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must lie between 0 and 1.")
    if config.batch_size % min(config.mbstd_group_size, config.batch_size):
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of mbstd_group_size {config.mbstd_group_size}: "
            "the minibatch standard deviation works on whole groups."
        )


# One published or house recipe per row; a row says only what differs from the defaults above.
# quick is for a few minutes on two cores: small batches and large steps, with noise held back, learn fastest per slice at the start.
_ROWS = """
name      img_resolution channel_base channel_max z_dim w_dim mapping_layers batch_size     lr noise_lr_multiplier one_fake_batch precision r1_gamma pl_weight ema_kimg total_kimg max_minutes tick_kimg kid_ticks
smoke                 16          128          16    16    16              2          8 0.0025                 1.0             no      fp32     0.01       0.0      0.1        0.4           0       0.1         0
quick                 64          512         128   128   128              4          8 0.0070                 0.1            yes      auto     0.30       0.0      5.0         60           9       4.0         2
oasis64               64         1024         128   128   128              4         16 0.0025                 1.0             no      auto     0.10       0.0     10.0        400           0       8.0         5
oasis128             128         4096         256   256   256              4         16 0.0025                 1.0             no      auto     0.30       2.0     10.0       1000           0       8.0         5
oasis256             256         8192         256   256   256              4         16 0.0025                 1.0             no      auto     1.00       2.0     10.0       2000           0       8.0         5
"""  # noqa: E501


def _parse(rows: str) -> dict[str, dict]:
    header, *lines = (line.split() for line in rows.strip().splitlines())
    cast = {field.name: type(field.default) for field in dataclasses.fields(Config)} | {"one_fake_batch": "yes".__eq__}
    return {line[0]: {key: cast[key](value) for key, value in zip(header[1:], line[1:], strict=True)} for line in lines}


PRESETS = _parse(_ROWS)


def make_config(preset: str, **overrides: object) -> Config:
    """The named preset with single fields changed: ``make_config("quick", seed=3)``."""
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return Config.from_dict({"preset": preset, **PRESETS[preset], **overrides})

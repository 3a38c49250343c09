"""Every hyperparameter of a run in one frozen dataclass, and the presets as one table.

The command line offers each field below as an option (``--r1-gamma 0.1``); the run folder keeps them in ``config.json``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

CHOICES = {
    "architecture": ("stylegan2", "stylegan1", "dcgan"),
    "loss": ("logistic", "wgan", "relativistic"),
    "class_input": ("embedded", "one_hot"),
    "normalise": ("fixed", "percentiles", "standardise"),
    "mirror_axis": ("auto", "horizontal", "vertical"),
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
        "snapshot_ticks",
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
    class_input: str = "embedded"  # or "one_hot": what the mapping networks see of a class
    mirror: bool = True  # left-right flips double the training slices
    mirror_axis: str = "auto"  # which flip that is: by the orientation of the data, or "horizontal" or "vertical"
    normalise: str = "fixed"  # grey values to [-1, 1]; or by "percentiles" or "standardise" of each subject first
    # Networks (Karras et al. 2020a, arXiv:1912.04958)
    architecture: str = "stylegan2"
    z_dim: int = 128
    w_dim: int = 128
    mapping_layers: int = 4
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 1024  # channels(res) = min(channel_base / res, channel_max)
    channel_max: int = 128
    noise_lr_multiplier: float = 1.0  # below 1 the noise inputs grow more slowly; 0: no noise
    mbstd_group_size: int = 4
    pixel_deviation: bool = False  # D also sees how much its group of slices differs at each pixel: not in the papers
    leaky_slope: float = 0.2  # of the leaky ReLUs below 0
    attention: str = "none"  # self-attention at these resolutions of G and D, such as "16" or "8,16"
    spectral_norm: bool = False  # in D
    # Progressive growing (Karras et al. 2018, arXiv:1710.10196); batches and learning rates follow the resolution
    grow_from: int = 0  # first resolution, 4 or more; 0: full resolution from the start
    grow_kimg: float = 600.0  # at each resolution, once it is there
    fade_kimg: float = 600.0  # for each new one to fade in
    grow_batch_max: int = 128  # batches double with each halving of the resolution, up to this
    # Losses
    loss: str = "logistic"
    dither: bool = False  # clamp fakes to [-1, 1] and add noise of one grey level to all that D sees: not in the papers
    one_fake_batch: bool = False  # G learns from the fakes that D has just seen: a tenth faster than drawing new ones
    r1_gamma: float = 0.1
    r2_gamma: float = 0.0  # the same penalty at the fakes
    gp_weight: float = 0.0  # lambda of WGAN-GP
    drift: float = 0.0  # epsilon of E D(x)^2
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
    lr_decay_kimg: float = 0.0  # from here on lr falls with 1 / sqrt(slices shown) (Karras et al. 2024, equation 67); 0: never
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
    snapshot_ticks: int = 0  # keep the averaged generator in snapshots/ every so many ticks; 0: never
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
        """Style vectors that the synthesis network takes: 2 log2(resolution) - 2 in both papers, one (z itself) in a DCGAN."""
        return 1 if self.architecture == "dcgan" else 2 * len(self.resolutions)

    @property
    def attention_resolutions(self) -> tuple[int, ...]:
        """Where self-attention stands."""
        return () if self.attention == "none" else tuple(int(part) for part in self.attention.split(","))

    @property
    def d_channels(self) -> int:
        """Channels of the pictures that D's networks see."""
        return 2 * self.img_channels if self.pixel_deviation else self.img_channels

    @property
    def d_penalty(self) -> bool:
        """Whether any gradient penalty acts on D."""
        return self.r1_gamma + self.r2_gamma + self.gp_weight > 0

    def channels(self, resolution: int) -> int:
        """Feature maps at one resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def channels_below(self, resolution: int) -> int:
        """Feature maps at half the resolution; 0 below the first."""
        return self.channels(resolution // 2) if resolution > 4 else 0

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
    positive = ("img_channels", "z_dim", "w_dim", "grow_batch_max", "channel_max", "mbstd_group_size", "batch_size", "lr",
                "d_reg_interval", "g_reg_interval", "pl_batch_shrink", "ada_interval", "ada_kimg", "total_kimg", "tick_kimg",
                "keep_checkpoints", "kid_samples", "accumulate", "mapping_lr_multiplier", "grow_kimg",
                "fade_kimg")  # fmt: skip
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0.")
    not_negative = ("r1_gamma", "r2_gamma", "gp_weight", "drift", "noise_lr_multiplier", "pl_weight", "ema_kimg", "ema_rampup",
                    "c_dim", "lr_decay_kimg", "kid_ticks", "snapshot_ticks", "max_minutes", "checkpoint_minutes", "adam_eps", "seed",
                    "mapping_layers")  # fmt: skip
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must not be negative.")
    for name in ("style_mixing_prob", "augment_p", "augment_p_max", "ada_target", "beta1", "beta2", "w_avg_beta", "pl_decay",
                 "leaky_slope"):  # fmt: skip
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must lie between 0 and 1.")
    if config.batch_size % min(config.mbstd_group_size, config.batch_size):
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of mbstd_group_size {config.mbstd_group_size}: "
            "the minibatch standard deviation works on whole groups."
        )
    _check_architecture(config)


def _check_architecture(config: Config) -> None:
    """What only some architectures can do."""
    for name, check in (
        ("attention", _attention_mistake),
        ("grow_from", _growing_mistake),
        ("mapping_layers", _mapping_mistake),
    ):
        mistake = check(config)
        if mistake:
            raise ValueError(f"{name} is {getattr(config, name)!r}; {mistake}.")


def _attention_mistake(config: Config) -> str:
    parts = [] if config.attention == "none" else config.attention.split(",")
    inner = [str(res) for res in config.resolutions[1:-1]]  # at the last one it would stand behind G's picture
    fine = set(parts) <= set(inner) and len(set(parts)) == len(parts) and (not parts or config.architecture != "dcgan")
    return "" if fine else f"take none, or some of {', '.join(inner)} separated by commas, each once; a dcgan has none"


def _growing_mistake(config: Config) -> str:
    if config.grow_from and config.architecture != "stylegan1":
        return f"only the architecture stylegan1 grows, {config.architecture} takes 0"
    known = (0, *config.resolutions)
    return "" if config.grow_from in known else f"take one of {', '.join(map(str, known))}"


def _mapping_mistake(config: Config) -> str:
    if config.architecture != "dcgan":
        return "" if config.mapping_layers else "it must be above 0"
    plain = config.z_dim == config.w_dim and config.conditional == "none" and not config.style_mixing_prob + config.pl_weight
    fine = plain and not config.mapping_layers
    return (
        "" if fine else "a dcgan takes 0, with w_dim = z_dim, conditional none, style_mixing_prob 0 and pl_weight 0: no styles"
    )


# One published or house recipe per row; a row says only what differs from the defaults above, and '.' is the default.
# quick is for a few minutes on two cores: small batches and large steps, with noise held back, learn fastest per slice at the start.
_SIZES = """
name                    architecture img_resolution channel_base channel_max z_dim w_dim mapping_layers batch_size     lr beta1 beta2 precision ema_kimg total_kimg max_minutes tick_kimg kid_ticks
smoke                              .             16          128          16    16    16              2          8 0.0025     .     .      fp32      0.1        0.4           0       0.1         0
quick                              .             64          512         128   128   128              4          8 0.0070     .     .      auto      5.0         60           9       4.0         2
oasis64                            .             64         1024         128   128   128              4         16 0.0025     .     .      auto     10.0        400           0       8.0         5
oasis128                           .            128         8192         256   256   256              4         32 0.0025     .     .      auto     10.0       1000           0       8.0         5
oasis256                           .            256         8192         256   256   256              4         32 0.0025     .     .      auto     10.0       2000           0       8.0         5
colab                              .            128         4096         256   256   256              4         32 0.0025     .     .      auto     10.0       1000          60       8.0         5
stylegan1                  stylegan1            128        16384         512   512   512              8         16 0.0010     .     .      auto     10.0       5000           0      20.0         5
seed000-stylegan2                  .            128         4096         256   256   256              8         32 0.0010     .     .      auto     10.0       1000           0       8.0         5
seed001-stylegan1-classes  stylegan1            128         4096         256   256   256              8         16 0.0010     .     .      auto     10.0       1000           0       8.0         5
seed002-stylegan2-umap             .            128         4096         256   256   256              8         32 0.0020     .     .      auto     10.0       1000           0       8.0         5
seed003-progressive        stylegan1            128         4096         256   256   256              8         16 0.0010     .     .      auto     10.0       1500           0       8.0         5
seed004-course             stylegan1             64         1024         128   128   128              8         16 0.0005     .     .      auto     10.0        730           0       8.0         5
dcgan                          dcgan             64         2048         512   128   128              0         64 0.0002   0.5 0.999      auto      0.0        730           0       8.0         5
modern                             .             64         1024         128   128   128              4         16 0.0025     .     .      auto     10.0        400           0       8.0         5
"""  # noqa: E501
_RECIPES = """
name                              loss r1_gamma r2_gamma gp_weight drift d_reg_interval pl_weight g_reg_interval noise_lr_multiplier one_fake_batch style_mixing_prob  augment conditional class_input   normalise leaky_slope spectral_norm attention grow_from grow_kimg fade_kimg
smoke                                .     0.01        .         .     .              .         .              .                   .              .                 .        .           .           .           .           .             .         .         .         .         .
quick                                .     0.30        .         .     .              .         .              .                 0.1            yes                 .        .           .           .           .           .             .         .         .         .         .
oasis64                              .     0.10        .         .     .              .         .              .                 0.1            yes                 .        .           .           .           .           .             .         .         .         .         .
oasis128                             .     0.20        .         .     .              .         .              .                 0.1            yes                 .        .           .           .           .           .             .         .         .         .         .
oasis256                             .     0.80        .         .     .              .         .              .                 0.1            yes                 .        .           .           .           .           .             .         .         .         .         .
colab                                .     0.10        .         .     .              .         .              .                 0.1            yes                 .        .           .           .           .           .             .         .         .         .         .
stylegan1                            .    10.00        .         .     .              1         .              .                   .              .                 .     none           .           .           .           .             .         .         8       600       600
seed000-stylegan2                 wgan     0.00        .        10 0.001              1       2.0             16                   .              .                 .     none           .           .           .           .             .         .         .         .         .
seed001-stylegan1-classes            .    10.00        .         .     .              1         .              .                   .              .                 .     none       class           .           .           .             .         .         .         .         .
seed002-stylegan2-umap               .    10.00        .         .     .              .       2.0              4                   .              .                 .     none           .           .           .           .             .         .         .         .         .
seed003-progressive               wgan     0.00        .        10 0.001              1         .              .                   .              .                 .     none       class           .           .           .           yes        16         4       120       120
seed004-course                       .    10.00        .         .     .              1         .              .                   .              .                 .     none       class     one_hot standardise        0.01             .         .         .         .         .
dcgan                                .     0.00        .         .     .              .         .              .                   .              .               0.0     none           .           .           .           .             .         .         .         .         .
modern                    relativistic     0.10     0.10         .     .              1         .              .                   .              .                 .        .           .           .           .           .             .         .         .         .         .
"""  # noqa: E501

# What each is after, and in what it departs from that. Every departure of a seed's system is said here.
_HOUSE = "this project"
NOTES = {
    "smoke": (_HOUSE, "Seconds on any machine: for tests of the plumbing, not for pictures."),
    "quick": (_HOUSE, "Nine minutes on two cores: StyleGAN2, small and with large steps."),
    "oasis64": (_HOUSE, "StyleGAN2 with adaptive augmentation for 64 px slices, hours on a CPU or minutes on a GPU."),
    "oasis128": (_HOUSE, "The same at 128 px; wants a GPU."),
    "oasis256": (_HOUSE, "The same at 256 px; wants a GPU."),
    "colab": (
        _HOUSE,
        "An hour at a time on Colab's T4 at 128 px, fp16 there: ADA's rule for r1_gamma, no path length, one fake batch for both networks.",
    ),
    "stylegan1": (
        "Karras et al. 2019, arXiv:1812.04948",
        "As published but for one grey channel: AdaIN, growing from 8 px, logistic loss with R1 10 at every step, batch and rate by "
        "resolution. One-GPU schedule of the official code; a batch is 16 at 128 px.",
    ),
    "seed000-stylegan2": (
        "seed 000, with Karras et al. 2020, arXiv:1912.04958",
        "z = w = 256, WGAN-GP 10 with drift .001, path length every 16 steps, as its text says. Residual D and skip G do without growing; "
        "minibatch deviation and equalised rates come from ProGAN. Mapping layers, mixing and moving average are the paper's.",
    ),
    "seed001-stylegan1-classes": (
        "seed 001, with Karras et al. 2019, arXiv:1812.04948",
        "StyleGAN1 told the class, in place of one model for each: the w of two networks cannot be compared. At one resolution, "
        "because its text does not grow; narrower than the paper's.",
    ),
    "seed002-stylegan2-umap": (
        "seed 002, with Karras et al. 2020, arXiv:1912.04958",
        "StyleGAN2 with the paper's numbers and no augmentation, but narrower. Noise is added to the maps, not through AdaIN.",
    ),
    "seed003-progressive": (
        "seed 003, with Karras et al. 2018 and 2019, arXiv:1710.10196, 1812.04948",
        "Grows from 4 px; spectral normalisation, attention and classes are there, which its text claims; WGAN-GP 10 with drift .001 on the "
        "square of real scores. Each fade runs once and does not start again at every epoch.",
    ),
    "seed004-course": (
        "seed 004, with Karras et al. 2019, arXiv:1812.04948",
        "The StyleGAN that its text describes: slope .01, Adam 5e-4, standardise then 0-1 (which is min-max), one-hot classes, 200 epochs of "
        "114 people. Its Dice and cross-entropy belong to segmentation and have no meaning here: logistic loss with R1.",
    ),
    "dcgan": (
        "Radford et al. 2016, arXiv:1511.06434",
        "The baseline, and what seed 004's code really was. Departs in nothing but z, which is scaled to a sphere, and one grey channel.",
    ),
    "modern": (
        "Karras et al. 2020 with Huang et al. 2024, arXiv:1912.04958, 2501.05441",
        "StyleGAN2 with the relativistic loss, R1 + R2 at every step, and adaptive augmentation.",
    ),
}


def _parse(rows: str) -> dict[str, dict]:
    header, *lines = (line.split() for line in rows.strip().splitlines())
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Config)}
    cast = {name: "yes".__eq__ if kind is bool else kind for name, kind in kinds.items()}
    return {
        line[0]: {key: cast[key](value) for key, value in zip(header[1:], line[1:], strict=True) if value != "."}
        for line in lines
    }


# What keeps the house's generators various: D compares heads pixel by pixel, and no style is mixed away.
_VARIOUS = {"style_mixing_prob": 0.0, "dither": True, "pixel_deviation": True}
_HOUSE_PRESETS = ("quick", "oasis64", "oasis128", "oasis256", "colab", "modern")

PRESETS = {
    name: {**row, **_parse(_RECIPES)[name], **(_VARIOUS if name in _HOUSE_PRESETS else {})}
    for name, row in _parse(_SIZES).items()
}


def make_config(preset: str, **overrides: object) -> Config:
    """The named preset with single fields changed: ``make_config("quick", seed=3)``."""
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return Config.from_dict({"preset": preset, **PRESETS[preset], **overrides})

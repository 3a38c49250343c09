"""Every hyperparameter of a run in one frozen dataclass, and the presets, each a dict of what differs.

The command line offers each field below as an option (``--r1-gamma 0.1``); the run folder keeps them in ``config.json``.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

ARCHITECTURES = {"stylegan2": "StyleGAN2", "stylegan1": "StyleGAN1", "dcgan": "DCGAN"}  # as a config and as a text names them


def option(default: object, help: str, allowed: str | tuple[str, ...] | None = None, *, free: bool = False):
    """A field with its help text, its range ("> 0", ">= 0" or "A to B") or choices, and whether a resumed run may change it."""
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed, "free": free})


# fmt: off
@dataclass(frozen=True)
class Config:
    """One run. Lengths are counted in kimg, thousands of real slices shown to the discriminator."""

    preset: str = "custom"
    # Data
    img_resolution: int = option(64, "pixels of a side, a power of two from 8 to 1024", "> 0")
    img_channels: int = option(1, "channels of a picture: 1, grey, or 3", "> 0")
    conditional: str = option("none", "class: G and D see the class of each slice", ("none", "class"))
    c_dim: int = option(0, "classes that the networks know, filled in from the data", ">= 0")
    class_input: str = option("embedded", "how the mapping networks see a class", ("embedded", "one_hot"))
    mirror: bool = option(True, "left-right flips double the training slices")
    mirror_axis: str = option("auto", "which flip that is; auto: by the orientation of the data", ("auto", "horizontal", "vertical"))
    normalise: str = option("fixed", "grey values to [-1, 1]: fixed, or by the grey values of each subject first",
                            ("fixed", "percentiles", "standardise"))
    # Networks
    architecture: str = option("stylegan2", "which networks", tuple(ARCHITECTURES))
    z_dim: int = option(128, "length of z", "> 0")
    w_dim: int = option(128, "length of w", "> 0")
    mapping_layers: int = option(4, "layers of the mapping network", ">= 0")
    mapping_lr_multiplier: float = option(0.01, "the mapping network's learning rate, as a multiple", "> 0")
    channel_base: int = option(1024, "feature maps at a resolution: min(channel_base / resolution, channel_max)", "> 0")
    channel_max: int = option(128, "feature maps at most", "> 0")
    noise_lr_multiplier: float = option(1.0, "below 1 the noise inputs grow more slowly; 0: no noise", ">= 0")
    mbstd_group_size: int = option(4, "slices in a group of the minibatch standard deviation", "> 0")
    pixel_deviation: bool = option(False, "D also sees the deviation of its group at each pixel (not in the papers)")
    leaky_slope: float = option(0.2, "of the leaky ReLUs below 0", "0 to 1")
    attention: str = option("none", "self-attention at these resolutions of G and D, such as 16 or 8,16")
    spectral_norm: bool = option(False, "spectral normalisation of D")
    # Progressive growing (Karras et al. 2018, arXiv:1710.10196); batches and learning rates follow the resolution
    grow_from: int = option(0, "first resolution, 4 or more; 0: full resolution from the start")
    grow_kimg: float = option(600.0, "kimg at each resolution once it is faded in", "> 0")
    fade_kimg: float = option(600.0, "kimg in which each resolution fades in", "> 0")
    grow_batch_max: int = option(128, "batches double with each halving of the resolution, up to this", "> 0")
    # Losses
    loss: str = option("logistic", "loss of both networks", ("logistic", "wgan", "relativistic"))
    dither: bool = option(False, "clamp and add noise of one grey level to all that D sees (not in the papers)")
    one_fake_batch: bool = option(False, "G learns from the fakes that D has just seen: a tenth faster than new ones")
    r1_gamma: float = option(0.1, "weight of the gradient penalty R1 at real slices", ">= 0")
    r2_gamma: float = option(0.0, "weight of the same penalty at fakes", ">= 0")
    gp_weight: float = option(0.0, "lambda of WGAN-GP", ">= 0")
    drift: float = option(0.0, "epsilon of E[D(x)^2]", ">= 0")
    d_reg_interval: int = option(16, "steps between D's gradient penalties", "> 0")
    pl_weight: float = option(0.0, "weight of path length regularisation", ">= 0")
    pl_decay: float = option(0.01, "pace of the moving average of path lengths", "0 to 1")
    pl_batch_shrink: int = option(2, "how much smaller the batch for path lengths is", "> 0")
    g_reg_interval: int = option(4, "steps between path length regularisations", "> 0")
    participation_weight: float = option(0.0, "penalty where fakes vary in fewer directions than real slices (not in the papers)", ">= 0")
    style_mixing_prob: float = option(0.9, "share of fakes with two styles", "0 to 1")
    # Discriminator augmentation (Karras et al. 2020b, arXiv:2006.06676)
    augment: str = option("adaptive", "augmentation of all that D sees", ("none", "adaptive", "fixed"))
    augment_p: float = option(0.0, "its probability at the start; stays there with augment fixed", "0 to 1")
    augment_p_max: float = option(0.8, "its probability at most", "0 to 1")
    ada_target: float = option(0.6, "p is adapted to this mean sign of D's real logits (less its fake ones, where the loss leaves their level open)", "0 to 1")
    ada_interval: int = option(4, "steps between adaptations of p", "> 0")
    ada_kimg: float = option(100.0, "kimg in which p can go from 0 to 1", "> 0")
    # Optimiser and averages
    batch_size: int = option(16, "real slices in a step, a multiple of the group size", "1 to 4096")
    lr: float = option(2.5e-3, "learning rate of G and D", "> 0")
    lr_decay_kimg: float = option(0.0, "from here on lr falls with 1 / sqrt(slices shown) (EDM2, equation 67); 0: never", ">= 0")
    lr_end_kimg: float = option(0.0, "lr falls to 0 at so many kimg, evenly over the last quarter of them; 0: never", ">= 0")
    beta1: float = option(0.0, "of Adam: decay of the mean gradient", "0 to 1")
    beta2: float = option(0.99, "of Adam: decay of the mean square", "0 to 1")
    adam_eps: float = option(1e-8, "epsilon of Adam", ">= 0")
    ema_kimg: float = option(5.0, "half-life of the averaged generator", ">= 0")
    ema_rampup: float = option(0.05, "the half-life is at most this fraction of the slices shown so far; 0: no ramp", ">= 0")
    w_avg_beta: float = option(0.995, "share that the moving average of w keeps at each step", "0 to 1")
    # The run
    total_kimg: float = option(400.0, "length of the run", "> 0", free=True)
    max_minutes: float = option(0.0, "stop, to go on later, after so many minutes; 0: no limit", ">= 0", free=True)
    seed: int = option(0, "of weights, slices and noise", ">= 0")
    device: str = option("auto", "where to train", ("auto", "cpu", "cuda", "mps"), free=True)
    precision: str = option("fp32", "auto: bf16 where the hardware is fast at it, fp16 on older GPUs", ("auto", "fp32", "bf16", "fp16"))
    cuda_graphs: bool = option(True, "on one GPU: record each step and replay it", free=True)
    tick_kimg: float = option(4.0, "kimg between two lines of metrics", "> 0", free=True)
    kid_ticks: int = option(4, "score on validation subjects every so many ticks; 0: never", ">= 0", free=True)
    snapshot_ticks: int = option(0, "keep the averaged generator every so many ticks; 0: never", ">= 0", free=True)
    kid_samples: int = option(512, "fakes in such a score", "> 0")
    checkpoint_minutes: float = option(10.0, "minutes between two checkpoints", ">= 0", free=True)
    keep_checkpoints: int = option(2, "checkpoints kept", "> 0", free=True)
    # fmt: on

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        for wrong, sentence in _checks(self):
            if wrong:
                raise ValueError(sentence)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of the synthesis blocks, 4 up to ``img_resolution``."""
        return tuple(2**i for i in range(2, int(math.log2(self.img_resolution)) + 1))

    @property
    def num_ws(self) -> int:
        """Style vectors that the synthesis network takes: 2 log2(resolution) - 2 in both papers, one (z itself) in a DCGAN."""
        return 1 if self.architecture == "dcgan" else 2 * len(self.resolutions)

    @property
    def d_channels(self) -> int:
        """Channels of the pictures that D's networks see."""
        return 2 * self.img_channels if self.pixel_deviation else self.img_channels

    @property
    def lazy_penalty(self) -> bool:
        """Whether gradient penalties of D take steps of their own."""
        return self.d_reg_interval > 1 and self.r1_gamma + self.r2_gamma + self.gp_weight > 0

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)

    def channels_below(self, resolution: int) -> int:
        """Feature maps at half the resolution; 0 below the first."""
        return self.channels(resolution // 2) if resolution > 4 else 0

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def departures(self) -> dict:
        """The fields that differ from the preset, with their values here; all of them where there is no such preset."""
        usual = make_config(self.preset).to_dict() if self.preset in PRESETS else {}
        return {name: value for name, value in self.to_dict().items() if name != "c_dim" and usual.get(name) != value}

    @classmethod
    def from_dict(cls, values: dict) -> "Config":
        """The config with these fields; an unknown name is an error that lists the known ones."""
        values = {name: value for name, value in values.items() if GONE.get(name) != value}
        if unknown := sorted(set(values) - set(FIELDS)):
            raise ValueError(f"Unknown config field {', '.join(unknown)}; the fields are {', '.join(sorted(FIELDS))}.")
        return cls(**values)


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
CHOICES = {name: field.metadata["allowed"] for name, field in FIELDS.items() if isinstance(field.metadata.get("allowed"), tuple)}
# What a resumed run may change: how long it goes on and where, how often it speaks. Everything else is the experiment.
FREE_TO_CHANGE = frozenset(name for name, field in FIELDS.items() if field.metadata.get("free"))
GONE = {"accumulate": 1}  # fields of older versions, which are ignored where they had their default


def differences(old: dict, config: Config) -> list[str]:
    """In words, how the settings ``old`` of a file differ from the config in what a resumed run may not change."""
    old, new = {**Config().to_dict(), **old}, config.to_dict()  # an older version knew fewer fields
    changed = [f"{k} ({old[k]} there, {new[k]} asked)" for k in new if k not in FREE_TO_CHANGE and old[k] != new[k]]
    return changed + [f"{k} ({old[k]} there, unknown here)" for k in old if k not in new and GONE.get(k) != old[k]]


def _checked(field: dataclasses.Field, value: object) -> object:
    """The value in the field's type and range, so that 1 is accepted for a float and "fast" is not."""
    expected, allowed = type(field.default), field.metadata.get("allowed")
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{field.name} must be of type {expected.__name__}, not {value!r}.")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{field.name} is {value}; give a finite number.")
    if isinstance(allowed, tuple) and value not in allowed:
        raise ValueError(f"{field.name} is {value!r}; choose one of {', '.join(allowed)}.")
    if isinstance(allowed, str):
        low, _, high = allowed.partition(" to ")
        if not (float(low) <= value <= float(high) if high else {"> 0": value > 0, ">= 0": value >= 0}[allowed]):
            raise ValueError(f"{field.name} is {value}; it must be {allowed}.")
    return value


def _checks(config: Config) -> list[tuple[object, str]]:
    """Of fields together: whether something is wrong, and the sentence that says it."""
    resolution, batch, group, dcgan = config.img_resolution, config.batch_size, config.mbstd_group_size, config.architecture == "dcgan"
    inner, attended = [str(res) for res in config.resolutions[1:-1]], config.attention.split(",")  # the last stands behind G's picture
    styles = config.mapping_layers or config.z_dim != config.w_dim or config.style_mixing_prob + config.pl_weight
    starts = (0, *config.resolutions) if config.architecture == "stylegan1" else (0,)
    return [
        (resolution < 8 or resolution > 1024 or resolution & (resolution - 1),
         f"img_resolution is {resolution}; take a power of two from 8 to 1024."),
        (config.channel_base < resolution,
         f"channel_base is {config.channel_base}; at {resolution} px take at least {resolution}, or there is no channel."),
        (config.participation_weight and batch < 3,  # two centred slices are always opposite
         f"batch_size is {batch}; participation_weight compares pairs of slices in a batch: take 3 or more."),
        (0 < config.lr_end_kimg < config.total_kimg,
         f"total_kimg is {config.total_kimg:g}; at lr_end_kimg, {config.lr_end_kimg:g}, the learning rate is 0: end there, or raise both in a new run."),
        (batch % min(group, batch), f"batch_size {batch} is not a multiple of mbstd_group_size {group}; take one that is."),
        (config.img_channels not in (1, 3), f"img_channels is {config.img_channels}; take 1, grey, or 3, colour."),
        (config.seed >= 2**63, f"seed is {config.seed}; it must be below 2 to the power of 63."),
        (config.kid_samples < 2, f"kid_samples is {config.kid_samples}; a score takes 2 or more."),
        (config.grow_from and batch < group and 2 * batch <= config.grow_batch_max and group % batch,
         f"batch_size is {batch}; while the network grows its doubles do not fall into groups of {group}: take a divisor or a multiple."),
        (config.attention != "none" and (dcgan or not set(attended) <= set(inner) or len(set(attended)) < len(attended)),
         f"attention is {config.attention!r}; take none, or some of {', '.join(inner)} separated by commas, each once; a dcgan has none."),
        (config.grow_from not in starts,
         f"grow_from is {config.grow_from}; {config.architecture} takes {', '.join(map(str, starts))} (only stylegan1 grows)."),
        (not dcgan and not config.mapping_layers, "mapping_layers is 0; only a dcgan has none."),
        (dcgan and (styles or config.conditional != "none"),
         "A dcgan has no styles: take mapping_layers 0, w_dim = z_dim, conditional none, style_mixing_prob 0 and pl_weight 0."),
    ]  # fmt: skip


# --- Presets ----------------------------------------------------------------------------------------------------------------------

_LONG = {"precision": "auto", "ema_kimg": 10.0, "tick_kimg": 8.0, "kid_ticks": 5}
# What keeps the house's generators various: D compares heads pixel by pixel, no style is mixed away, and fakes vary as people do.
_VARIOUS = {"style_mixing_prob": 0.0, "dither": True, "pixel_deviation": True}
_HOUSE = {**_LONG, **_VARIOUS, "participation_weight": 1.0, "noise_lr_multiplier": 0.1, "one_fake_batch": True}
_LASTING = {**_HOUSE, "batch_size": 8, "lr_decay_kimg": 60.0, "ema_kimg": 500.0, "total_kimg": 1000.0, "kid_ticks": 3}
_AT_128 = {"img_resolution": 128, "lr": 0.01, "r1_gamma": 2.0}
_WIDE = {"img_resolution": 128, "channel_base": 4096, "channel_max": 256, "z_dim": 256, "w_dim": 256}
_PAPER = {**_LONG, **_WIDE, "mapping_layers": 8, "augment": "none", "lr": 0.001}
_STYLEGAN1 = {**_PAPER, "architecture": "stylegan1", "r1_gamma": 10.0, "d_reg_interval": 1}
_WGAN = {"loss": "wgan", "r1_gamma": 0.0, "gp_weight": 10.0, "drift": 0.001, "d_reg_interval": 1}

# quick is for a few minutes on two cores: small batches and large steps, with noise held back, learn fastest per slice at the start.
# fmt: off
PRESETS = {
    "smoke": {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2, "batch_size": 8,
              "r1_gamma": 0.01, "ema_kimg": 0.1, "total_kimg": 0.4, "tick_kimg": 0.1, "kid_ticks": 0},
    "quick": {**_HOUSE, "channel_base": 512, "batch_size": 4, "lr": 0.015, "lr_decay_kimg": 24.0, "r1_gamma": 1.0, "ema_kimg": 10.0,
              "participation_weight": 0.5, "ema_rampup": 0.1, "total_kimg": 120.0, "max_minutes": 9.0, "tick_kimg": 4.0, "kid_ticks": 2, "kid_samples": 384},
    "oasis64": {**_LASTING, "lr": 0.01, "lr_decay_kimg": 40.0, "r1_gamma": 1.0, "ema_rampup": 0.1, "lr_end_kimg": 300.0, "total_kimg": 300.0},
    "oasis128": {**_LASTING, **_AT_128},
    "oasis256": {**_HOUSE, **_WIDE, "img_resolution": 256, "channel_base": 8192, "batch_size": 32, "r1_gamma": 0.8, "total_kimg": 2000.0},
    "colab": {**_LASTING, **_AT_128, "max_minutes": 60.0},
    "stylegan1": {**_STYLEGAN1, "channel_base": 16384, "channel_max": 512, "z_dim": 512, "w_dim": 512, "total_kimg": 5000.0,
                  "tick_kimg": 20.0, "grow_from": 8},
    "seed000-stylegan2": {**_PAPER, **_WGAN, "batch_size": 32, "pl_weight": 2.0, "g_reg_interval": 16, "total_kimg": 1000.0},
    "seed001-stylegan1-classes": {**_STYLEGAN1, "conditional": "class", "total_kimg": 1000.0},
    "seed002-stylegan2-umap": {**_PAPER, "batch_size": 32, "lr": 0.002, "r1_gamma": 10.0, "pl_weight": 2.0, "total_kimg": 1000.0},
    "seed003-progressive": {**_STYLEGAN1, **_WGAN, "conditional": "class", "spectral_norm": True, "attention": "16",
                            "grow_from": 4, "grow_kimg": 120.0, "fade_kimg": 120.0, "total_kimg": 1500.0},
    "seed004-course": {**_STYLEGAN1, "img_resolution": 64, "channel_base": 1024, "channel_max": 128, "z_dim": 128, "w_dim": 128,
                       "lr": 0.0005, "conditional": "class", "class_input": "one_hot", "normalise": "standardise",
                       "leaky_slope": 0.01, "total_kimg": 730.0},
    "dcgan": {**_LONG, "architecture": "dcgan", "channel_base": 2048, "channel_max": 512, "mapping_layers": 0, "batch_size": 64,
              "lr": 0.0002, "beta1": 0.5, "beta2": 0.999, "ema_kimg": 0.0, "r1_gamma": 0.0, "style_mixing_prob": 0.0, "augment": "none",
              "total_kimg": 730.0},
    "modern": {**_LONG, **_VARIOUS, "loss": "relativistic", "r2_gamma": 0.1, "d_reg_interval": 1},
}

# What each is after, and every departure from that.
NOTES = {
    "smoke": ("this project", "Seconds on any machine: for tests of the plumbing, not for pictures."),
    "quick": ("this project", "Nine minutes on two cores: StyleGAN2, small and with large steps, penalised where its fakes vary less than people."),
    "oasis64": ("this project", "StyleGAN2 for 64 px slices, two hours of a CPU core: as quick, twice as wide, at a rate that falls to 0."),
    "oasis128": ("this project", "As quick but twice as wide and for 128 px, at a third of its pace; stop it where KID on validation people stops falling."),
    "oasis256": ("this project", "At 256 px, with the published rate and batch; wants a GPU, and has not been trained."),
    "colab": ("this project", "oasis128 for an hour at a time, on Colab's T4 in fp16; not yet timed there."),
    "stylegan1": ("Karras et al. 2019, arXiv:1812.04948",
        "As published but for one grey channel: AdaIN, growing from 8 px, logistic loss with R1 10 at every step, batch and rate by resolution. "
        "One-GPU schedule of the official code; a batch is 16 at 128 px. The average of the weights starts faster than theirs."),
    "seed000-stylegan2": ("seed 000, with Karras et al. 2020, arXiv:1912.04958",
        "z = w = 256, WGAN-GP 10 with drift .001, path length every 16 steps, as its text says. Residual D and skip G do without growing; "
        "minibatch deviation and equalised rates come from ProGAN. Mapping layers, mixing and moving average are the paper's."),
    "seed001-stylegan1-classes": ("seed 001, with Karras et al. 2019, arXiv:1812.04948",
        "StyleGAN1 told the class, in place of one model for each: the w of two networks cannot be compared. At one resolution, because its "
        "text does not grow; narrower than the paper's."),
    "seed002-stylegan2-umap": ("seed 002, with Karras et al. 2020, arXiv:1912.04958",
        "StyleGAN2 with the paper's numbers and no augmentation, but narrower. Noise is added to the maps, not through AdaIN."),
    "seed003-progressive": ("seed 003, with Karras et al. 2018 and 2019, arXiv:1710.10196, 1812.04948",
        "Grows from 4 px; spectral normalisation, attention and classes are there, which its text claims; WGAN-GP 10 with drift .001 on the "
        "square of real scores. Each fade runs once and does not start again at every epoch."),
    "seed004-course": ("seed 004, with Karras et al. 2019, arXiv:1812.04948",
        "The StyleGAN that its text describes: slope .01, Adam 5e-4, standardise then 0-1 (which is min-max), one-hot classes, 200 epochs of "
        "114 people. Its Dice and cross-entropy belong to segmentation and have no meaning here: logistic loss with R1."),
    "dcgan": ("Radford et al. 2016, arXiv:1511.06434",
        "The baseline, and what seed 004's code really was. "
        "Departs in z (128, scaled to a sphere), widths (512 at most), mirrored slices and one grey channel."),
    "modern": ("Karras et al. 2020 with Huang et al. 2024, arXiv:1912.04958, 2501.05441",
        "StyleGAN2 with the relativistic loss, R1 + R2 at every step, and adaptive augmentation; without style mixing, with this project's "
        "dither and pixel_deviation."),
}
# fmt: on


def ending(preset: str, changes: Mapping) -> dict:
    """The changes of a new run of the preset. Where its rates fall to 0 at its end, they fall to 0 at another ``total_kimg`` too."""
    falls = "total_kimg" in changes and PRESETS.get(preset, {}).get("lr_end_kimg")
    return ({"lr_end_kimg": changes["total_kimg"]} if falls else {}) | dict(changes)


def make_config(preset: str, **overrides: object) -> Config:
    """The named preset with single fields changed: ``make_config("quick", seed=3)``."""
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return Config.from_dict({"preset": preset, **PRESETS[preset], **overrides})

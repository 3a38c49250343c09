"""The verdict: one table of doubts, each answered with pass, borderline or fail by rules that are the same for every generator.

Mind the floor. Slices of one person resemble each other. A set of real people is therefore further from another such set than
unrelated slices of the same population would be: it raises the floor of every distance from both sides, and the score of a
generator, whose slices are strangers to each other, from one. "At the floor" is thus lenient, and so a distance passes only
where it is no larger than the *mean* of its floor; reaching the floor's range, where chance may explain the rest, is borderline.
Neighbour scores leave out slices of the same person, their floor's mean is not shifted, only its range is wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stylegan.scores.features import distance_name
from stylegan.scores.findings import floor_of, shown, title_of, whole_split

PASS, BORDERLINE, FAIL, UNKNOWN = "pass", "borderline", "fail", "not measured"
SIGNS = {PASS: "✔ pass", BORDERLINE: "◐ borderline", FAIL: "✘ fail", UNKNOWN: "– not measured"}

# The doubt, the score that answers it, which way is better: 'lower' and 'higher' than the floor, or 'as' real.
DOUBTS = (
    ("Could the set pass for other people?", "kid", "lower"),
    ("... and by mean and covariance?", "fd", "lower"),
    ("Do generated slices lie where real ones do?", "precision", "higher"),
    ("Are all kinds of real slices drawn?", "recall", "higher"),
    ("... and each real slice near to a generated one?", "coverage", "higher"),
    ("Do generated slices keep to themselves?", "nn_accuracy_fake", "as"),
    ("Can a classifier tell them apart?", "classifier", "as"),
    ("Are they as various as real ones?", "ms_ssim", "as"),
    ("Is the texture right (blur, checkerboard)?", "spectrum", "lower"),
    ("Are the grey levels right?", "intensity", "lower"),
    ("Are the heads of the right size?", "area", "lower"),
    ("Are they as symmetric as real heads?", "symmetry", "lower"),
)


def mark(entry: Mapping[str, float], floor: Mapping[str, float], better: str) -> str:
    """pass, borderline or fail of one score {value, low, high} beside its floor.

    'lower': pass up to the floor's mean, borderline while the interval reaches the floor's range; 'higher' is its mirror image;
    'as': pass inside the floor's range, borderline where interval and range meet.
    """
    meets = entry["low"] <= floor["high"] and floor["low"] <= entry["high"]
    if better == "as":
        return PASS if floor["low"] <= entry["value"] <= floor["high"] else BORDERLINE if meets else FAIL
    if better == "lower":
        return PASS if entry["value"] <= floor["value"] else BORDERLINE if entry["low"] <= floor["high"] else FAIL
    return PASS if entry["value"] >= floor["value"] else BORDERLINE if entry["high"] >= floor["low"] else FAIL


def verdict_rows(scores: Mapping, memory: Mapping | None = None) -> list[dict]:
    """The table: ``{doubt, score, generated, real, verdict}``, one row a doubt, on the last split of `metrics.evaluate`.

    ``memory``: what `audit` found beyond it (people, attack, projection); without it only the ratio is judged.
    """
    split, space = whole_split(scores, list(scores["splits"])[-1]), scores["feature_space"]
    rows = []
    for doubt, key, better in DOUBTS:
        entry, floor = split.get(key), floor_of(split, key)
        found = mark(entry, floor, better) if entry and floor else UNKNOWN
        rows.append(_row(doubt, title_of(key, space), shown(entry, key), shown(floor, key), found))
    return rows + _memory_rows(scores["memorisation"], memory or {})


def _row(doubt: str, score: str, generated: str, real: str, verdict: str) -> dict:
    return {"doubt": doubt, "score": score, "generated (95 %)": generated, "real people": real, "verdict": SIGNS[verdict]}


def _memory_rows(ratio: Mapping, memory: Mapping) -> list[dict]:
    rows, doubt = [], "Does it copy training slices?"
    if ratio["ratio"] is None:
        return [_row(doubt, "distance to training slices", "", "", UNKNOWN)]
    text = "{ratio:.2f} ({low:.2f} to {high:.2f}), p = {p_value:.2g}".format(**ratio)
    near = ratio["p_value"] < 0.05
    found = FAIL if near and ratio["ratio"] < 0.8 else BORDERLINE if near else PASS
    rows.append(_row(doubt, "distance to training slices, ratio", text, "1", found))
    if "people" in memory:
        people = memory["people"]
        text = f"{people['share']:.0%}, p = {people['p_value']:.2g}"
        found = PASS if people["p_value"] >= 0.05 else FAIL if people["p_value"] < 0.001 else BORDERLINE
        rows.append(
            _row(
                "Do its slices lie by people it saw?",
                "nearest person is a training person",
                text,
                f"{people['expected']:.0%}",
                found,
            )
        )
    for key, name in (("attack", "distance to the nearest of its slices"), ("logits", "logits of its discriminator")):
        if memory.get(key):
            area = memory[key]
            found = PASS if area["low"] <= 0.5 else BORDERLINE if area["value"] < 0.6 else FAIL
            rows.append(
                _row(
                    "Can one tell who was trained on?",
                    f"AUC of the {name}",
                    "{value:.2f} ({low:.2f} to {high:.2f})".format(**area),
                    "0.5",
                    found,
                )
            )
    if "projection" in memory:
        gap = memory["projection"]
        found = PASS if gap["p_value"] >= 0.05 else BORDERLINE if gap["gap"] < 0.1 * gap["heldout"] else FAIL
        text = f"{gap['train']:.1f} grey levels, p = {gap['p_value']:.2g}"
        rows.append(
            _row(
                "Does it draw people it saw better?",
                "residual of projections, training people",
                text,
                f"{gap['heldout']:.1f}, held-out people",
                found,
            )
        )
    return rows


def summary(rows: Sequence[Mapping]) -> str:
    """One sentence: how many pass, and what fails first."""
    counts = {name: sum(row["verdict"] == sign for row in rows) for name, sign in SIGNS.items()}
    failed = [row["score"] for row in rows if row["verdict"] == SIGNS[FAIL]]
    text = f"**{counts[PASS]} of {len(rows)} pass**, {counts[BORDERLINE]} are borderline, {counts[FAIL]} fail"
    return text + (f": {'; '.join(failed)}." if failed else ".")


def failure_rows(cases: Sequence[Mapping]) -> list[dict]:
    """The failure cases as rows of a table."""
    return [
        {
            "rule": case["rule"],
            "seed": case["seed"],
            "its value": f"{case['value']:.2f} {case['unit']}",
            "98 % of real slices": f"{case['real_low']:.2f} to {case['real_high']:.2f}",
            "guess": case["guess"],
        }
        for case in cases
    ]


def control_sentence(control: Mapping | None) -> str:
    """What the positive control gave, that is whether these measures light up at all."""
    if not control:
        return "Whether these measures would light up was not tried with a memorising generator here."
    memory, people = control["memorisation"], control["people"]
    return (
        f"That these measures light up is shown by a generator trained on {control['slices']} slices until it draws them "
        f"({control['kimg']:g} kimg at 32 px): its ratio is {memory['ratio']:.2f} (p = {memory['p_value']:.1g}), "
        f"{control['copied']:.0%} of its samples are nearer than the nearest 1 % of held-out slices, the person nearest to them is a "
        f"training person in {people['share']:.0%} ({people['expected']:.0%} by chance), and whom it saw can be told with an AUC of "
        f"{control['attack']['value']:.2f} from its samples and {control['logits']['value']:.2f} from its discriminator."
    )


def splits_sentence(scores: Mapping) -> str:
    """Whether the people it saw, validation and test people give the same FD."""
    found = {name: split["fd"] for name, split in scores["splits"].items()}
    overlap = max(x["low"] for x in found.values()) <= min(x["high"] for x in found.values())
    good = "overlap: it does no better on people it saw" if "train" in found else "overlap: they agree"
    words = good if overlap else "do **not** all overlap: memory, the choice of the best on `val`, or chance"
    return f"The intervals of {distance_name(scores['feature_space'])} on {', '.join(f'`{name}`' for name in found)} {words}."


def controls_sentence(scores: Mapping) -> str:
    """Which of the spoiled sets KID finds fault with, and what gives the copies away."""
    controls, most = scores["controls"], whole_split(scores, list(scores["splits"])[-1])["kid_floor"]["high"]
    seen = [what for what, control in controls.items() if control["kid"] > most]
    text = f"KID finds fault with **{', '.join(seen) or 'none of these sets'}**. "
    if "memorised" not in seen:
        text += "With *memorised* it has none to find: these *are* real slices. "
    if "memory" in controls["memorised"]:
        text += f"Only the last row, the distance to the training slices, gives copies away ({controls['memorised']['memory']:.2f} where new people have 1)."
    return text.strip()


def ssim_sentence(scores: Mapping) -> str:
    """The mean of the largest SSIM to any slice of the last split, and why it is no measure of quality."""
    split = whole_split(scores, list(scores["splits"])[-1])
    ours, theirs = split["best_ssim"]["value"], split["best_ssim_real"]["value"]
    blurred = scores["controls"]["blurred"]["best_ssim"]
    blur = "rewards blur, and " if blurred > theirs else ""
    return (
        f"Generated slices reach **{ours:.3f}**, real slices of other people {theirs:.3f}, and these *blurred* {blurred:.3f}. The number "
        f"{blur}asks for one similar slice each: copies of the test slices would have 1, and one good slice drawn a thousand times "
        "does as well as a population. The best that it should be is what real slices of other people have."
    )


def copies_sentence(memory: Mapping) -> str:
    """What `memorisation.memory` found, in words."""
    if memory["ratio"] is None:
        return "No training slices are at hand, so that no copies could be looked for."
    near = memory["ratio"] < 0.8 and memory["p_value"] < 0.05
    far = "no sign of copying" if memory["ratio"] < 1.5 else "no copies, but not like real slices either"
    return (
        f"The median distance to the nearest training slice is {memory['ratio']:.2f} ({memory['low']:.2f} to {memory['high']:.2f}) times "
        f"that of held-out people (p = {memory['p_value']:.2g} that they lie nearer by chance): {'**suspiciously near**' if near else far}."
    )


def memory_table(found: Mapping) -> list[dict]:
    """The further measures of memory as rows: whose slice is nearest, and two attacks."""
    people = found["people"]
    share = f"{people['share']:.0%}, p = {people['p_value']:.2g}"
    rows = [{"": "nearest person is a training person", "found": share, "by chance": f"{people['expected']:.0%}"}]
    for key, name in (("attack", "AUC from generated slices"), ("logits", "AUC from the discriminator's logits")):
        entry = found.get(key)
        told = "{value:.2f} ({low:.2f} to {high:.2f})".format(**entry) if entry else "its discriminator is not at hand"
        rows.append({"": name, "found": told, "by chance": "0.50"})
    near = {"": "nearer than the nearest 1 % of held-out slices", "found": f"{found['copied']:.1%}", "by chance": "1%"}
    return [*rows, near]


def duplicates_sentence(found: Mapping) -> str:
    """What `memorisation.duplicates` found, in words."""
    near = "levels are unknown or far apart, so that near ones could not be judged"
    if found["near"] is not None:
        near = f"{found['near']} are nearer to another person's slice than half of the neighbouring levels of one head are to each other"
    return f"Of {found['slices']:,} real slices {found['exact']} are equal to an earlier one, pixel by pixel; {near}."


def space_rows(found: Mapping) -> list[dict]:
    """The same scores through other eyes, each beside its floor, from an audit."""
    name = list(found["evaluation"]["splits"])[-1]
    evaluated = {**whole_split(found["evaluation"], name), "memory": found["evaluation"]["memorisation"]}
    rows = []
    for space, split in ({found["evaluation"]["feature_space"]: evaluated} | found["spaces"]).items():
        row = {"features": space}
        for key in ("fd", "precision", "recall", "coverage", "classifier"):
            form = "{:.0%}" if key == "classifier" else "{:.2f}"
            row[f"{title_of(key, space)} (floor)"] = (
                f"{form.format(split[key]['value'])} ({form.format(floor_of(split, key)['value'])})"
            )
        rows.append(row | {"distance ratio": f"{split['memory']['ratio']:.2f}"})
    return rows


def encoder_sentence(found: Mapping) -> str:
    """How far the own encoder, one of the spaces of an audit, is to be trusted."""
    told = found.get("encoder")
    if not told:
        return "No encoder of our own was trained here."
    read = ", ".join(f"{name} {value:.2f}" for name, value in told.items())
    return (
        "The *own encoder* learned to tell the level of a slice, and how much it was blurred and noised, from real training slices "
        f"alone. On people it never saw its readings correlate with the truth: {read}."
    )

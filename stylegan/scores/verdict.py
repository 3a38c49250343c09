"""What the scores say: tables, sentences, and the verdict, in which every question is answered by rules that are the same for every generator.

Mind the floor. Slices of one person resemble each other, which sets two groups of real people apart; generated slices are strangers
to each other. So "at the floor" is lenient: a distance passes only where it is no larger than the *mean* of its floor, and
reaching the floor's range, where chance may explain the rest, is borderline. Neighbour scores leave out slices of the same person.
"""

from collections.abc import Mapping, Sequence

PASS, BORDERLINE, FAIL, UNKNOWN = "pass", "borderline", "fail", "not measured"
SIGNS = {PASS: "✔ pass", BORDERLINE: "◐ borderline", FAIL: "✘ fail", UNKNOWN: "– not measured"}

# A score of `evaluate` -> its title, how it is written, which way is better, and the question that it answers in the verdict.
TITLES = {
    "kid": ("KID × 1000", "{:.0f}", "lower", "Could the set pass for other people?"),
    "fd": ("FD", "{:.0f}", "lower", "... and by mean and covariance?"),
    "precision": ("precision", "{:.2f}", "higher", "Do generated slices lie where real ones do?"),
    "recall": ("recall", "{:.2f}", "higher", "Are all kinds of real slices drawn?"),
    "recall_symmetric": ("recall, symmetric", "{:.2f}", "higher", ""),
    "density": ("density", "{:.2f}", "near the floor's", ""),
    "coverage": ("coverage", "{:.2f}", "higher", "... and each real slice near to a generated one?"),
    "dimensions": ("dimensions of pixels", "{:.0f}", "higher", "As various as people?"),
    "dimensions_fixed_noise": ("dimensions, noise fixed", "{:.0f}", "higher", "... in what W alone varies?"),
    "spread": ("spread of pixels", "{:.1f}", "higher", "... and as far from each other?"),
    "spread_fixed_noise": ("spread, noise fixed", "{:.1f}", "higher", ""),
    "ms_ssim": ("MS-SSIM of random pairs", "{:.2f}", "as real pairs", "Are random pairs as alike as real ones?"),
    "nn_accuracy_real": ("1-NN accuracy, real", "{:.2f}", "0.5", ""),
    "nn_accuracy_fake": ("1-NN accuracy, generated", "{:.2f}", "0.5", "Do generated slices keep to themselves?"),
    "classifier": ("told apart by a classifier", "{:.0%}", "50%", "Can a classifier tell them apart?"),
    "spectrum": ("power spectrum, dB apart", "{:.2f}", "lower", "Is the texture right (blur, checkerboard)?"),
    "intensity": ("grey levels, of 255, apart", "{:.1f}", "lower", "Are the grey levels right?"),
    "area": ("area of the head, % apart", "{:.2f}", "lower", "Are the heads of the right size?"),
    "symmetry": ("symmetry, apart", "{:.3f}", "lower", "Are they as symmetric as real heads?"),
    "best_ssim": ("largest SSIM to a real slice", "{:.2f}", "as real slices", ""),
}
# The question, the score that answers it, which way is better: 'lower' and 'higher' than the floor, or as real.
CHECKS = [(question, score, better) for score, (_, _, better, question) in TITLES.items() if question]
# A measure of memory: question, title, forms of what was found and of chance, whether it is sure or people are too few, whether large.
MEMORY = {
    "ratio": ("Does it copy training slices?", "distance to training slices, ratio", "{ratio:.2f} ({low:.2f} to {high:.2f}), p = {p_value:.2g}",
              "1", lambda x: x["p_value"] < 0.05 or x["low"] < 0.8 <= x["ratio"], lambda x: x["ratio"] < 0.8),
    "people": ("Do its slices lie by people it saw?", "nearest person is a training person", "{share:.0%}, p = {p_value:.2g}",
               "{expected:.0%}", lambda x: x["p_value"] < 0.05, lambda x: x["p_value"] < 0.001),
    "attack": ("Can one tell who was trained on?", "AUC of the distance to the nearest of its slices", "{value:.2f} ({low:.2f} to {high:.2f})",
               "0.5", lambda x: x["low"] > 0.5, lambda x: x["value"] >= 0.6),
    "logits": ("Can one tell who was trained on?", "AUC of the logits of its discriminator", "{value:.2f} ({low:.2f} to {high:.2f})",
               "0.5", lambda x: x["low"] > 0.5, lambda x: x["value"] >= 0.6),
    "projection": ("Does it draw people it saw better?", "residual of projections, training people", "{train:.1f} grey levels, p = {p_value:.2g}",
                   "{heldout:.1f}, held-out people", lambda x: x["p_value"] < 0.05, lambda x: x["gap"] >= 0.1 * x["heldout"]),
}  # fmt: skip
COLLAPSED = 0.25  # of people's dimensions: fewer are a collapse
TIMES = (  # up to how many times the floor: what that means for the eye
    (1.1, "By this score the set is as far from people as other people are."),
    (2.0, "The set is near the real ones and still told apart from them."),
    (4.0, "The slices are clearly not from the same population."),
    (10.0, "The slices are far from the same population, and need not look like heads."),
    (float("inf"), "The generator is at its beginning: the scores show that everything runs, not that it draws well."),
)


# --- Reading the result of `evaluate` -----------------------------------------------------------------------------------------------


def whole_split(scores: Mapping, name: str) -> dict:
    """Everything `evaluate` found on this split: the promised scores, the further ones, and variety."""
    various = {key: entry for key, entry in scores.get("variety", {}).get(name, {}).items() if key != "n"}
    floors = {f"{key}_floor": entry["floor"] for key, entry in various.items()}
    return {**scores["splits"][name], **scores.get("further", {}).get(name, {}), **various, **floors}


def last_split(scores: Mapping) -> dict:
    """`whole_split` of the split that counts; {} where none was scored."""
    return whole_split(scores, list(scores["splits"])[-1]) if scores["splits"] else {}


def title_of(score: str, space: str) -> str:
    """The name of a score; only in the official Inception's space may the Fréchet distance be called FID."""
    return "FID" if (score, space) == ("fd", "inception") else TITLES[score][0]


def floor_of(split: Mapping, score: str) -> Mapping | None:
    """The entry {value, low, high} that real slices have in place of fakes."""
    return split.get(f"{score}_floor") or split.get(f"{score}_real")


def with_interval(entry: Mapping | None, score: str) -> str:
    """An entry {value, low, high} as 'value (low to high)'."""
    form = TITLES[score][1]
    return "" if entry is None else f"{form} ({form} to {form})".format(*(entry[bound] for bound in ("value", "low", "high")))


def score_rows(scores: Mapping, names: Sequence[str] = ("kid", "fd")) -> list[dict]:
    """The result of `evaluate` as rows of a table, each score beside its floor."""
    rows = []
    for name in scores["splits"]:
        split = whole_split(scores, name)
        who = f"{name} (n = {split['n']}, {split['subjects']} {'people' if scores.get('subjects_known', True) else 'groups'})"
        for key in (key for key in names if key in split):
            row = {"split": who, "score": title_of(key, scores["feature_space"])}
            row["generated (95 %)"] = with_interval(split[key], key)
            rows.append(row | {"real against real (95 %)": with_interval(floor_of(split, key), key)})
    return rows


def floor_table(scores: Mapping) -> list[dict]:
    """Floor, generator and spoiled sets side by side, one row a score, for the last split of `evaluate`; [] where none was scored."""
    split, ratio, rows = last_split(scores), scores["memorisation"]["ratio"], []
    found = [(key, title_of(key, scores["feature_space"]), *TITLES[key][1:3]) for key in TITLES if key in split]
    if found and ratio is not None:
        found.append(("memory", "distance to training slices, ratio", "{:.2f}", "1"))
        split |= {"memory": {"value": ratio}, "memory_floor": {"value": 1.0}}
    for key, title, form, better in found:
        floor, made = floor_of(split, key), form.format(split[key]["value"])
        row = {f"on {list(scores['splits'])[-1]}": title, "better": better}
        row |= {"real (floor)": form.format(floor["value"]) if floor else "", "**generated**": f"**{made}**"}
        rows.append(row | {what: form.format(control[key]) for what, control in scores["controls"].items() if key in control})
    return rows


def variety_rows(scores: Mapping) -> list[dict]:
    """How various slices are on the last split, with noise drawn and with noise fixed, and people; [] where none was scored."""
    names = {"dimensions": "dimensions, 80 % of variance", "dimensions_90": "90 %", "dimensions_95": "95 %", "spread": "spread"}
    split, rows = last_split(scores), []
    for name in (name for name in names if name in split):
        row = {"": names[name], "people": split[name]["real"]}
        for suffix, what in (("", "generated"), ("_fixed_noise", "noise fixed")):
            ratio = "{value:.2f} ({low:.2f} to {high:.2f})".format(**split[name + suffix]["ratio"])
            row |= {what: f"{split[name + suffix]['value']:.3g}", f"{what}, over people": ratio}
        rows.append(row)
    return rows


def plain_scores(scores: Mapping) -> list[str]:
    """The result of `evaluate` as lines for a terminal."""
    lines = [f"{scores['feature_space']}, n = {scores['n']}, {scores['seconds']:g} s; 95 % intervals by subject"]
    for row in score_rows(scores, list(TITLES)):
        cells = row["split"].split(" ")[0], row["score"], row["generated (95 %)"], row["real against real (95 %)"]
        lines.append("{:6}{:30}{:24} real {}".format(*cells))
    found = scores["memorisation"]
    if found["ratio"] is not None:
        text = "distance to training slices {ratio:.2f} ({low:.2f} to {high:.2f}) of held-out people's; nearer than they: p = {p_value:.3f}"
        lines.append(text.format(**found))
    if told := scores.get("people"):
        lines.append(f"told apart by people in {with_interval(told, 'classifier')} of {told['n']} answers, 50 % by chance")
    for name, control in scores["controls"].items():
        names = ("kid", "fd", "recall", "coverage", "dimensions")
        shown = [f"{key} {TITLES[key][1].format(control[key])}" for key in names if key in control]
        lines.append(f"{name}: {', '.join(shown)}" + (f", memory {control['memory']:.2f}" if "memory" in control else ""))
    if "memory" in scores:  # of --all
        rows = verdict_rows(scores)
        lines += ["{verdict}: {question} {score}: {generated (95 %)}, real {real people}".format(**row) for row in rows]
        lines.append(summary(rows))
    return lines + [f"Note: {text}" for text in scores["warnings"]]


# --- The verdict ----------------------------------------------------------------------------------------------------------------------


def mark(entry: Mapping[str, float], floor: Mapping[str, float], better: str) -> str:
    """pass, borderline or fail of one score {value, low, high} beside its floor.

    'lower': pass up to the floor's mean, borderline while the interval reaches the floor's range; 'higher' is its mirror image, and
    measures nothing where people reach nothing either; else: pass inside the floor's range, borderline where interval and range meet.
    """
    value, down, up = entry["value"], entry["low"] <= floor["high"], entry["high"] >= floor["low"]
    if better == "higher" and floor["value"] <= 0:
        return UNKNOWN
    passes, reaches = floor["low"] <= value <= floor["high"], down and up
    if better == "lower":
        passes, reaches = value <= floor["value"], down
    elif better == "higher":
        passes, reaches = value >= floor["value"], up
    return PASS if passes else BORDERLINE if reaches else FAIL


def verdict_rows(scores: Mapping, memory: Mapping | None = None) -> list[dict]:
    """The table: ``{question, score, generated, real, verdict}``, one row a check, on the last split of `evaluate`.

    Variety passes only among slices that lie where real ones do: where precision fails it is borderline at best. ``memory``:
    what `memory_of` found, by default that of ``scores``; without it only the ratio is judged, a large one of few people unsure.
    """
    split, space, rows, marks = last_split(scores), scores["feature_space"], [], {}
    for question, key, better in CHECKS:
        entry, floor = split.get(key), floor_of(split, key)
        marks[key] = found = mark(entry, floor, better) if entry and floor else UNKNOWN
        if key.startswith(("dimensions", "spread")) and found == PASS and marks["precision"] == FAIL:  # noise varies too
            found = BORDERLINE
        rows.append((question, title_of(key, space), with_interval(entry, key), with_interval(floor, key), found))
    if told := scores.get("people"):
        found = (PASS, BORDERLINE, FAIL)[(told["low"] > 0.5) + (told["value"] >= 0.6)]
        score = f"told apart by people (n = {told['n']})"
        rows.append(("Can people tell them apart?", score, with_interval(told, "classifier"), "50%", found))
    measured = {"ratio": scores["memorisation"], **(scores.get("memory", {}) if memory is None else memory)}
    if scores["memorisation"]["ratio"] is None:
        measured = {}
        rows.append((*MEMORY["ratio"][:2], "", "", UNKNOWN))
    for key, (question, title, form, chance, sure, large) in MEMORY.items():
        if found := measured.get(key):
            verdict = (PASS, BORDERLINE, FAIL)[sure(found) + large(found)]
            rows.append((question, title, form.format(**found), chance.format(**found), verdict))
    names = "question", "score", "generated (95 %)", "real people"
    return [{**dict(zip(names, row[:4], strict=True)), "verdict": SIGNS[row[4]]} for row in rows]


def memory_table(found: Mapping) -> list[dict]:
    """The further measures of memory as rows: whose slice is nearest, and two attacks; [] where nothing was found."""
    shown = [(*MEMORY[key][1:4], found[key]) for key in ("people", "attack", "logits") if found.get(key)]
    rows = [{"": title, "found": form.format(**x), "by chance": chance.format(**x)} for title, form, chance, x in shown]
    last = "nearer than the nearest 1 % of held-out slices"
    return rows + ([{"": last, "found": f"{found['copied']:.1%}", "by chance": "1%"}] if found else [])


# --- Sentences ------------------------------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Mapping]) -> str:
    """One sentence: how many pass, and what fails."""
    counts = {name: sum(row["verdict"] == sign for row in rows) for name, sign in SIGNS.items()}
    failed = [row["score"] for row in rows if row["verdict"] == SIGNS[FAIL]]
    text = f"**{counts[PASS]} of {len(rows)} pass**, {counts[BORDERLINE]} borderline, {counts[FAIL]} fail"
    text += f", {counts[UNKNOWN]} could not be measured" if counts[UNKNOWN] else ""
    return text + (f": {'; '.join(failed)}." if failed else ".")


def times_floor(split: Mapping) -> float:
    """The relative distance of Woodland et al. 2024: FD over its floor."""
    return split["fd"]["value"] / max(split["fd_floor"]["value"], 1e-12)


def distance_sentence(split: Mapping) -> str:
    """The distances of one split of `evaluate` in words, measured by their floor."""
    times, numbers = times_floor(split), (split[name]["value"] for name in ("fd", "fd_floor", "kid", "kid_floor"))
    text = "FD is {:.0f} where real people are {:.0f} apart, **{times:.1f} times the floor**; KID is {:.0f} (floor {:.0f}). {words}"
    return text.format(*numbers, times=times, words=next(words for limit, words in TIMES if times <= limit))


def splits_sentence(scores: Mapping) -> str:
    """Whether the people it saw, validation and test people give the same FD."""
    found = {name: split["fd"] for name, split in scores["splits"].items()}
    if len(found) < 2:
        return "There is one split to score on, so that nothing can be compared with it."
    words = "overlap: no sign that it does better on people it saw" if "train" in found else "overlap: they agree"
    if max(x["low"] for x in found.values()) > min(x["high"] for x in found.values()):
        words = "do **not** all overlap: memory, the choice of the best on `val`, or chance"
    return f"The intervals of {title_of('fd', scores['feature_space'])} on {', '.join(f'`{name}`' for name in found)} {words}."


def controls_sentence(scores: Mapping) -> str:
    """Which of the spoiled sets KID finds fault with, and what gives the copies away."""
    controls, most = scores["controls"], last_split(scores)["kid_floor"]["high"]
    seen = [what for what, control in controls.items() if control["kid"] > most]
    text = f"KID finds fault with **{', '.join(seen) or 'none of these sets'}**. "
    if "memorised" not in seen:
        text += "With *memorised* it has none to find: these *are* real slices. "
    if "memory" in controls["memorised"]:
        copies = controls["memorised"]["memory"]
        text += f"Only the last row, the distance to the training slices, gives copies away ({copies:.2f}, new people 1)."
    return text.strip()


def variety_sentence(scores: Mapping) -> str:
    """How much of people's variety the generator has, in words, and whether that is a collapse."""
    split = last_split(scores)
    if "dimensions" not in split:
        return "Nobody is held out, so that there are no people to compare its variety with."
    whole, fixed, floor = split["dimensions"], split["dimensions_fixed_noise"], floor_of(split, "precision")
    ratio, words = whole["ratio"]["value"], "about as various as people"
    if ratio > 1.5:
        words = "more than people do: that is noise, and not kinds of heads"
    elif mark(whole, whole["floor"], "higher") == FAIL:
        words = "**collapsed**" if ratio < COLLAPSED else "less various than people"
    if floor and mark(split["precision"], floor, "higher") == FAIL:
        words += "; fewer of them lie where real slices do"
        words += ", so that some of this is noise" if fixed["value"] < 0.8 * whole["value"] else ""
    text = f"The pictures vary in **{whole['value']:.0f} dimensions** where people vary in {whole['real']:.0f}"
    return f"{text}, and in {fixed['value']:.0f} with the noise fixed, which is what $W$ alone varies: {words}."


def ssim_sentence(scores: Mapping) -> str:
    """The mean of the largest SSIM to any slice of the last split, and why it is no measure of quality."""
    split, blurred = last_split(scores), scores["controls"]["blurred"]["best_ssim"]
    ours, theirs = split["best_ssim"]["value"], split["best_ssim_real"]["value"]
    text = f"Generated slices reach **{ours:.3f}**, real slices of other people {theirs:.3f}, and these *blurred* {blurred:.3f}"
    blur = "rewards blur, and " if blurred > theirs else ""
    why = "copies of the test slices would have 1, and one good slice drawn a thousand times does as well as a population"
    return f"{text}. The number {blur}asks for one similar slice each: {why}. The best it should be is what real slices reach."


def copies_sentence(memory: Mapping) -> str:
    if memory["ratio"] is None:
        return "Copies cannot be looked for: that takes the training slices, and slices of at least two people held out."
    signs = ("no sign of copying", "nearer, but by too little or too few people to be sure", "**suspiciously near**")
    far, found = "no copies, but not like real slices either", signs[(memory["p_value"] < 0.05) + (memory["ratio"] < 0.8)]
    if memory["low"] < 0.8 <= memory["ratio"] and memory["p_value"] >= 0.05:
        far = found = "too few people to tell copies from new slices"
    return (
        f"The median distance to the nearest training slice is {memory['ratio']:.2f} ({memory['low']:.2f} to {memory['high']:.2f}) times "
        f"that of held-out people (one-sided test that they lie nearer: p = {memory['p_value']:.2g}): {found if memory['ratio'] < 1.5 else far}."
    )


def control_sentence(control: Mapping | None) -> str:
    """What the memorising generator of `benchmarks/memoriser.py` gave, that is whether these measures light up at all."""
    if not control:
        return "Whether these measures would light up was not tried with a memorising generator here."
    memory, people = control["memorisation"], control["people"]
    return (
        f"That these measures light up is shown by a generator that was taught {control['slices']} slices one by one, by least squares and "
        f"not as a GAN ({control['kimg']:g} kimg at 32 px): its ratio is {memory['ratio']:.2f} (p = {memory['p_value']:.1g}), "
        f"{control['copied']:.0%} of its samples are nearer than the nearest 1 % of held-out slices, the person nearest to them is a "
        f"training person in {people['share']:.0%} ({people['expected']:.0%} by chance), and whom it saw can be told with an AUC of "
        f"{control['attack']['value']:.2f} from its samples and {control['logits']['value']:.2f} from its discriminator."
    )


def failure_rows(cases: Sequence[Mapping]) -> list[dict]:
    """The least realistic slices as rows of a table: what draws each of them again, and how real it is."""
    named = bool(cases) and cases[0]["class"] is not None
    return [{key: case[key] for key in ("seed", *["class"] * named, "realism")} for case in cases]

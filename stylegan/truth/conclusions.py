"""What `groundtruth` found, in words; a null result is told as one."""

from __future__ import annotations

from collections.abc import Mapping


def conclusions(result: Mapping) -> list[str]:
    """What was found, one sentence or two for each question, null results among them."""
    told = [_told_classes(result["classes"])]
    told += [_told_reading(name, found) for name, found in result["readings"].items()]
    told.append(_told_direction(result["direction"], result["readings"]["ventricles"]["unit"]))
    told += [_told_groups(result["transfer"]["group"]), _told_levels(result["transfer"]["level"])]
    return [sentence for sentence in told if sentence]


def _told_classes(found: Mapping) -> str:
    if not found:
        return "Groups: there are no two classes with people on both sides of the split, so none can be checked."
    real, chance = found["real"], found["chance"]
    text = f"Groups ({', '.join(found['classes'])}): on {found['people']} held-out people the classifier is right in {_share(real['slices'])} of slices"
    text += f", chance is {chance:.0%}, with shuffled people {found['shuffled']['value']:.0%}"
    if real["p_value"] > 0.05:
        return f"{text}: it has learnt nothing (p = {real['p_value']:.3f}), so it can say nothing of fakes."
    if "fake" not in found:
        return f"{text}. The generator is not conditional: no fake claims a group."
    fake = found["fake"]
    text += f". It agrees with the class asked for on {_share(fake['slices'])} of fakes (p = {fake['p_value']:.3f})"
    if fake["p_value"] > 0.05:
        return f"{text}: the class asked for does not show."
    apart = fake["slices"]["low"] > real["slices"]["high"], fake["slices"]["high"] < real["slices"]["low"]
    words = {(True, False): "more often than on people: fakes are more typical of their group than people are",
             (False, True): "less often than on people: the class shows in part"}.get(apart, "as often as on people")  # fmt: skip
    return f"{text}, {words}."


def _told_reading(name: str, found: Mapping) -> str:
    held = found["held_out"]
    text = f"{name} ({found['origin']}): read with an error of {held['error']['value']:.3g} {found['unit']}"
    text += f" on held-out people, guessing the mean costs {held['guess_the_mean']:.3g} (r = {held['r']['value']:.2f})"
    if held["r"]["low"] < 0.2:
        return f"{text}: too little to say anything of fakes."
    far, floor = found["distance"], found["floor"]
    words = (
        "as far as two halves of the real people" if far["value"] <= floor["high"] else "**further** than real people differ"
    )
    mean = found["fake"]["mean"]["value"] - found["real"]["mean"]["value"]
    text += f". On fakes the readings lie {far['value']:.2f} deviations apart, real halves {floor['value']:.2f} (up to {floor['high']:.2f}): {words}"
    return f"{text}; their mean is {mean:+.3g}, their spread {found['fake']['sd']['value'] / found['real']['sd']['value']:.2f} times the real."


def _told_direction(found: Mapping, unit: str) -> str:
    works = abs(found["per_step"]) > found["random"]["high"] and found["agreed"] > 0.9
    level = "" if found["level_per_step"] is None else f", the level by {found['level_per_step']:+.2f}"
    text = f"A step along the direction changes the ventricles by {found['per_step']:+.2f} {unit}{level}"
    text += f"; on {found['agreed']:.0%} of fresh seeds they grow; a random step of that length changes them by {found['random']['value']:.2f}"
    return f"{text}: {'there is such a direction' if works else 'no direction was found'}."


def _told_groups(found: Mapping) -> str:
    if not found:
        return ""
    real, fake, both = (_share(found["arms"][name]) for name in ("real", "synthetic", "both"))
    text = f"A classifier that learnt groups from {found['n']} synthetic slices is right in {fake} of held-out real slices, one that learnt "
    text += f"from as many real ones in {real}, from both in {both}; chance is {found['chance']:.0%}"
    return f"{text}: {_difference(found['synthetic_minus_real'], '.0%', better_is_less=False)}."


def _told_levels(found: Mapping) -> str:
    if not found:
        return ""
    real, fake = (found["arms"][name]["value"] for name in ("real", "synthetic"))
    text = f"A reader that learnt levels from {found['n']} synthetic slices errs by {fake:.2f} levels on held-out people, one that learnt "
    text += f"from as many real ones by {real:.2f}; guessing the mean costs {found['guess_the_mean']:.1f}"
    return f"{text}: {_difference(found['synthetic_minus_real'], '.2f', better_is_less=True)}."


def _difference(apart: Mapping, digits: str, *, better_is_less: bool) -> str:
    between = f"{apart['low']:{digits}} to {apart['high']:{digits}}"
    if apart["low"] <= 0 <= apart["high"]:
        return f"no difference is shown ({between})"
    return f"synthetic slices teach {'worse' if (apart['value'] > 0) == better_is_less else 'better'} ({between})"


def _share(entry: Mapping) -> str:
    return f"{entry['value']:.0%} ({entry['low']:.0%} to {entry['high']:.0%})"

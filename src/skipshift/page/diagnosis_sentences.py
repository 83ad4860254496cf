"""Sentences of a diagnosis: is it a mistake, where does the shift enter, what to do, how sure."""

from collections.abc import Mapping

import pandas as pd

from skipshift.page.carry_sentences import carry_sentence
from skipshift.page.profile_sentences import profile_verdict
from skipshift.page.remedy_sentences import Facts, remedies_verdict
from skipshift.page.wording import UNITS
from skipshift.statistics.layer_tests import is_clear

LEVEL = 0.02
"""Level at which the sets differ, and at which what a mistake leaves is clear: chance passes over
that share of true causes, and looks for one in that share of sets that are alike."""

_MADE: Mapping[str, str] = {
    "turn": "the images are turned",
    "flip": "the images are flipped",
    "axis order": "the axes of the images are in another order",
    "channel order": "red and blue are swapped",
    "inversion": "dark and bright are inverted",
    "range": "the values have another range",
    "normalisation": "the images are normalised in another way",
    "spacing": "the pixels have another size",
}


def diagnosis_verdict(
    layers: pd.DataFrame,
    carried: pd.DataFrame | None,
    table: pd.DataFrame,
    facts: Facts,
    cause: str,
    differ: bool,
    estimate: str = "",
) -> str:
    """Say in a few sentences what the shift is, where it is seen, what it costs, what to do."""
    answers = diagnosis_answers(layers, carried, table, facts, cause, differ, estimate)
    return " ".join(text for _, text in answers)


def diagnosis_answers(
    layers: pd.DataFrame,
    carried: pd.DataFrame | None,
    table: pd.DataFrame,
    facts: Facts,
    cause: str,
    differ: bool,
    estimate: str = "",
) -> list[tuple[str, str]]:
    """Question and answer of each part of a diagnosis.

    Parameters
    ----------
    differ
        Whether the search for a cause told the sets apart; else it looked for none.
    estimate
        What the IoU on shifted images without masks is estimated at, in words.
    """
    return [
        ("Is it the scanner or a mistake?", cause_sentence(cause, differ)),
        ("Where does it show?", _where(layers, differ)),
        ("What does it cost?", _cost(carried, facts, estimate)),
        ("What can be done?", remedies_verdict(table, facts)),
        ("How sure is this?", _units(layers, facts)),
    ]


def _where(layers: pd.DataFrame, differ: bool) -> str:
    """Say in which layers the sets differ; and that they do, where no measured layer shows it."""
    told = profile_verdict(layers)
    if not differ or is_clear(layers).any():
        return told
    return (
        f"{told} Yet the sets differ (p < {LEVEL:g} for the images and all layers, with where in "
        f"an image values lie): a layer that ends in a normalisation of each image shows nothing "
        f"of its brightness and contrast. `skipshift profile --layers MODULE` measures the tensor "
        f"before it."
    )


def cause_sentence(cause: str, differ: bool) -> str:
    """Say whether a mistake was found that explains the shift."""
    if cause in _MADE:
        return (
            f"Probably a mistake: {_MADE[cause]}. Beside a reference with the same mistake no "
            f"layer is clear of its noise floor, and at most a quarter of the squared excess is "
            f"left."
        )
    if not differ:
        return (
            "No mistake was looked for: that takes clearer evidence that the sets differ than "
            "these groups of images give."
        )
    return (
        "The sets differ. No mistake that was tried (orientation, order of axes and channels, "
        "inversion, range, normalisation, spacing) explains that: made on the reference, each "
        "leaves a layer clear of its noise floor, or more than a quarter of the squared excess."
    )


def _cost(carried: pd.DataFrame | None, facts: Facts, estimate: str) -> str:
    if carried is not None:
        return carry_sentence(carried)
    if not facts.masks:
        return f"The shifted images have no masks. {estimate or 'The loss is not known.'}"
    inside = (
        f", {facts.in_domain:.3f} on the reference" if facts.in_domain == facts.in_domain else ""
    )
    return (
        f"The IoU on the shifted images is {facts.iou:.3f}{inside}; the best constant prediction "
        f"has {facts.constant:.3f}. Other images may be harder or easier, whatever the scanner."
    )


def _units(layers: pd.DataFrame, facts: Facts) -> str:
    units = "each image its own group" if facts.groups == facts.images else f"{facts.groups} groups"
    return (
        f"Remedies are judged on {facts.images} shifted images, {units}; the profile compares "
        f"{layers['groups'].iloc[0]} groups. {UNITS}"
    )

"""CT values: is an image in Hounsfield units, and which voxels are air, soft tissue and bone.

In Hounsfield units air is near -1000, water 0, bone some hundreds and more.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medgen.case import Image
from medgen.errors import UserError

# Halfway between air (-1000) and water (0), as Hangartner (2007) puts a threshold halfway between two materials; and
# 250, from which synthetic-CT studies commonly count bone.
AIR_BELOW, BONE_FROM = -500.0, 250.0
_AIR_SEEN, _BONE_SEEN = -200.0, 200.0  # what a CT with any air, and with any bone, goes beyond


def tissues(hu: Tensor) -> dict[str, Tensor]:
    """Air (below -500 HU), bone (from 250 HU) and the soft tissue between: boolean tensors of the shape of `hu`."""
    air, bone = hu < AIR_BELOW, hu >= BONE_FROM
    return {"air": air, "soft tissue": ~air & ~bone, "bone": bone}


def check_one_channel(image: Image, role: str) -> None:
    """UserError where an image has several channels."""
    channels = image.data.shape[0]
    if channels != 1:
        name = image.name or role
        raise UserError(f"“{name}” has {channels} channels, but role “{role}” takes one; save one of them by itself.")


def looks_like_ct(values: Tensor) -> bool:
    """Whether values are a CT's with air, as far as they tell."""
    return -5000 < float(values.min()) < -400 and float((values < -400).float().mean()) > 0.02


def check_not_ct(image: Image, role: str) -> None:
    """UserError where an MR is a CT by its values: magnitude images are not negative and normalised ones hardly so."""
    if looks_like_ct(image.data):
        raise UserError(
            f"“{image.name or role}” (role “{role}”) has values like a CT in Hounsfield units (down to "
            f"{float(image.data.min()):g}); "
            "give an MR, and check that MR and CT are not swapped."
        )


def check_ct(image: Image, role: str, lowest: float, highest: float, log: Callable[[str], None]) -> None:
    """UserError where a CT is not in Hounsfield units; the log says what lies outside [lowest, highest] HU.

    A CT must reach below -200 and above 200 HU: one that does not is scaled, unsigned without its offset, without any
    air or bone, or an MR.
    """
    name = f"“{image.name or role}” (role “{role}”)"
    darkest, brightest = float(image.data.min()), float(image.data.max())
    if darkest > _AIR_SEEN or brightest < _BONE_SEEN:
        unsigned = darkest >= 0 and brightest > 1000
        remedy = "subtract its offset (often 1024)" if unsigned else "convert it to Hounsfield units"
        raise UserError(
            f"{name} has values from {darkest:g} to {brightest:g}, which are not Hounsfield units; {remedy}, "
            "and check that MR and CT are not swapped."
        )
    below, above = int((image.data < lowest).sum()), int((image.data > highest).sum())
    if below:
        log(f"{name}: {below} voxels below {lowest:g} HU (down to {darkest:g}) count as {lowest:g} HU.")
    if above:
        log(f"{name}: {above} voxels above {highest:g} HU (up to {brightest:g}) count as {highest:g} HU.")

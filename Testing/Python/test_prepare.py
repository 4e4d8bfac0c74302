"""The shared way in and out: grids, axes, alignment."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import volume

from medgen import io, prepare
from medgen.case import Case, Image, Mask
from medgen.errors import UserError
from medgen.method import Kind, Role

IMAGE = Role("image", Kind.IMAGE, "a volume")
SECOND = Role("second", Kind.IMAGE, "another volume", optional=True)
MASK = Role("mask", Kind.MASK, "labels", optional=True)
ROLES = (IMAGE, SECOND, MASK)


def _oblique(seed: int = 0) -> sitk.Image:
    image = volume((7, 9, 11), seed, (0.9, 1.4, 3.1))
    x, y, z = np.random.default_rng(seed).uniform(-0.7, 0.7, 3)
    transform = sitk.Euler3DTransform((0, 0, 0), float(x), float(y), float(z))
    image.SetDirection(transform.GetMatrix())
    return image


def _reordered(image: sitk.Image, permutation: tuple[int, ...], flips: tuple[bool, ...]) -> sitk.Image:
    return sitk.Flip(sitk.PermuteAxes(image, permutation), flips)


def test_all_48_axis_orders_reach_the_network_as_the_same_volume_and_come_back_in_place(tmp_path: Path) -> None:
    source = _oblique()
    canonical: torch.Tensor | None = None
    for permutation in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            image = _reordered(source, permutation, flips)
            file = tmp_path / "order.nrrd"
            sitk.WriteImage(image, str(file))
            case = prepare.load_case({"image": [str(file)]}, ROLES, lambda message: None)
            seen = case.get("image", Image)
            canonical = seen.data if canonical is None else canonical
            assert torch.equal(seen.data, canonical)
            doubled = Case({"out": Image(seen.data * 2, seen.affine)})
            back = prepare.finish_case(doubled, case)["out"]
            io.write_image(back, tmp_path / "back.nrrd")
            result = sitk.ReadImage(str(tmp_path / "back.nrrd"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(result), 2 * sitk.GetArrayFromImage(image))
            corner = (3, 1, 2)
            np.testing.assert_allclose(
                result.TransformIndexToPhysicalPoint(corner), image.TransformIndexToPhysicalPoint(corner), atol=1e-6
            )


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("seed", range(4))
def test_oblique_anisotropic_volumes_lie_where_they_lay_to_a_thousandth_of_a_millimetre(
    tmp_path: Path, seed: int, ending: str
) -> None:
    source = _oblique(seed)
    sitk.WriteImage(source, str(tmp_path / f"a{ending}"))
    case = prepare.load_case({"image": [str(tmp_path / f"a{ending}")]}, ROLES, lambda message: None)
    io.write_image(prepare.finish_case(Case({"out": case["image"]}), case)["out"], tmp_path / f"b{ending}")
    result = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    for index in itertools.product(*((0, size - 1) for size in source.GetSize())):
        np.testing.assert_allclose(
            result.TransformIndexToPhysicalPoint(index), source.TransformIndexToPhysicalPoint(index), atol=1e-3
        )


def test_affine_is_right_anterior_superior(tmp_path: Path) -> None:
    image = volume()
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    read = io.read_image(tmp_path / "a.nrrd")
    lps = np.array(image.TransformIndexToPhysicalPoint((2, 3, 4)))
    np.testing.assert_allclose(read.affine @ [2, 3, 4, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-5)
    assert float(read.data[0, 2, 3, 4]) == pytest.approx(image[2, 3, 4])


def test_a_mask_on_another_grid_is_resampled_and_the_log_says_so(tmp_path: Path) -> None:
    image = volume((20, 20, 20), spacing=(1, 1, 1))
    mask = sitk.Image((10, 10, 10), sitk.sitkUInt8)
    mask.SetSpacing((2, 2, 2))
    mask.SetOrigin([o + 0.5 for o in image.GetOrigin()])
    mask[4:6, 4:6, 4:6] = 1
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    sitk.WriteImage(mask, str(tmp_path / "m.nrrd"))
    said: list[str] = []
    case = prepare.load_case(
        {"image": [str(tmp_path / "i.nrrd")], "mask": [str(tmp_path / "m.nrrd")]}, ROLES, said.append
    )
    labels = case.get("mask", Mask)
    assert labels.shape == (20, 20, 20) and int(labels.data.sum()) == 64
    centre = labels.affine @ np.append(torch.nonzero(labels.data).double().mean(0).numpy(), 1)
    expected = np.array(mask.TransformContinuousIndexToPhysicalPoint((4.5, 4.5, 4.5))) * (-1, -1, 1)
    np.testing.assert_allclose(centre[:3], expected, atol=1e-5)
    assert any("resampled" in line and "mask" in line for line in said)


def test_volumes_without_overlap_are_refused_by_name(tmp_path: Path) -> None:
    image, far = volume(), volume(seed=1)
    far.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "here.nrrd"))
    sitk.WriteImage(far, str(tmp_path / "far.nrrd"))
    files = {"image": [str(tmp_path / "here.nrrd")], "second": [str(tmp_path / "far.nrrd")]}
    with pytest.raises(UserError, match="“far” .*“here” do not overlap in space"):
        prepare.load_case(files, ROLES, lambda message: None)


def test_a_role_marked_same_grid_refuses_another_grid(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.nrrd"))
    sitk.WriteImage(volume((6, 5, 4)), str(tmp_path / "b.nrrd"))
    roles = (IMAGE, Role("second", Kind.IMAGE, "pair", same_grid=True))
    files = {"image": [str(tmp_path / "a.nrrd")], "second": [str(tmp_path / "b.nrrd")]}
    with pytest.raises(UserError, match="does not lie on the grid"):
        prepare.load_case(files, roles, lambda message: None)


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda array: np.where(array > 120, np.nan, array), "not numbers"),
        (lambda array: np.full_like(array, 7), "constant"),
    ],
)
def test_nan_and_constant_images_are_refused_by_name(tmp_path: Path, spoil: object, words: str, ending: str) -> None:
    image = volume()
    bad = sitk.GetImageFromArray(spoil(sitk.GetArrayFromImage(image)))  # type: ignore[operator]
    bad.CopyInformation(image)
    file = tmp_path / f"bad{ending}"
    sitk.WriteImage(bad, str(file))
    with pytest.raises(UserError, match=f"bad{ending} .*{words}"):
        prepare.load_case({"image": [str(file)]}, ROLES, lambda message: None)


def test_an_unknown_role_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no role “scan”.*image, second, mask"):
        prepare.load_case({"scan": ["x.nrrd"]}, ROLES, lambda message: None)


def test_the_monai_form_of_an_image_has_its_values_and_its_place() -> None:
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    image = Image(torch.arange(24.0).reshape(1, 2, 3, 4), affine)
    tensor = image.as_metatensor()
    assert type(tensor).__name__ == "MetaTensor" and torch.equal(tensor.as_tensor(), image.data)
    np.testing.assert_array_equal(tensor.affine.numpy(), affine)

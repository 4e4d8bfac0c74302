"""From a few drawn slices to a whole volume, on real images: multiplanar-unet beside two trivial baselines.

    python Testing/Claims/flagship.py OUT [--data DIR] [--cases lung,aorta,cord,oblique] [--tier demo] [--seed 20261120]

For each case the reference mask is kept on a few slices, chosen by the seed; `medgen train` and `medgen apply` run as
a user would run them, and Dice is measured off those slices. Baselines see the same slices:

- threshold + component: the intensity window, and the connected pieces that touch what is drawn, that fit best on the
  drawn slices (windows from a grid of percentiles of the drawn intensities);
- contour interpolation: Slicer's own class (vtkITKMorphologicalContourInterpolator, behind Fill between slices) where
  slicer-core is installed and the slices are parallel to an axis, and ours; the better of the two counts.

Writes results.json, table.md and a picture for each case into OUT.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from medgen import io, markups  # noqa: E402
from medgen.case import Image, Mask, Plane  # noqa: E402
from medgen.contours import AnnotatedPlane, annotated_voxels, interpolate_contours  # noqa: E402
from medgen.geometry import plane_frame, plane_in_grid, to_canonical  # noqa: E402
from medgen.method import Kind  # noqa: E402


@dataclass(frozen=True)
class Trial:
    """One volume: files under the data folder, label value, number of slices, whether they are oblique."""

    image: str
    mask: str
    slices: int
    value: int = 1
    axis: int = 2
    oblique: bool = False


TRIALS = {
    "lung": Trial("ct_lung_elastix/ct_lung.nii.gz", "ct_lung_elastix/ct_lung_mask.nii.gz", 6),
    "aorta": Trial(
        "ct_abdomen_totalseg/cta_thorax_1.5mm.nii.gz", "ct_abdomen_totalseg/cta_thorax_1.5mm_aorta.nii.gz", 8
    ),
    "cord": Trial("mr_spine_sct/t2.nii.gz", "mr_spine_sct/t2_seg-manual.nii.gz", 6),
    "oblique": Trial(
        "ct_abdomen_totalseg/cta_thorax_1.5mm.nii.gz",
        "ct_abdomen_totalseg/cta_thorax_1.5mm_aorta.nii.gz",
        8,
        oblique=True,
    ),
}


def load(trial: Trial, data: Path) -> tuple[Image, Mask]:
    """Image and binary reference mask on canonical axes."""
    image, mask = io.read_image(data / trial.image), io.read_mask(data / trial.mask)
    moved, affine, _ = to_canonical(image.data, image.affine)
    labels, _, _ = to_canonical((mask.data == trial.value).to(torch.int16), mask.affine)
    return Image(moved, affine, name="image"), Mask(labels, affine, name="mask")


def choose_planes(trial: Trial, mask: Mask, seed: int) -> list[Plane]:
    """RAS planes: the structure's extent along the axis in equal parts, a random slice in each; oblique ones pass
    through a random voxel of the structure there and are tilted by 15 to 45 degrees in a random direction."""
    generator = np.random.default_rng(seed)
    drawn = mask.data.numpy() > 0
    occupied = np.flatnonzero(drawn.any(axis=tuple(other for other in range(3) if other != trial.axis)))
    edges = np.linspace(0, len(occupied), trial.slices + 1)
    planes = []
    for low, high in itertools.pairwise(edges):
        index = int(occupied[min(int(generator.uniform(low, high)), len(occupied) - 1)])
        voxel = np.zeros(3)
        voxel[trial.axis] = index
        normal = np.eye(3)[trial.axis]
        if trial.oblique:
            inside = np.argwhere(np.take(drawn, index, axis=trial.axis))
            place = inside[generator.integers(len(inside))]
            voxel[[other for other in range(3) if other != trial.axis]] = place
            tilt, turn = np.deg2rad(generator.uniform(15, 45)), generator.uniform(0, 2 * np.pi)
            sideways = np.roll([np.cos(turn), np.sin(turn), 0.0], trial.axis + 1)
            normal = np.cos(tilt) * normal + np.sin(tilt) * sideways
        rotation = mask.affine[:3, :3] / mask.spacing
        frame = plane_frame(mask.affine[:3, :3] @ voxel + mask.affine[:3, 3], rotation @ normal)
        planes.append(Plane(frame.origin, np.stack((frame.u, frame.v, frame.normal), axis=1), f"slice {len(planes)}"))
    return planes


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_], where: NDArray[np.bool_]) -> float:
    """Dice coefficient on some voxels."""
    found, truth = found[where], truth[where]
    return 2 * float((found & truth).sum()) / max(1.0, float(found.sum() + truth.sum()))


def threshold_baseline(
    image: NDArray[np.float32], drawn: NDArray[np.bool_], on: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Intensity window and pieces touching the drawing, the window chosen on the drawn slices."""
    values = image[drawn]
    lows = np.percentile(values, (0, 0.5, 1, 2, 5, 10, 20))
    highs = np.percentile(values, (80, 90, 95, 98, 99, 99.5, 100))
    best, chosen = -1.0, np.zeros_like(drawn)
    for low in lows:
        for high in highs:
            window = (image >= low) & (image <= high)
            pieces, _ = ndimage.label(window)
            touched = np.unique(pieces[drawn & window])
            result = np.isin(pieces, touched[touched > 0])
            score = dice(result, drawn, on)
            if score > best:
                best, chosen = score, result
    return chosen


def slicer_baseline(drawn: NDArray[np.bool_], folder: Path) -> NDArray[np.bool_] | None:
    """Slicer's Fill between slices, in a process of its own; None where slicer-core is not installed."""
    source, target = folder / "drawn.npy", folder / "filled.npy"
    np.save(source, drawn.astype(np.int16))
    program = (
        "import sys, numpy as np, vtk, slicer\n"
        "from vtk.util import numpy_support as n\n"
        "a = np.load(sys.argv[1]); image = vtk.vtkImageData(); image.SetDimensions(*a.shape)\n"
        "image.GetPointData().SetScalars(n.numpy_to_vtk(a.ravel(order='F').copy(), True, vtk.VTK_SHORT))\n"
        "f = slicer.vtkITKMorphologicalContourInterpolator(); f.SetInputData(image); f.Update()\n"
        "out = n.vtk_to_numpy(f.GetOutput().GetPointData().GetScalars()).reshape(a.shape, order='F')\n"
        "np.save(sys.argv[2], out > 0)\n"
        "sys.stdout.flush(); import os; os._exit(0)\n"  # VTK sometimes crashes while it is being taken down
    )
    done = subprocess.run([sys.executable, "-c", program, str(source), str(target)], capture_output=True)
    source.unlink()
    if done.returncode != 0:
        return None
    result = np.load(target)
    target.unlink()
    return np.asarray(result)


def medgen(*arguments: str) -> tuple[float, float, str]:
    """`python -m medgen …`: its wall and processor seconds and output; RuntimeError with it when it fails."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "medgen", *arguments, "--progress", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1000:]} {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, spent, done.stdout


def estimated(output: str) -> float:
    """The seconds that `medgen check` says, from its events."""
    events = [json.loads(line) for line in output.splitlines()]
    return float(next(event["seconds"] for event in events if event["event"] == "estimate"))


def run_trial(name: str, trial: Trial, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: draw, train, apply, measure, picture."""
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    image, truth = load(trial, arguments.data)
    planes = choose_planes(trial, truth, arguments.seed)
    in_grid = [plane_in_grid(plane.origin, plane.axes[:, 2], truth.affine) for plane in planes]
    grid_planes = [AnnotatedPlane(tuple(o.tolist()), tuple(n.tolist())) for o, n in in_grid]
    on = annotated_voxels(truth.shape, truth.spacing, grid_planes)
    whole = truth.data.numpy() > 0
    drawn = whole & on
    io.write_image(image, folder / "image.nii.gz")
    io.write_mask(Mask(torch.from_numpy(drawn.astype(np.int16)), truth.affine, name=name), folder / "drawn.nii.gz")
    markups.write(planes, Kind.PLANE, folder / "planes.mrk.json")
    given = ["image.nii.gz", "drawn.nii.gz", *(["planes.mrk.json"] if trial.oblique else [])]
    columns = ["image", "mask", *(["planes"] if trial.oblique else [])]
    (folder / "cohort.csv").write_text(",".join(columns) + "\n" + ",".join(given) + "\n")
    options = ["--tier", arguments.tier, "--overwrite", "--device", "cpu"]
    settings = [part for setting in arguments.set for part in ("--set", setting)]
    inputs = [part for role, file in zip(columns, given, strict=True) for part in ("-i", f"{role}={folder / file}")]
    check = medgen("check", "multiplanar-unet", str(folder / "cohort.csv"), "--tier", arguments.tier, *settings)
    train = medgen(
        "train", "multiplanar-unet", str(folder / "cohort.csv"), "-o", str(folder / "model"), *options, *settings
    )
    apply = medgen("apply", str(folder / "model"), *inputs, "-o", str(folder / "mask.nii.gz"), *options)
    found = io.read_mask(folder / "mask.nii.gz").data.numpy() > 0
    off = ~on
    ours_filled = interpolate_contours(torch.from_numpy(drawn.astype(np.int16)), grid_planes, truth.spacing)
    interpolations = {"ours": dice(ours_filled.numpy() > 0, whole, off)}
    filled = None if trial.oblique else slicer_baseline(drawn, folder)
    if filled is not None:
        interpolations["Slicer"] = dice(filled, whole, off)
    window = threshold_baseline(image.data[0].numpy(), drawn, on)
    record = json.loads((folder / "model" / "medgen.json").read_text())
    picture(image, whole, found, ours_filled.numpy() > 0, on, folder.with_suffix(".png"))
    return {
        "case": name,
        "slices": len(planes),
        "oblique": trial.oblique,
        "annotated_voxels": float(on.mean()),
        "threshold": dice(window, whole, off),
        "interpolation": max(interpolations.values()),
        "interpolations": interpolations,
        "ours": dice(found, whole, off),
        "train_seconds": train[0],
        "apply_seconds": apply[0],
        "processor_seconds": train[1] + apply[1],
        "estimated_seconds": estimated(check[2]),
        "facts": record["facts"],
        "weight": record["settings"]["weight"],
    }


def picture(
    image: Image,
    whole: NDArray[np.bool_],
    found: NDArray[np.bool_],
    filled: NDArray[np.bool_],
    on: NDArray[np.bool_],
    path: Path,
) -> None:
    """Three views through the structure and the worst axial slices: truth green, ours red, interpolation blue."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    volume = image.data[0].numpy()
    low, high = np.percentile(volume[ndimage.binary_dilation(whole, iterations=8)], (1, 99))
    wrong = ((found != whole) & ~on).sum(axis=(0, 1))
    centre = [int(np.median(where)) for where in np.nonzero(whole)]
    cuts = [(0, centre[0]), (1, centre[1]), (2, centre[2]), *((2, int(k)) for k in np.argsort(wrong)[::-1][:8:3])]
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 9))
    for panel, (axis, index) in zip(panels.ravel(), cuts, strict=True):
        height, width = (image.spacing[other] for other in (2 if axis != 2 else 1, 0 if axis != 0 else 1))
        panel.imshow(
            np.take(volume, index, axis).T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=height / width
        )
        for mask, colour in ((whole, "lime"), (filled, "dodgerblue"), (found, "red")):
            cut = np.take(mask, index, axis).T
            if cut.any():
                panel.contour(cut, levels=[0.5], colors=colour, linewidths=0.8)
        panel.contour(np.take(on, index, axis).T, levels=[0.5], colors="yellow", linewidths=0.4)
        panel.set_title(f"{('sagittal', 'coronal', 'axial')[axis]} {index}")
        panel.axis("off")
    figure.suptitle("truth green, multi-planar U-Net red, interpolation blue, annotated slices yellow")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Run the cases named and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cases", default=",".join(TRIALS))
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a training setting")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    rows = []
    columns = "case, slices, threshold + component, contour interpolation, multi-planar U-Net, train s, apply s, "
    columns += "cpu s, said before s"
    lines = ["| " + " | ".join(columns.split(", ")) + " |", "|---" * 9 + "|"]
    print("\n".join(lines), flush=True)
    for name in arguments.cases.split(","):
        row = run_trial(name, TRIALS[name], arguments)
        rows.append(row)
        lines.append(
            f"| {name} | {row['slices']}{' oblique' if row['oblique'] else ''} | {row['threshold']:.3f} | "
            f"{row['interpolation']:.3f} | {row['ours']:.3f} | "
            f"{row['train_seconds']:.0f} | {row['apply_seconds']:.0f} | {row['processor_seconds']:.0f} | "
            f"{row['estimated_seconds']:.0f} |"
        )
        print(lines[-1], flush=True)
        report = {
            "tier": arguments.tier,
            "seed": arguments.seed,
            "set": arguments.set,
            "threads": torch.get_num_threads(),
        }
        (arguments.out / "results.json").write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n")
        (arguments.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

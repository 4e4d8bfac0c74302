"""Landmarks from one example on real MR: the 32 anatomical fiducials (AFIDs) of one brain template in the other.

    python Testing/Claims/afids.py OUT [--data DIR] [--tier demo] [--poses 10] [--seeds 2026112100 …] [--set KEY=VALUE]

The reference is the symmetric template with its fiducials; the target is the asymmetric one, posed: turned by 30 to
180 degrees about a random axis through its centre, shifted by 40 to 60 mm, warped elastically (displacements of 4 mm
standard deviation at knots 40 mm apart, cubic splines between), and sampled at 2 mm on a grid of 160^3 that stays where
it is. The target's fiducials are carried along exactly (the warp is inverted to 1e-9 mm), and are seen by nobody before
the errors are measured. The structure is the reference's white matter and what is as bright: above Otsu's threshold of
what is above Otsu's threshold. The validation case is the reference itself under a pose of another seed.

The method stands beside plain registration (the same multi-resolution rigid registration and demons) that starts from
where the volumes lie, and from their centres of intensity. An error is in mm and in target voxels (mm / 2). A point
that was not found counts as infinitely far. A pair of left and right fiducials is swapped when each of its points was
found nearer to the other's place; a pose is swapped when more than half of its pairs are. A pose has failed when its
median error is above 10 voxels. Plain registration gives its points however little the two volumes are alike in the
end (`least_similarity` = -1): its errors are all there.

Seeds 2026112100 to 2026112109 report. Whatever was chosen (settings, structure, patch) was chosen on other seeds.
Writes rows.csv (a line a pose and arm), points.csv (a line a point), summary.json and a picture of the first pose.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_otsu

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from medgen import io  # noqa: E402
from medgen.bundle import Model  # noqa: E402
from medgen.case import Case, Image, Mask, Points, Segment  # noqa: E402
from medgen.geometry import sample_linear, sample_nearest, to_canonical  # noqa: E402
from medgen.jobs import Run  # noqa: E402
from medgen.landmarks.one_shot_landmarks import OneShotLandmarks  # noqa: E402
from medgen.metrics.points import distances, mirrored_pairs, swapped_pairs  # noqa: E402

FOLDER = "mr_template_afids_landmarks"
REFERENCE = ("mni152_2009a_sym_t1_1mm.nii.gz", "mni152_2009_sym_afids.fcsv")
TARGET = ("mni152_2009_asym_t1_1mm.nii.gz", "mni152_2009_asym_afids.fcsv")
REPORTED = range(2026112100, 2026112110)
VALIDATION_SEED = 7
ARMS = ("structure", "rigid", "centre-of-mass")
SPACING, SIDE = 2.0, 160
PLAIN = {"least_similarity": -1.0}
FAILED = 10.0  # voxels

Vectors = NDArray[np.float64]


# --- the two templates


def read_template(files: tuple[str, str], data: Path) -> Case:
    """Image on canonical axes, and fiducials with their full names."""
    image = io.read_image(data / FOLDER / files[0])
    moved, affine, _ = to_canonical(image.data.float(), image.affine)
    with (data / FOLDER / files[1]).open(encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row and not row[0].startswith("#")]
    positions = np.array([[float(cell) for cell in row[1:4]] for row in rows])
    points = Points(positions, [row[12] for row in rows], name="fiducials")
    return Case({"image": Image(moved, affine, name=files[0].split(".")[0]), "landmarks": points})


def white_matter(image: Image) -> Mask:
    """Brighter than Otsu's threshold among what is brighter than Otsu's threshold; the largest piece."""
    volume = image.data[0].numpy()
    brain = volume > threshold_otsu(volume)
    pieces, _ = ndimage.label(volume > threshold_otsu(volume[brain]))
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return Mask(
        torch.from_numpy(pieces == largest).to(torch.int16), image.affine, [Segment(1, "white matter")], "white"
    )


# --- poses


@dataclass
class Pose:
    """Where a template goes: y = R (z - centre) + centre + shift with z + d(z) = x, for x in the template's RAS mm.

    knots: displacements (3, n, n, n) in mm at places 40 mm apart, the first at `first`.
    """

    rotation: Vectors
    centre: Vectors
    shift: Vectors
    knots: Vectors
    first: Vectors
    angle: float
    distance = 40.0

    @classmethod
    def of(cls, seed: int, centre: Vectors, elastic: float = 4.0) -> Pose:
        """The pose of a seed about the template's centre."""
        generator = np.random.default_rng(seed)
        axis, direction = generator.standard_normal((2, 3))
        angle = float(generator.uniform(30, 180))
        turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(angle)).as_matrix()
        shift = direction / np.linalg.norm(direction) * generator.uniform(40, 60)
        knots = generator.normal(0, elastic, (3, 12, 12, 12))
        return cls(turn, centre, shift, knots, centre - 5.5 * cls.distance, angle)

    def _displacement(self, places: Vectors) -> Vectors:
        """d at (..., 3) mm."""
        index = np.moveaxis((places - self.first) / self.distance, -1, 0)
        return np.stack([ndimage.map_coordinates(k, index, order=3, mode="nearest") for k in self.knots], axis=-1)

    def to_template(self, places: Vectors) -> Vectors:
        """(..., 3) RAS mm of the posed volume -> of the template."""
        straight = (places - self.centre - self.shift) @ self.rotation + self.centre
        return straight + self._displacement(straight)

    def carry(self, points: Vectors) -> Vectors:
        """(N, 3) RAS mm of the template -> of the posed volume, by fixed-point iteration; RuntimeError without end."""
        straight = points.copy()
        for _ in range(500):
            before, straight = straight, points - self._displacement(straight)
            if np.abs(straight - before).max() < 1e-10:
                return (straight - self.centre) @ self.rotation.T + self.centre + self.shift
        raise RuntimeError("the elastic warp of this seed cannot be inverted")


def posed(template: Case, seed: int) -> tuple[Case, Pose]:
    """The template's image, fiducials and mask under the pose of a seed, at 2 mm."""
    image = template.get("image", Image)
    bright = torch.nonzero(image.data[0] > 0.3 * image.data.max()).double().numpy()
    centre = bright.mean(axis=0) @ image.affine[:3, :3].T + image.affine[:3, 3]
    pose = Pose.of(seed, centre)
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = centre - (SIDE - 1) / 2 * SPACING
    smooth = torch.from_numpy(ndimage.gaussian_filter(image.data[0].numpy(), 0.5 * np.sqrt(SPACING**2 - 1)))
    volume, labels = torch.empty(1, SIDE, SIDE, SIDE), torch.empty(SIDE, SIDE, SIDE, dtype=torch.int16)
    line = np.arange(SIDE)
    for i in range(SIDE):
        index = np.stack(np.meshgrid([i], line, line, indexing="ij"), axis=-1)[0].astype(np.float64)
        there = pose.to_template(index @ affine[:3, :3].T + affine[:3, 3])
        source = (there - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
        volume[:, i] = sample_linear(smooth[None], torch.from_numpy(source).float())
        if "mask" in template:
            labels[i] = sample_nearest(template["mask"].data[None], torch.from_numpy(source))[0]
    points = template.get("landmarks", Points)
    carried = Points(pose.carry(points.positions), points.names, name="truth")
    values: dict[str, Any] = {"image": Image(volume, affine, name=f"pose {seed}"), "landmarks": carried}
    if "mask" in template:
        values["mask"] = Mask(labels, affine, template["mask"].segments, "mask")
    return Case(values), pose


# --- running and measuring


def train(data: Path, tier: str, settings: dict[str, Any], folder: Path, log: Callable[[str], None]) -> Model:
    """A model from the reference template."""
    reference = read_template(REFERENCE, data)
    reference.values["mask"] = white_matter(reference.get("image", Image))
    validation, _ = posed(reference, VALIDATION_SEED)
    patch = {} if tier == "smoke" else {"patch": 100}  # holds the brain at 2.1 mm
    config = OneShotLandmarks().operation("train").configure(tier, {"vicinity": 15.0, **patch, **settings})
    run = Run(folder, device="cpu", emit=lambda event: log(str(event)) if event["event"] != "progress" else None)
    return OneShotLandmarks().fit(reference, validation, config, run)  # type: ignore[arg-type]


def find(
    model: Model, case: Case, tier: str, settings: dict[str, Any], folder: Path
) -> tuple[Points, float, list[str]]:
    """The fiducials found in a posed volume, in how many seconds, and what the method said."""
    said: list[str] = []
    run = Run(
        folder, device="cpu", emit=lambda event: said.append(event["message"]) if event["event"] == "log" else None
    )
    config = OneShotLandmarks().operation("apply").configure(tier, settings)
    began = time.monotonic()
    result = OneShotLandmarks().apply(Case({"image": case["image"]}), config, run, model)  # type: ignore[arg-type]
    return result["landmarks"], time.monotonic() - began, said


def row_of(seed: int, arm: str, pose: Pose, found: Points, truth: Points, seconds: float) -> dict[str, Any]:
    """One line of rows.csv."""
    apart, names = distances(found, truth)
    far = np.where(np.isnan(apart), np.inf, apart)
    swapped, pairs = swapped_pairs(found, truth)
    return {
        "seed": seed,
        "arm": arm,
        "angle": round(pose.angle, 1),
        "shift": round(float(np.linalg.norm(pose.shift)), 1),
        "median mm": round(float(np.median(far)), 3),
        "mean mm": round(float(np.mean(far)), 3),
        "max mm": round(float(np.max(far)), 3),
        "not found": int(np.isnan(apart).sum()),
        "failed": bool(np.median(far) / SPACING > FAILED),
        "swapped pairs": swapped,
        "pairs": len(mirrored_pairs(names)),
        "swapped": bool(swapped * 2 > max(1, pairs)),
        "seconds": round(seconds, 1),
    }


def summary(rows: list[dict[str, Any]], apart: dict[str, list[float]]) -> dict[str, Any]:
    """Each arm over all points and poses."""
    result = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        voxels = np.array(apart[arm]) / SPACING
        result[arm] = {
            "poses": len(mine),
            "points": len(voxels),
            "median voxels": round(float(np.median(voxels)), 3),
            "median mm": round(float(np.median(voxels)) * SPACING, 3),
            "mean voxels of found": round(float(voxels[np.isfinite(voxels)].mean()), 3)
            if np.isfinite(voxels).any()
            else None,
            "90th percentile voxels": round(float(np.percentile(voxels, 90, method="higher")), 3),
            "points not found": int(np.isinf(voxels).sum()),
            "poses failed": sum(row["failed"] for row in mine),
            "poses swapped": sum(row["swapped"] for row in mine),
            "pairs swapped": sum(row["swapped pairs"] for row in mine),
            "seconds a pose": round(float(np.mean([row["seconds"] for row in mine])), 1),
        }
    return result


def picture(case: Case, truth: Points, found: Points, path: Path) -> None:
    """Middle slices of a target through the structure: found points (x) and true ones (+), those within 8 mm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    image = case.get("image", Image)
    back = np.linalg.inv(image.affine)
    there = np.isfinite(found.positions).all(axis=1)
    places = [(p @ back[:3, :3].T + back[:3, 3]) for p in (truth.positions, found.positions)]
    middle = np.rint(np.median(places[0], axis=0)).astype(int)
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5.4))
    for axis, panel in enumerate(axes):
        rows, columns = [other for other in range(3) if other != axis]
        plane = np.take(image.data[0].numpy(), middle[axis], axis=axis)
        panel.imshow(plane.T, cmap="gray", origin="lower", interpolation="bilinear")
        near = np.abs(places[0][:, axis] - middle[axis]) * image.spacing[axis] <= 8
        panel.plot(*places[0][near][:, [rows, columns]].T, "+", color="lime", ms=10, label="true")
        panel.plot(*places[1][near & there][:, [rows, columns]].T, "x", color="red", ms=7, label="found")
        panel.set_title(f"{image.name}, across axis {axis}")
        panel.axis("off")
    axes[0].legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Train, find, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--poses", type=int, default=len(REPORTED))
    parser.add_argument("--seeds", type=int, nargs="*", default=None)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--set", nargs="*", default=[], help="settings of training, KEY=VALUE")
    parser.add_argument("--apply-set", nargs="*", default=[], help="settings of apply, KEY=VALUE")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    settings = {key: json.loads(value) for key, value in (text.split("=", 1) for text in chosen.set)}
    applied = {key: json.loads(value) for key, value in (text.split("=", 1) for text in chosen.apply_set)}
    seeds = chosen.seeds or list(REPORTED)[: chosen.poses]
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        model = train(chosen.data, chosen.tier, settings, Path(scratch), lambda text: print(text, file=sys.stderr))
        trained = time.monotonic() - began
        template = read_template(TARGET, chosen.data)
        rows: list[dict[str, Any]] = []
        points: list[dict[str, Any]] = []
        apart: dict[str, list[float]] = {arm: [] for arm in chosen.arms}
        for seed in seeds:
            case, pose = posed(template, seed)
            truth = case.get("landmarks", Points)
            for arm in chosen.arms:
                how = {**applied, "start": arm} if arm == "structure" else {**applied, **PLAIN, "start": arm}
                found, seconds, said = find(model, case, chosen.tier, how, Path(scratch))
                rows.append(row_of(seed, arm, pose, found, truth, seconds))
                far, names = distances(found, truth)
                apart[arm] += np.where(np.isnan(far), np.inf, far).tolist()
                points += [
                    {"seed": seed, "arm": arm, "point": n, "mm": round(float(f), 3)}
                    for n, f in zip(names, far, strict=True)
                ]
                print(rows[-1], "; ".join(said), file=sys.stderr, flush=True)
                if arm == "structure" and seed == seeds[0]:
                    picture(case, truth, found, chosen.out / "pose.png")
    for name, table in (("rows.csv", rows), ("points.csv", points)):
        with (chosen.out / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    result = {
        "tier": chosen.tier,
        "settings": {**settings, **applied},
        "seeds": seeds,
        "spacing": SPACING,
        "training": {**model.facts, "seconds with preparation": round(trained, 1)},
        "arms": summary(rows, apart),
    }
    (chosen.out / "summary.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["arms"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

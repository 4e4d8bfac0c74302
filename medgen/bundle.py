"""A trained model on disk: a folder in MONAI bundle layout, with safetensors for weights and JSON for the rest.

`medgen.json` is what we read; `configs/` is written for others. Loading runs no code from the folder: names are
checked, weights are plain tensors, every file's digest is compared, and links are refused.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medgen import __version__, catalog, record, trained_on
from medgen.errors import UserError
from medgen.whole import written_whole

Known = TypeVar("Known", bound=BaseModel)
Module = TypeVar("Module", bound=nn.Module)


class _Uninitialised(TorchFunctionMode):
    """Leaves out random initial values: on the meta device they do nothing, after an import that takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@dataclass
class Model:
    """Named sets of tensors (networks, EMA weights, codebooks, mean shapes) and what it takes to use them.

    settings: what `apply` needs beyond the training's config. facts: what the card says: trained on how many cases of
    what, how well (measure -> value), in how many seconds. inference: a MONAI inference config for others, or None.
    trained_on: what `medgen.trained_on` has noted of the images it learned from; the engine fills it.
    """

    slug: str
    networks: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    patient_data: bool = False
    inference: dict[str, Any] | None = None
    trained_on: dict[str, dict[str, Any]] = field(default_factory=dict)
    operation: str = "train"
    name: str = ""
    digest: str = ""
    created: str = ""
    version: str = __version__

    def trained(self, config: type[Known]) -> Known:
        """The training's config, every value in its range; UserError where a stranger's bundle says otherwise."""
        return self._checked(config, self.config)

    def noted(self, settings: type[Known]) -> Known:
        """The settings as the method declares them; UserError as `trained`."""
        return self._checked(settings, self.settings)

    def _checked(self, form: type[Known], values: dict[str, Any]) -> Known:
        try:
            return form(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])[:60]
        except TypeError:
            where = "its settings"
        raise UserError(f"Model “{self.name}” has a record that cannot be used (“{where}”); train or fetch it again.")

    def network(self, name: str, build: Callable[[], Module]) -> Module:
        """The network that `build` makes, with the weights of that name in the bundle.

        Names, shapes and kinds of all tensors are compared before the network takes memory, so that a config which
        declares wide layers costs nothing; UserError where they do not fit.
        """
        tensors = self.networks.get(name)
        if tensors is None:
            raise UserError(f"Model “{self.name}” lacks the network “{name}”; train or fetch it again.")
        with torch.device("meta"), _Uninitialised():
            wanted = build().state_dict()
        fits = wanted.keys() == tensors.keys() and all(
            value.shape == tensors[key].shape and value.is_floating_point() == tensors[key].is_floating_point()
            for key, value in wanted.items()
        )
        if not fits:
            raise UserError(
                f"Model “{self.name}” has weights that do not fit its network “{name}”; train or fetch it again."
            )
        network = build()
        network.load_state_dict(tensors)
        return network


def save(model: Model, folder: Path) -> str:
    """Write the bundle, whole or not at all; the model's digest."""
    from safetensors.torch import save_file

    with written_whole(folder) as partial:
        (partial / "models").mkdir(parents=True)
        (partial / "configs").mkdir()
        (partial / "docs").mkdir()
        files: dict[str, dict[str, Any]] = {}
        for name, tensors in model.networks.items():
            if not record.NAME.fullmatch(name):
                raise ValueError(f"network name {name!r}")
            file = partial / "models" / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, file)
            files[name] = {"file": f"models/{file.name}", "sha256": record.sha256(file), "bytes": file.stat().st_size}
        model.created = model.created or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        model.name = model.name or folder.name
        written = _record(model, files)
        model.digest = written["digest"] = record.digest(written)
        _write_json(partial / "medgen.json", written)
        _write_json(partial / "configs" / "metadata.json", _metadata(model))
        if model.inference is not None:
            _write_json(partial / "configs" / "inference.json", model.inference)
        (partial / "docs" / "README.md").write_text(card(written), encoding="utf-8")
    return model.digest


def _record(model: Model, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": record.FORMAT,
        "slug": model.slug,
        "operation": model.operation,
        "name": model.name,
        "medgen": model.version,
        "created": model.created,
        "config": model.config,
        "settings": model.settings,
        "facts": model.facts,
        "trained_on": model.trained_on,
        "patient_data": model.patient_data,
        "networks": files,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _metadata(model: Model) -> dict[str, Any]:
    """The keys MONAI's metadata schema (meta_schema_20240725) requires; data formats from the catalog's roles."""
    import numpy

    entry = catalog.entry(model.slug)
    operation = next((o for o in entry["operations"] if o["needs_model"]), entry["operations"][0])

    def formats(roles: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            role["name"]: {
                "type": "image" if role["kind"] in ("Image", "Mask") else "tuples",
                "format": {"CT": "hounsfield", "MR": "magnitude"}.get(role["modality"] or "", "segmentation")
                if role["kind"] in ("Image", "Mask")
                else "points",
                "modality": role["modality"] or "n/a",
                "num_channels": 1,
                "spatial_shape": ["*"] * (2 if role["dims"] == "2D" else 3),
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": {"0": role["name"]},
            }
            for role in roles
            if role["kind"] != "Model"
        }

    return {
        "schema": "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"trained with MedGen {model.version}"},
        "monai_version": _installed("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": numpy.__version__,
        "required_packages_version": {},
        "name": model.name,
        "task": entry["title"],
        "description": entry["sentence"] + " Research use only.",
        "authors": "the person who trained it",
        "copyright": "the person who trained it",
        "intended_use": "Research. Not for clinical use.",
        "references": [entry["citation"]],
        "network_data_format": {"inputs": formats(operation["inputs"]), "outputs": formats(operation["outputs"])},
    }


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def card(found: dict[str, Any]) -> str:
    """The model card in Markdown: what it is, trained on what, how well, what it carries."""
    entry = catalog.entry(found["slug"])
    facts = found["facts"]
    lines = [f"# {found['name']}", "", entry["sentence"], "", "**Research use only. Not for clinical use.**", ""]
    lines += [f"- Method: {found['slug']} ({entry['citation']}, {entry['url']})"]
    lines += [f"- Trained: {found['created']} with MedGen {found['medgen']}"]
    lines += [f"- {key[:1].upper()}{key[1:].replace('_', ' ')}: {_plain(value)}" for key, value in facts.items()]
    lines += [f"- Seen in training: {words}" for words in trained_on.sentences(found.get("trained_on") or {})]
    if found["patient_data"]:
        lines += ["- **Contains patient data** (a reference image travels inside): do not pass it on without consent."]
    else:
        lines += ["- Contains no images of its training data; weights may still reveal traces of it."]
    lines += ["- Licence of the weights: as the person who trained them decides.", "", "## Settings", ""]
    lines += [f"- {key} = {_plain(value)}" for key, value in found["config"].items()]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- reading ------------------------------------------------------------------------------------------------------


def load(folder: Path, expect: str | None = None) -> Model:
    """The model in a bundle folder, its digests verified. `expect`: the slug it must have.

    Raises UserError for a damaged, foreign or altered bundle, and for the wrong method's model.
    """
    from safetensors.torch import load as tensors_of

    found = record.expected(folder, expect)
    networks: dict[str, dict[str, Tensor]] = {}
    for name, entry in found["networks"].items():
        content = record.weights(folder, entry)
        try:
            networks[name] = tensors_of(content)
        except Exception:
            file = folder / entry["file"]
            raise UserError(f"{file} is not a readable safetensors file; import or train the model again.") from None
    return Model(
        slug=found["slug"],
        networks=networks,
        config=found["config"],
        settings=found["settings"],
        facts=found["facts"],
        patient_data=bool(found["patient_data"]),
        trained_on=found.get("trained_on") or {},
        operation=found["operation"],
        name=found["name"],
        digest=found["digest"],
        created=found["created"],
        version=found["medgen"],
    )


def machine() -> str:
    """The processor and system, for facts and provenance (no host name)."""
    return f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"

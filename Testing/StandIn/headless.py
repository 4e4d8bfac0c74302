"""What Slicer's application adds to the MRML runtime where there is no window: `slicer.app`, reading and writing of
nodes and scenes, and the Python parts that slicer-core lacks. No Qt.

    python Testing/StandIn/headless.py Examples/segment_from_slices.py -- --image …

runs a script as `Slicer --no-main-window --python-script` would.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # only a script's own folder is on the path, as in Slicer
    sys.path.insert(0, str(HERE))

import boot  # noqa: E402
import i18n  # noqa: E402
import slicer  # noqa: E402
import slicer.util  # noqa: E402

LABEL_MAP, SINGLE_FILE, AUTO_WINDOW = 1, 4, 8  # loading options of the Volumes logic
_ENDINGS = {
    "SegmentationFile": (".seg.nrrd",),
    "MarkupsFile": (".mrk.json",),
    "SceneFile": (".mrb", ".mrml"),
    "VolumeFile": (".nrrd", ".nii.gz", ".nii", ".mha"),
}


class IOManager:
    """Loading and saving through Slicer's own module logics and storage nodes."""

    def __init__(self, runtime: boot.Runtime) -> None:
        self._logics = runtime.logics

    def fileType(self, name: Any) -> str:
        lower = str(name).lower()
        return next((kind for kind, endings in _ENDINGS.items() if lower.endswith(endings)), "NoFile")

    def fileWriterFileType(self, node: Any) -> str:
        return str(node.GetClassName())

    def loadNodes(self, kind: str, properties: dict[str, Any], nodes: Any, messages: Any = None) -> bool:
        path = Path(properties["fileName"])
        if not path.is_file():
            return False
        if kind == "SceneFile":
            return self._load_scene(path)
        node = self._load(kind, path, properties.get("name") or path.name.partition(".")[0])
        if node is not None:
            nodes.AddItem(node)
        return node is not None

    def _load_scene(self, path: Path) -> bool:
        scene = slicer.mrmlScene
        if path.suffix == ".mrb":
            return bool(scene.ReadFromMRB(str(path)))
        scene.SetURL(str(path))
        scene.SetRootDirectory(str(path.parent))
        return bool(scene.Connect())

    def _load(self, kind: str, path: Path, name: str) -> Any:
        if kind == "VolumeFile":
            return self._logics["Volumes"].AddArchetypeVolume(str(path), name, SINGLE_FILE | AUTO_WINDOW)
        if kind == "SegmentationFile":
            if self.fileType(path) != kind:
                return self._labels(path, name)
            return self._logics["Segmentations"].LoadSegmentationFromFile(str(path), True, name)
        if kind == "MarkupsFile":
            return slicer.mrmlScene.GetNodeByID(self._logics["Markups"].LoadMarkups(str(path), name) or "")
        raise NotImplementedError(f"{kind} is not modelled by the stand-in")

    def _labels(self, path: Path, name: str) -> Any:
        """An image of labels as a segmentation, as Slicer's segmentation reader does."""
        volume = self._logics["Volumes"].AddArchetypeVolume(str(path), name, LABEL_MAP | SINGLE_FILE)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        done = self._logics["Segmentations"].ImportLabelmapToSegmentationNode(volume, node)
        slicer.mrmlScene.RemoveNode(volume)
        return node if done else None

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(str(properties["fileName"])))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(str(properties["fileName"]))
        storage = node.GetStorageNode()
        storage.SetFileName(str(properties["fileName"]))
        return bool(storage.WriteData(node))


class CommandOptions:
    """What `slicer.util.exit` sets."""

    runPythonAndExit = True


class App:
    """`slicer.app` without a window. `exit_code` is None until `exit` was called; tests call what `at_startup` and
    `at_quit` hold."""

    applicationName = "Slicer"
    slicerHome = ""

    def __init__(self, runtime: boot.Runtime) -> None:
        self._runtime = runtime
        self._io = IOManager(runtime)
        self._options = CommandOptions()
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-standin-")
        self.exit_code: int | None = None
        self.at_startup: list[Any] = []
        self.at_quit: list[Any] = []

    def connect(self, signature: str, function: Any) -> bool:
        lists = {"startupCompleted()": self.at_startup, "aboutToQuit()": self.at_quit}
        if signature not in lists:
            raise ValueError(f"slicer.app has no signal {signature} in the stand-in")
        lists[signature].append(function)
        return True

    def applicationLogic(self) -> Any:
        return self._runtime.application_logic

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def coreIOManager(self) -> IOManager:
        return self._io

    def translate(self, context: str, text: str) -> str:
        return text

    def commandOptions(self) -> CommandOptions:
        return self._options

    def testingEnabled(self) -> bool:
        return True

    def layoutManager(self) -> Any:
        return None

    def processEvents(self) -> None:
        """Nothing waits where there is no event loop."""

    def exit(self, code: int) -> None:
        self.exit_code = code


_keep: list[Any] = []


def start(app: App | None = None) -> boot.Runtime:
    """Boot the runtime and publish `slicer.app`, `slicer.i18n` and `slicer.ScriptedLoadableModule`.

    Where a Slicer source tree is on the path of the package `slicer`, its genuine files are used in place of ours.
    """
    runtime = boot.boot()
    slicer.app = app or App(runtime)
    if _keep:
        return runtime
    _enable_scene_bundles(runtime)
    if importlib.util.find_spec("slicer.ScriptedLoadableModule") is None:
        slicer.i18n = sys.modules["slicer.i18n"] = i18n
        import ScriptedLoadableModule

        module = types.ModuleType("slicer.ScriptedLoadableModule")
        names = [name for name in vars(ScriptedLoadableModule) if name.startswith("ScriptedLoadableModule")]
        module.__dict__.update({name: getattr(ScriptedLoadableModule, name) for name in names})
        module.__all__ = names  # type: ignore[attr-defined]
        slicer.ScriptedLoadableModule = sys.modules["slicer.ScriptedLoadableModule"] = module
    return runtime


def _enable_scene_bundles(runtime: boot.Runtime) -> None:
    """Reading a .mrb needs the remote-file machinery of the application, with a cache folder."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(runtime.scene)
    remote.SetMRMLApplicationLogic(runtime.application_logic)
    remote.GetCacheManager().SetRemoteCacheDirectory(slicer.app.temporaryPath)
    data = slicer.vtkDataIOManagerLogic()
    data.SetMRMLScene(runtime.scene)
    data.SetMRMLApplicationLogic(runtime.application_logic)
    data.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    _keep.extend((remote, data))


def run_script(path: str, arguments: list[str]) -> int:
    """Run a script as `Slicer --python-script PATH -- ARGUMENTS` does; the code it gave to `slicer.util.exit`.

    As in Slicer, an error that a script does not catch does not close the application: here that ends in code 99.
    """
    start()
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(path, run_name="__main__")
    except BaseException as error:
        print(f"uncaught: {error!r}", file=sys.stderr)
        return 99
    return 99 if slicer.app.exit_code is None else int(slicer.app.exit_code)


if __name__ == "__main__":
    words = sys.argv[2:]
    sys.exit(run_script(sys.argv[1], words[1:] if words[:1] == ["--"] else words))

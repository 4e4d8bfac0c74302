"""The section of trained models: what they are, import, verify, show on disk, delete."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from medgen import catalog, models
from MedGenLib import cards
from MedGenLib.background import Task
from MedGenLib.errors import MedGenLibError, plain
from MedGenLib.i18n import _
from MedGenLib.polling import Poller
from MedGenLib.rooms import Room
from MedGenLib.sections import fill, section, text_label

OURS, ALL = range(2)


class ModelsRoom(Room):
    """The models folder, of the chosen method or of all."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.poller = Poller(self._on_end)
        self.entries: list[tuple[Path, dict[str, Any] | None, str]] = []  # folder, record, what is wrong
        self._read: tuple[Any, ...] = ()
        self._after: Callable[[Task], None] = lambda task: None
        self.button, inner = section(_("Models"), layout, collapsed=True)
        self.which = qt.QComboBox()
        fill(self.which, [_("Models of this method"), _("Models of all methods")], OURS)
        self.which.connect("currentIndexChanged(int)", self._on_which)
        self.list = qt.QListWidget()
        self.list.setFixedHeight(96)
        self.list.connect("currentRowChanged(int)", self._on_row)
        self.card = text_label(rich=True)
        inner.addWidget(self.which)
        inner.addWidget(self.list)
        inner.addWidget(self.card)
        self.import_folder = self._button(_("Import folder…"), self._on_import_folder)
        self.import_zip = self._button(_("Import zip…"), self._on_import_zip)
        self.verify = self._button(_("Verify"), self._on_verify, _("Compare every file with its digest"))
        self.show_files = self._button(_("Show files"), self._on_show_files)
        self.copy = self._button(_("Copy digest"), self._on_copy, _("The SHA-256 that decides the results"))
        self.delete = self._button(_("Delete…"), self._on_delete)
        for buttons in ((self.verify, self.show_files, self.copy, self.delete), (self.import_folder, self.import_zip)):
            row = qt.QHBoxLayout()
            for button in buttons:
                row.addWidget(button)
            inner.addLayout(row)
        self.status = text_label()
        inner.addWidget(self.status)

    def _button(self, text: str, do: Callable[..., None], tip: str = "") -> Any:
        button = qt.QPushButton(text)
        button.setToolTip(tip)
        button.connect("clicked(bool)", do)
        return button

    # --- showing

    def refresh(self) -> None:
        """Show what lies in the models folder, read again when that has changed."""
        folder = models.folder()
        found = (self.panel.entry["slug"], self.which.currentIndex, folder.stat().st_mtime_ns if folder.is_dir() else 0)
        if found != self._read:
            self._read = found
            self._fill()
        self._show()

    def enter(self) -> None:
        """A script may have trained meanwhile."""
        self._read = ()

    def run_ended(self, run: Any) -> None:
        """A training may have made one."""
        self._read = ()

    def cleanup(self) -> None:
        """Nothing goes on running."""
        self.poller.drop()

    def _fill(self) -> None:
        kept = self.chosen[0] if self.chosen is not None else None
        records, bad = models.surveyed()
        if self.which.currentIndex == OURS:
            records = [one for one in records if one["slug"] == self.panel.entry["slug"]]
        self.entries = [(Path(one["folder"]), one, "") for one in records]
        self.entries += [(place, None, why) for place, why in bad]
        was_blocked = self.list.blockSignals(True)
        self.list.clear()
        for place, record, _why in self.entries:
            self.list.addItem(self._line(place, record))
        folders = [place for place, _record, _why in self.entries]
        self.list.currentRow = folders.index(kept) if kept in folders else 0 if folders else -1
        self.list.blockSignals(was_blocked)

    def _line(self, place: Path, record: dict[str, Any] | None) -> str:
        if record is None:
            return _("{name}: cannot be used").format(name=place.name)
        when = str(record.get("created", ""))[:10]
        words = f"{place.name}   {cards.file_size(record['bytes'])}   {when}"
        return words if self.which.currentIndex == OURS else f"{words}   {_title(record['slug'])}"

    @property
    def chosen(self) -> tuple[Path, dict[str, Any] | None, str] | None:
        """Folder, record and fault of the chosen line."""
        row = int(self.list.currentRow)
        return self.entries[row] if 0 <= row < len(self.entries) else None

    def _show(self) -> None:
        chosen, busy = self.chosen, self.poller.busy
        if chosen is None:
            self.card.text = _("No model yet. Train one, or import one from a folder or a zip file.")
        elif chosen[1] is None:
            self.card.text = cards.fault(chosen[2])
        else:
            self.card.text = cards.bundle_card(chosen[1], _title(chosen[1]["slug"]))
        self.list.setVisible(bool(self.entries))
        for button in (self.import_folder, self.import_zip):
            button.enabled = not busy
        for button in (self.show_files, self.delete):
            button.enabled = chosen is not None and not busy
        for button in (self.verify, self.copy):
            button.enabled = chosen is not None and chosen[1] is not None and not busy

    def say(self, words: str, failed: bool = False) -> None:
        """One sentence below the buttons."""
        self.status.text = words
        self.status.setStyleSheet("color: #b02020;" if failed else "")

    # --- clicks

    def _on_which(self, index: int) -> None:
        self.refresh()

    def _on_row(self, row: int) -> None:
        self.say("")
        self._show()

    def _on_import_folder(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getExistingDirectory(self.list, _("Choose the folder of a MedGen model"))
        if path:
            self.bring_in(Path(str(path)))

    def _on_import_zip(self, checked: bool = False) -> None:
        words = _("Choose a zipped MedGen model, or the medgen.json of a model's folder")
        path = str(qt.QFileDialog.getOpenFileName(self.list, words, "", "*.zip medgen.json") or "")
        if path:
            self.bring_in(Path(path).parent if Path(path).name == "medgen.json" else Path(path))

    def bring_in(self, source: Path) -> None:
        """Copy a model into the models folder after verifying it, under a name that is free."""
        stem = source.name[:-4] if source.suffix.lower() == ".zip" else source.name
        name = models.free_name(stem or "model")

        def done(task: Task) -> None:
            self._imported(name)

        self._start(["models", "import", str(source), "--name", name], _("Importing “{name}”").format(name=stem), done)

    def _imported(self, name: str) -> None:
        self.panel.forget_models()
        record = next((one for one in models.listed() if cards.model_name(one) == name), None)
        known = catalog.entries()
        if record is not None and record["slug"] == self.panel.entry["slug"]:
            self.panel.parameters().set_text("model", name)
        elif record is not None and record["slug"] in known:
            self.which.currentIndex = ALL
        self._read = ()
        self.panel.refresh()
        folders = [place.name for place, _record, _why in self.entries]
        if name in folders:
            self.list.currentRow = folders.index(name)
        self.say(_("“{name}” is imported; every digest fits.").format(name=name))

    def _on_verify(self, checked: bool = False) -> None:
        if self.chosen is None:
            return
        name, digest = self.chosen[0].name, str((self.chosen[1] or {}).get("digest", ""))

        def done(task: Task) -> None:
            when = time.strftime("%H:%M")
            words = _("“{name}” is whole: every file fits its digest ({digest}, {when}).")
            self.say(words.format(name=name, digest=digest[:12], when=when))

        self._start(["models", "verify", str(self.chosen[0])], _("Verifying “{name}”").format(name=name), done)

    def _on_show_files(self, checked: bool = False) -> None:
        if self.chosen is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.chosen[0])))

    def _on_copy(self, checked: bool = False) -> None:
        if self.chosen is not None and self.chosen[1] is not None:
            qt.QApplication.clipboard().setText(str(self.chosen[1]["digest"]))
            self.say(_("The digest is on the clipboard."))

    def _on_delete(self, checked: bool = False) -> None:
        if self.chosen is None:
            return
        name = self.chosen[0].name
        self._read = ()
        why_not = self.panel.delete_model(name)
        if why_not is not None:
            self.say(why_not or _("“{name}” is deleted.").format(name=name), failed=bool(why_not))

    # --- in the background

    def _start(self, arguments: list[str], title: str, after: Callable[[Task], None]) -> None:
        try:
            task = Task(arguments, title).start()
        except MedGenLibError as error:
            self.say(str(error), failed=True)
            return
        except OSError as error:
            self.say(plain(error, error.filename or _("The temporary folder")), failed=True)
            return
        self._after = after
        self.say(f"{title}…")
        self.poller.follow(task)
        self._show()

    def _on_end(self, task: Any) -> None:
        if task.state == "done":
            self._after(task)
        else:
            self.say(task.message, failed=True)
        self._read = ()
        self.refresh()


def _title(slug: str) -> str:
    """A method's title; its slug where this MedGen does not know it."""
    entry = catalog.entries().get(slug)
    return str(entry["title"]) if entry else _("{slug} (a method that this MedGen does not know)").format(slug=slug)

"""The page of a batch: what it says, that no name in it can run, and how it works in a browser without a network."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import batch_folders
import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import ROOT, medgen
from browser import Page, browser

from medgen import casereport, distributions
from medgen.errors import UserError

ATTACK = "</script><script>alert(1)</script>"
IMAGE_ATTACK = "<img src=x onerror=alert(2)>"
WIDE, HEIGHT = 1280, 900


class Read(HTMLParser):
    """What a browser would make of a page: its scripts by type, its text, its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = (kind, before + data)
        elif self._inside != "style":
            self.text.append(data)

    def data(self) -> dict[str, Any]:
        """The cases as the page's script reads them."""
        return dict(json.loads(next(text for kind, text in self.scripts if kind == "application/json")))

    def words(self) -> str:
        """All text, its white space as single spaces."""
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def batch(tmp_path: Path) -> dict[str, Any]:
    """A batch of six cases in tmp_path, of which nothing is done yet."""
    return batch_folders.start(tmp_path, 6)


# --- what it says -------------------------------------------------------------------------------------------------


def counts(page: Read) -> dict[str, int]:
    words = page.words()
    names = ("done", "failed", "not done yet", "made by another recipe", "changed for memory")
    found = {name: re.search(rf"(\d+) {name}", words) for name in names}
    return {name: int(match[1]) for name, match in found.items() if match}


def test_the_page_says_what_became_of_how_many(tmp_path: Path, batch: dict[str, Any]) -> None:
    batch_folders.done(tmp_path, batch, "a")
    batch_folders.done(tmp_path, batch, "b", recipe="of before", changed_for_memory=["“window” at 64."])
    batch_folders.failed(tmp_path, batch, "c", "c.nii.gz is empty; export it again.")
    page = Read(casereport.write(tmp_path))
    assert counts(page) == {
        "done": 2,
        "failed": 1,
        "not done yet": 3,
        "made by another recipe": 1,
        "changed for memory": 1,
    }
    assert [(one["case"], one["other"], one["changed"]) for one in page.data()["cases"]] == [
        ("a", False, []),
        ("b", True, ["“window” at 64."]),
    ]


def test_the_page_says_what_it_was_made_with(tmp_path: Path, batch: dict[str, Any]) -> None:
    words = Read(casereport.write(tmp_path)).words()
    for text in (
        batch["title"],
        batch["citation"],
        "doi:10.1007/978-3-030-88210-5_20",
        "abdomen (4f1c4f1c4f1c)",
        "Research use only. Not for clinical use.",
        "setting overlap 0.25",
        "setting keep_largest false",
        "seed 7",
        f"recipe {batch['recipe']}",
        "2026-11-27 12:00:00 UTC",
    ):
        assert re.sub(r"\s+\(", " (", text) in words.replace("( ", "(").replace(" )", ")"), text


def test_failures_come_first_with_their_sentence(tmp_path: Path, batch: dict[str, Any]) -> None:
    batch_folders.done(tmp_path, batch, "a")
    batch_folders.failed(tmp_path, batch, "z", "z.nii.gz is truncated; copy it again.")
    text = casereport.write(tmp_path).read_text("utf-8")
    body = text[text.index("<main>") :]
    order = [body.index(mark) for mark in ('id="failures"', "z.nii.gz is truncated", 'id="measures"', 'id="cases"')]
    assert order == sorted(order)


def test_of_thousands_of_failures_the_first_are_shown_and_the_table_is_named(
    tmp_path: Path, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casereport, "FAILURES_SHOWN", 2)
    for name in "abcde":
        batch_folders.failed(tmp_path, batch, name, f"{name} is empty.")
    words = Read(casereport.write(tmp_path)).words()
    assert "b is empty." in words and "c is empty." not in words
    assert "And 3 more; failures.csv has all of them." in words


def test_a_batch_of_which_nothing_is_done_has_a_page_too(tmp_path: Path, batch: dict[str, Any]) -> None:
    page = Read(casereport.write(tmp_path))
    assert counts(page) == {"done": 0, "failed": 0, "not done yet": 6}
    assert page.data()["cases"] == [] and "Failures" not in page.words()


def test_measures_are_summed_up_over_the_cases_that_have_them(tmp_path: Path, batch: dict[str, Any]) -> None:
    values = [0.5, 0.7, 0.8, 0.9, 0.95]
    for number, value in enumerate([*values, math.nan]):
        batch_folders.done(tmp_path, batch, f"case-{number}", measures={"dice": value, "hd95": math.inf})
    page = Read(casereport.write(tmp_path))
    words = page.words()
    assert "mean ± sd 0.77 ± 0.179 median [q1, q3] 0.8 [0.7, 0.9] min, max 0.5, 0.95 n 5" in words
    assert page.data()["measures"] == ["dice"]  # nobody has a distance that is a number
    assert [one["measures"] for one in page.data()["cases"]] == [[value] for value in values] + [[None]]


def test_quartiles_and_histogram_agree_with_numpy() -> None:
    values = np.random.default_rng(0).gamma(2, 3, 137).tolist()
    assert distributions.quartiles(values) == pytest.approx(np.percentile(values, (25, 50, 75)).tolist())
    assert distributions.counts(values, 12) == np.histogram(values, 12)[0].tolist()
    assert sum(distributions.counts([3.0, 3.0], 9)) == 2


@pytest.mark.parametrize(("values", "marks"), [([2.0], 1), ([1.0] * 9, 9), ([0.1, 0.2], 2), (list(range(100)), 10)])
def test_few_values_are_dots_and_many_a_histogram(values: list[float], marks: int) -> None:
    drawing = distributions.drawn(values)
    assert drawing.count('class="dot"' if len(values) <= distributions.FEW else 'class="bar"') == marks
    assert "nan" not in drawing and "inf" not in drawing


# --- what a name cannot do ----------------------------------------------------------------------------------------


def hostile(out: Path) -> None:
    """A batch whose every text is an attack."""
    batch = batch_folders.start(
        out, 3, title=ATTACK, citation=IMAGE_ATTACK, cohort=ATTACK, model={"name": ATTACK, "digest": IMAGE_ATTACK},
        config={ATTACK: IMAGE_ATTACK, "list": [ATTACK]}, url=f"https://{ATTACK}", **{IMAGE_ATTACK: ATTACK},
    )  # fmt: skip
    batch_folders.done(
        out, batch, IMAGE_ATTACK, subject=ATTACK, measures={ATTACK: 0.5, "{{data}}": 1.0}, log=[ATTACK, "\u2028 <!--"],
        changed_for_memory=[IMAGE_ATTACK], time=ATTACK, host=ATTACK, recipe="other",
        inputs=[{"role": ATTACK, "file": IMAGE_ATTACK}], outputs=[{"role": ATTACK, "kind": "Mask", "file": ATTACK}],
    )  # fmt: skip
    batch_folders.failed(out, batch, "</td><script>alert(3)<", reason=ATTACK)


def test_a_name_that_is_html_stays_a_name(tmp_path: Path) -> None:
    batch = batch_folders.start(tmp_path, 2, title=ATTACK, citation=IMAGE_ATTACK, config={ATTACK: IMAGE_ATTACK})
    batch_folders.done(tmp_path, batch, IMAGE_ATTACK, subject=ATTACK, measures={ATTACK: 0.5, "{{data}}": 1.0})
    batch_folders.failed(tmp_path, batch, "b", ATTACK)
    page = Read(casereport.write(tmp_path))
    assert [kind for kind, _ in page.scripts] == ["application/json", "", "text/plain"]
    assert "alert" not in page.scripts[1][1]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    one = page.data()["cases"][0]
    assert (one["case"], one["subject"], page.data()["measures"]) == (IMAGE_ATTACK, ATTACK, [ATTACK, "{{data}}"])
    assert page.words().count("alert(1)") >= 4


def test_the_page_names_no_address_and_no_folder_of_an_input(tmp_path: Path, batch: dict[str, Any]) -> None:
    inputs = [{"role": "image", "file": "/archive/Miller^Anna/scan.nii.gz"}, {"role": "b", "file": "C:\\Anna\\b.nrrd"}]
    batch_folders.done(tmp_path, batch, "a", inputs=inputs)
    path = casereport.write(tmp_path)
    assert Read(path).data()["cases"][0]["inputs"] == [["image", "scan.nii.gz"], ["b", "b.nrrd"]]
    text = path.read_text("utf-8")
    assert "Anna" not in text and not re.search(r"(https?:)?//\w", text)


def test_only_a_jpeg_gets_in_as_a_picture(tmp_path: Path, batch: dict[str, Any]) -> None:
    jpeg = b"\xff\xd8" + bytes(range(256))
    batch_folders.done(tmp_path, batch, "a", b"<svg onload=alert(1)>")
    batch_folders.done(tmp_path, batch, "b", jpeg)
    batch_folders.done(tmp_path, batch, "c", b"\xff\xd8" + bytes(1_000_000))
    batch_folders.done(tmp_path, batch, "d", jpeg)
    (tmp_path / "cases" / "d" / "preview.jpg").unlink()
    lines = next(text for kind, text in Read(casereport.write(tmp_path)).scripts if kind == "text/plain").split("\n")
    assert [bool(line) for line in lines] == [False, False, True, False, False, False]


# --- how it is written --------------------------------------------------------------------------------------------


def test_a_page_appears_whole_or_the_one_before_stays(
    tmp_path: Path, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_folders.done(tmp_path, batch, "a")
    before = casereport.write(tmp_path).read_bytes()

    def breaks(*_: object) -> Iterator[str]:
        yield "half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(casereport, "_thumbnails", breaks)
    with pytest.raises(UserError, match="no space left"):
        casereport.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".partial-*"))


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, batch: dict[str, Any]) -> None:
    picture = b"\xff\xd8" + bytes(300_000)
    for number in range(100):
        batch_folders.done(tmp_path, batch, f"case-{number}", picture)
    casereport.write(tmp_path)
    tracemalloc.start()
    try:
        size = casereport.write(tmp_path).stat().st_size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 40_000_000 and peak < 4_000_000, f"{peak} bytes for a page of {size}"


def test_medgen_report_makes_page_and_tables_anew(tmp_path: Path, batch: dict[str, Any]) -> None:
    batch_folders.done(tmp_path, batch, "a")
    done = medgen("report", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report.html")), done.stderr
    assert "a,subject of a,done" in (tmp_path / "ledger.csv").read_text()
    (tmp_path / "batch.json").unlink()
    done = medgen("report", tmp_path)
    assert done.returncode == 2 and "is not a batch's folder" in done.stderr and "Traceback" not in done.stderr


def test_the_page_is_made_without_any_package() -> None:
    absent = "import sys; sys.modules.update(torch=None, numpy=None, SimpleITK=None, pydantic=None)"
    command = [sys.executable, "-c", f"{absent}; import medgen.casereport"]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == 0


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tab of a browser that all tests here share."""
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Thumbnails as a batch has them."""
    folder = tmp_path_factory.mktemp("pictures")
    return [batch_folders.thumbnail(folder, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """The page of a batch of sixty finished cases, two failures and one case left."""
    out = tmp_path_factory.mktemp("sixty")
    batch = batch_folders.start(out, 63)
    for number in range(60):
        measures = {"dice": round(0.99 - 0.01 * ((number * 7) % 60), 2)} if number != 30 else {}
        batch_folders.done(
            out, batch, f"site{number % 3}-{number:03d}", pictures[number % 3] if number != 1 else None,
            measures=measures, seconds=1.0 + number, subject=f"S{number // 2}", log=["It was resampled."],
            changed_for_memory=["“window” at 64."] if number == 5 else [],
        )  # fmt: skip
    for name in "xy":
        batch_folders.failed(out, batch, name, f"{name}.nii.gz is truncated; copy it again.")
    return casereport.write(out)


CASES = "[...document.querySelectorAll('#list td.name')].map(cell => cell.firstChild.textContent)"
IMAGES = "[...document.querySelectorAll('#list img')].filter(image => image.naturalWidth > 100).length"


def test_a_double_click_shows_the_first_cases_and_asks_nobody(page: Page, sixty: Path, tmp_path: Path) -> None:
    page.open(sixty, WIDE, HEIGHT)
    assert len(page.ask(CASES)) == 24 and page.ask(CASES)[:2] == ["site0-000", "site1-001"]
    assert page.ask(IMAGES) == page.ask("document.images.length") == 23  # of those that are shown; one has none
    assert page.ask("document.querySelector('#shown').textContent") == "1–24 of 60"
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data"}
    assert [address for address in page.requests if address.startswith("file")] == [sixty.as_uri()]
    assert page.errors == []
    page.picture(tmp_path / "page.png")
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "page.png"))).astype(int)
    assert pixels.shape[:2] == (HEIGHT, WIDE) and len(np.unique(pixels[..., :3] @ [65536, 256, 1])) > 200


def click(page: Page, selector: str) -> None:
    page.ask(f"document.querySelector({selector!r}).click()")


def test_columns_sort_both_ways_and_what_was_not_measured_comes_last(page: Page, sixty: Path) -> None:
    page.open(sixty)
    column = "[...document.querySelectorAll('#list td:nth-child(3)')].map(cell => cell.textContent)"
    for order, best in (("ascending", "0.4"), ("descending", "0.99")):
        click(page, "#list th:nth-child(3) button")
        assert page.ask("document.querySelector('#list th:nth-child(3)').ariaSort") == order
        values = page.ask(column)
        assert values == sorted(values, key=float, reverse=order == "descending") and values[0] == best
        assert page.ask("document.images.length") >= 23
        for _ in range(2):
            click(page, "#after")
        assert page.ask(column)[-1] == "–"


def test_cases_are_found_by_name_or_subject_and_by_what_became_of_them(page: Page, sixty: Path) -> None:
    page.open(sixty)

    def find(text: str) -> list[str]:
        code = "const box = document.querySelector('#find'); box.value = {}; box.dispatchEvent(new Event('input'))"
        page.ask(f"(() => {{ {code.format(json.dumps(text))} }})()")
        return list(page.ask(CASES))

    found = find("SITE1-0")
    assert len(found) == 20 and all(name.startswith("site1") for name in found)
    assert find(" s7 ") == ["site2-014", "site0-015"]
    find("nobody")
    assert page.ask("document.querySelector('#list tbody').textContent").startswith("No case fits")
    find("")
    page.ask(
        "(() => { const which = document.querySelector('#which'); which.value = 'changed'; "
        "which.dispatchEvent(new Event('change')) })()"
    )
    assert page.ask(CASES) == ["site2-005"]


def test_pages_turn_and_end(page: Page, sixty: Path) -> None:
    page.open(sixty)
    assert page.ask("document.querySelector('#before').disabled")
    for _ in range(2):
        click(page, "#after")
    assert page.ask("document.querySelector('#page').textContent") == "Page 3 of 3"
    assert len(page.ask(CASES)) == 12 and page.ask("document.querySelector('#after').disabled")
    page.wait(f"{IMAGES} === 12")


def test_the_page_works_from_the_keyboard_alone(page: Page, sixty: Path) -> None:
    page.open(sixty)
    page.ask("document.querySelector('#list th button').focus()")
    page.press("Enter")
    assert page.ask("document.querySelector('#list th:nth-child(2)').ariaSort") == "ascending"
    assert page.ask("document.activeElement.textContent") == "Case"  # the focus is not lost
    for _ in range(3):
        page.press("Tab")
    assert page.ask("document.activeElement.getAttribute('aria-label')") == "Show site0-000"
    page.press("Enter")
    assert page.ask("document.querySelector('dialog').open")
    page.press("ArrowRight")
    shown = page.ask("document.querySelector('dialog').innerText")
    assert "site0-003" in shown and "It was resampled." in shown and "cases/site0-003/mask.seg.nrrd" in shown
    assert page.ask("document.querySelector('dialog img').naturalWidth") > 100
    page.press("Escape")
    assert not page.ask("document.querySelector('dialog').open")
    assert page.ask("document.activeElement.getAttribute('aria-label')") == "Show site0-000"


def test_a_case_without_a_picture_says_so(page: Page, sixty: Path) -> None:
    page.open(sixty)
    page.ask("(() => { view.find = 'site1-001'; show() })()")
    assert page.ask("document.querySelector('#list .picture').textContent") == "no picture"


def test_it_follows_the_systems_light_and_dark_and_prints_in_black_on_white(page: Page, sixty: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    page.open(sixty, scheme="light")
    assert min(page.ask(ground)) > 200
    page.open(sixty, scheme="dark")
    assert max(page.ask(ground)) < 60
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.ask(ground) == [255, 255, 255]
    assert page.ask("getComputedStyle(document.querySelector('.tools')).display") == "none"
    page.call("Emulation.setEmulatedMedia", media="")
    assert page.printed().startswith(b"%PDF")


def test_on_a_narrow_screen_nothing_is_cut_off(page: Page, sixty: Path) -> None:
    page.open(sixty, 400, HEIGHT)
    assert page.ask("document.documentElement.scrollWidth") <= 400
    wide, room = page.ask("[at('list').scrollWidth, at('list').parentNode.clientWidth]")
    assert wide <= room


def test_no_text_of_a_batch_runs_in_the_browser(page: Page, tmp_path: Path) -> None:
    hostile(tmp_path)
    page.dialogs.clear()
    page.open(casereport.write(tmp_path))
    click(page, "#list .picture button")
    assert page.ask(CASES) == [IMAGE_ATTACK]
    assert ATTACK in page.ask("document.querySelector('dialog').innerText")
    assert page.ask("document.querySelector('h1').textContent") == ATTACK
    assert page.ask("document.images.length") == 0
    assert page.ask("[...document.scripts].filter(one => !one.type).length") == 1
    time.sleep(0.2)
    assert page.dialogs == [] and page.errors == []


def test_the_pages_policy_lets_no_other_script_run(page: Page, sixty: Path) -> None:
    page.open(sixty)
    attack = json.dumps("<img src='data:,' onerror='window.hit = 1'>")
    page.ask(f"document.body.insertAdjacentHTML('beforeend', {attack})")
    page.ask("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hit = 2' }))")
    page.ask("fetch('https://example.org').catch(() => { window.refused = 1 })")
    page.wait("window.refused")
    assert page.ask("window.hit") is None
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


@pytest.mark.parametrize("cases", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_page_of_2000_cases_shows_the_first_ones_in_less_than_3_seconds(
    page: Page, pictures: list[bytes], tmp_path: Path, cases: int
) -> None:
    batch = batch_folders.start(tmp_path, cases)
    rng = np.random.default_rng(0)
    for number in range(cases):
        measures = dict(zip(("dice", "hd95", "volume"), rng.gamma(3, 1, 3).round(4).tolist(), strict=True))
        batch_folders.done(tmp_path, batch, f"case-{number:04d}", pictures[number % 3], measures=measures)
    began = time.monotonic()
    path = casereport.write(tmp_path)
    wrote, size = time.monotonic() - began, path.stat().st_size
    assert size > cases * 8000 * 4 / 3
    shown = []
    for _ in range(3):
        page.open(path, WIDE, HEIGHT)
        shown.append(float(page.ask("document.documentElement.dataset.shownAfterMs")))
        assert page.ask(IMAGES) == 24
    click(page, "#list th:nth-child(3) button")
    page.wait(f"{IMAGES} === 24")
    print(f"{cases} cases written in {wrote:.1f} s, {size / 1e6:.0f} MB; first cases after {shown} ms")
    assert min(shown) < 3000

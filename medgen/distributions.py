"""How a measure is distributed over the cases: its figures, and a small drawing as SVG. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

FEW = 24  # up to so many values each is a dot; more become a histogram
_WIDTH, _HEIGHT, _STRIP = 300, 92, 26  # units of the drawing; the box with its quartiles takes the strip
_MARGIN = 8


def text_of(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}" if value != int(value) or abs(value) >= 1e6 else str(int(value))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, linear between the values (as NumPy's percentiles are)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def statistics_of(values: Sequence[float]) -> list[tuple[str, str]]:
    """(label, text) of what describes one value or more; the standard deviation is the sample's (n - 1)."""
    low, middle, high = quartiles(values)
    deviation = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return [
        ("mean ± sd", text_of(statistics.fmean(values)) + deviation),
        ("median [q1, q3]", f"{text_of(middle)} [{text_of(low)}, {text_of(high)}]"),
        ("min, max", f"{text_of(min(values))}, {text_of(max(values))}"),
        ("n", str(len(values))),
    ]


def counts(values: Sequence[float], bins: int) -> list[int]:
    """How many values lie in each of `bins` equal parts of their range; the greatest belongs to the last."""
    least, span = min(values), max(values) - min(values)
    found = [0] * bins
    for value in values:
        found[min(bins - 1, int((value - least) / span * bins)) if span else bins // 2] += 1
    return found


def drawn(values: Sequence[float]) -> str:
    """An SVG element of one value or more: dots or a histogram, beneath them a box from quartile to quartile with the
    median, and the range."""
    least, greatest = min(values), max(values)
    span = greatest - least

    def place(value: float) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * ((value - least) / span if span else 0.5)

    low, middle, high = quartiles(values)
    base = _HEIGHT - _STRIP
    marks = _dots(values, place, base) if len(values) <= FEW else _bars(values, base)
    y = base + 4
    box = (
        f'<line class="box" x1="{place(least):.1f}" x2="{place(greatest):.1f}" y1="{y + 4}" y2="{y + 4}"/>'
        f'<rect class="box" x="{place(low):.1f}" y="{y}" width="{max(0.5, place(high) - place(low)):.1f}" height="8"/>'
        f'<line class="middle" x1="{place(middle):.1f}" x2="{place(middle):.1f}" y1="{y - 2}" y2="{y + 10}"/>'
    )
    ends = f'<text x="{_MARGIN}" y="{_HEIGHT - 3}">{text_of(least)}</text>' + (
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 3}" text-anchor="end">{text_of(greatest)}</text>' if span else ""
    )
    words = f"From {text_of(least)} to {text_of(greatest)}, median {text_of(middle)}"
    ground = f'<line class="ground" x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}">{marks}{ground}'
        f"{box if span else ''}{ends}</svg>"
    )


def _bars(values: Sequence[float], base: int) -> str:
    found = counts(values, max(8, min(30, math.ceil(math.sqrt(len(values))))))
    least, step = min(values), (max(values) - min(values)) / len(found)
    width = (_WIDTH - 2 * _MARGIN) / len(found)
    bars = []
    for number, count in enumerate(found):
        height = (base - 4) * count / max(found)
        between = f"{text_of(least + number * step)} to {text_of(least + (number + 1) * step)}: {count}"
        bars.append(
            f'<rect class="bar" x="{_MARGIN + number * width:.1f}" y="{base - height:.1f}" width="{width - 1:.1f}" '
            f'height="{height:.1f}"><title>{between}</title></rect>'
        )
    return "".join(bars)


def _dots(values: Sequence[float], place: Callable[[float], float], base: int) -> str:
    """Each value a dot, those that would hide each other stacked."""
    stacked: dict[int, int] = {}
    dots = []
    for value in sorted(values):
        column = round(place(value) / 7)
        stacked[column] = stacked.get(column, 0) + 1
        y = max(4, base + 3 - 7 * stacked[column])
        dots.append(
            f'<circle class="dot" cx="{place(value):.1f}" cy="{y}" r="3.2"><title>{text_of(value)}</title></circle>'
        )
    return "".join(dots)

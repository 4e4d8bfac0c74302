"""Draw the icons of the extension and its modules, 128 x 128: python Utilities/draw_icons.py.

One family: a slice of a trunk on a dark tile; what a module makes of it is in colour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
SIZE, OVER = 128, 6  # pixels, and how much finer it is drawn
TILE = ((24, 38, 66), (44, 78, 122))
GREY, LIGHT = (150, 168, 190), (214, 224, 236)
ORANGE, TEAL, PINK = (255, 158, 64), (64, 214, 190), (255, 92, 138)


def at(*values: float) -> list[float]:
    """Coordinates of the 128 grid on the finer one."""
    return [v * OVER for v in values]


def curve(x: float, y: float, width: float, height: float, power: float = 2.4) -> list[tuple[float, float]]:
    """A superellipse as a polygon on the finer grid."""
    turn = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    across = x + width * np.sign(cos) * np.abs(cos) ** (2 / power)
    down = y + height * np.sign(sin) * np.abs(sin) ** (2 / power)
    return [(float(a) * OVER, float(b) * OVER) for a, b in zip(across, down, strict=True)]


def tile() -> Image.Image:
    """The dark rounded tile."""
    size = SIZE * OVER
    share = np.linspace(0, 1, size)[:, None, None]
    colours = (1 - share) * np.array(TILE[1]) + share * np.array(TILE[0])
    picture = Image.fromarray(np.broadcast_to(colours, (size, size, 3)).astype(np.uint8)).convert("RGBA")
    mask = Image.new("L", (size, size), 0)
    ImageDraw.Draw(mask).rounded_rectangle(at(2, 2, 126, 126), radius=24 * OVER, fill=255)
    picture.putalpha(mask)
    return picture


def trunk(draw: ImageDraw.ImageDraw, organ: tuple[int, int, int] | None = None) -> None:
    """The slice: outline, muscle, spine, two kidneys; the liver in `organ`'s colour."""
    draw.polygon(curve(64, 64, 52, 40), fill=GREY)
    draw.polygon(curve(64, 64, 46, 34), fill=(58, 74, 102))
    draw.polygon(curve(44, 58, 21, 22, 2.1), fill=organ or (124, 142, 168))
    for x in (43, 85):
        draw.ellipse(at(x - 8, 74, x + 8, 91), fill=(140, 156, 180))
    draw.ellipse(at(54, 70, 74, 88), fill=LIGHT)
    draw.ellipse(at(59, 86, 69, 95), outline=LIGHT, width=2 * OVER)
    draw.ellipse(at(66, 60, 75, 69), fill=(196, 206, 222))
    draw.polygon(curve(88, 52, 11, 13, 2.1), fill=(104, 122, 150))


def dashed(draw: ImageDraw.ImageDraw, start: tuple[float, float], stop: tuple[float, float], colour: tuple) -> None:
    """A dashed line, thick."""
    steps = 9
    a, b = np.array(start), np.array(stop)
    for k in range(0, steps, 2):
        first, last = a + (b - a) * k / steps, a + (b - a) * (k + 1) / steps
        draw.line(at(*first, *last), fill=colour, width=3 * OVER)


def extension() -> Image.Image:
    """MedGen itself: a slice with all three colours."""
    picture = tile()
    draw = ImageDraw.Draw(picture)
    trunk(draw, ORANGE)
    dashed(draw, (64, 14), (64, 114), TEAL)
    for x, y in ((43, 82), (85, 82)):
        draw.ellipse(at(x - 6, y - 6, x + 6, y + 6), fill=PINK, outline=(255, 255, 255), width=2 * OVER)
    return picture


def synthesis() -> Image.Image:
    """One half grey, the other in another modality's colours."""
    picture = tile()
    trunk(ImageDraw.Draw(picture))
    values = np.asarray(picture.convert("L"), float) / 255
    low, high = np.array((18, 28, 66)), np.array((150, 255, 236))
    colours = low + values[..., None] ** 0.8 * (high - low)
    other = Image.fromarray(np.dstack([colours, np.asarray(picture)[..., 3]]).astype(np.uint8))
    half = Image.new("L", picture.size, 0)
    ImageDraw.Draw(half).polygon([tuple(at(*p)) for p in ((76, 0), (128, 0), (128, 128), (52, 128))], fill=255)
    inside = Image.new("L", picture.size, 0)
    ImageDraw.Draw(inside).polygon(curve(64, 64, 52, 40), fill=255)
    half = Image.fromarray(np.minimum(np.asarray(half), np.asarray(inside)))
    picture.paste(other, (0, 0), half)
    ImageDraw.Draw(picture).line(at(77, 17, 51, 111), fill=TEAL, width=3 * OVER)
    return picture


def segmented() -> Image.Image:
    """One organ filled and outlined."""
    picture = tile()
    draw = ImageDraw.Draw(picture)
    trunk(draw, ORANGE)
    draw.line([*curve(44, 58, 21, 22, 2.1), curve(44, 58, 21, 22, 2.1)[0]], fill=(255, 226, 150), width=4 * OVER)
    return picture


def landmarks() -> Image.Image:
    """Three points and a box."""
    picture = tile()
    draw = ImageDraw.Draw(picture)
    trunk(draw)
    draw.rectangle(at(22, 34, 68, 84), outline=TEAL, width=3 * OVER)
    glow = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    for x, y in ((44, 58), (85, 82), (88, 50)):
        ImageDraw.Draw(glow).ellipse(at(x - 10, y - 10, x + 10, y + 10), fill=(*PINK, 150))
    picture.alpha_composite(glow.filter(ImageFilter.GaussianBlur(3 * OVER)))
    for x, y in ((44, 58), (85, 82), (88, 50)):
        draw.ellipse(at(x - 6.5, y - 6.5, x + 6.5, y + 6.5), fill=PINK, outline=(255, 255, 255), width=2 * OVER)
    return picture


def main() -> None:
    """Draw and write all icons."""
    icons = {
        "MedGen.png": extension(),
        "MedGenSynthesis/Resources/Icons/MedGenSynthesis.png": synthesis(),
        "MedGenSegmentation/Resources/Icons/MedGenSegmentation.png": segmented(),
        "MedGenLandmarks/Resources/Icons/MedGenLandmarks.png": landmarks(),
    }
    for path, picture in icons.items():
        small = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        small.save(ROOT / path, optimize=True)


if __name__ == "__main__":
    main()

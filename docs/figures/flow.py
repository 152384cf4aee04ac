"""Draws docs/figures/flow.svg: the way of a request. Colours are chosen to be read on white and on black.

python docs/figures/flow.py
"""

from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT, BOX = 880, 300, 44
TOPIC, PROGRAM, GATE = "#dbe7f5", "#f3ead7", "#bfe6df"


def box(x: int, y: int, width: int, text: str, fill: str) -> str:
    """Return a box with its text; programs are round, topics are not."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="{4 if fill == TOPIC else 20}" fill="{fill}"/>'
        f'<text x="{x + width // 2}" y="{y + BOX // 2 + 5}" fill="#1b2733">{text}</text>'
    )


def arrow(points: str, x: int, y: int, text: str = "") -> str:
    """Return an arrow with its text at a place."""
    line = f'<polyline points="{points}" fill="none" stroke="#77808c" stroke-width="2" marker-end="url(#tip)"/>'
    return line + (f'<text x="{x}" y="{y}" class="said">{text}</text>' if text else "")


def main() -> None:
    """Write the picture."""
    parts = [
        box(0, 128, 96, "producers", PROGRAM),
        box(130, 128, 150, "gate.requests.S", TOPIC),
        box(322, 128, 90, "gate", GATE),
        box(536, 20, 160, "gate.admitted.S", TOPIC),
        box(536, 92, 160, "gate.delayed.S", TOPIC),
        box(536, 164, 160, "gate.rejected.S", TOPIC),
        box(536, 236, 160, "gate.alerts", TOPIC),
        box(760, 20, 110, "workers", PROGRAM),
        box(760, 236, 110, "people", PROGRAM),
        arrow("96,150 128,150", 0, 0),
        arrow("280,150 320,150", 0, 0),
        arrow("367,126 367,42 534,42", 450, 34, "fits"),
        arrow("412,140 470,140 470,106 534,106", 470, 98, "must wait"),
        arrow("536,126 478,126 478,150 414,150", 508, 144, "its time"),
        arrow("412,160 470,160 470,186 534,186", 472, 204, "too late, too big"),
        arrow("367,172 367,258 534,258", 450, 276, "a breach begins, ends"),
        arrow("696,42 758,42", 0, 0),
        arrow("696,258 758,258", 0, 0),
    ]
    FILE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="15" text-anchor="middle">\n'
        "<style>.said { font-size: 13px; fill: #77808c }</style>\n"
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L10,5 L0,10 z" fill="#77808c"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()

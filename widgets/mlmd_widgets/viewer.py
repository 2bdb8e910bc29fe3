"""``MoleculeViewer``: layers of balls and sticks to turn, play and pick, live in a notebook or alone in a page.

Live it is an anywidget (its script travels with the widget, nothing is fetched); :func:`to_html` writes the same viewer as a
fragment of HTML that needs neither a kernel nor a network. Coordinates go to the browser once, as 16-bit integers in steps
of 0.002 A or coarser (chosen so that the extent fits), and are played there.
"""

from __future__ import annotations

import base64
import html
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from mlmd_widgets import theme
from mlmd_widgets.layers import Layer
from mlmd_widgets.painter import camera_for

SCRIPT = Path(__file__).parent / "viewer.js"
FINEST = 0.002  # A


class MoleculeViewer(anywidget.AnyWidget):
    """Shows layers; ``frame`` follows the slider and moves it, ``picked`` is the ball clicked last."""

    _esm = SCRIPT
    scene = traitlets.Dict().tag(sync=True)
    coordinates = traitlets.List(traitlets.Bytes()).tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)
    picked = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(self, layers: Sequence[Layer], **options: Any) -> None:
        scene, coordinates = describe(layers, **options)
        super().__init__(scene=scene, coordinates=coordinates)

    def show(self, layers: Sequence[Layer], **options: Any) -> None:
        """Show other layers in the same place."""
        scene, coordinates = describe(layers, **options)
        with self.hold_sync():
            self.coordinates, self.frame, self.scene = coordinates, 0, scene


def describe(
    layers: Sequence[Layer],
    title: str = "",
    size: tuple[int, int] = (640, 420),
    legend: Sequence[tuple[str, str]] = (),
    autoplay: bool = False,
) -> tuple[dict[str, Any], list[bytes]]:
    """The layers as plain data for the browser, and their coordinates as bytes. ``legend``: pairs of name and colour."""
    if not layers:
        raise ValueError("layers is empty: give at least one Layer")
    counts = {len(layer) for layer in layers} - {1}
    if len(counts) > 1:
        raise ValueError(f"layers have {sorted(counts)} frames: give equally many, or one, to each")
    camera = camera_for(layers)
    largest = max(float(np.abs(layer.positions - camera.center).max()) for layer in layers)
    step = max(FINEST, largest / 32000)
    scene = {
        "layers": [_plain(layer) for layer in layers],
        "step": step,
        "width": size[0],
        "height": size[1],
        "title": title,
        "legend": [list(pair) for pair in legend],
        "rotation": [round(float(v), 5) for v in camera.rotation.T.ravel()],
        "autoplay": autoplay,
    }
    return scene, [np.round((layer.positions - camera.center) / step).astype("<i2").tobytes() for layer in layers]


def _plain(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "radii": [round(float(r), 3) for r in layer.radii],
        "colors": list(layer.colors),
        "labels": list(layer.labels),
        "bonds": [list(map(int, b)) for b in layer.bonds],
        "stick": layer.stick,
        "opacity": layer.opacity,
        "visible": layer.visible,
        "labelled": layer.labelled,
    }


def bead_legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names of beads with their colours."""
    return [(name, theme.bead_color(i)) for i, name in enumerate(names)]


def to_html(layers: Sequence[Layer], **options: Any) -> str:
    """The viewer as a fragment of HTML that works offline, anywhere in a page, more than once in a page."""
    scene, coordinates = describe(layers, **options)
    name = f"mlmd-{uuid.uuid4().hex[:12]}"
    script = SCRIPT.read_text(encoding="utf-8").replace("export function mount", "function mount")
    script = script.replace("export default { render };", "")
    data = json.dumps({"scene": scene, "bytes": [base64.b64encode(c).decode() for c in coordinates]})
    # "</" would end the script element; in JSON it may be written "<\/".
    data = data.replace("</", "<\\/")
    label = html.escape(scene["title"] or "molecule")
    return (
        f'<div id="{name}" class="mlmd-viewer-host" aria-label="{label}"></div>\n<script>\n(() => {{\n{script}\n'
        f"const data = {data};\n"
        "const bytes = data.bytes.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));\n"
        f'mount(document.getElementById("{name}"), data.scene, bytes);\n}})();\n</script>\n'
    )


def to_page(layers: Sequence[Layer], **options: Any) -> str:
    """A whole HTML page with nothing but the viewer."""
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mlmd</title>'
    return f"{head}<style>body{{margin:24px;background:#fff}}</style></head><body>{to_html(layers, **options)}</body></html>"

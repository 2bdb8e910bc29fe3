"""Still pictures of molecules without a screen: balls, sticks and translucent beads, shaded pixel by pixel.

Spheres and cylinders are intersected with parallel rays (exact silhouettes at any size) into a depth, a normal and a colour
per pixel; the light is laid on afterwards. Recesses are darkened by the difference between the depth and the blurred depth
(Luft, Colditz, Deussen, "Image enhancement by unsharp masking the depth buffer", SIGGRAPH 2006).
The background is transparent, so that a picture suits a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.colors as mcolors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from mlmd_widgets import theme
from mlmd_widgets.layers import Layer

LIGHT = np.array([-0.45, 0.55, 0.72]) / np.linalg.norm([-0.45, 0.55, 0.72])
MARGIN = 0.35  # A around the molecule
WIRE, WIRE_RADIUS = np.array([0.30, 0.30, 0.32]), 0.05  # bonds of a translucent layer


@dataclass(frozen=True)
class Camera:
    """Looks along -z of rotated coordinates: ``(x - center) @ rotation``; ``half`` is half the visible width and height, A."""

    rotation: np.ndarray
    center: np.ndarray
    half: tuple[float, float]

    def view(self, positions: np.ndarray) -> np.ndarray:
        return (np.asarray(positions, dtype=float) - self.center) @ self.rotation


def camera_for(layers: Sequence[Layer], tilt: float = 0.35, frame: int = 0) -> Camera:
    """A camera that shows every layer: longest extent from left to right, shortest towards the eye, tipped by ``tilt`` rad."""
    if not layers:
        raise ValueError("layers is empty: give at least one Layer")
    x = np.concatenate([layer.positions[min(frame, len(layer) - 1)] for layer in layers]).astype(float)
    r = np.concatenate([layer.radii for layer in layers])
    center = (x.min(0) + x.max(0)) / 2
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=True)
    rotation = axes.T.copy()
    # A principal axis has no sign of its own; fix it by the first ball, so that pictures do not flip between runs.
    for k in range(2):
        if (x[0] - center) @ rotation[:, k] > 0:
            rotation[:, k] *= -1
    rotation[:, 2] = np.cross(rotation[:, 0], rotation[:, 1])
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = rotation @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    seen = (x - center) @ rotation
    lo, hi = (seen - r[:, None]).min(0), (seen + r[:, None]).max(0)
    center = center + rotation @ ((lo + hi) / 2)
    half = (hi - lo) / 2 + MARGIN
    return Camera(rotation, center, (float(half[0]), float(half[1])))


@dataclass
class _Canvas:
    """Depth, normal and colour of the nearest surface of every pixel."""

    depth: np.ndarray
    normal: np.ndarray
    color: np.ndarray
    scale: float  # pixels per A

    @staticmethod
    def blank(width: int, height: int, scale: float) -> _Canvas:
        return _Canvas(np.full((height, width), -np.inf), np.zeros((height, width, 3)), np.zeros((height, width, 3)), scale)

    def window(self, lo: np.ndarray, hi: np.ndarray) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
        """Pixels within the given corners (A), with their x and y."""
        h, w = self.depth.shape
        i0, i1 = np.clip([int((lo[0] * self.scale) + w / 2), int(hi[0] * self.scale + w / 2) + 2], 0, w)
        j0, j1 = np.clip([int(h / 2 - hi[1] * self.scale), int(h / 2 - lo[1] * self.scale) + 2], 0, h)
        if i0 >= i1 or j0 >= j1:
            return None
        x = (np.arange(i0, i1) + 0.5 - w / 2) / self.scale
        y = (h / 2 - np.arange(j0, j1) - 0.5) / self.scale
        return slice(j0, j1), slice(i0, i1), x[None, :], y[:, None]

    def put(self, rows: slice, columns: slice, hit: np.ndarray, z: np.ndarray, normal: np.ndarray, color: np.ndarray) -> None:
        nearer = hit & (z > self.depth[rows, columns])
        self.depth[rows, columns][nearer] = z[nearer]
        self.normal[rows, columns][nearer] = normal[nearer]
        self.color[rows, columns][nearer] = color[nearer] if color.ndim == 3 else color


def _sphere(canvas: _Canvas, c: np.ndarray, r: float) -> tuple[slice, slice, np.ndarray, np.ndarray, np.ndarray] | None:
    """Front surface of a sphere: pixel window, which pixels it covers, depth and normal there."""
    window = canvas.window(c[:2] - r, c[:2] + r)
    if window is None:
        return None
    rows, columns, x, y = window
    dx, dy = np.broadcast_arrays((x - c[0]) / r, (y - c[1]) / r)
    inside = 1 - dx**2 - dy**2
    dz = np.sqrt(np.clip(inside, 0, None))
    return rows, columns, inside > 0, c[2] + r * dz, np.stack([dx, dy, dz], -1)


def _stick(canvas: _Canvas, a: np.ndarray, b: np.ndarray, r: float, color_a: np.ndarray, color_b: np.ndarray) -> None:
    """Cylinder between two points, its halves in the colours of its ends."""
    length = float(np.linalg.norm(b - a))
    if length < 1e-6:
        return
    u = (b - a) / length
    window = canvas.window(np.minimum(a, b)[:2] - r, np.maximum(a, b)[:2] + r)
    if window is None:
        return
    rows, columns, x, y = window
    x, y = np.broadcast_arrays(x - a[0], y - a[1])
    # Ray (x, y, t): distance to the axis |p - (p.u) u| = r is a quadratic A t^2 + 2 B t + C = 0; the larger root is in front.
    planar = x * u[0] + y * u[1]
    A = 1 - u[2] ** 2
    if A < 1e-9:
        return
    B = -planar * u[2]
    C = x**2 + y**2 - planar**2 - r**2
    root = B**2 - A * C
    t = (-B + np.sqrt(np.clip(root, 0, None))) / A
    along = planar + t * u[2]
    hit = (root > 0) & (along >= 0) & (along <= length)
    normal = np.stack([x - along * u[0], y - along * u[1], t - along * u[2]], -1) / r
    color = np.where((along < length / 2)[..., None], color_a, color_b)
    canvas.put(rows, columns, hit, t + a[2], normal, color)


def _lit(normal: np.ndarray, color: np.ndarray, gloss: float) -> np.ndarray:
    """Ambient, diffuse and specular light (Blinn and Phong) on surfaces with the given normals, without clipping."""
    half = LIGHT + np.array([0, 0, 1.0])
    half /= np.linalg.norm(half)
    diffuse = np.clip(normal @ LIGHT, 0, None)[..., None]
    rim = np.clip(normal[..., 2:3], 0, 1)
    highlight = np.clip(normal @ half, 0, None)[..., None] ** 40
    return color * (0.36 + 0.22 * rim + 0.52 * diffuse) + gloss * highlight


def paint(
    layers: Sequence[Layer], camera: Camera | None = None, width: int = 900, frame: int = 0, sharpness: int = 2
) -> np.ndarray:
    """The picture of one frame as an array (height, width, 4) of red, green, blue, alpha in 0 ... 1.

    Layers with opacity 1 are solid; the others are laid over them from the back to the front, more opaque at their rim.
    ``sharpness`` pixels are averaged per pixel and direction.
    """
    camera = camera_for(layers, frame=frame) if camera is None else camera
    scale = width * sharpness / (2 * camera.half[0])
    canvas = _Canvas.blank(width * sharpness, max(1, round(2 * camera.half[1] * scale / sharpness)) * sharpness, scale)
    translucent: list[tuple[np.ndarray, float, np.ndarray, float]] = []
    for layer in layers:
        if not layer.visible or layer.opacity <= 0:
            continue
        x = camera.view(layer.positions[min(frame, len(layer) - 1)])
        colors = np.array([mcolors.to_rgb(c) for c in layer.colors])
        solid = layer.opacity >= 1
        for i, j in layer.bonds if layer.stick > 0 else ():
            ends = (colors[i], colors[j]) if solid else (WIRE, WIRE)
            _stick(canvas, x[i], x[j], layer.stick if solid else WIRE_RADIUS, *ends)
        for center, radius, color in zip(x, layer.radii, colors):
            if not solid:
                translucent.append((center, float(radius), color, layer.opacity))
            elif (s := _sphere(canvas, center, float(radius))) is not None:
                canvas.put(s[0], s[1], s[2], s[3], s[4], color)
    image = _shade(canvas)
    for center, radius, color, opacity in sorted(translucent, key=lambda p: p[0][2]):
        _veil(image, canvas, center, radius, color, opacity)
    image[..., :3] = np.clip(image[..., :3], 0, 1)
    return _averaged(image, sharpness)


def _shade(canvas: _Canvas) -> np.ndarray:
    solid = np.isfinite(canvas.depth)
    image = np.zeros((*canvas.depth.shape, 4))
    if not solid.any():
        return image
    near, far = canvas.depth[solid].max(), canvas.depth[solid].min()
    depth = np.where(solid, canvas.depth, far - 1.0)
    rgb = _lit(canvas.normal, canvas.color, 0.35)
    # Recesses: pixels that lie behind their blurred surroundings get darker.
    behind = np.clip(gaussian_filter(depth, 0.18 * canvas.scale) - depth, 0, 1.5)
    rgb *= 1 - 0.30 * behind[..., None]
    # Depth cue: what is far pales.
    fog = 0.32 * np.clip((near - depth) / max(near - far, 1e-9), 0, 1)[..., None]
    rgb = rgb * (1 - fog) + 0.86 * fog
    # Outline: a thin dark line where the depth jumps.
    jump = np.zeros_like(depth)
    for axis in (0, 1):
        d = np.abs(np.diff(depth, axis=axis))
        pad = [(0, 0), (0, 0)]
        pad[axis] = (1, 0)
        jump = np.maximum(jump, np.pad(d, pad))
    rgb *= 1 - 0.45 * np.clip(jump - 0.25, 0, 0.6)[..., None] / 0.6
    image[..., :3] = rgb * solid[..., None]
    image[..., 3] = solid
    return image


def _veil(image: np.ndarray, canvas: _Canvas, center: np.ndarray, radius: float, color: np.ndarray, opacity: float) -> None:
    """Lay a translucent sphere over the picture, where nothing solid is in front of it."""
    s = _sphere(canvas, center, radius)
    if s is None:
        return
    rows, columns, hit, z, normal = s
    shown = hit & (z > canvas.depth[rows, columns])
    edge = 1 - normal[..., 2]
    alpha = np.where(shown, np.clip(opacity * (0.55 + 0.9 * edge**1.5), 0, 0.92), 0.0)
    rgb = np.clip(_lit(normal, color, 0.5) * 1.12, 0, 1)
    below, under = image[rows, columns, :3], image[rows, columns, 3]
    total = alpha + under * (1 - alpha)
    mixed = rgb * alpha[..., None] + below * (under * (1 - alpha))[..., None]
    image[rows, columns, :3] = mixed / np.clip(total, 1e-9, None)[..., None]
    image[rows, columns, 3] = total


def _averaged(image: np.ndarray, k: int) -> np.ndarray:
    """Every k x k pixels averaged, colours weighted by their alpha so that no dark fringe is left."""
    h, w = image.shape[0] // k, image.shape[1] // k
    blocks = image[: h * k, : w * k].reshape(h, k, w, k, 4)
    alpha = blocks[..., 3].mean((1, 3))
    rgb = (blocks[..., :3] * blocks[..., 3:]).mean((1, 3)) / np.clip(alpha, 1e-9, None)[..., None]
    return np.clip(np.concatenate([rgb, alpha[..., None]], -1), 0, 1)


def draw(axes: Axes, layers: Sequence[Layer], camera: Camera | None = None, frame: int = 0, width: int = 900) -> Camera:
    """Paint into matplotlib axes, with the labels of the layers that want them; gives back the camera."""
    camera = camera_for(layers, frame=frame) if camera is None else camera
    w, h = camera.half
    axes.imshow(paint(layers, camera, width, frame), extent=(-w, w, -h, h), interpolation="antialiased", aspect="equal")
    axes.set_axis_off()
    for layer in layers:
        if not (layer.labelled and layer.visible):
            continue
        for (x, y, _), text in zip(camera.view(layer.positions[min(frame, len(layer) - 1)]), layer.labels):
            outline = [withStroke(linewidth=2.5, foreground="white")]
            axes.text(x, y, text, ha="center", va="center", fontsize=10, fontweight="bold", color="#111111", path_effects=outline)
    return camera


def picture(layers: Sequence[Layer], title: str = "", width: float = 6.4, frame: int = 0, legend: Sequence[str] = ()) -> Figure:
    """A figure with the painted molecule; ``legend`` names bead 1, 2, ... beside a dot in its colour."""
    camera = camera_for(layers, frame=frame)
    with theme.style():
        figure = theme.new_figure(width, 0.4 + width * camera.half[1] / camera.half[0])
        axes = figure.add_subplot()
        draw(axes, layers, camera, frame)
        if title:
            axes.set_title(title)
        if legend:
            add_bead_legend(figure, legend)
    return figure


def add_bead_legend(figure: Figure, names: Sequence[str]) -> None:
    """Dots in the colours of the beads with their names, below the picture."""
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], marker="o", linestyle="", markersize=8, color=theme.bead_color(i), label=n) for i, n in enumerate(names)]
    figure.legend(
        handles=dots, loc="outside lower center", ncols=min(len(names), 6 if max(map(len, names)) < 10 else 3), handletextpad=0.2
    )

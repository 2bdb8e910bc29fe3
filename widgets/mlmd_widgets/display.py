"""What a notebook shows, live or without a screen: the same calls give widgets in JupyterLab and static output in a report."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from mlmd_widgets import viewer
from mlmd_widgets.layers import Layer

if TYPE_CHECKING:
    import plotly.graph_objects as go

QUIET = 2.0  # seconds after which work shows its progress
PERIOD = 0.25  # seconds between two updates of a progress line


def headless(value: bool | None = None) -> bool:
    """Whether output has to stand without widgets: as told, else by MLMD_HEADLESS, else whether there is no kernel."""
    if value is not None:
        return value
    setting = os.environ.get("MLMD_HEADLESS")
    if setting is not None:
        return setting.strip().lower() not in ("", "0", "no", "false")
    from IPython import get_ipython

    shell = get_ipython()
    return shell is None or not hasattr(shell, "kernel")


def show(figure: Figure | go.Figure, alt: str = "", width: int | None = None) -> None:
    """Put a figure into the output of the cell. ``alt``: what it shows, in words, for those who cannot see it."""
    if isinstance(figure, Figure):
        _show_still(figure, alt, width)
    elif headless():
        _show_plotly_alone(figure)
    else:
        import plotly.graph_objects as go
        from IPython.display import display

        display(go.FigureWidget(figure))


def show_molecule(layers: Sequence[Layer], **options: Any) -> viewer.MoleculeViewer | None:
    """The molecule viewer: a widget when live (which is returned), a self-contained fragment of HTML otherwise."""
    from IPython.display import HTML, display

    if headless():
        display(HTML(viewer.to_html(layers, **options)))
        return None
    widget = viewer.MoleculeViewer(layers, **options)
    display(widget)
    return widget


def show_html(text: str) -> None:
    """Put a fragment of HTML into the output of the cell."""
    from IPython.display import HTML, display

    display(HTML(text))


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _show_still(figure: Figure, alt: str, width: int | None) -> None:
    from IPython.display import Image, display

    shown = width or round(figure.get_figwidth() * 92)
    display(Image(data=png(figure), format="png", width=shown, alt=alt or _title(figure)))


def _title(figure: Figure) -> str:
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    return "; ".join(t for t in titles if t)


_plotly_embedded = False


def _show_plotly_alone(figure: go.Figure) -> None:
    """Plotly with its script in the page, once per kernel: later figures use the one that is there."""
    global _plotly_embedded
    from IPython.display import HTML, display

    script: bool = not _plotly_embedded
    _plotly_embedded = True
    display(HTML(figure.to_html(full_html=False, include_plotlyjs=script, config={"displaylogo": False, "responsive": True})))


class Progress:
    """One persistent line that says what is being done, how far, how fast, and how long it will take.

    Live: a bar that stays. Without a screen: text on standard error, which the report leaves out.
    """

    def __init__(self, title: str, total: int | None = None):
        self.title, self.total = title, total
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        self.written = False

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < PERIOD or now - self.start < QUIET / 4:
            return
        self.last = now
        self._put(done, self._line(done, now - self.start, note))

    def finish(self, done: int, note: str = "") -> None:
        elapsed = time.monotonic() - self.start
        if self.bar is not None or self.written or elapsed > QUIET:
            self._put(done, f"{self.title}: done in {_clock(elapsed)}" + (f", {note}" if note else ""), last=True)

    def _line(self, done: int, elapsed: float, note: str) -> str:
        parts = [f"{done}/{self.total}" if self.total else str(done)]
        if done and self.total:
            parts.append(f"{_clock(elapsed / done * (self.total - done))} left")
        return f"{self.title}: " + ", ".join(parts + ([note] if note else []))

    def _put(self, done: int, line: str, last: bool = False) -> None:
        if headless():
            # A terminal gets one line that is written over, a log a line every ten seconds.
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
            self.last += 0 if last else 4.75
            self.written = True
            return
        import ipywidgets
        from IPython.display import display

        if self.bar is None:
            style = ipywidgets.Layout(width="240px")
            self.bar = ipywidgets.HBox([ipywidgets.IntProgress(max=max(1, self.total or 1), layout=style), ipywidgets.Label()])
            display(self.bar)
        gauge, label = self.bar.children
        gauge.value = gauge.max if last else min(done, gauge.max)
        gauge.bar_style = "success" if last else ""
        label.value = line


def track(logs: Iterable[Any], title: str, total: int | None = None, step: str = "step", note: Any = None) -> list[Any]:
    """Run a generator of logs to its end, showing progress; gives back all logs.

    ``note(log)`` is what the line says about the newest log; logs that are dicts may carry ``step`` and ``steps``. An interrupt ends the work where it is and is passed on.
    """
    progress, out = Progress(title, total), []
    for log in logs:
        out.append(log)
        if isinstance(log, dict) and "steps" in log:
            progress.total = int(log["steps"])
        done = int(log[step]) if isinstance(log, dict) and step in log else len(out)
        progress.update(done, note(log) if note else "")
    progress.finish(progress.total or len(out), note(out[-1]) if note and out else "")
    return out


def _clock(seconds: float) -> str:
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"

"""Output stands alone without a screen, and work that takes long says so."""

import pytest
from matplotlib.figure import Figure
from mlmd_widgets import blocks, display, quiz


@pytest.mark.parametrize(("setting", "expected"), [("1", True), ("true", True), ("0", False), ("no", False), ("", False)])
def test_the_environment_decides_whether_anyone_is_looking(monkeypatch, setting, expected):
    monkeypatch.setenv("MLMD_HEADLESS", setting)
    assert display.headless() is expected
    assert display.headless(not expected) is not expected


def test_without_a_kernel_nobody_is_looking(monkeypatch):
    monkeypatch.delenv("MLMD_HEADLESS", raising=False)
    assert display.headless()


class _Clock:
    """Time that passes by the given number of seconds at every look."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def monotonic(self):
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("seconds_per_look", "speaks"), [(0.01, False), (3.0, True)])
def test_only_work_of_more_than_two_seconds_speaks(monkeypatch, capsys, seconds_per_look, speaks):
    monkeypatch.setenv("MLMD_HEADLESS", "1")
    monkeypatch.setattr(display, "time", _Clock(seconds_per_look))
    logs = display.track(({"step": k, "steps": 5} for k in range(1, 6)), "working", note=lambda log: "fine")
    said = capsys.readouterr()
    assert len(logs) == 5
    assert said.out == ""
    assert ("working: done in" in said.err) is speaks


def test_an_interrupt_is_passed_on(monkeypatch):
    monkeypatch.setenv("MLMD_HEADLESS", "1")

    def logs():
        yield {"step": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        display.track(logs(), "working")


def test_a_figure_becomes_a_png():
    assert display.png(Figure(figsize=(1, 1)))[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (25.23, 1.58, "25.2 ± 1.6"),
        (0.0312, 0.0021, "0.0312 ± 0.0021"),
        (330.2, 26.0, "330 ± 26"),
        (3.14159, 0.0, "3.14"),
        (1.0, float("nan"), "1"),
    ],
)
def test_values_have_as_many_digits_as_their_error_allows(value, error, text):
    assert blocks.with_error(value, error) == text


def test_text_cannot_become_markup():
    assert "<b>" not in blocks.table(["<b>"], [["<b>"]]) + blocks.facts([("<b>", "<b>")]) + blocks.note("<b>")


def test_the_quiz_judges_without_giving_the_answer_away():
    assert quiz.check(0.447, 0.4472, "geometric").startswith("Right")
    assert "0.4472" not in quiz.check(2.0, 0.4472, "geometric mean")
    assert "geometric mean" in quiz.check(2.0, 0.4472, "geometric mean")
    assert quiz.check(None, 1.0, "").startswith("Not answered")
    assert quiz.check(" Yes ", "yes", "").startswith("Right")

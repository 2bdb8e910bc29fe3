"""The viewer hands on exact coordinates, and its page contains all it needs."""

import base64
import json
import re

import numpy as np
import pytest
from mlmd_widgets import viewer
from mlmd_widgets.layers import Layer
from mlmd_widgets.painter import camera_for


def _layer(name="atoms", frames=7, n=5, scale=5.0, **more) -> Layer:
    x = np.random.default_rng(0).normal(size=(frames, n, 3)) * scale
    return Layer(name, x, np.full(n, 0.4), ("#0072B2",) * n, tuple("abcde"[:n]), ((0, 1),), **more)


@pytest.mark.parametrize("scale", [1.0, 5000.0])
def test_coordinates_arrive_within_half_a_step(scale):
    layer = _layer(scale=scale)
    scene, (data,) = viewer.describe([layer])
    back = np.frombuffer(data, "<i2").reshape(layer.positions.shape) * scene["step"] + camera_for([layer]).center
    assert np.abs(back - layer.positions).max() <= scene["step"] * 0.51
    assert scene["step"] <= max(0.002, scale / 1000)


def test_the_page_refers_to_nothing_outside_itself():
    page = viewer.to_page([_layer()], title="x")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "http" not in page
    assert "import " not in page.split("<script>")[1].split("const data")[0]


def test_text_in_labels_cannot_end_the_script():
    layer = Layer("</script><b>", np.zeros((1, 1, 3)), np.ones(1), ("#000000",), ("</script>",))
    page = viewer.to_html([layer])
    assert page.count("</script>") == 1
    data = json.loads(re.search(r"const data = (.*);\n", page)[1])
    assert data["scene"]["layers"][0]["labels"] == ["</script>"]


def test_two_viewers_in_a_page_have_different_names():
    first, second = (re.search(r'id="(mlmd-\w+)"', viewer.to_html([_layer()]))[1] for _ in range(2))
    assert first != second


def test_a_still_layer_may_accompany_a_moving_one_but_two_lengths_may_not():
    viewer.describe([_layer(frames=7), _layer("still", frames=1)])
    with pytest.raises(ValueError, match="layers have"):
        viewer.describe([_layer(frames=7), _layer("other", frames=3)])


def test_the_widget_carries_the_scene_and_can_be_given_another():
    widget = viewer.MoleculeViewer([_layer()])
    assert widget.scene["layers"][0]["name"] == "atoms"
    widget.frame = 3
    widget.show([_layer("beads", frames=2)])
    assert widget.scene["layers"][0]["name"] == "beads"
    assert widget.frame == 0
    assert len(widget.coordinates[0]) == 2 * 5 * 3 * 2


def test_fragment_and_widget_share_the_coordinates():
    text = viewer.to_html([_layer()])
    data = json.loads(re.search(r"const data = (.*);\n", text)[1])
    assert base64.b64decode(data["bytes"][0]) == viewer.MoleculeViewer([_layer()]).coordinates[0]

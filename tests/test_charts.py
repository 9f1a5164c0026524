"""Charts: what is drawn is what is in the table."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajworld.charts import Look, _apart, heatmap, scatter

pytestmark = pytest.mark.once


@given(wanted=st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted), gap=st.floats(1e-3, 0.3))
def test_labels_are_moved_apart_only_where_they_overlap(wanted: list[float], gap: float) -> None:
    found = _apart(wanted, gap)
    assert (np.diff(found) >= gap - 1e-9).all()
    np.testing.assert_allclose(_apart(found, gap), found, atol=1e-9)
    if (np.diff(wanted) >= gap).all():
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_bars_of_a_scatter_are_the_interval_and_two_standard_errors() -> None:
    rows = [(1.0, 2.0, 1.5, 4.0, 0.25), (3.0, np.nan, 1.0, 2.0, 0.5), (5.0, 3.0, 2.0, 3.5, 1.0)]
    table = pd.DataFrame(rows, columns=["truth", "estimate", "estimate low", "estimate high", "truth error"])
    figure = scatter(table.assign(method="one"), Look(), x="truth", y="estimate", series="method")
    (drawn,) = figure.axes[0].containers
    points, _, (across, upright) = drawn
    np.testing.assert_allclose(points.get_xydata(), [[1, 2], [5, 3]])
    np.testing.assert_allclose(across.get_segments(), [[[0.5, 2], [1.5, 2]], [[3, 3], [7, 3]]])
    np.testing.assert_allclose(upright.get_segments(), [[[1, 1.5], [1, 4]], [[5, 2], [5, 3.5]]])


def test_a_pair_without_a_value_is_a_gap_in_a_heatmap() -> None:
    rows = [("a", "p", 0.5), ("a", "q", np.nan), ("b", "q", 12.4)]
    table = pd.DataFrame(rows, columns=["from", "to", "ratio"]).assign(panel="all")
    (axes,) = heatmap(table, Look(), x="to", y="from", value="ratio", panel="panel").axes
    assert [text.get_text() for text in axes.texts] == ["0.50", "–", "–", "12"]
    np.testing.assert_allclose(axes.images[0].get_array().filled(0), [[-1, 0], [0, np.log2(12.4)]])

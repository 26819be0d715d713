"""Charts are well-formed SVG that stands where the numbers say."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.evaluation.chart import (
    Axis,
    Row,
    Scales,
    Series,
    axis_over,
    histogram,
    interval_chart,
    line_chart,
    round_step,
    scatter,
)
from evenhand.evaluation.panels import series_of, smoothed, thinned, training_panels, trend, validation_of
from evenhand.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
SCALES = Scales("steps", "nats <&>")


def parsed(chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_few_and_within_the_axis(low, extent):
    axis = Axis(low, low + extent, 0, 100)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 8
    slack = extent * 1e-6 + 4 * math.ulp(abs(low) + extent)  # an axis far from zero has few digits left for its extent
    assert all(low - slack <= tick <= low + extent + slack for tick in ticks)
    mantissa = round_step(extent) / 10 ** math.floor(math.log10(round_step(extent)) + 1e-9)
    assert any(math.isclose(mantissa, round_one) for round_one in (1, 2, 2.5, 5))


@given(st.lists(st.floats(-1e9, 1e9)))
def test_an_axis_holds_its_values_and_has_an_extent(values):
    axis = axis_over(values, 0, 100)
    assert axis.low < axis.high
    assert all(0 <= axis.place(value) <= 100 for value in values)


def test_an_axis_skips_what_is_not_finite():
    assert axis_over([math.nan, 1.0, math.inf, 3.0], 0, 100) == axis_over([1.0, 3.0], 0, 100)


def test_interval_chart_puts_dot_and_whisker_at_the_figure():
    x = Axis(0.0, 1.0, 150, 426)
    chart = parsed(
        interval_chart([Row("a <b>", [("after", Figure(0.5, 9, 0.25, 0.75))])], x, str, 0.5, "what it shows")
    )
    mark = next(group for group in chart.iter(f"{SVG}g"))
    bar, dot = mark.find(f"{SVG}line"), mark.find(f"{SVG}circle")
    assert float(dot.get("cx")) == pytest.approx((150 + 426) / 2)
    assert float(bar.get("x1")) == pytest.approx(150 + 0.25 * 276)
    assert float(bar.get("x2")) == pytest.approx(150 + 0.75 * 276)
    assert chart.get("aria-label") == "what it shows"
    assert "a <b>" in [element.text for element in chart.iter(f"{SVG}text")]


def test_a_figure_that_was_not_measured_draws_nothing():
    chart = parsed(interval_chart([Row("a", [("after", Figure(None, 0))])], Axis(0, 1, 150, 426), str, 0.5, ""))
    assert not list(chart.iter(f"{SVG}circle"))


def test_line_chart_draws_lines_and_marks_with_and_without_interval():
    marks = [(1.0, Figure(0.5, 9, 0.4, 0.6)), (2.0, Figure(0.6, 9))]
    chart = parsed(line_chart([Series("after", "x", [(0.0, 1.0), (2.0, 0.0)])], marks, SCALES, ""))
    assert len(list(chart.iter(f"{SVG}path"))) == 1
    assert len(list(chart.iter(f"{SVG}circle"))) == 2
    assert len([bar for bar in chart.iter(f"{SVG}line") if bar.get("class") == "whisker"]) == 1


def test_histogram_areas_are_shares_of_each_cloud():
    rng = np.random.default_rng(0)
    clouds = [
        Series("before", "", [(v, 0.0) for v in rng.uniform(0, 256, 50)]),
        Series("after", "", [(256.0, 0.0)] * 7),
    ]
    areas = {p.get("class"): p.get("d") for p in parsed(histogram(clouds, SCALES, "")).iter(f"{SVG}path")}
    corners = {}
    for name, drawn in areas.items():
        corners[name] = [tuple(map(float, c.split())) for c in drawn.strip("MZ").split("L")]
    surface = {name: sum((b[0] - a[0]) * (224 - a[1]) for a, b in pairwise(points)) for name, points in corners.items()}
    assert surface["area before"] == pytest.approx(surface["area after"], rel=0.01)


def test_scatter_draws_every_point_once():
    cloud = [(float(i), math.sin(i)) for i in range(40)]
    chart = parsed(scatter([Series("before", "", cloud)], [Series("after", "", trend(cloud))], SCALES, ""))
    dots = next(p for p in chart.iter(f"{SVG}path") if "dots" in p.get("class"))
    assert dots.get("d").count("M") == 40


def test_trend_is_the_mean_of_eighths():
    cloud = [(float(i), 2.0 * i) for i in reversed(range(80))]
    assert np.array(trend(cloud)) == pytest.approx(np.array([(10 * k + 4.5, 20 * k + 9.0) for k in range(8)]))
    assert trend(cloud[:3]) == [(77.0, 154.0), (78.0, 156.0), (79.0, 158.0)]


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60), st.integers(1, 9))
def test_smoothing_keeps_steps_and_stays_within_the_values(values, window):
    training = list(enumerate(values))
    smooth = smoothed([(float(i), v) for i, v in training], window)
    assert [step for step, _ in smooth] == [float(i) for i, _ in training]
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for _, value in smooth)
    expected = [np.mean(values[max(0, i - window // 2) : i + (window + 1) // 2]) for i in range(len(values))]
    assert [value for _, value in smooth] == pytest.approx(expected, abs=1e-9)


def test_thinning_keeps_the_ends():
    points = [(float(i), 0.0) for i in range(1001)]
    kept = thinned(points, 100)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert len(kept) <= 101
    assert thinned([], 5) == []


def test_the_later_record_of_a_step_counts_and_what_is_not_finite_is_left_out():
    journal = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": float("nan")},
        {"step": 1, "loss": 2.0},
        {"step": 3, "validation": {"loss": 1.5, "pairwise_accuracy": {"value": 0.6, "n": 9, "low": 0.3, "high": 0.8}}},
        {"step": 4, "validation": {"pairwise_accuracy": {"value": None, "n": 0, "low": None, "high": None}}},
    ]
    assert series_of(journal, "loss") == [(1.0, 2.0)]
    assert validation_of(journal, "loss") == [(3.0, Figure(1.5, 0))]
    assert validation_of(journal, "pairwise_accuracy") == [(3.0, Figure(0.6, 9, 0.3, 0.8))]


def test_training_panels_show_what_the_journal_has():
    journal = [{"step": i, "loss": 1.0 / i, "gap": 0.1 * i} for i in range(1, 30)]
    assert [panel.title for panel in training_panels(journal, 0.5)] == ["Loss", "Gap"]
    assert ("target", "margin 0.5") in training_panels(journal, 0.5)[1].legend
    assert training_panels([], 0.5) == []

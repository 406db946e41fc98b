"""Pictures and charts: the pixels are those of the tensors, and nothing else changes."""

import base64
import io
import random

import checks
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from small import pictures, sprite_arrays

from sprites_lab import LabError, charts, figures
from sprites_lab.data import to_bytes, to_pictures

LINES = {"one": ([1, 2, 3], [0.1, 0.4, 0.2]), "two": ([1, 2, 3], [0.3, 0.2, 0.1])}
BLOCKS = {"init": (8, 16), "down1": (8, 8), "up1": (16, 8), "out": (8, 16)}
CHARTS = {
    "lines": lambda: charts.show_lines(LINES, "t", "loss", "a title", log_y=True, marks={"here": 2}, levels={"floor": 0.15}),
    "log lines": lambda: charts.show_lines(LINES, "t", "loss", "a title", log_x=True, spreads={"two": [0.01, 0.02, 0.1]}),
    "bars": lambda: charts.show_bars({"a": [1, 2], "b": [3, 4]}, ["x", "y"], "count", "a title"),
    "histograms": lambda: charts.show_histograms({"x_T": torch.linspace(-3, 3, 100)}, "value", "a title"),
    "maps": lambda: charts.show_maps({"a": torch.eye(4) + 0.1, "b": torch.ones(2, 3)}, "column", "row", "share", log=True),
    "blocks": lambda: charts.show_blocks(BLOCKS, [("init", "out"), ("down1", "up1")], "a title"),
}


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.data)).convert("RGB"))


def frames(data):
    image = Image.open(io.BytesIO(data))
    return [(np.asarray(f.convert("RGB")), f.info.get("duration")) for f in ImageSequence.Iterator(image)]


def test_a_sheet_shows_every_picture_at_its_place():
    checks.check_sheet()


def test_a_sheet_of_one_picture_has_its_gutter_too():
    sprite = sprite_arrays(1, size=3)["sprites"]
    sheet = np.asarray(figures.tile(to_pictures(sprite), 8, 2))
    assert sheet.shape == (10, 10, 3)
    assert np.array_equal(sheet[2:8, 2:8], sprite[0].repeat(2, 0).repeat(2, 1)) and (sheet[:2] == 128).all()


def test_every_colour_is_shown_as_the_bytes_that_would_be_saved():
    x = torch.linspace(-1.5, 1.5, 3 * 256).reshape(1, 3, 16, 16)
    sheet = np.asarray(figures.tile(torch.cat([x, x]), 2, 1))
    assert np.array_equal(sheet[2:18, 2:18], to_bytes(x)[0])


def test_names_and_titles_stand_beside_the_sheet_and_do_not_cover_it():
    x0, _ = pictures(6, 4)
    plain = pixels(figures.show_grid(x0, 3))
    labelled = pixels(figures.show_grid(x0, 3, rows=["first", "second"], titles=["a", "b", "c"]))
    top, left = labelled.shape[0] - plain.shape[0], labelled.shape[1] - plain.shape[1]
    assert top > 0 and left > 0 and np.array_equal(labelled[top:, left:], plain)
    assert (labelled[:top] < 100).any() and (labelled[top:, :left] < 100).any()
    assert (labelled[0, 0] == 255).all()


def test_a_film_strip_has_a_column_for_each_moment_and_a_row_for_each_picture():
    moments = [pictures(2, 4, seed)[0] for seed in (1, 2, 3)]
    strip = pixels(figures.film_strip(moments, ["t=3", "t=2", "t=0"], zoom=1))
    strip = strip[strip.shape[0] - 14 :]
    for column in range(3):
        for row in range(2):
            cell = strip[2 + 6 * row :, 2 + 6 * column :][:4, :4]
            assert np.array_equal(cell, to_bytes(moments[column])[row])


def test_frames_without_a_title_each_are_refused():
    moments = [pictures(2, 4)[0]] * 3
    with pytest.raises(LabError, match="3 frames with 2 titles"):
        figures.film_strip(moments, ["a", "b"])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_an_animation_shows_all_moments_in_order_and_rests_on_the_last(kind):
    moments = [torch.full((2, 3, 4, 4), level) for level in (-1.0, -0.2, 0.4, 1.0)]
    shown = frames(figures.animation(moments, kind, ["a", "b", "c", "d"], zoom=3, milliseconds=100))
    assert len(shown) == 4
    for (picture, _), moment in zip(shown, moments, strict=True):
        assert abs(int(picture[-8, 8, 0]) - int(to_bytes(moment)[0, 0, 0, 0])) <= 12  # at most 256 colours
    assert shown[-1][1] == 1000 and shown[0][1] == 100


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_one_small_picture_with_captions_of_any_length_can_be_animated(kind):
    moments = [pictures(1, 4, seed)[0] for seed in (1, 2, 3)]
    shown = frames(figures.animation(moments, kind, ["noise", "a very long caption", "t = 0"], columns=1, zoom=1))
    assert len(shown) == 3 and len({picture.shape for picture, _ in shown}) == 1


def test_no_frame_is_lost_for_want_of_a_caption():
    moments = [pictures(1, 4, seed)[0] for seed in (1, 2, 3)]
    with pytest.raises(LabError, match="3 frames"):
        figures.animation(moments, "PNG", ["only one"])


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS.keys())
def test_a_chart_is_a_png_of_fixed_size_that_leaves_nothing_behind(chart):
    before, settings, python = torch.get_rng_state(), dict(plt.rcParams), random.getstate()
    figure = chart()
    assert pixels(figure).shape == (300, 700, 3) and figure.data == chart().data
    assert plt.get_fignums() == [] and dict(plt.rcParams) == settings
    assert torch.equal(torch.get_rng_state(), before) and random.getstate() == python


def test_a_spread_is_drawn_around_its_own_line_only():
    plain, spread, other = (charts.show_lines(LINES, "t", "loss", spreads=spreads) for spreads in (None, {"two": [0.1] * 3}, {"three": [0.1] * 3}))

    def orange(figure):
        return (np.abs(pixels(figure).astype(int) - [0xE8, 0x78, 0x28]).max(2) < 8).sum()

    assert orange(spread) > orange(plain) + 50 and plain.data == other.data


def test_a_ranking_has_a_bar_for_each_value_and_grows_with_them():
    few, many = (charts.show_ranking({f"arm {i}": 10.0 + i for i in range(count)}, "FD", ("course", 12.0)) for count in (3, 12))
    assert pixels(many).shape[0] > 2 * pixels(few).shape[0] * 0.9 and pixels(few).shape[1] == pixels(many).shape[1] == 700
    long, short = (charts.show_ranking({"a": value, "b": 10.0}, "FD") for value in (10.0, 2.0))
    blue = [(np.abs(pixels(figure).astype(int) - [0x3C, 0x68, 0xD0]).max(2) < 8)[: pixels(figure).shape[0] // 3].sum() for figure in (long, short)]
    assert blue[0] > 3 * blue[1]  # the first stands on top


def test_a_waterfall_names_its_values_and_factors(monkeypatch):
    drawn, real = [], charts.finish_chart
    monkeypatch.setattr(charts, "finish_chart", lambda figure, alt: drawn.append(figure) or real(figure, alt))
    assert charts.show_waterfall({"slow": 30.0, "fast": 3.0, "faster": 1.5}, ["FD 1", "FD 2", "FD 3"], "seconds", alt="falls").data[:4] == b"\x89PNG"
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches[:3]] == [30.0, 3.0, 1.5] and axes.get_yscale() == "log"
    said = [text.get_text() for text in axes.texts]
    assert "10x" in said and "2x" in said and "30" in said and [label.get_text() for label in axes.get_xticklabels()][1] == "fast\nFD 2"



def test_a_table_is_dark_where_a_row_has_its_counts():
    figure = pixels(charts.show_table([[90, 10], [0, 5]], ["a", "b"], "asked for", "taken for")).astype(int)
    height, width = figure.shape[:2]
    corners = [figure[height * y // 4, width * x // 4].sum() for y, x in ((1, 2), (1, 3), (2, 2), (2, 3))]
    assert corners[0] < corners[1] and corners[3] < corners[2]


def test_maps_share_one_scale_of_colours_and_count_from_where_they_are_told(monkeypatch):
    drawn, real = [], charts.finish_chart
    monkeypatch.setattr(charts, "finish_chart", lambda figure, alt: drawn.append(figure) or real(figure, alt))
    shown = charts.show_maps({"one": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "other": torch.full((3, 5), 10.0)}, "t", "told", "similarity", first=1)
    one, other, bar = drawn[0].axes
    assert shown.alt == "one, beside other" and [axes.get_title() for axes in (one, other)] == ["one", "other"] and bar.get_ylabel() == "similarity"
    assert [axes.images[0].get_clim() for axes in (one, other)] == [(1, 10)] * 2 and one.images[0].get_array().tolist() == [[1, 2], [3, 4]]
    assert one.images[0].get_extent() == [0.5, 2.5, 2.5, 0.5] and other.images[0].get_extent() == [0.5, 5.5, 3.5, 0.5]  # row 1 on top


def test_sheets_side_by_side_keep_their_pixels_and_their_order():
    black, white = torch.full((4, 3, 4, 4), -1.0), torch.full((4, 3, 4, 4), 1.0)
    figure = pixels(figures.side_by_side({"made": black, "real": white}, columns=2, zoom=3))
    left, right = figure[:, : figure.shape[1] // 2], figure[:, figure.shape[1] // 2 :]
    assert (left == 0).all(2).sum() >= 4 * 144 and (right[-31:] == 0).all(2).sum() == 0 and figures.side_by_side({"made": black, "real": white}).alt == "made, beside real"


def test_a_chart_shows_its_values():
    higher = charts.show_bars({"a": [1, 4]}, ["x", "y"], "count")
    lower = charts.show_bars({"a": [4, 1]}, ["x", "y"], "count")

    def blue(figure):
        painted = (np.abs(pixels(figure).astype(int) - [0x3C, 0x68, 0xD0]).max(2) < 8).sum(0)
        return painted[:350].sum(), painted[350:].sum()

    left, right = blue(higher)
    assert right > 3 * left and blue(lower)[0] > 3 * blue(lower)[1]


def test_a_notebook_gets_a_png_and_a_text_and_nothing_else():
    figure = figures.show_grid(pictures(2, 4)[0], alt="two sprites")
    bundle, metadata = figure._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"} and bundle["text/plain"] == "two sprites"
    assert base64.b64decode(bundle["image/png"]) == figure.data
    assert metadata == {"image/png": {"alt": "two sprites"}}
    assert not any(hasattr(figure, f"_repr_{kind}_") for kind in ("html", "javascript", "svg"))


def test_a_figure_can_be_saved(tmp_path):
    figure = figures.show_grid(pictures(2, 4)[0])
    figure.save(str(tmp_path / "grid.png"))
    assert (tmp_path / "grid.png").read_bytes() == figure.data


def test_pictures_are_shown_as_they_are_and_not_changed():
    x0 = pictures(2, 4)[0] * 3
    before = x0.clone()
    figures.show_grid(x0.requires_grad_())
    assert torch.equal(x0, before)


def test_a_page_holds_its_figures_unscaled():
    red, blue, wide = (figures.show_grid(torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, h, w), zoom=1) for c, h, w in (
        ([1.0, -1, -1], 4, 6), ([-1.0, -1, 1], 8, 4), ([-1.0, 1, -1], 4, 40)))
    whole = figures.page([[red, blue], [wide]], "three sheets")
    seen = pixels(whole)
    assert whole.alt == "three sheets" and seen.shape == (12 + 16 + 8, 44, 3)  # each sheet with its gutter of 2 pixels
    for colour, count in (((255, 0, 0), 24), ((0, 0, 255), 32), ((0, 255, 0), 160)):
        assert (seen == colour).all(2).sum() == count
    assert (seen[2:10, 28:32] == (0, 0, 255)).all() and (seen[4:8, 2:8] == (255, 0, 0)).all() and (seen[30:34, 2:42] == (0, 255, 0)).all()


def test_lines_and_bars_differ_by_more_than_colour():
    """In grey: the second line has gaps where the first has none, and the second group of bars a pattern."""
    def grey(figure):
        return np.asarray(Image.open(io.BytesIO(figure.data)).convert("L"), int)

    lines = grey(charts.show_lines({"a": (range(40), [0.0] * 40), "b": (range(40), [1.0] * 40)}, "x", "y"))[:, 200:640] < 230
    upper, lower = (lines[part].mean(1).max() for part in (slice(0, 100), slice(150, 245)))  # "b" above, "a" below
    assert lower == 1 and 0.3 < upper < 0.9
    bars = grey(charts.show_bars({"a": [1.0], "b": [1.0]}, ["x"], "y"))[100:200]
    left, right = bars[:, 120:250], bars[:, 400:530]
    assert len(np.unique(left)) == 1 and len(np.unique(right)) > 1
    assert len(set(charts.DASHES)) == len(charts.DASHES) > 3 < len(set(charts.MARKERS)) and len(set(charts.HATCHES)) > 3


@pytest.fixture
def drawn(monkeypatch):
    """Every chart as matplotlib's figure, in place of its PNG."""
    monkeypatch.setattr(charts, "finish_chart", lambda figure, alt: figure)
    yield
    plt.close("all")


FALLING = {"a": (range(10), [10.0 - x for x in range(10)])}  # from the upper left to the lower right


@pytest.mark.parametrize("level, side", [(9.5, "right"), (0.6, "left"), (20.0, "left")])
def test_the_name_of_a_level_stands_where_no_line_goes_through_it(drawn, level, side):
    figure = charts.show_lines(FALLING, "x", "y", levels={"as good as it gets": level})
    (note,) = figure.axes[0].texts
    assert note.get_ha() == side and not charts.covers(figure, note, figure.axes[0].lines[:1])


def test_a_level_that_is_met_at_both_ends_has_its_name_between(drawn):
    valley = {"a": (range(11), [abs(x - 5) for x in range(11)])}
    figure = charts.show_lines(valley, "x", "y", levels={"the edge": 4.7})
    (note,) = figure.axes[0].texts
    assert note.get_ha() == "center" and not charts.covers(figure, note, figure.axes[0].lines[:1])


def test_names_of_lines_stand_above_the_chart_where_they_would_cover_something(drawn):
    roomy = charts.show_lines({name: (range(10), [y] * 10) for name, y in {"a": 0.0, "b": 1.0}.items()}, "x", "y")
    assert roomy.axes[0].get_legend() and not roomy.legends
    full = charts.show_lines({f"line {y}": (range(10), [y] * 10) for y in range(12)}, "x", "y")
    assert not full.axes[0].get_legend() and len(full.legends[0].get_texts()) == 12
    marked = charts.show_lines({"a": (range(100), range(100)), "b": (range(100), range(100))}, "x", "y", marks={str(x): x for x in range(0, 100, 9)})
    assert marked.legends and not marked.axes[0].get_legend()


@pytest.mark.parametrize("names, columns", [(["a", "b", "c"], 3), (["a name of thirty letters " + i for i in "abcd"], 2)])
def test_names_above_the_chart_fit_its_width(drawn, names, columns):
    figure = charts.show_lines({name: (range(10), [y + x % 2 * 5 for x in range(10)]) for y, name in enumerate(names)}, "x", "y", marks={str(x): x for x in range(10)})
    (legend,) = figure.legends
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert legend._ncols == columns and 0 <= box.x0 < box.x1 <= figure.bbox.width and box.y0 >= figure.axes[0].bbox.y1

"""Laws of the figures: legible on light and dark, apart for every eye, never without words, the same bytes every time."""

import base64
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.core import plots
from atomsnb.core.plots import DARK, DEFICIENCIES, INK, LIGHT, MARKERS, PALETTE, STYLE, band, colour_distance, contrast, figure, histogram, power_fit, power_line, render, show, style

ALT = "A line that rises from nought to one."
colours = st.tuples(*[st.floats(0, 1)] * 3)


def _line(**options):
    fig, ax = figure(3, 2, alt=ALT, **options)
    ax.plot([0, 1], [0, 1], label="line")
    ax.set(title="title", xlabel="x")
    ax.legend()
    ax.text(0.2, 0.8, "note")
    return fig, ax


# ---- contrast and colour


@given(colours, colours)
def test_contrast_is_symmetric_and_between_1_and_21(one, other):
    assert contrast(one, other) == contrast(other, one) and 1 <= contrast(one, other) <= 21 + 1e-12  # rounding


@pytest.mark.parametrize(("one", "other", "ratio"), [("#ffffff", "#000000", 21.0), ("#ffffff", "#767676", 4.54), ("#ffffff", "#ff0000", 4.00), ("#ffffff", "#0000ff", 8.59), ("#000000", "#00ff00", 15.30)])
def test_contrast_equals_published_ratios(one, other, ratio):
    assert contrast(one, other) == pytest.approx(ratio, abs=0.005)  # tables give two places


def test_ink_reaches_the_ceiling_for_two_pages_and_every_colour_reaches_3():
    ceiling = np.sqrt(1.05 / (0.05 / contrast("#000000", DARK) * contrast("#000000", DARK) ** 2))
    for page in (LIGHT, DARK):
        assert contrast(INK, page) >= 4.3 and contrast(INK, page) <= ceiling + 0.03  # one 8-bit step of grey is 0.06
        assert all(contrast(colour, page) >= 3 for colour in PALETTE)


def test_colours_are_apart_for_every_eye():
    for eye in (None, *DEFICIENCIES):
        assert min(colour_distance(a, b, eye) for i, a in enumerate(PALETTE) for b in PALETTE[:i]) >= 0.14
    assert len(set(PALETTE)) == len(set(MARKERS)) == 6


@given(st.floats(0, 1), st.sampled_from(sorted(DEFICIENCIES)))
def test_greys_look_the_same_to_every_eye(grey, eye):
    assert abs(colour_distance("black", (grey,) * 3, eye) - colour_distance("black", (grey,) * 3)) < 1e-4  # six printed places, cube root near black


@given(colours, colours)
def test_colour_distance_is_symmetric_and_nought_only_for_equal_colours(one, other):
    assert colour_distance(one, other) == pytest.approx(colour_distance(other, one), abs=1e-12)  # rounding
    assert colour_distance(one, one) == 0


def test_protanopes_confuse_what_protanopes_confuse():
    # red and dark olive differ in the long-wave cones mainly
    assert colour_distance("#ff0000", "#808000", "protanopia") < 0.6 * colour_distance("#ff0000", "#808000")


# ---- the style


def test_everything_drawn_in_a_figure_uses_the_ink_and_no_background():
    mpl.rcdefaults()
    fig, ax = _line()  # without style() before
    legend = ax.get_legend()
    inks = [ax.title.get_color(), ax.xaxis.label.get_color(), ax.texts[0].get_color(), *(t.get_color() for t in legend.get_texts()), *(t.get_color() for t in ax.get_xticklabels()), *(s.get_edgecolor() for s in ax.spines.values())]
    assert {mpl.colors.to_hex(ink) for ink in inks} == {INK}
    assert not legend.get_frame_on() and fig.get_facecolor()[3] == 0 and ax.get_facecolor()[3] == 0


def test_png_background_is_transparent():
    from io import BytesIO

    from PIL import Image

    picture = np.array(Image.open(BytesIO(render(_line()[0], kind="png").data)).convert("RGBA"))
    assert picture[0, 0, 3] == 0 and (picture[..., 3] == 0).mean() > 0.5


def test_style_is_idempotent_and_names_only_settings_that_exist():
    style()
    once = dict(mpl.rcParams)
    style()
    assert dict(mpl.rcParams) == once and set(STYLE) <= set(mpl.rcParams)


def test_importing_the_room_does_not_import_matplotlib():
    code = "import sys, atomsnb.core.plots; print(sorted(m for m in sys.modules if m.split('.')[0] in ('matplotlib', 'scipy', 'IPython')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_figures_are_not_kept_alive_by_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for _ in range(3): figure(alt=ALT)
    assert plt.get_fignums() == before


# ---- words


@pytest.mark.parametrize("alt", ["", " \n", "plot", None, 3, ["a b"]])
def test_a_figure_without_words_is_refused(alt):
    with pytest.raises((TypeError, ValueError), match="alt"): figure(alt=alt)


def test_alt_is_not_optional():
    with pytest.raises(TypeError, match="alt"): figure()
    with pytest.raises(ValueError, match="alt"): render(mpl.figure.Figure())
    assert render(mpl.figure.Figure(), alt="an empty figure").alt == "an empty figure"


HOSTILE = ['less < more & "quoted" \'single\'', "</img><script>alert(1)</script> two", "R² ≥ 0.9 für β", "two\nlines   and spaces", "$x_1$ and `code` *stars*", '"/> onerror="x y']


@pytest.mark.parametrize("alt", HOSTILE)
def test_any_words_arrive_unchanged_and_harmless(alt):
    from html.parser import HTMLParser

    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes): found.append((tag, dict(attributes)))

    fig, _ = figure(2, 2, alt=alt)
    for kind in ("svg", "png"):
        found.clear()
        Reader().feed(render(fig, kind=kind).html)
        assert [tag for tag, _ in found] == ["img"] and found[0][1]["alt"] == " ".join(alt.split()) and set(found[0][1]) == {"alt", "src", "width", "height", "style"}


@pytest.mark.skipif(shutil.which("pandoc") is None, reason="pandoc is not installed")
@pytest.mark.parametrize("alt", [ALT, HOSTILE[0]])
def test_words_survive_pandoc_and_a_bare_png_would_lose_them(tmp_path, alt):
    fig, ax = figure(2, 2, alt=alt)
    ax.plot([0, 1])

    def converted(data):
        cell = {"cell_type": "code", "id": "a", "execution_count": 1, "metadata": {}, "source": "show(fig)", "outputs": [{"output_type": "display_data", "metadata": {}, "data": data}]}
        (tmp_path / "n.ipynb").write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}))
        return subprocess.run(["pandoc", "-f", "ipynb", "-t", "html5", str(tmp_path / "n.ipynb")], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    picture = render(fig)
    assert re.search(rf'<img alt="{re.escape(picture.html.split(chr(34))[1])}"', converted(picture._repr_mimebundle_()))
    bare = converted({"image/png": base64.b64encode(render(fig, kind="png").data).decode(), "text/plain": alt})
    assert "<img" in bare and alt not in bare


def test_show_displays_one_output_and_a_terminal_prints_the_words(capsys, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    show(_line()[0])
    assert len(shown) == 1 and set(shown[0]._repr_mimebundle_()) == {"text/html", "text/plain"} and shown[0]._repr_mimebundle_()["text/plain"] == f"Figure: {ALT}"
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    show(_line()[0])
    assert capsys.readouterr().out == f"Figure: {ALT}\n"


# ---- bytes


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_figure_gives_the_same_bytes(kind):
    assert render(_line()[0], kind=kind).data == render(_line()[0], kind=kind).data


def test_svg_is_well_formed_and_cannot_run_anything():
    root = ElementTree.fromstring(render(_line()[0], kind="svg").data)
    tags = {element.tag.split("}")[-1] for element in root.iter()}
    assert root.tag.endswith("svg") and not tags & {"script", "foreignObject", "image", "a"}
    assert not any(name.lower().startswith("on") for element in root.iter() for name in element.attrib)
    assert [e.text for e in root.iter() if e.tag.endswith("}title")][0] == ALT


def test_a_figure_of_many_points_becomes_a_png_of_bounded_size():
    fig, ax = figure(alt="many points without order")
    ax.scatter(*np.random.default_rng(0).random((2, 20_000)))
    picture = render(fig)
    assert picture.kind == "png" and len(picture.data) < 400_000 and render(_line()[0]).kind == "svg"
    assert render(_line()[0], limit=10).kind == "png" and render(fig, kind="svg").kind == "svg"


def test_picture_is_saved_under_its_own_suffix(tmp_path):
    picture = render(_line()[0])
    assert picture.save(tmp_path / "f.svg").read_bytes() == picture.data
    with pytest.raises(ValueError, match="svg"): picture.save(tmp_path / "f.png")


# ---- drawings


@given(st.floats(-3, 3), st.floats(0.1, 10), st.integers(3, 12))
def test_exact_power_is_found_with_an_interval_around_it(exponent, factor, n):
    x = 2.0 ** np.arange(n)
    fit = power_fit(x, factor * x**exponent)
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)  # rounding of logarithms
    assert fit.interval[0] - 1e-9 <= exponent <= fit.interval[1] + 1e-9 and fit.interval[1] - fit.interval[0] < 1e-5  # rounding, worst for n = 3 where t is 12.7


def test_exponent_interval_equals_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 100, 20)
    y = 2 * x**0.7 * np.exp(0.2 * rng.standard_normal(20))
    oracle = api.OLS(np.log(y), api.add_constant(np.log(x))).fit()
    for level in (0.9, 0.95): assert np.allclose([power_fit(x, y, level).exponent, *power_fit(x, y, level).interval], [oracle.params[1], *oracle.conf_int(1 - level)[1]], rtol=1e-9)  # two least-squares solvers


def test_power_line_goes_through_the_centre_of_the_points():
    _, ax = figure(alt=ALT)
    x, y = np.array([1.0, 2, 4, 8]), np.array([3.0, 5, 13, 22])
    fit = power_line(ax, x, y, label="cost")
    ends = ax.lines[1].get_xydata()
    assert ax.get_xscale() == ax.get_yscale() == "log" and "cost: exponent" in ax.lines[1].get_label()
    assert np.isclose(np.log(ends[1, 1] / ends[0, 1]) / np.log(8), fit.exponent) and np.isclose(np.log(ends[:, 1]).mean(), np.log(y).mean())  # mean of log x is the middle here


def test_band_spreads_are_what_they_are_called():
    runs = np.array([[1.0, 2], [3, 2], [8, 2]])
    for spread, low, high in (("range", 1, 8), ("std", 4 - np.sqrt(13), 4 + np.sqrt(13)), ("sem", 4 - np.sqrt(13 / 3), 4 + np.sqrt(13 / 3))):
        _, ax = figure(alt=ALT)
        line = band(ax, [0, 1], runs, spread=spread)
        edge = ax.collections[0].get_paths()[0].vertices
        assert np.array_equal(line.get_ydata(), [4, 2]) and np.isclose(edge[edge[:, 0] == 0, 1].min(), low) and np.isclose(edge[edge[:, 0] == 0, 1].max(), high)


def test_histogram_equals_numpy_and_takes_a_tensor():
    import torch

    values = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    _, ax = figure(alt=ALT)
    first, edges = histogram(ax, values, 20, density=False, label="a")
    histogram(ax, values, edges)
    expected = np.histogram(values.numpy().astype(np.float64).ravel(), 20)
    assert np.array_equal(first, expected[0]) and np.array_equal(edges, expected[1]) and first.sum() == 400
    assert mpl.colors.to_hex(ax.patches[0].get_edgecolor()) == PALETTE[0] and mpl.colors.to_hex(ax.patches[2].get_edgecolor()) == PALETTE[1]


# ---- bad input


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda ax: power_fit([1, 2], [1, 2]), ValueError, "n >= 3"), (lambda ax: power_fit([1, 2, 3], [1, 2]), ValueError, "n >= 3"), (lambda ax: power_fit([0, 1, 2], [1, 2, 3]), ValueError, "positive"),
    (lambda ax: power_fit([1, 2, 3], [1, -2, 3]), ValueError, "positive"), (lambda ax: power_fit([2, 2, 2], [1, 2, 3]), ValueError, "different"), (lambda ax: power_fit([1, 2, np.nan], [1, 2, 3]), ValueError, "NaN"),
    (lambda ax: power_fit([1, 2, 3], [1, 2, 3], level=1), ValueError, "level"), (lambda ax: power_fit("abc", [1, 2, 3]), TypeError, "x"), (lambda ax: histogram(ax, []), ValueError, "empty"),
    (lambda ax: histogram(ax, [1, np.inf]), ValueError, "infinity"), (lambda ax: histogram(ax, [1j]), TypeError, "real"), (lambda ax: band(ax, [0, 1], [1, 2]), ValueError, "seeds"),
    (lambda ax: band(ax, [0, 1, 2], [[1, 2]]), ValueError, "seeds"), (lambda ax: band(ax, [0, 1], [[1, 2]], spread="std"), ValueError, "two seeds"), (lambda ax: band(ax, [0, 1], [[1, 2]], spread="iqr"), ValueError, "range"),
    (lambda ax: figure(0, 1, alt=ALT), ValueError, "width"), (lambda ax: figure(1, -1, alt=ALT), ValueError, "height"), (lambda ax: figure(ncols=0, alt=ALT), ValueError, "ncols"), (lambda ax: figure(nrows=1.5, alt=ALT), TypeError, "nrows"),
    (lambda ax: render("figure"), TypeError, "fig"), (lambda ax: render(ax.figure, kind="pdf"), ValueError, "svg"), (lambda ax: colour_distance("red", "blue", "colourblind"), ValueError, "deuteranopia"), (lambda ax: contrast("rde", "white"), ValueError, "rde")])
def test_bad_input_is_named_with_what_is_accepted(call, error, words):
    with pytest.raises(error, match=words): call(figure(alt=ALT)[1])


def test_contract_names_are_public():
    assert {"style", "figure", "show", "PALETTE", "histogram", "power_fit", "band"} <= set(plots.__all__)

"""Laws of the stopwatch: drift cancels in pairs, intervals cover, floors are floors, results carry their origin."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.core import bench
from atomsnb.core import provenance as core_provenance


class Machine:
    """A clock that only work moves, on a machine whose speed changes with every call."""

    def __init__(self, slow_down=lambda calls: 1.0):
        self.now, self.calls, self.slow_down, self.order = 0.0, 0, slow_down, []

    def work(self, name, cost):
        def run():
            self.calls += 1
            self.order.append(name)
            self.now += cost * self.slow_down(self.calls)
        return run


def test_pairs_alternate_and_each_is_called_equally_often():
    m = Machine()
    c = bench.compare({"a": m.work("a", 1), "b": m.work("b", 2)}, pairs=4, warmup=2, clock=lambda: m.now, device="cpu")
    assert m.order[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert m.order.count("a") == m.order.count("b") == 4 + 2 + 1  # pairs, warm-up, the call that measures memory
    assert c.ratio("b").median == 2.0 and c.ratio("a").median == 1.0 and c.ratio("a", to="b").median == 0.5


@given(truth=st.floats(0.2, 5), drift=st.floats(0, 0.02))
@settings(max_examples=30, deadline=None)
def test_linear_drift_cancels_in_pairs(truth, drift):
    m = Machine(lambda calls: 1 + drift * calls)
    c = bench.compare({"a": m.work("a", 1), "b": m.work("b", truth)}, pairs=20, warmup=0, clock=lambda: m.now, device="cpu")
    assert c.ratio("b").median == pytest.approx(truth, rel=2e-3)  # second order of a drift of at most 2 % per call


def test_inner_calls_divide_the_time():
    m = Machine()
    c = bench.compare({"a": m.work("a", 3.0)}, pairs=2, warmup=0, inner=5, clock=lambda: m.now, device="cpu")
    assert c.time("a").median == 3.0 and m.calls == 1 + 2 * 5


def test_sync_is_called_around_every_reading():
    calls = []
    bench.compare({"a": lambda: calls.append("work")}, pairs=3, warmup=0, sync=lambda: calls.append("sync"), device="cpu")
    timed = calls[calls.index("work") + 2 :]
    assert timed == ["sync", "work", "sync"] * 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_interval_contains_the_median_and_lies_in_the_range(values):
    e = bench.median_interval(values)
    assert min(values) <= e.low <= e.median <= e.high <= max(values) and e.n == len(values)
    assert e.coverage >= 0.95 or (e.low, e.high) == (min(values), max(values))


@pytest.mark.parametrize("n, low, high", [(6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33)])
def test_interval_is_the_tabulated_order_statistic(n, low, high):
    e = bench.median_interval(range(1, n + 1))
    assert (e.low, e.high) == (low, high)  # standard tables of the sign test at 95 %


def test_interval_of_many_values_matches_the_exact_one():
    exact, approximate = bench.median_interval(range(999)), bench.median_interval(range(1000))
    assert abs(exact.low - approximate.low) <= 2 and approximate.coverage == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_interval_refuses_nothing_and_nan(bad):
    with pytest.raises(ValueError, match="values"):
        bench.median_interval(bad)


@pytest.mark.parametrize("change, error, word", [({"functions": {}}, ValueError, "functions"), ({"functions": {"a": 1}}, TypeError, "'a'"), ({"pairs": 0}, ValueError, "pairs"), ({"inner": 0}, ValueError, "inner"),
                                                 ({"warmup": -1}, ValueError, "warmup"), ({"pairs": 2.5}, (TypeError, ValueError), "pairs")])
def test_compare_names_the_bad_argument(change, error, word):
    with pytest.raises(error, match=word):
        bench.compare(**({"functions": {"a": lambda: None}, "device": "cpu"} | change))


def test_peak_memory_sees_an_allocation():
    c = bench.compare({"small": lambda: None, "large": lambda: torch.ones(15_000_000).sum()}, pairs=1, warmup=0, device="cpu")
    if c.peak_mb["large"] is None:
        pytest.skip("this system offers no high-water mark")
    assert 45 < c.peak_mb["large"] < 200 and c.peak_mb["small"] < 30  # 60 MB of float32; pages and the allocator add some


@given(f=st.floats(0, 1e15), b=st.floats(1, 1e13), k=st.floats(1.1, 10))
@settings(max_examples=50, deadline=None)
def test_roofline_is_the_larger_time_and_scales(f, b, k):
    c = bench.Ceilings("toy", "float32", 1e12, 1e11)
    r, s = bench.roofline(f, b, measured=c), bench.roofline(k * f, k * b, measured=c)
    assert r.floor_s == max(f / 1e12, b / 1e11) and s.floor_s == pytest.approx(k * r.floor_s)
    assert r.bound == ("compute" if f / 1e12 >= b / 1e11 else "memory") and r.fraction(r.floor_s) == pytest.approx(1)


@pytest.mark.parametrize("args", [(-1, 1), (1, -1), (0, 0), (math.nan, 1), (1, math.inf)])
def test_roofline_refuses_impossible_counts(args):
    with pytest.raises(ValueError, match="flops|bytes"):
        bench.roofline(*args, measured=bench.Ceilings("toy", "float32", 1.0, 1.0))


def test_measured_ceilings_are_positive_and_remembered():
    torch.set_num_threads(1)
    assert bench.ceilings("cpu", size=64, megabytes=1, repeats=2).flops_per_s > 0
    first = bench.ceilings("cpu", repeats=2)
    assert bench.ceilings("cpu") is first and first.bytes_per_s > 1e8


@given(a=st.floats(-3, 3), c=st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_exponent_of_an_exact_power_law(a, c):
    n = np.array([2.0, 8.0, 32.0, 100.0])
    law = bench.fit_exponent(n, c * n**a)
    assert law.exponent == pytest.approx(a, abs=1e-9) and law.constant == pytest.approx(c, rel=1e-6) and law(8.0) == pytest.approx(c * 8.0**a, rel=1e-6)


@pytest.mark.parametrize("sizes, values", [([1, 2], [1]), ([1, 1], [1, 2]), ([1, 2], [0, 1]), ([-1, 2], [1, 1]), ([1, 2], [1, math.nan]), ([], [])])
def test_exponent_refuses_what_has_none(sizes, values):
    with pytest.raises(ValueError, match="sizes"):
        bench.fit_exponent(sizes, values)


def test_results_carry_their_origin_and_survive_the_round_trip(tmp_path, monkeypatch):
    path = bench.save_result("x.y-1_2", {"value": [1.5, None]}, folder=tmp_path, device="cpu")
    back = bench.load_result("x.y-1_2", folder=tmp_path)
    assert path.name == "x.y-1_2.json" and back["value"] == [1.5, None] and json.loads(path.read_text()) == back
    assert {"device", "versions", "threads", "date", "commit"} == set(back["provenance"]) and {"python", "torch", "numpy"} <= set(back["provenance"]["versions"])
    monkeypatch.setattr(core_provenance, "repo_root", lambda: None)
    monkeypatch.setenv("ATOMSNB_COMMIT", "ab" * 20)
    assert bench.provenance("cpu")["commit"] == "ab" * 20


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_results_refuse_names_that_are_paths(tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        bench.save_result(name, {}, folder=tmp_path)


def test_results_refuse_nan_and_say_what_exists(tmp_path):
    with pytest.raises(ValueError):
        bench.save_result("bad", {"v": math.nan}, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    bench.save_result("good", {}, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="good"):
        bench.load_result("missing", folder=tmp_path)


def test_committed_gpu_results_carry_machine_and_commit():
    for path in sorted(bench.results_folder().glob("*.json")):
        data = json.loads(path.read_text())
        stamp = data.get("provenance", {})
        for each in [stamp] if "device" in stamp else stamp.values():  # one machine, or several by name
            assert each["device"] and each["date"] and each["commit"], path.name


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [999, 1000, 4001])
def test_median_interval_reaches_the_coverage_that_was_asked_for_and_little_more(n, coverage):
    """One order statistic on each side carries about 1.6 / sqrt(n) of probability: 0.05 at n = 999; the normal tail adds 1e-3."""
    e = bench.median_interval(np.arange(n, dtype=float), coverage)
    assert coverage - 1e-3 <= e.coverage <= coverage + 0.06 and e.low < e.median < e.high

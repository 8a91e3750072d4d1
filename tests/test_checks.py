"""Laws of atomsnb.core.checks: what is refused is refused by name, what passes passes untouched, and NaN is within no tolerance."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atomsnb.core.checks import assert_identity, check_choice, check_int, check_number, check_same, check_tensor, nearest

FLOATS = st.floats(allow_nan=False, allow_infinity=False)

# The twelve classes of bad input (NaN, +-inf, empty, zero-size axis, wrong rank, wrong dtype, wrong layout, non-numeric, list, None, str, too small).
BAD_TENSORS = {
    "nan": (torch.tensor([[0.0, math.nan, 1.0]]), ValueError, "1 of 3 values not finite (first: nan at index (0, 1))"),
    "+inf": (torch.tensor([[0.0, math.inf, 1.0]]), ValueError, "inf at index (0, 1)"),
    "-inf": (np.array([[0.0, 1.0, -np.inf]]), ValueError, "-inf at index (0, 2)"),
    "empty": (torch.ones(0, 3), ValueError, "empty"),
    "zero-size axis": (torch.ones(4, 0), ValueError, "(4, 0)"),
    "wrong rank": (torch.ones(3), ValueError, "(3,)"),
    "scalar": (torch.tensor(1.0), ValueError, "()"),
    "integers": (np.ones((2, 3), dtype=np.int64), TypeError, "int64"),
    "booleans": (torch.ones(2, 3, dtype=torch.bool), TypeError, "bool"),
    "complex": (torch.ones(2, 3, dtype=torch.cfloat), TypeError, "complex64"),
    "text array": (np.array([["a", "b", "c"]]), TypeError, "numpy array"),
    "object array": (np.array([[None, 1, 2]], dtype=object), TypeError, "object"),
    "sparse": (torch.ones(2, 3).to_sparse(), TypeError, "layout"),
    "list": ([[1.0, 2.0, 3.0]], TypeError, "torch.tensor"),
    "None": (None, TypeError, "None"),
    "str": ("abc", TypeError, "'abc'"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensor_is_refused_by_name(case):
    value, kind, part = BAD_TENSORS[case]
    with pytest.raises(kind) as caught:
        check_tensor(value, "activations", shape=("n", 3))
    assert str(caught.value).startswith("activations ") and part in str(caught.value), caught.value
    assert "accepted: " in str(caught.value) and len(str(caught.value)) < 250


def test_too_few_elements_and_wrong_number_of_axes_are_named():
    with pytest.raises(ValueError, match="x has 3 elements"):
        check_tensor(torch.ones(1, 3), "x", min_size=4)
    with pytest.raises(ValueError, match=r"x has 1 axes \(shape \(3,\)\); accepted: \(2, 3\) axes"):
        check_tensor(torch.ones(3), "x", ndim=(2, 3))


@given(hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64]), hnp.array_shapes(max_dims=3, min_side=1), elements=st.floats(-100, 100, width=16)))
def test_numpy_array_keeps_values_shape_and_dtype(array):
    out = check_tensor(array, "x")
    assert np.array_equal(out.numpy(), array) and out.numpy().dtype == array.dtype


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
def test_views_and_strides_make_no_difference(kind, n, m):
    base = np.arange(float(n * m)).reshape(n, m)
    view = [base, base.T, base[::-1], base.astype(">f8")][kind]
    assert np.array_equal(check_tensor(view, "x").numpy(), view)


def test_tensor_comes_back_as_the_same_object():
    x = torch.randn(3, 4, requires_grad=True).T
    assert check_tensor(x, "x", shape=("n", 3)) is x and x.grad_fn is not None


def test_equal_letters_mean_equal_sizes():
    check_tensor(torch.ones(2, 5, 5), "cov", shape=(..., "H", "H"))
    with pytest.raises(ValueError, match=r"cov has shape \(5, 4\); accepted: \(H, H\)"):
        check_tensor(torch.ones(5, 4), "cov", shape=("H", "H"))


@pytest.mark.parametrize("dtype, ok", [("integer", True), ("floating", False), (torch.int64, True), (torch.int32, False), (("bool", "integer"), True), ("any", True)])
def test_dtype_kinds(dtype, ok):
    x = torch.ones(2, dtype=torch.int64)
    if ok:
        assert check_tensor(x, "x", dtype=dtype) is x
    else:
        with pytest.raises(TypeError, match="x has dtype int64"):
            check_tensor(x, "x", dtype=dtype)


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 1.0, np.float64(1), "1", None, [1], np.array([1, 2]), math.nan])
def test_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match="^k is "):
        check_int(value, "k", minimum=1)


@given(st.integers(), st.integers(), st.integers())
def test_int_bounds_are_inclusive(value, a, b):
    low, high = min(a, b), max(a, b)
    if low <= value <= high:
        assert check_int(value, "k", minimum=low, maximum=high) == value
    else:
        with pytest.raises(ValueError, match=f"k is {value}"):
            check_int(value, "k", minimum=low, maximum=high)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, np.float32("nan"), torch.tensor(math.inf)])
def test_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="^theta is "):
        check_number(value, "theta")


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [1.0], torch.ones(2), np.ones(1), torch.tensor(True), torch.tensor(1j)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="^theta is "):
        check_number(value, "theta")


@given(FLOATS, st.booleans(), st.booleans())
def test_open_bounds_exclude_themselves(bound, open_min, open_max):
    for name, is_open in (("min", open_min), ("max", open_max)):
        options = {f"{name}imum": bound, f"open_{name}": is_open}
        if is_open:
            with pytest.raises(ValueError, match="[<>] "):
                check_number(bound, "x", **options)
        else:
            assert check_number(bound, "x", **options) == bound


def test_choice_is_by_type_and_names_the_nearest():
    assert check_choice(1, "k", [True, 1]) is not True
    with pytest.raises(ValueError, match="did you mean 'whiten'"):
        check_choice("whitn", "transform", ["none", "whiten"])
    for odd in (None, 3, math.nan, ["cpu"], "CPU"):
        with pytest.raises(ValueError, match="^scale is "):
            check_choice(odd, "scale", ["cpu", "gpu"])


@given(st.text(max_size=20), st.lists(st.text(max_size=10), max_size=6), st.integers(1, 5))
def test_nearest_returns_known_options_only(name, options, n):
    found = nearest(name, options, n)
    assert len(found) <= n and set(found) <= set(options) and len(set(found)) == len(found)


def test_same_sizes():
    check_same(3, "a", 3, "b")
    with pytest.raises(ValueError, match="width of x is 3 but height of D is 4"):
        check_same(3, "width of x", 4, "height of D")


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4), elements=st.floats(-1e6, 1e6)), st.floats(1e-12, 1e3))
def test_identity_error_is_the_largest_difference(array, shift):
    expected = np.abs((array + shift) - array).max()
    assert assert_identity(array + shift, array, 2e3, "any shift below a thousand") == expected


@pytest.mark.parametrize("left, right", [(math.nan, 1.0), (1.0, math.nan), (math.nan, math.nan), (math.inf, 1.0), (math.inf, -math.inf), (1.0, 1.0 + 1e-6)])
@pytest.mark.parametrize("relative", [False, True])
def test_false_identity_fails_also_with_nan_and_inf(left, right, relative):
    with pytest.raises(AssertionError):
        assert_identity([left, 2.0], [right, 2.0], 1e-9, "exact", relative=relative)


def test_relative_error_is_not_swallowed_by_a_shared_infinity():
    with pytest.raises(AssertionError):
        assert_identity([math.inf, 1.0], [math.inf, 2.0], 1e-3, "one entry is wrong by half", relative=True)
    assert assert_identity([math.inf, 2.0], [math.inf, 2.0], 0.0, "equal", relative=True) == 0.0


@pytest.mark.parametrize(
    "call, kind",
    [
        (lambda: assert_identity(1.0, 1.0, -1, "x"), ValueError),
        (lambda: assert_identity(1.0, 1.0, math.nan, "x"), ValueError),
        (lambda: assert_identity(1.0, 1.0, 1e-9, " "), ValueError),
        (lambda: assert_identity(1.0, 1.0, 1e-9, None), ValueError),
        (lambda: assert_identity([], [], 1e-9, "x"), ValueError),
        (lambda: assert_identity([1.0] * 2, [1.0] * 3, 1e-9, "x"), ValueError),
        (lambda: assert_identity("a", 1.0, 1e-9, "x"), TypeError),
        (lambda: assert_identity(None, 1.0, 1e-9, "x"), TypeError),
        (lambda: assert_identity(1.0, 0.0, 1e-9, "x", relative=True), ValueError),
    ],
)
def test_unusable_identity_is_refused(call, kind):
    with pytest.raises(kind):
        call()


def test_identity_prints_error_tolerance_and_reason(capsys):
    assert_identity(1.0 + 3e-16, 1.0, 1e-12, "float64", name="unit")
    assert capsys.readouterr().out == "unit: error 2.2e-16 <= 1e-12 (float64)\n"
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert assert_identity(x, np.ones(2), 0.0, "exact in every format") == 0.0

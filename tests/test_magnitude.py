"""Laws of magnitudes: the divisor is a power of two that brackets the largest entry and costs no digit; a trusted sum of squares is accurate; what does not vary is not said to."""
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.core.magnitude import binary_size, squares_hold, varies
from atomsnb.nn.frames import unit_atoms
from atomsnb.nn.sparse_coders import TopKCoder
from atomsnb.quantum.qnn import polyak_step
from atomsnb.representation.atoms import faithfulness

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
WIDTH = {torch.float32: 32, torch.float64: 64}


def numbers(dtype, **bounds):
    """Finite numbers of a dtype over its whole range, zeros and subnormal ones included."""
    return st.floats(width=WIDTH[dtype], allow_nan=False, allow_infinity=False, **bounds)


def least(dtype):
    """tiny / eps, exactly."""
    kind = torch.finfo(dtype)
    return Fraction(kind.tiny) / Fraction(kind.eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_power_of_two_is_its_own_size(dtype, device):
    """From the smallest subnormal number to the largest power; the largest number below the next power has the same size."""
    kind = torch.finfo(dtype)
    low, high = round(math.log2(kind.tiny * kind.eps)), math.frexp(kind.max)[1]
    powers = torch.tensor([math.ldexp(1.0, k) for k in range(low, high)], dtype=torch.float64).to(dtype).to(device)
    assert torch.equal(binary_size(powers[:, None], 1)[:, 0], powers)
    assert torch.equal(binary_size(-powers[:, None], 1)[:, 0], powers)
    normal = powers[powers >= kind.tiny]
    assert torch.equal(binary_size((normal * (2 - kind.eps))[:, None], 1)[:, 0], normal)
    assert float(binary_size(torch.tensor(kind.max, dtype=dtype, device=device))) == math.ldexp(1.0, high - 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_what_is_not_finite_have_size_one(dtype, device):
    x = torch.tensor([[0.0, -0.0], [math.nan, 4.0], [math.inf, 4.0], [-math.inf, 0.0], [3.0, -5.0]], dtype=dtype, device=device)
    assert binary_size(x, 1)[:, 0].tolist() == [1, 1, 1, 1, 4]
    assert binary_size(x[:1]).item() == binary_size(x).item() == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_dtype_device_and_gradient_of_a_size(dtype):
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    for dim, shape in ((None, ()), (0, (1, 4, 5)), (1, (3, 1, 5)), (-1, (3, 4, 1))):
        size = binary_size(x, dim)
        assert size.shape == shape and size.dtype == dtype and size.device == x.device and not size.requires_grad
    assert torch.equal(binary_size(x), binary_size(x, 0).amax())
    (x / binary_size(x)).double().sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 1 / float(binary_size(x))))  # the size is a constant


@pytest.mark.parametrize(("x", "error"), [(torch.ones(3, dtype=torch.long), TypeError), (torch.ones(2, dtype=torch.complex64), TypeError), (torch.ones(0, 3), ValueError), ([1.0], TypeError)])
def test_what_has_no_size_is_refused_by_name(x, error):
    with pytest.raises(error, match=r"^x (has|is) .*accepted: "):
        binary_size(x)


@pytest.mark.parametrize("dtype", list(WIDTH))
@given(data=st.data())
def test_the_size_brackets_the_largest_entry_and_costs_no_digit(dtype, data):
    """In rational arithmetic: size <= max |x| < 2 size, and x / size is the true quotient wherever that is a normal number (or zero)."""
    entries = data.draw(st.lists(numbers(dtype), min_size=1, max_size=8).filter(any))
    x = torch.tensor(entries, dtype=dtype)
    size = binary_size(x)
    exact, top = Fraction(size.item()), max(abs(Fraction(e)) for e in entries)
    assert math.frexp(size.item())[0] == 0.5 and exact <= top < 2 * exact
    quotient = x / size
    for e, q, back in zip(entries, quotient.tolist(), (quotient * size).tolist(), strict=True):
        if abs(Fraction(e)) / exact >= Fraction(torch.finfo(dtype).tiny) or e == 0:
            assert Fraction(q) == Fraction(e) / exact and back == e
    assert bool(squares_hold(quotient.square().sum())) and 1 <= float(quotient.square().sum()) < 4 * len(x)


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("dtype", list(WIDTH))
@given(data=st.data())
def test_a_trusted_sum_of_squares_is_accurate(dtype, flush, data):
    """Around the lower bound and the overflow, with and without numbers below the normal ones: a loss of n eps, and n eps for the rounding of squares and additions."""
    kind = torch.finfo(dtype)
    centre = data.draw(st.sampled_from([math.sqrt(kind.tiny / kind.eps), math.sqrt(kind.tiny), math.sqrt(kind.max) / 2]))
    entries = data.draw(st.lists(numbers(dtype, min_value=-1, max_value=1), min_size=1, max_size=20))
    x = torch.tensor(entries, dtype=dtype) * (centre * 2.0 ** data.draw(st.integers(-2, 2)))
    supported = torch.set_flush_denormal(flush)
    try:
        total = x.square().sum()
    finally:
        torch.set_flush_denormal(False)
    true, n = sum(Fraction(e) ** 2 for e in x.tolist()), len(x)
    if bool(squares_hold(total)):
        assert abs(Fraction(total.item()) - true) <= 2 * n * Fraction(kind.eps) * true
    else:
        assert math.isinf(total.item()) or true < least(dtype) * (1 + 2 * n * Fraction(kind.eps)) or not supported


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_of_trust(dtype):
    kind, bound = torch.finfo(dtype), float(least(dtype))
    total = torch.tensor([0.0, bound * (1 - kind.eps), bound, 1.0, kind.max, math.inf, math.nan, -1.0], dtype=dtype)
    assert squares_hold(total).tolist() == [False, False, True, True, True, False, False, False]
    root = torch.tensor([0.0, math.sqrt(bound) * (1 - kind.eps), math.sqrt(bound) * (1 + kind.eps), 1.0, kind.max, math.inf, math.nan], dtype=dtype)
    assert squares_hold(root, rooted=True).tolist() == [False, False, True, True, True, False, False]
    assert squares_hold(total[2]).shape == () and squares_hold(total).dtype == torch.bool


@pytest.mark.parametrize("dtype", list(WIDTH))
@given(data=st.data())
def test_a_constant_does_not_vary_and_more_than_its_rounding_does(dtype, data):
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    value = data.draw(numbers(dtype, min_value=-(2.0**100), max_value=2.0**100))
    x = torch.full((data.draw(st.integers(1, 50)), 2), value, dtype=dtype)
    assert not varies(x)
    if len(x) > 1 and abs(value) > tiny / eps:
        x[-1, 1] = value * (1 + eps)
        assert not varies(x)  # one rounding
        x[-1, 1] = value * (1 + 4 * eps)
        assert varies(x)


def test_the_mean_is_not_asked():
    x = torch.full((1000, 2), 0.1)
    assert (x - x.mean(0)).square().sum() > 0 and not varies(x)
    assert not varies(torch.tensor([[math.nan, math.inf], [1.0, 2.0]])) and varies(torch.tensor([[math.nan, 1.0], [1.0, 2.0]]))
    far = torch.finfo(torch.float32).max
    eps = torch.finfo(torch.float32).eps
    assert not varies(torch.tensor([[1.0], [1 + 2 * eps]])) and varies(torch.tensor([[1.0], [1 + 3 * eps]]))  # two are rounding, three are not
    assert varies(torch.tensor([[far], [-far]])) and varies(torch.tensor([[0.0], [1e-45]]))


@pytest.mark.parametrize("k", [-110, -70, -41, 41, 70, 110])
def test_the_rooms_that_divide_by_it_give_the_same_digits_in_every_unit(k):
    """Units 2**k, in which float32 squares leave the range or stay in it: directions, steps and scores to the last bit; the start of a coder in its unit."""
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    unit = 2.0**k
    assert torch.equal(unit_atoms(x * unit), unit_atoms(x))
    zero = torch.zeros_like(x)  # so that the step is seen with all its digits, which a loss of 1 keeps normal
    assert torch.equal(polyak_step(zero, 1.0, x * unit) * unit, polyak_step(zero, 1.0, x))
    wide, wider = x.double(), 2.0 ** (4 * k)
    assert faithfulness(wide * wider, 0.9 * wide * wider) == faithfulness(wide, 0.9 * wide)
    here, there = TopKCoder(5, 7, 2), TopKCoder(5, 7, 2)
    here.start_from(x)
    there.start_from(x * unit)
    assert torch.equal(here.w_dec, there.w_dec) and torch.equal(here.b_enc * unit, there.b_enc) and torch.equal(here.b_dec * unit, there.b_dec)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [-145, 120])
def test_a_coder_learns_from_numbers_below_the_normal_ones(k, device):
    """The unit stays a tensor: the reciprocal of 2**-145 has no float32, and a GPU divides by a plain number through its reciprocal."""
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)).sign() * 2.0**k * torch.arange(1, 41)[:, None].remainder(5).add(1)
    coder = TopKCoder(4, 6, 2)
    coder.fit(x, l0=2.0, steps=3, batch_size=8, device=device, precision="fp32", progress=False)
    assert all(bool(torch.isfinite(p).all()) for p in coder.parameters())

"""Laws of random functions, of the reference solvers and of the limits that need no network."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from atomsnb.operators import dynamics, fields, pde
from atomsnb.operators.fields import (
    ChebyshevSpace, GaussianRandomField, PeriodicField, SplineField, burgers, cole_hopf, darcy, diffusion_reaction, energy, enstrophy, integrate, interpolate, interpolation_rms,
    linear_system, navier_stokes, pendulum_system, riccati_system, sensors, sine_basis, solve, velocity,
)  # fmt: skip
from atomsnb.operators.limits import information_floor, interpolant, rank_floor, ridge, sensor_error_bound

torch.set_num_threads(1)
FEW = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10**6)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


# ------------------------------------------------------------------------------------------------ fields
@FEW
@given(seed=seeds, n=st.integers(1, 4), k=st.integers(4, 60), a=st.floats(-3, 3), length=st.floats(0.1, 5))
def test_splines_are_scipys_and_so_are_their_integrals(seed, n, k, a, length):
    u = SplineField(gaussian(n, k, seed=seed), (a, a + length))
    x = a + length * torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    peer = CubicSpline(np.linspace(a, a + length, k), u.values.numpy(), axis=1)
    scale = 10 + float(u.values.abs().max()) * 10  # not-a-knot extrapolates inside its end cells: values grow there
    assert np.allclose(u(x), peer(x.numpy()), atol=1e-10 * scale)
    assert np.allclose(u.antiderivative(x), peer.antiderivative()(x.numpy()), atol=1e-10 * scale)
    assert torch.equal(u(x.expand(n, -1)), u(x))


@FEW
@given(seed=seeds, rows=st.sampled_from([1, slice(0, 2), "mask"]))
def test_rows_of_a_field_are_its_functions_and_keep_nothing_of_the_others(seed, rows):
    u = SplineField(gaussian(3, 9, seed=seed))
    x = torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u(x)  # fills the cache of second derivatives, which a slice must not inherit
    chosen = torch.tensor([True, False, True]) if rows == "mask" else rows
    assert torch.allclose(u[chosen](x), u(x)[chosen].reshape(-1, 7), atol=1e-12)
    assert u.to(torch.float32)(x.float()).dtype == torch.float32


def test_a_field_refuses_extrapolation_and_foreign_rows():
    u = SplineField(gaussian(3, 9))
    with pytest.raises(ValueError, match="x reaches"):
        u(torch.tensor([1.01]))
    with pytest.raises(ValueError, match="2 rows for 3 functions"):
        u(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        u(torch.tensor([math.nan]))


@pytest.mark.parametrize("kernel", ["rbf", "matern12", "matern32", "matern52"])
def test_both_samplers_have_the_covariance_of_the_kernel(kernel):
    x, n, law = sensors(9, (0, 2)), 8000, GaussianRandomField(0.3, kernel, domain=(0.0, 2.0), variance=2.0)
    C = law.covariance(x, x)
    for method in ("spectral", "cholesky"):
        u = law.sample(n, seed=1, method=method)(x)
        expected = math.sqrt((float(C.norm()) ** 2 + float(C.trace()) ** 2) / n)
        assert float((u.T @ u / n - C).norm()) < 3 * expected, "the distance concentrates around its root mean square"


def test_the_two_halves_of_a_complex_sample_are_independent():
    u = GaussianRandomField(0.2).sample(4000, seed=3)(sensors(3))
    assert float((u[0::2].T @ u[1::2] / 2000).abs().max()) < 5 / math.sqrt(2000)


def test_seeds_name_functions():
    law = GaussianRandomField(0.2)
    assert law.sample(4, seed=1).sha256 == law.sample(4, seed=1).sha256 != law.sample(4, seed=2).sha256


@FEW
@given(seed=seeds, degree=st.integers(0, 9), m=st.integers(1, 30))
def test_every_chebyshev_function_obeys_its_bounds(seed, degree, m):
    space = ChebyshevSpace(degree, 1.5, (0.0, 2.0))
    u, x = space.sample(5, seed=seed), torch.linspace(0, 2, 301, dtype=torch.float64)
    assert float(u(x).abs().max()) <= (degree + 1) * 1.5 + 1e-12
    seen = sensors(m + 1, (0, 2))
    assert float((interpolate(seen, u(seen), x) - u(x)).abs().max()) <= space.kappa(m) + 1e-12
    h = 1e-5
    slope = (u.antiderivative(x[1:-1] + h) - u.antiderivative(x[1:-1] - h)) / (2 * h)
    assert torch.allclose(slope, u(x[1:-1]), atol=1e-4 * (degree + 1) ** 3)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_periodic_field_is_one_function_at_every_resolution(dim):
    law = PeriodicField(dim, modes=5)
    a, b = law.sample(3, 12, seed=4), law.sample(3, 36, seed=4)
    assert torch.allclose(b[(slice(None),) + (slice(None, None, 3),) * dim], a, atol=1e-12)
    assert abs(float(law.spectrum().sum()) - 1) < 1e-12
    with pytest.raises(ValueError, match="resolution"):
        law.sample(1, 10)


def test_interpolation_error_of_a_field_matches_samples_and_the_leading_order():
    law = GaussianRandomField(0.25)
    u, fine = law.sample(1500, seed=2), sensors(1001)
    seen = float((interpolate(sensors(11), u(sensors(11)), fine) - u(fine)).square().mean().sqrt())
    assert abs(seen / interpolation_rms(law, 10) - 1) < 0.06
    assert abs(interpolation_rms(law, 200) * 200**2 * 0.25**2 / math.sqrt(3 / 120) - 1) < 1e-3


@pytest.mark.parametrize("x", [[0.0, 0.5, 0.5, 1.0], [0.0, 1.0, 0.5, 2.0]])
def test_unsorted_and_repeated_places_are_refused(x):
    with pytest.raises(ValueError, match="x must increase strictly"):
        interpolate(torch.tensor(x), torch.zeros(1, 4), torch.tensor([0.2]))
    with pytest.raises(TypeError, match="dtypes"):
        interpolate(torch.tensor([0.0, 1.0]), torch.zeros(1, 2), torch.tensor([0.2], dtype=torch.float64))


NAN, LAW, FIT = float("nan"), GaussianRandomField(0.25), ridge(gaussian(6, 3), gaussian(6, 2), u_val=gaussian(4, 3), s_val=gaussian(4, 2))
PLACES, WHIRL = torch.linspace(0, 1, 4, dtype=torch.float64), gaussian(2, 8, 8) - gaussian(2, 8, 8).mean((1, 2), keepdim=True)


@pytest.mark.parametrize("wrong, name", [
    (lambda: LAW.covariance(torch.tensor([0.1, NAN]), PLACES), "x has"), (lambda: LAW.covariance(PLACES[None], PLACES), "x has"), (lambda: LAW.covariance(PLACES, torch.arange(3)), "y has"), (lambda: LAW.covariance(PLACES, "text"), "y is"),
    (lambda: cole_hopf(torch.cos, PLACES * NAN, nu=0.1, t=0.5), "x has"), (lambda: cole_hopf(torch.cos, PLACES[None], nu=0.1, t=0.5), "x has"), (lambda: cole_hopf(torch.cos, 0.5, nu=0.1, t=0.5), "x is"),
    (lambda: pendulum_system(start=(0.0, NAN)), "start is"), (lambda: pendulum_system(start=(0.0, "three")), "start is"), (lambda: pendulum_system(start=(0.0,)), "start is"), (lambda: pendulum_system(start=0.0), "start is"),
    (lambda: dynamics.Dynamics("still", lambda s, u: s, (math.inf,), lambda bound: 1.0), "start is"), (lambda: dynamics.Dynamics("still", lambda s, u: s, (), lambda bound: 1.0), "start is"), (lambda: dynamics.Dynamics(None, lambda s, u: s, (0.0,), lambda bound: 1.0), "name is"),
    (lambda: darcy(torch.ones(1, 5, 5), NAN), "f is"), (lambda: darcy(torch.ones(1, 5, 5), "three"), "f is"), (lambda: darcy(torch.ones(1, 5, 5), np.full((5, 5), math.inf)), "f has"), (lambda: darcy(torch.ones(1, 5, 5), torch.ones(4, 4)), "f has"),
    (lambda: navier_stokes(WHIRL, nu=0.1, T=0.1, forcing=WHIRL[None]), "forcing has"), (lambda: FIT(PLACES[None] * NAN), "u has"), (lambda: FIT(gaussian(2, 4)), "u has"), (lambda: FIT("text"), "u is"),
    (lambda: ridge(gaussian(6, 3), gaussian(5, 2), u_val=gaussian(4, 3), s_val=gaussian(4, 2)), "rows of s is 5 but that of u is 6"), (lambda: ridge(gaussian(6, 4), gaussian(6, 2), u_val=gaussian(4, 3), s_val=gaussian(4, 2)), "columns of u_val is 3 but that of u is 4"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(wrong, name):
    with pytest.raises((ValueError, TypeError)) as error:
        wrong()
    assert str(error.value).startswith(name) or name in str(error.value) and "but" in name


def test_a_number_as_right_side_is_that_constant_field():
    a = gaussian(2, 9, 9).exp()
    assert torch.equal(darcy(a, 2.0), darcy(a, torch.full((9, 9), 2.0, dtype=torch.float64)))


def test_everything_can_be_imported_from_fields():
    for room in (dynamics, pde):
        for name in room.__all__:
            assert getattr(fields, name) is getattr(room, name) and name in fields.__all__


# ------------------------------------------------------------------------------------------------ ordinary equations
@pytest.mark.parametrize("method", dynamics.ORDERS)
def test_methods_have_their_order(method):
    ns = (3, 4, 6, 8) if method == "rk8" else (16, 32, 64, 128)
    out = [float((integrate(lambda t, s: -s + torch.sin(4 * t)[:, None], torch.ones(1, 1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64), substeps=n, method=method)
                  - integrate(lambda t, s: -s + torch.sin(4 * t)[:, None], torch.ones(1, 1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64), substeps=300)).abs().max()) for n in ns]  # fmt: skip
    assert order(ns, out) > dynamics.ORDERS[method] - 0.6


def test_fields_drive_systems_as_scipy_says():
    law, times = GaussianRandomField(0.2, domain=(0.0, 3.0)), torch.linspace(0, 3, 13, dtype=torch.float64)
    u = law.sample(3, seed=5)
    ours = solve(pendulum_system(1.5), u, times, 3, step=0.05)
    for i in range(3):
        force = lambda t, i=i: float(u[i](torch.tensor([min(max(t, 0.0), 3.0)], dtype=torch.float64)))  # noqa: E731
        peer = solve_ivp(lambda t, s, force=force: [s[1], force(t) - 1.5 * math.sin(s[0])], (0, 3), [0, 0], t_eval=times.numpy(), rtol=1e-10, atol=1e-12, max_step=0.05)
        assert np.allclose(ours[i], peer.y.T, atol=2e-7), "steps of 0.05 cross the knots of the spline, whose third derivative jumps"


def test_own_times_and_shared_times_agree_and_the_antiderivative_is_exact():
    u = GaussianRandomField(0.2).sample(4, seed=6)
    t = torch.tensor([[0.2, 0.9], [0.5, 1.0], [0.1, 0.3], [0.7, 0.8]], dtype=torch.float64)
    own = solve(linear_system(), u, t, 4)[:, :, 0]
    assert torch.allclose(own, u.antiderivative(t), atol=1e-9)
    assert torch.allclose(solve(linear_system(-2.0, 3.0), torch.ones_like, t, 4)[:, :, 0], 1.5 * (1 - torch.exp(-2 * t)), atol=1e-12)


def test_blow_up_is_nan_in_its_row_alone():
    out = solve(riccati_system(), lambda t: torch.tensor([[-30.0], [1.0]], dtype=t.dtype) * torch.ones_like(t), torch.linspace(0, 1, 5, dtype=torch.float64), 2)
    assert bool(out[0, -1].isnan().all()) and torch.allclose(out[1, :, 0], torch.linspace(0, 1, 5, dtype=torch.float64).tanh(), atol=1e-10)


# ------------------------------------------------------------------------------------------------ partial equations
def test_diffusion_reaction_is_linear_without_reaction_and_second_order_with_it():
    x = torch.linspace(0, 1, 31, dtype=torch.float64)
    u = torch.stack([torch.sin(5 * x), x**2])
    assert torch.allclose(diffusion_reaction(2 * u, k=0.0, steps=20), 2 * diffusion_reaction(u, k=0.0, steps=20), atol=1e-13)
    steady = diffusion_reaction((math.pi**2 * 0.3 * torch.sin(math.pi * x))[None], D=0.3, k=0.0, T=20.0, steps=400)[0, -1]
    assert torch.allclose(steady, torch.sin(math.pi * x), atol=2e-3), "second order in space: (pi h)^2 / 12"
    fine = diffusion_reaction(u, k=1.0, steps=1280)[:, -1]
    assert 1.8 < order((20, 40, 80), [float((diffusion_reaction(u, k=1.0, steps=n)[:, -1] - fine).abs().max()) for n in (20, 40, 80)]) < 2.3
    with pytest.raises(ValueError, match="steps >= "):
        diffusion_reaction(torch.full((1, 9), 50.0), k=5.0, steps=4)


def test_darcy_with_constant_coefficient_is_poisson():
    V, values = sine_basis(15)
    assert torch.allclose(V @ V, torch.eye(15, dtype=V.dtype), atol=1e-13)
    a = torch.full((1, 17, 17), 2.5, dtype=torch.float64)
    inner = V @ ((V @ torch.full((15, 15), 1 / 2.5 / 256, dtype=torch.float64) @ V) / (values[:, None] + values)) @ V
    assert torch.allclose(darcy(a)[0, 1:-1, 1:-1], inner, atol=1e-12)
    with pytest.raises(RuntimeError, match="iterations=2"):
        darcy(a * torch.exp(gaussian(1, 17, 17)), iterations=2)
    assert darcy(a.float()).dtype == torch.float32


def test_burgers_follows_cole_and_hopf_and_refuses_an_unstable_step():
    x = torch.arange(128, dtype=torch.float64) / 128
    exact = cole_hopf(lambda z: -torch.cos(2 * math.pi * z) / (2 * math.pi), x, nu=0.03, t=0.4)
    assert torch.allclose(burgers(torch.sin(2 * math.pi * x)[None], nu=0.03, T=0.4)[0, 0], exact, atol=1e-6)
    with pytest.raises(ValueError, match="unstable"):
        burgers(torch.sin(2 * math.pi * x)[None], nu=0.03, T=0.4, steps=2)


def test_navier_stokes_keeps_what_the_equation_keeps():
    w = PeriodicField(2, modes=5).sample(2, 32, seed=1) * 3
    v1, v2 = velocity(w)
    k = torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64)
    divergence = torch.fft.ifft2(2j * math.pi * (k[:, None] * torch.fft.fft2(v1) + k[None, :] * torch.fft.fft2(v2))).real
    assert float(divergence.abs().max()) < 1e-12
    later = navier_stokes(w, nu=0.0, T=0.3)[:, 0]
    assert torch.allclose(energy(later), energy(w), rtol=1e-7) and torch.allclose(enstrophy(later), enstrophy(w), rtol=1e-6)
    damped = navier_stokes(w, nu=0.01, T=0.3, snapshots=3)
    assert bool((energy(damped).diff(dim=1) < 0).all()) and bool((enstrophy(damped).diff(dim=1) < 0).all())
    with pytest.raises(ValueError, match="zero mean"):
        navier_stokes(w + 1)
    with pytest.raises(ValueError, match="unstable"):
        navier_stokes(100 * w, steps=1)


# ------------------------------------------------------------------------------------------------ limits
def test_the_sensor_bound_holds_for_every_function():
    u, times = GaussianRandomField(0.3).sample(40, seed=7), torch.linspace(0, 1, 21, dtype=torch.float64)
    for m in (5, 15):
        near = interpolant(u, m)
        kappa = (near(sensors(1001)) - u(sensors(1001))).abs().amax(1)
        gap = (solve(pendulum_system(), near, times, 40) - solve(pendulum_system(), u, times, 40)).norm(dim=2).amax(1)
        assert all(float(g) <= sensor_error_bound(float(k), 1.0, 1.0) for g, k in zip(gap, kappa))


@FEW
@given(seed=seeds, p=st.integers(1, 5))
def test_no_subspace_beats_the_rank_floor(seed, p):
    s = gaussian(30, 8, seed=seed) + gaussian(30, 1, seed=seed + 1)
    Q = torch.linalg.qr(gaussian(8, p, seed=seed + 2)).Q
    space = torch.linalg.qr(torch.cat([Q, torch.ones(8, 1, dtype=torch.float64)], 1)).Q
    best = s - s @ space @ space.T
    assert float(best.square().mean()) >= float(rank_floor(s)[p]) * (1 - 1e-9)
    assert bool((rank_floor(s).diff() <= 1e-12).all()) and float(rank_floor(s)[-1]) == 0


def test_the_information_floor_falls_with_sensors_and_bounds_ridge():
    law, end = GaussianRandomField(0.2), torch.ones(1, dtype=torch.float64)
    floors = [float(information_floor(law, sensors(m), end)) for m in (2, 3, 4, 6)]
    assert floors == sorted(floors, reverse=True)
    u = law.sample(6000, seed=8)
    s = u.antiderivative(end)
    model = ridge(u(sensors(4))[:3000], s[:3000], u_val=u(sensors(4))[3000:4000], s_val=s[3000:4000])
    error = float((model(u(sensors(4))[4000:]) - s[4000:]).square().mean())
    assert 0.85 * floors[2] < error < 1.15 * floors[2], "ridge with 3,000 functions is the conditional mean; 2,000 test functions"

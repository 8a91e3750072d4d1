"""Laws of the operator networks: architecture, data, training, additions, and the peer with equal weights."""
import importlib.util
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.operators import deeponet as module
from atomsnb.operators.deeponet import (
    DeepONet, DeepONetConfig, FourierFeatures, HardConstraint, MLPOperator, OperatorData, PODDeepONet, diffusion_data, dynamics_data, fit_operator, operator_error, pod_basis, refit_branch, relative_l2, stack_data,
)  # fmt: skip
from atomsnb.operators.fields import ChebyshevSpace, GaussianRandomField, linear_system, pendulum_system, riccati_system, sensors, solve
from atomsnb.operators.nets import ParallelMLP, ResNetOperator, SequenceOperator, SideBySide, take_copy, trimmed_mse

torch.set_num_threads(1)
FEW = settings(max_examples=15, deadline=None)
QUIET = dict(device="cpu", progress=False)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------------ architecture
@FEW
@given(copies=st.integers(1, 3), stacked=st.booleans(), bias=st.booleans(), out_dim=st.integers(1, 3), split=st.sampled_from(["branch", "trunk", "both"]), dim=st.integers(1, 2), lead=st.booleans())
def test_pairs_and_grids_agree_for_every_option(copies, stacked, bias, out_dim, split, dim, lead):
    net = DeepONet(6, (5,), (4, 4), 3, stacked=stacked, bias=bias, out_dim=out_dim, split=split, dim_y=dim, copies=copies, seed=3).double()
    u, y = rand(*((copies,) if lead else ()), 4, 6, dtype=torch.float64), rand(*((copies,) if lead else ()), 5, dim, seed=1, dtype=torch.float64)
    table = net.grid(u, y)
    assert table.shape == ((copies,) if copies > 1 else ()) + (4, 5) + ((out_dim,) if out_dim > 1 else ())
    pairs = net(u.repeat_interleave(5, -2), y.repeat(*(1,) * (y.ndim - 2), 4, 1))
    assert torch.allclose(pairs, table.flatten(1 if copies > 1 else 0, 2 if copies > 1 else 1), atol=1e-12)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_copy_taken_out_answers_like_the_copy_inside(stacked):
    net, u, y = DeepONet(6, (5,), (4,), 3, copies=3, stacked=stacked, seed=2), rand(4, 6), rand(5, 1)
    for i in range(3):
        assert torch.allclose(take_copy(net, i).grid(u, y), net.grid(u, y)[i], atol=1e-6)
    assert torch.allclose(DeepONet(6, (5,), (4,), 3, stacked=stacked, seed=3).grid(u, y), net.grid(u, y)[1], atol=1e-6) or stacked


def test_the_paper_s_size():
    assert sum(p.numel() for p in DeepONet(100).parameters()) == 9041


def test_without_biases_a_zero_input_is_answered_by_zero():
    net = DeepONet(6, bias=False)
    assert float(net.grid(torch.zeros(1, 6), rand(5, 1)).abs().max()) == 0.0
    assert all("bias" not in name and "b0" != name for name, _ in net.named_parameters())


@FEW
@given(seed=st.integers(0, 1000))
def test_scaled_copies_of_an_input_are_scaled_answers_of_a_linear_branch(seed):
    net, u, y = DeepONet(6, (), (4, 4), 3, bias=False, seed=seed).double(), rand(4, 6, seed=seed, dtype=torch.float64), rand(5, 1, dtype=torch.float64)
    assert torch.allclose(net.grid(-2.5 * u, y), -2.5 * net.grid(u, y), atol=1e-12)


def test_hard_constraints_hold_for_every_weight_and_features_have_their_width():
    wall = HardConstraint(lambda y: y[..., 0] * (1 - y[..., 0]) * y[..., 1], lambda y: y[..., 1])
    net = DeepONet(6, dim_y=2, copies=2, constraint=wall, features=FourierFeatures(2, 7, scale=3.0, seed=1))
    edge = torch.tensor([[0.0, 0.3], [1.0, 0.8], [0.4, 0.0]])
    assert torch.equal(net.grid(rand(3, 6), edge), edge[:, 1].expand(2, 3, 3))
    assert torch.equal(net(rand(3, 6), edge), edge[:, 1].expand(2, 3))
    assert net.features(rand(4, 2)).shape == (4, 16)


def test_the_derivative_is_that_of_the_grid():
    net = DeepONet(6, dim_y=2, copies=2, activation="tanh", domain=[(0.0, 2.0), (0.0, 1.0)], constraint=HardConstraint(lambda y: y[..., 0])).double()
    u, y = rand(3, 6, dtype=torch.float64), rand(4, 2, dtype=torch.float64) * 0.5 + 0.2
    for axis in (0, 1):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-5
        assert torch.allclose(net.derivative(u, y, axis), (net.grid(u, y + step) - net.grid(u, y - step)) / 2e-5, atol=1e-8)


def test_bad_input_is_refused_by_name():
    net = DeepONet(6, domain=[(0.0, 1.0)])
    for wrong, words in (
        (lambda: net(rand(3, 5), rand(3, 1)), "u has 5 columns"), (lambda: net(rand(3, 6), rand(4, 1)), "grid"), (lambda: net(rand(3, 6), rand(3, 2)), "y has 2 columns"),
        (lambda: net(rand(3, 6), rand(3)), "y has shape"), (lambda: net.grid(rand(3, 6), rand(3, 1) + 1), "leaves the domain"), (lambda: net.grid(rand(3, 6), rand(3, 1).double()), "dtypes"),
        (lambda: DeepONet(torch.tensor([0.0, 0.5, 0.2])), "sensors must increase"), (lambda: DeepONet(6, p=0), "p is 0"), (lambda: DeepONet(6, branch=40), "branch is 40"), (lambda: DeepONet(6, split="x"), "split"),
        (lambda: DeepONet(6, domain=[(1.0, 0.0)]), "domain"), (lambda: net.derivative(rand(3, 6), rand(3, 1), 1), "axis"), (lambda: net.observe(torch.sin), "sensors were given"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            wrong()


NAN, INF = math.nan, math.inf
NETWORKS = {
    "DeepONet": lambda: DeepONet(6, (5,), (4,), 3), "Fourier": lambda: DeepONet(6, (5,), (4,), 3, features=FourierFeatures(1, 2), domain=[(0.0, 1.0)]), "stacked": lambda: DeepONet(6, (5,), (4,), 3, stacked=True),
    "POD": lambda: PODDeepONet(6, rand(9, 4), sensors(4).float()[:, None], (5,), 2), "MLP": lambda: MLPOperator(6, (5,)), "ResNet": lambda: ResNetOperator(6, 5, 1),
}  # fmt: skip


def spoiled(x, value):
    out = x.clone()
    out[1, 0] = value
    return out


@pytest.mark.parametrize("name", NETWORKS)
def test_values_that_are_no_numbers_are_refused_by_name(name):
    net, u, y = NETWORKS[name](), rand(4, 6), sensors(4).float()[:, None]
    for call in (net, net.grid, *((net.derivative,) if hasattr(net, "derivative") else ())):
        assert bool(torch.isfinite(call(u, y)).all())
        for bad in (lambda x: spoiled(x, NAN), lambda x: spoiled(x, INF), lambda x: spoiled(x, -INF), lambda x: x.to("meta"), lambda x: x[..., :0], lambda x: x[None, None], lambda x: (9 * x).long(), lambda x: "text"):
            with pytest.raises((ValueError, TypeError), match=r"\bu\b"):
                call(bad(u), y)
            with pytest.raises((ValueError, TypeError), match=r"\by\b"):
                call(u, bad(y))
        with pytest.raises(TypeError, match="u has dtype float64 but the network has float32"):
            call(u.double(), y.double())


def test_parts_of_a_network_refuse_by_name_too():
    net, u, y = DeepONet(6, (5,), (4,), 3, copies=2), rand(4, 6), rand(4, 1)
    for call, x, name in ((net.coeffs, u, "u"), (net.basis, y, "y"), (ParallelMLP((6, 5, 2), copies=2), u, "x"), (net.branch.hidden, u, "x"), (FourierFeatures(1, 3), y, "y")):
        for bad in (spoiled(x, NAN), x.to("meta"), x[..., :0], torch.cat([x, x], 1), x.long(), "text"):
            with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
                call(bad)


def test_weights_that_overflow_are_no_fault_of_the_arguments():
    for net in (ResNetOperator(6, 5, 2), DeepONet(6, (5,), (4,), 3)):
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1e30)
        assert not bool(torch.isfinite(net(rand(4, 6), rand(4, 1))).all())


@pytest.mark.parametrize("name", ["DeepONet", "Fourier", "MLP", "ResNet"])
def test_checked_networks_can_be_transformed(name):
    net, u, y = NETWORKS[name](), rand(4, 6), rand(4, 1)
    if name != "Fourier":  # a domain is looked at, which a batch of `vmap` does not allow
        each = torch.func.vmap(lambda a, b: net(a[None], b[None])[0])(u, y)
        assert torch.allclose(each, net(u, y), atol=1e-6)
    slopes = torch.func.jacrev(lambda z: net(u, z).sum())(y)
    z = y.clone().requires_grad_()
    assert torch.allclose(torch.autograd.grad(net(u, z).sum(), z)[0], slopes, atol=1e-6)
    seen = []
    for part in net.modules():
        part.register_forward_hook(lambda *_: seen.append(1))
    net(u, y)
    assert len(seen) == {"DeepONet": 3, "Fourier": 4, "MLP": 2, "ResNet": 4}[name], "hooks see every network inside"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(u.bfloat16(), y.bfloat16()).shape == (4,)


def test_a_part_can_be_a_module_of_one_s_own():
    class Powers(torch.nn.Module):
        def forward(self, y):
            return torch.cat([y, y**2, y**3], -1)[None]

    net = DeepONet(6, (5,), (4,), 3)
    net.trunk = Powers()
    assert net.grid(rand(4, 6), rand(5, 1)).shape == (4, 5)
    with pytest.raises(ValueError, match="y has"):
        net.grid(rand(4, 6), rand(5, 1) * NAN)


def test_principal_components_need_places_that_all_copies_share():
    net, u, y = PODDeepONet(6, rand(9, 4), sensors(4).float()[:, None], (5,), 2, copies=2), rand(2, 4, 6), sensors(4).float()[:, None].expand(2, 4, 1)
    assert torch.equal(net(u, y), net(u, y[0]))
    with pytest.raises(ValueError, match="y differs from copy to copy"):
        net(u, torch.stack([y[0], y[0].flip(0)]))


# ------------------------------------------------------------------------------------------------ data
@pytest.mark.parametrize("make", [lambda places: dynamics_data(linear_system(), GaussianRandomField(0.4), 5, places, seed=1), lambda places: diffusion_data(GaussianRandomField(0.4), 5, places, cells=4)])
def test_places_are_refused_by_name(make):
    x = sensors(6)
    for bad in (x[None], x[:0], x * NAN, x.to("meta"), x.long(), "text", x + 1):
        with pytest.raises((ValueError, TypeError), match="places|domain"):
            make(bad)


def test_data_are_solutions_and_the_same_functions_in_both_layouts():
    law, x = GaussianRandomField(0.2), sensors(30)
    triples, table = dynamics_data(riccati_system(), law, 200, x, seed=4), dynamics_data(riccati_system(), law, 200, x, points=5, seed=4)
    assert torch.equal(triples.u, table.u) and triples.dropped == table.dropped and float(table.s[:, 0].abs().max()) == 0
    exact = solve(riccati_system(), law.sample(200, seed=4), table.y[:, 0].double(), 200, step=0.005)[:, :, 0]
    keep = torch.isfinite(exact).all(1) & (exact.abs() <= 10).all(1)
    assert int(keep.sum()) == len(table)
    assert torch.allclose(table.s.double(), exact[keep], atol=3e-4), "a step of 0.05 for solutions up to 10 in size; the median error is far smaller"
    assert float((table.s.double() - exact[keep]).abs().median()) < 1e-7
    chebyshev = dynamics_data(linear_system(), ChebyshevSpace(5, 1.0), 20, x, points=4, seed=1)
    assert torch.allclose(chebyshev.s.double(), ChebyshevSpace(5, 1.0).sample(20, seed=1).antiderivative(chebyshev.y[:, 0].double()), atol=1e-6)


def test_diffusion_data_vanish_on_the_walls_and_keep_the_places_of_a_seed():
    law, x = GaussianRandomField(0.2), sensors(10)
    whole, some, more = (diffusion_data(law, 6, x, cells=10, points=p, seed=1) for p in (0, 20, 40))
    walls = (whole.y[:, 0] == 0) | (whole.y[:, 0] == 1) | (whole.y[:, 1] == 0)
    assert float(whole.s[:, walls].abs().max()) == 0 < float(whole.s[:, ~walls].abs().min(0).values.max())
    assert torch.equal(some.y, more.y[:20]) and torch.equal(some.s, more.s[:, :20])


def test_data_that_do_not_fit_are_refused():
    u, y, s = rand(5, 6), rand(4, 1), rand(5, 4)
    OperatorData(u, y, s, True)
    for wrong in (lambda: OperatorData(u, y, s.T, True), lambda: OperatorData(u, y, s[:, 0], False), lambda: OperatorData(u, y, s * math.nan, True)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError, match="s has dtype"):
        OperatorData(u, y, s.double(), True)
    for wrong, words in (
        (lambda: OperatorData("text", y, s, True), "u is"), (lambda: OperatorData(u[0], y, s, True), "u has"), (lambda: OperatorData(u, rand(1, 5, 1), s[:, 0], False), "y has"),
        (lambda: stack_data(3), "parts"), (lambda: stack_data([3]), "parts"), (lambda: operator_error(DeepONet(6), OperatorData(u, y, s, True), rows=0), "rows"),
        (lambda: operator_error(DeepONet(6), OperatorData(u, y, s, True), rows=2.5), "rows"), (lambda: PODDeepONet(6, s, rand(3, 1)), "outputs.*places"), (lambda: PODDeepONet(6, "text", y), "outputs"),
        (lambda: relative_l2(s, s[:, :3]), "target"), (lambda: DeepONet(6, seed="text"), "seed"), (lambda: ResNetOperator(6, seed="text"), "seed"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            wrong()


# ------------------------------------------------------------------------------------------------ training
def test_copies_train_alone_and_beside_each_other_alike():
    law, x = GaussianRandomField(0.2), sensors(20)
    data = [dynamics_data(linear_system(), law, 60, x, points=11, seed=s) for s in (1, 2)]
    pair = DeepONet(20, (8,), (8,), 6, copies=2, seed=7)
    fit_operator(pair, stack_data(data), steps=40, batch=16, lr=1e-2, seed=3, **QUIET)
    for i in (0, 1):
        one = DeepONet(20, (8,), (8,), 6, seed=7 + i)
        fit_operator(one, data[i], steps=40, batch=16, lr=1e-2, seed=3, **QUIET)
        assert torch.allclose(operator_error(one, data[i])[0], operator_error(pair, stack_data(data))[i], rtol=1e-3), "float32 sums in another order, 40 steps of Adam"


@pytest.mark.parametrize("make", [lambda: DeepONet(20, copies=2), lambda: MLPOperator(20, (20,), copies=2), lambda: ResNetOperator(20, 16, 1, copies=2)])
def test_every_network_learns_the_antiderivative_a_little(make):
    law, x = GaussianRandomField(0.4), sensors(20)
    train, test = dynamics_data(linear_system(), law, 300, x, seed=1), dynamics_data(linear_system(), law, 200, x, seed=2)
    net = make()
    history = fit_operator(net, train, steps=150, batch=100, lr=5e-3, **QUIET)
    assert float(operator_error(net, test).max()) < 0.25 * float(test.s.square().mean()) and history.completed == 150


def test_training_is_repeatable_and_resumes(tmp_path):
    data = dynamics_data(linear_system(), GaussianRandomField(0.4), 100, sensors(10), points=7, seed=1)
    nets = [DeepONet(10, (8,), (8,), 4) for _ in range(2)]
    fit_operator(nets[0], data, steps=30, batch=20, **QUIET)
    fit_operator(nets[1], data, steps=30, batch=20, checkpoint=tmp_path, save_every=10, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters()))
    again = DeepONet(10, (8,), (8,), 4)
    assert fit_operator(again, data, steps=30, batch=20, checkpoint=tmp_path, **QUIET).resumed_from == 30


def test_physics_alone_learns_without_a_solution():
    x = sensors(30)
    data = dynamics_data(linear_system(), GaussianRandomField(0.4), 200, x, points=30, seed=1)
    blind = OperatorData(data.u, data.y, torch.zeros_like(data.s), True)
    net = DeepONet(30, activation="tanh", constraint=HardConstraint(lambda y: y[..., 0]))
    fit_operator(net, blind, steps=200, batch=50, lr=5e-3, supervise=False, physics=lambda net, u, y: net.derivative(u, y) - u, **QUIET)
    assert float(operator_error(net, data)) < 0.05 * float(data.s.square().mean())
    with pytest.raises(ValueError, match="supervise"):
        fit_operator(net, data, supervise=False)


# ------------------------------------------------------------------------------------------------ additions
@FEW
@given(p=st.integers(1, 6), seed=st.integers(0, 100))
def test_principal_components_are_orthogonal_and_span_best(p, seed):
    s = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ torch.diag(torch.arange(1.0, 7).double())
    mean, modes, scale = pod_basis(s, p)
    gram = modes.T @ modes
    assert torch.allclose(gram, torch.diag(scale**2), atol=1e-9) and torch.allclose(mean, s.mean(0))
    coefficients = (s - mean) @ torch.linalg.pinv(modes.T)
    assert torch.allclose(coefficients.square().mean(0), torch.ones(p, dtype=torch.float64), atol=1e-9)


def test_pod_deeponet_interpolates_between_its_places():
    data = dynamics_data(linear_system(), GaussianRandomField(0.3), 80, sensors(20), points=41, seed=1)
    net = PODDeepONet(20, data.s, data.y, (8,), 5, copies=2)
    fine = torch.linspace(0, 1, 81)[:, None]
    assert torch.allclose(net.grid(data.u, fine)[:, :, ::2], net.grid(data.u, data.y), atol=1e-4)
    fit_operator(net, data, steps=150, batch=40, lr=1e-2, **QUIET)
    assert float(operator_error(net, data).max()) < 0.05 * float(data.s.square().mean())
    flat = PODDeepONet(20, data.s, torch.cartesian_prod(torch.arange(41.0), torch.zeros(1)), (8,), 5)
    with pytest.raises(ValueError, match="that grid only"):
        flat.grid(data.u, torch.rand(3, 2))


def test_errors_are_what_they_are_called():
    assert trimmed_mse(torch.cat([torch.zeros(999), torch.tensor([5.0])])) == 0.0
    t = rand(3, 8) + 0.1
    assert torch.allclose(relative_l2(1.1 * t, t), torch.full((3,), 0.1), atol=1e-6)
    with pytest.raises(ValueError, match="target is zero"):
        relative_l2(t, 0 * t)
    assert SequenceOperator(9, 4)(rand(2, 9)).shape == (2, 4)
    with pytest.raises(ValueError, match="y "):
        SequenceOperator(9, 4).grid(rand(2, 9), rand(5, 1))
    with pytest.raises(ValueError, match="widths"):
        ParallelMLP((3,))


def test_the_recurrent_baseline_learns_on_the_grid_it_was_given():
    u = rand(64, 12).cumsum(1)
    data = OperatorData(u, torch.linspace(0, 1, 12)[:, None], u.cumsum(1) / 12, True)
    net = SequenceOperator(12, 12)
    before = operator_error(net, data)
    fit_operator(net, data, steps=300, batch=64, lr=1e-2, final=1.0, device="cpu", progress=False)
    assert float(operator_error(net, data)) < 0.2 * float(before)


def test_networks_side_by_side_take_the_paths_that_they_would_take_alone():
    u = rand(32, 10).cumsum(1)
    data = OperatorData(u, torch.linspace(0, 1, 10)[:, None], u.cumsum(1) / 10, True)
    make = lambda: [SequenceOperator(10, 10, seed=s) for s in (0, 1)]  # noqa: E731
    options = dict(steps=40, batch=32, lr=1e-2, device="cpu", progress=False)
    alone, beside = make(), SideBySide(*make())
    together = fit_operator(beside, data, **options)
    single = [fit_operator(net, data, **options) for net in alone]
    for net, twin in zip(alone, beside.nets):
        for p, q in zip(net.parameters(), twin.parameters()):
            assert torch.allclose(p, q, atol=1e-4)  # the mean over both is divided and multiplied by two in float32
    assert abs(together.losses["per_copy"][-1] - sum(h.losses["per_copy"][-1] for h in single) / 2) < 1e-5
    assert operator_error(beside, data).shape == (2,)
    for wrong in ((), (torch.nn.Linear(2, 2),), (3,)):
        with pytest.raises(TypeError, match="nets is"):
            SideBySide(*wrong)


def test_settings_are_validated():
    with pytest.raises(ValueError, match="sequence_steps"):
        DeepONetConfig(sequence_steps=-1)
    for scale in ("cpu", "gpu", "full"):
        DeepONetConfig.preset(scale)
    for wrong in (dict(seeds=0), dict(lr=-1.0), dict(sizes=(1, 2)), dict(points=2), dict(ranks=())):
        with pytest.raises(ValueError):
            DeepONetConfig(**wrong)
    for name in ("ranks", "horizons", "sizes", "counts", "fnn_nonlinear", "fnn_pendulum"):
        for bad in (2.5, "three", NAN, None, 0):
            with pytest.raises((ValueError, TypeError), match=name):
                DeepONetConfig(**{name: (1, 2, 3, 4, bad)})
        with pytest.raises((ValueError, TypeError), match=name):
            DeepONetConfig(**{name: 3})
    assert set(module.__all__) >= {"DeepONet", "DeepONetConfig", "MLPOperator", "fit_operator", "relative_l2", "sensor_error_bound"}


def test_two_outputs_are_the_two_states_of_the_pendulum():
    law, times = GaussianRandomField(0.4), torch.linspace(0, 1, 11, dtype=torch.float64)
    s = solve(pendulum_system(), law.sample(200, seed=1), times, 200, step=0.05).float()
    data = OperatorData(law.sample(200, seed=1)(sensors(20)).float(), times.float()[:, None], s, True)
    net = DeepONet(20, out_dim=2)
    fit_operator(net, data, steps=200, batch=50, lr=5e-3, **QUIET)
    assert float(operator_error(net, data)) < 0.05 * float(s.square().mean())


# ------------------------------------------------------------------------------------------------ peer
@pytest.mark.skipif(importlib.util.find_spec("deepxde") is None, reason="deepxde: not measured: not installed")
def test_equal_weights_give_deepxde_s_numbers():
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde as dde

    ours, u, y = DeepONet(12, (10,), (9, 9), 7, seed=1), rand(5, 12), rand(6, 1, seed=1)
    for kind, call in (("DeepONetCartesianProd", lambda net: (ours.grid(u, y), net((u, y)))), ("DeepONet", lambda net: (ours(u, y[:5]), net((u, y[:5]))[:, 0]))):
        theirs = getattr(dde.nn, kind)([12, 10, 7], [1, 9, 9, 7], "relu", "Glorot normal")
        for net, layers in ((ours.branch, theirs.branch.linears), (ours.trunk, theirs.trunk.linears)):
            for w, b, layer in zip(net.weights, net.biases, layers):
                layer.weight.data, layer.bias.data = w.detach()[0].T.clone(), b.detach()[0, 0].clone()
        a, b = call(theirs)
        assert torch.allclose(a, b, atol=1e-6), "float32 sums of ten products"


# ------------------------------------------------------------------------------------------------ closed form
def test_a_constraint_sees_the_places_of_its_own_copy():
    net = DeepONet(5, dim_y=2, copies=2, constraint=HardConstraint(lambda y: 1 + y[..., 0], lambda y: y[..., 1] - 2))
    u, y = rand(2, 7, 5), rand(2, 7, 2)
    together, table = net(u, y), net.grid(u, y)
    for i in range(2):
        alone = take_copy(net, i)
        assert torch.allclose(together[i], alone(u[i], y[i]), atol=1e-6) and torch.allclose(table[i], alone.grid(u[i], y[i]), atol=1e-6)
        assert torch.allclose(table[i].diagonal(), together[i], atol=1e-6)


@pytest.mark.parametrize("constraint", [None, HardConstraint(lambda y: 1 + y[..., 0], lambda y: y[..., 0] - 2)])
def test_the_refit_is_a_minimum_in_the_last_branch_layer(constraint):
    data = dynamics_data(linear_system(), GaussianRandomField(0.4), 100, sensors(10), points=9, seed=1, dtype=torch.float64)
    net = DeepONet(10, (6,), (5,), 4, copies=2, constraint=constraint).double()
    refit_branch(net, data, penalty=1e-12)
    best, last = operator_error(net, data), len(net.branch.weights) - 1
    gradient = torch.autograd.grad((net.grid(data.u, data.y) - data.s).square().mean(), [net.branch.weights[last], net.branch.biases[last]])
    assert max(float(g.abs().max()) for g in gradient) < 1e-5 * float(best.max()) ** 0.5
    for seed in range(3):
        moved = DeepONet(10, (6,), (5,), 4, copies=2, constraint=constraint).double()
        moved.load_state_dict(net.state_dict())
        moved.branch.weights[last].data += 1e-2 * torch.randn(net.branch.weights[last].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert bool((operator_error(moved, data) > best).all())
    for wrong in (DeepONet(10, stacked=True), DeepONet(10, bias=False), DeepONet(10, out_dim=2)):
        with pytest.raises(ValueError, match="model is stacked"):
            refit_branch(wrong, data)
    with pytest.raises(ValueError, match="triples"):
        refit_branch(net, dynamics_data(linear_system(), GaussianRandomField(0.4), 10, sensors(10), seed=1, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------ written out by hand
def test_places_are_taken_relative_to_the_domain():
    inside, plain = DeepONet(5, p=4, domain=[(2.0, 6.0)], seed=3), DeepONet(5, p=4, seed=3)
    y = torch.linspace(2, 6, 7)[:, None]
    assert torch.equal(inside.basis(y), plain.basis((y - 2) / 4))
    inside.basis(y + 3e-5)  # a slack of 1e-5 of the width
    for outside in (1.99994, 6.00006):
        with pytest.raises(ValueError, match="domain"):
            inside.basis(torch.tensor([[outside]]))


def test_the_bias_is_added_once_to_triples_and_to_grids():
    net = DeepONet(5, p=4, seed=3, copies=2)
    with torch.no_grad():
        net.b0.copy_(torch.tensor([0.5, -2.0]).view(net.b0.shape))
    u, y = rand(6, 5), rand(6, 1)
    with_bias, grids = net(u, y), net.grid(u, y)
    with torch.no_grad():
        net.b0.zero_()
    shift = torch.tensor([0.5, -2.0])
    assert torch.allclose(with_bias - net(u, y), shift[:, None].expand(2, 6), atol=1e-6) and torch.allclose(grids - net.grid(u, y), shift[:, None, None].expand(2, 6, 6), atol=1e-6)


@pytest.mark.parametrize("constrained", [False, True])
def test_the_closed_form_allows_for_bias_and_constraint(constrained):
    """At the least squares the slope of the error in the last layer vanishes, up to the penalty; a bias or prescribed values that were forgotten, or taken twice, leave one."""
    constraint = HardConstraint(lambda y: 1 + y[..., 0], lambda y: 3 - y[..., 0]) if constrained else None
    net = DeepONet(6, (40,), (40,), 3, constraint=constraint, seed=1, activation="tanh").double()
    data = OperatorData(rand(30, 6, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64)[:, None], rand(30, 9, seed=4, dtype=torch.float64), True)
    with torch.no_grad():
        net.b0.fill_(0.7)
    slopes = []
    for _ in range(2):
        error = (net.grid(data.u, data.y) - data.s).square().mean()
        slopes.append(max(float(g.abs().max()) for g in torch.autograd.grad(error, [net.branch.weights[-1], net.branch.biases[-1]])))
        refit_branch(net, data, penalty=1e-12)
    assert slopes[1] < 1e-6 * slopes[0]


def test_principal_components_answer_triples_as_they_answer_grids():
    table = dynamics_data(linear_system(), GaussianRandomField(0.2), 30, sensors(20), points=11)
    net = PODDeepONet(20, table.s, table.y, p=5)
    grid = net.grid(table.u, table.y)
    for j in (0, 4, 10):
        assert torch.allclose(net(table.u, table.y[j].expand(30, 1)), grid[:, j], atol=1e-5)

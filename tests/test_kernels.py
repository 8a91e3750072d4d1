"""Laws of the threshold autoencoder's loss, its kernels (in Triton's interpreter), its optimiser, and the Gram histogram."""
import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import interpret, need_triton
from torch import nn

from atomsnb.core.bench import load_result
from atomsnb.core.train import fit
from atomsnb.kernels import gram, launch
from atomsnb.kernels.adam import UnitRowAdam, sae_optimizer
from atomsnb.kernels.threshold_sae import compute_copy, heaviside, jumprelu, reference_loss, threshold_sae_loss

torch.set_num_threads(1)


def problem(B=7, H=5, N=11, copies=(), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*copies, *shape, generator=g, dtype=dtype)

    return {"x": r(B, H), "w_enc": r(N, H) / math.sqrt(H), "b_enc": 0.1 * r(N), "theta": 0.8 + 0.1 * r(N).abs(), "w_dec": r(N, H) / math.sqrt(H), "b_dec": 0.1 * r(H)}


def gradients(p, **options):
    q = {k: v.clone().requires_grad_(k != "x") for k, v in p.items()}
    out = threshold_sae_loss(**q, **({"bandwidth": 0.3, "l0_coef": 0.05} | options))
    out.total.sum().backward()
    return out, {k: v.grad for k, v in q.items() if k != "x"}


# ---- the activation

@given(theta=st.floats(-1, 2), width=st.floats(0.01, 1), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_activation_and_its_pseudo_gradient_are_the_definition(theta, width, seed):
    g = torch.Generator().manual_seed(seed)
    z, up = torch.randn(20, 3, generator=g, dtype=torch.float64), torch.randn(20, 3, generator=g, dtype=torch.float64)
    for f, value, slope in ((jumprelu, z * (z > theta), -theta / width), (heaviside, (z > theta).double(), -1 / width)):
        a, t = z.clone().requires_grad_(), torch.full((3,), theta, dtype=torch.float64, requires_grad=True)
        out = f(a, t, width)
        assert torch.equal(out, value)
        out.backward(up)
        near = ((z - theta).abs() < width / 2).double()
        torch.testing.assert_close(t.grad, slope * (near * up).sum(0), rtol=1e-12, atol=1e-12)  # one sum in another order
        torch.testing.assert_close(a.grad, up * (z > theta) if f is jumprelu else torch.zeros_like(up))


def test_threshold_is_strict_and_nan_stays_off():
    z = torch.tensor([[1.0], [float("nan")], [float("inf")], [math.nextafter(1.0, 2.0)]], dtype=torch.float64)
    assert jumprelu(z, torch.ones(1, dtype=torch.float64), 0.1).flatten().tolist() == [0, 0, math.inf, math.nextafter(1.0, 2.0)]


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, "wide"])
def test_activation_refuses_a_window_without_width(width):
    with pytest.raises((ValueError, TypeError), match="bandwidth"):
        jumprelu(torch.zeros(2, 3), torch.zeros(3), width)


def test_activation_refuses_thresholds_that_do_not_fit():
    with pytest.raises(ValueError, match="theta of shape"):
        jumprelu(torch.zeros(2, 3), torch.zeros(4), 0.1)
    with pytest.raises((ValueError, TypeError), match="z"):
        heaviside(torch.zeros(2, 3, dtype=torch.long), torch.zeros(3), 0.1)


# ---- the loss

def test_copies_are_independent():
    p = problem(copies=(2, 3))
    out, grads = gradients(p)
    for i in range(2):
        for j in range(3):
            one, own = gradients({k: v[i, j] for k, v in p.items()})
            torch.testing.assert_close(out.total[i, j], one.total, rtol=1e-12, atol=0)  # batched and single products sum in another order
            for k in own:
                torch.testing.assert_close(grads[k][i, j], own[k], rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_permuting_latents_permutes_the_gradients(seed):
    p = problem(seed=seed)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    q = {k: v[order] if k in ("w_enc", "b_enc", "theta", "w_dec") else v for k, v in p.items()}
    (a, ga), (b, gb) = gradients(p), gradients(q)
    torch.testing.assert_close(a.total, b.total, rtol=1e-12, atol=0)
    for k in ga:
        torch.testing.assert_close(ga[k][order] if k != "b_dec" else ga[k], gb[k], rtol=1e-9, atol=1e-12)


def test_loss_is_its_parts_and_price_enters_linearly():
    p = problem()
    free, dear = threshold_sae_loss(**p, bandwidth=0.3, l0_coef=0.0), threshold_sae_loss(**p, bandwidth=0.3, l0_coef=2.0)
    assert free.total == free.mse == dear.mse and free.l0 == dear.l0
    torch.testing.assert_close(dear.total, dear.mse + 2 * dear.l0)
    f = jumprelu(p["x"] @ p["w_enc"].T + p["b_enc"], p["theta"], 0.3)
    assert dear.l0 == (f != 0).double().sum(1).mean()
    torch.testing.assert_close(dear.mse, ((f @ p["w_dec"] + p["b_dec"] - p["x"]) ** 2).sum(1).mean())


def test_normalised_rows_can_only_turn():
    _, grads = gradients(problem(), normalize=True)
    assert float((grads["w_dec"] * problem()["w_dec"]).sum(1).abs().max()) < 1e-12  # float64; the radial part vanishes exactly


@pytest.mark.parametrize("change, error, word", [
    ({"x": torch.zeros(7, 6, dtype=torch.float64)}, ValueError, "H"), ({"x": torch.zeros(0, 5, dtype=torch.float64)}, ValueError, "x"), ({"x": torch.zeros(7, 5, dtype=torch.long)}, TypeError, "x"),
    ({"x": np.zeros((7, 5))}, TypeError, "x"), ({"x": torch.zeros(5, dtype=torch.float64)}, ValueError, "x"), ({"w_enc": torch.zeros(10, 5, dtype=torch.float64)}, ValueError, "N"),
    ({"w_dec": torch.zeros(11, 4, dtype=torch.float64)}, ValueError, "H"), ({"theta": torch.zeros(10, dtype=torch.float64)}, ValueError, "theta"), ({"b_enc": torch.zeros(12, dtype=torch.float64)}, ValueError, "b_enc"),
    ({"b_dec": torch.zeros(4, dtype=torch.float64)}, ValueError, "b_dec"), ({"bandwidth": 0.0}, ValueError, "bandwidth"), ({"bandwidth": math.nan}, ValueError, "bandwidth"), ({"backend": "cuda"}, ValueError, "backend"),
    ({"theta": "0.1"}, TypeError, "theta"), ({"w_enc": torch.zeros(0, 5, dtype=torch.float64)}, ValueError, "w_enc")])
def test_loss_names_the_bad_argument(change, error, word):
    with pytest.raises(error, match=word):
        threshold_sae_loss(**(problem() | {"bandwidth": 0.3, "l0_coef": 0.05} | change))


@pytest.mark.skipif(launch.interpreted(), reason="kernels can run here")
def test_kernels_on_a_cpu_are_refused_with_the_remedy():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        threshold_sae_loss(**problem(dtype=torch.float32), bandwidth=0.3, l0_coef=0.1, backend="triton")
    with pytest.raises(RuntimeError, match="backend='torch'"):
        gram.offdiagonal_histogram(torch.randn(3, 4), 5, backend="triton")


@pytest.mark.parametrize("version, accepted", [("3.2.0", False), ("2.9.1", False), ("3.3", True), ("3.10.0+git1a2b", True), ("4.0.0rc1", True)])
def test_a_triton_that_is_too_old_is_refused_with_its_version_and_the_remedy(version, accepted, monkeypatch):
    need_triton()
    monkeypatch.setattr("triton.__version__", version)
    monkeypatch.setattr(launch, "interpreted", lambda: True)  # then only the version decides
    cpu, kernel = torch.device("cpu"), lambda: None
    assert launch.launchable(cpu) == accepted
    if accepted:
        launch.check_launchable(cpu)
        return
    said = rf"triton` {version} is installed, but kernels need triton>=3\.3: pip install -U 'atomsnb\[gpu\]'"
    with pytest.raises(RuntimeError, match=said + ".*backend='torch'"):
        launch.check_launchable(cpu)
    with pytest.raises(ImportError, match=said):
        launch.jit(kernel)
    with pytest.raises(RuntimeError, match=said):
        threshold_sae_loss(**problem(dtype=torch.float32), bandwidth=0.3, l0_coef=0.1, backend="triton")


# ---- the kernels, in the interpreter

def test_fused_loss_equals_float64_in_every_regime(tmp_path):
    out = interpret(tmp_path, """
        import math, torch
        from atomsnb.kernels import sae_kernels as K, threshold_sae as S

        tiles = K.Tiles(scan=16, few=1, decode=(16, 2, 1), score=(8, 4, 1), weights=(8, 2, 1), hot=2)

        def compare(B, H, N, shift, force, tol=3e-6, **more):
            g = torch.Generator().manual_seed(B)
            r = lambda *s: torch.randn(*s, generator=g)
            p = dict(w_enc=r(N, H) / math.sqrt(H), b_enc=0.1 * r(N), theta=1.0 + shift + 0.1 * r(N), w_dec=r(N, H) / math.sqrt(H), b_dec=0.1 * r(H))
            x, exact = r(B, H), {k: v.double().requires_grad_() for k, v in p.items()}
            ref = S.reference_loss(x.double(), **exact, bandwidth=0.3, l0_coef=0.05, **more)
            (3 * ref.total).backward()
            q = {k: v.clone().requires_grad_() for k, v in p.items()}
            got = S._fused_loss(x, **q, bandwidth=0.3, l0_coef=torch.tensor(0.05), tiles=tiles, force=force, **more)
            (3 * got.total).backward()
            for a, b in zip(got, ref):
                assert abs(float(a.detach()) - float(b.detach())) <= tol * (1 + abs(float(b.detach()))), (B, H, N, force)
            for k in q:
                size = float(exact[k].grad.norm())
                assert float((q[k].grad - exact[k].grad).norm()) <= tol * size + 1e-9, (B, H, N, shift, force, k)
            return float(got.l0.detach())

        for force in ("sparse", "dense"):
            assert compare(6, 10, 21, 50.0, force) == 0.0  # nobody on
            assert compare(6, 10, 21, -6.0, force) == 21.0  # everybody on, thresholds far below
            compare(1, 1, 1, 0.0, force)
            compare(7, 17, 35, 0.0, force)  # no size divides a tile
            compare(5, 9, 19, 0.0, force, normalize=True)
        compare(6, 10, 21, -0.9, None)  # rows longer than the capacity: the dense way is taken by itself
        print("done")
        """)
    assert out.endswith("done\n")


def test_fused_step_switches_trains_and_forgets_its_intermediates(tmp_path):
    out = interpret(tmp_path, """
        import copy, pickle, torch

        from atomsnb.core.train import fit
        from atomsnb.kernels.adam import sae_optimizer
        from atomsnb.kernels.threshold_sae import compute_copy, threshold_sae_loss

        class Coder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                g = torch.Generator().manual_seed(0)
                w = torch.nn.functional.normalize(torch.randn(24, 6, generator=g), dim=1)
                self.w_enc, self.w_dec = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w.clone())
                self.b_enc, self.theta, self.b_dec = torch.nn.Parameter(torch.zeros(24)), torch.nn.Parameter(torch.full((24,), 0.2)), torch.nn.Parameter(torch.zeros(6))
            def tensors(self):
                return self.w_enc, self.b_enc, self.theta, self.w_dec, self.b_dec

        x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
        losses = {}
        for backend in ("triton", "torch"):
            model = Coder()
            loss = lambda m, b, k: {"loss": threshold_sae_loss(b, *m.tensors(), bandwidth=0.3, l0_coef=0.02, backend=backend).total}
            h = fit(model, loss, lambda k: x, steps=6, optimizer=sae_optimizer(*model.tensors(), lr=0.02), device="cpu", log_every=1, progress=False)
            losses[backend] = h.losses["loss"]
            assert float((model.w_dec.detach().norm(dim=1) - 1).abs().max()) < 1e-6 and float(model.theta.detach().min()) >= 0
        assert abs(losses["triton"] - losses["torch"]).max() < 1e-4 * losses["torch"][0], losses  # float32 and Adam's division by small moments
        assert losses["triton"][-1] < losses["triton"][0]
        model = Coder()
        total = threshold_sae_loss(x, *model.tensors(), bandwidth=0.3, l0_coef=0.02, backend="triton").total
        total.backward(retain_graph=True)
        try:
            total.backward()
        except RuntimeError as fault:
            assert "already differentiated" in str(fault)
        else:
            raise AssertionError("a second backward pass went through")
        again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        assert torch.equal(again.w_enc, model.w_enc)
        y = x.clone().requires_grad_()
        try:
            threshold_sae_loss(y, *model.tensors(), bandwidth=0.3, l0_coef=0.02, backend="triton")
        except ValueError as fault:
            assert "needs no gradient" in str(fault)
        print("done")
        """)
    assert out.endswith("done\n")


def test_adam_kernel_equals_float64(tmp_path):
    out = interpret(tmp_path, """
        import torch
        from atomsnb.kernels.adam import UnitRowAdam

        for unit in (False, True):
            for beta1 in (0.9, 0.0):
                for clip in (None, 3.0):
                    torch.manual_seed(0)
                    p = [torch.nn.Parameter(torch.randn(5, 37)), torch.nn.Parameter(torch.randn(1500))]
                    q = [torch.nn.Parameter(v.detach().double()) for v in p]
                    make = lambda v: UnitRowAdam([{"params": v[:1], "unit_rows": unit, "copy": "bfloat16"}, {"params": v[1:], "minimum": -0.5}], lr=0.05, betas=(beta1, 0.99), clip_norm=clip)
                    a, b = make(p), make(q)
                    for _ in range(3):
                        for v, w in zip(p, q):
                            v.grad = torch.randn_like(v)
                            w.grad = v.grad.double()
                        a.step(), b.step()
                    assert max(float((v.detach() - w.detach()).abs().max()) for v, w in zip(p, q)) < 2e-6
                    version, low = p[0]._atomsnb_copy
                    assert version == p[0]._version
                    assert float(((low.float() - p[0].detach()) / p[0].detach()).abs().max()) <= 2**-7  # the interpreter cuts to bfloat16 where a GPU rounds
        print("done")
        """)
    assert out.endswith("done\n")


def test_gram_kernels_equal_the_loop(tmp_path):
    out = interpret(tmp_path, """
        import torch
        from atomsnb.kernels import gram as G

        G.MOST_BINS = 12
        for H, N, tile in ((20, 70, G.Tile(16, 32, 1, 1)), (33, 40, G.Tile(32, 16, 1, 1)), (3, 2, G.Tile(16, 16, 1, 1)), (16, 48, G.Tile(16, 16, 1, 1))):
            rows = G.unit_rows(torch.randn(H, N, generator=torch.Generator().manual_seed(N)))
            for bins, low, high in ((1, 0.0, 1.0), (13, 0.0, 1.0), (40, 0.1, 0.4)):
                a, b = G._triton_histogram(rows, bins, low, high, tile), G._torch_histogram(rows, bins, low, high)
                assert int(a.sum()) == N * (N - 1) // 2 and int((a - b).abs().sum()) <= 4, (H, N, bins)  # an overlap within 1e-7 of an edge may fall on either side
            x, y = G._triton_max(rows, tile), G._torch_max(rows)
            assert abs(x[0] - y[0]) < 1e-6 and x[1:] == y[1:]
        print("done")
        """)
    assert out.endswith("done\n")


# ---- the optimiser

def test_optimiser_state_survives_the_round_trip():
    def run(cut):
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        make = lambda: UnitRowAdam([{"params": [w], "unit_rows": True, "copy": torch.bfloat16}], lr=0.1, betas=(0.9, 0.99))  # noqa: E731
        optimizer = make()
        for t in range(6):
            if t == cut:
                state = pickle.loads(pickle.dumps(optimizer.state_dict()))
                optimizer = make()
                optimizer.load_state_dict(state)
            w.grad = torch.randn(4, 3, dtype=torch.float64)
            optimizer.step()
        return w.detach()

    assert torch.equal(run(None), run(3))


def test_optimiser_groups_are_plain_values():
    groups = sae_optimizer(*(nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))), lr=0.1).state_dict()["param_groups"]
    for group in groups:
        assert all(v is None or isinstance(v, (bool, int, float, str, list, tuple)) for v in group.values())


def test_low_precision_copy_goes_stale_when_the_weight_changes():
    w = nn.Parameter(torch.randn(3, 4))
    optimizer = UnitRowAdam([w], lr=0.1, copy="bfloat16")
    w.grad = torch.ones(3, 4)
    optimizer.step()
    kept = compute_copy(w, torch.bfloat16)
    assert kept is compute_copy(w, torch.bfloat16) and torch.equal(kept, w.detach().bfloat16())
    assert compute_copy(w, torch.float16).dtype == torch.float16
    w.data = w.data.clone()
    nn.Module.load_state_dict(holder := nn.ParameterList([w]), {"0": torch.zeros(3, 4)})
    assert holder[0] is w and not compute_copy(w, torch.bfloat16).any()
    optimizer.step()
    assert torch.equal(compute_copy(w, torch.bfloat16), w.detach().bfloat16())


@pytest.mark.parametrize("options, word", [({"lr": -1.0}, "lr"), ({"betas": (1.0, 0.9)}, "betas"), ({"betas": (0.9, -0.1)}, "betas"), ({"eps": -1e-8}, "eps"), ({"clip_norm": 0.0}, "clip_norm"), ({"copy": "int3"}, "copy"),
                                           ({"unit_rows": True, "minimum": 0.0}, "unit_rows"), ({"lr": math.nan}, "lr")])
def test_optimiser_names_the_bad_option(options, word):
    with pytest.raises(ValueError, match=word):
        UnitRowAdam([nn.Parameter(torch.ones(2, 2))], **options)


def test_optimiser_works_in_the_training_engine_under_a_schedule():
    p = problem(B=64, H=8, N=24, dtype=torch.float32)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for k, v in p.items():
                if k != "x":
                    setattr(self, k, nn.Parameter(v.clone()))

    model = Model()
    optimizer = sae_optimizer(model.w_enc, model.b_enc, model.theta, model.w_dec, model.b_dec, lr=0.02)

    def loss(m, x, step):
        out = reference_loss(x, m.w_enc, m.b_enc, m.theta, m.w_dec, m.b_dec, bandwidth=0.3, l0_coef=0.01)
        return {"loss": out.total, "l0": out.l0}

    history = fit(model, loss, lambda k: p["x"], steps=60, optimizer=optimizer, schedule=lambda t: 1 - t / 60, device="cpu", log_every=10, progress=False)
    assert history.losses["loss"][-1] < 0.6 * history.losses["loss"][0]
    assert float((model.w_dec.detach().norm(dim=1) - 1).abs().max()) < 1e-6  # float32 rounding of a length


def test_parameters_with_marks_can_be_copied_and_saved():
    w = nn.Parameter(torch.randn(3, 4))
    UnitRowAdam([w], lr=0.1, copy="bfloat16")
    compute_copy(w, torch.bfloat16)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(w))), w)


# ---- the Gram histogram

@given(N=st.integers(2, 40), H=st.integers(1, 12), bins=st.integers(1, 50), low=st.floats(0, 0.5), width=st.floats(0.01, 1), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_counts_add_up_to_the_number_of_pairs(N, H, bins, low, width, seed):
    D = torch.randn(H, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    counts = gram.offdiagonal_histogram(D, bins, low=low, high=low + width)
    assert counts.dtype == torch.int64 and counts.shape == (bins,) and int(counts.sum()) == N * (N - 1) // 2 and int(counts.min()) >= 0


def overlaps(D):
    rows = gram.unit_rows(D)
    return (rows @ rows.T).abs()[torch.ones(D.shape[1], D.shape[1], dtype=torch.bool).triu(1)]


@given(seed=st.integers(0, 30), q=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_quantile_is_numpys_higher(seed, q):
    D = torch.randn(9, 31, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    exact = np.quantile(overlaps(D).numpy(), q, method="higher")
    got = gram.offdiagonal_quantile(D, q)
    assert -1e-12 <= got - exact <= 256**-3 + 1e-12  # the upper edge of the last pass's bin


@given(seed=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_order_sign_and_length_of_atoms_do_not_matter(seed):
    g = torch.Generator().manual_seed(seed)
    D = torch.randn(8, 25, generator=g, dtype=torch.float64)
    other = D[:, torch.randperm(25, generator=g)] * torch.exp(torch.randn(25, generator=g, dtype=torch.float64)) * torch.sign(torch.randn(25, generator=g, dtype=torch.float64))
    a, b = gram.offdiagonal_histogram(D, 17), gram.offdiagonal_histogram(other, 17)
    assert int((a - b).abs().sum()) <= 2  # a value within rounding of an edge may change its bin
    assert gram.max_offdiagonal(D) == pytest.approx(gram.max_offdiagonal(other), abs=1e-12)


def test_metric_makes_the_angles_invariant():
    g = torch.Generator().manual_seed(0)
    D, A = torch.randn(6, 15, generator=g, dtype=torch.float64), torch.randn(6, 6, generator=g, dtype=torch.float64)
    S = torch.linalg.inv(D @ D.T)
    moved = torch.linalg.inv(A @ D @ D.T @ A.T)
    moved = (moved + moved.T) / 2
    assert gram.max_offdiagonal(A @ D, metric=moved) == pytest.approx(gram.max_offdiagonal(D, metric=S), abs=1e-9)  # condition number of A enters


def test_closed_forms():
    assert gram.max_offdiagonal(torch.eye(5, dtype=torch.float64)) == 0.0
    assert gram.offdiagonal_histogram(torch.eye(5), 4).tolist() == [10, 0, 0, 0]
    mercedes = torch.tensor([[0.0, 3**0.5 / 2, -(3**0.5) / 2], [1.0, -0.5, -0.5]], dtype=torch.float64)
    assert gram.max_offdiagonal(mercedes) == pytest.approx(0.5, abs=1e-15)
    assert gram.offdiagonal_quantile(torch.ones(3, 4), 0.5) == pytest.approx(1.0, abs=1e-6)
    twins = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twins[:, 7] = -2 * twins[:, 3]
    value, i, j = gram._torch_max(gram.unit_rows(twins), tile=4)
    assert value == pytest.approx(1.0, abs=1e-12) and (i, j) == (3, 7)
    assert gram.offdiagonal_cdf(twins, torch.tensor([1.0]))[0] == pytest.approx(44 / 45, abs=1 / 45)


def test_tiles_do_not_change_the_result():
    rows = gram.unit_rows(torch.randn(7, 53, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    whole = gram._torch_histogram(rows, 20, 0, 1, tile=64)
    for tile in (1, 8, 53):
        assert torch.equal(gram._torch_histogram(rows, 20, 0, 1, tile=tile), whole) or int((gram._torch_histogram(rows, 20, 0, 1, tile=tile) - whole).abs().sum()) <= 2
        assert gram._torch_max(rows, tile=tile)[1:] == gram._torch_max(rows, tile=64)[1:]


BAD = [(torch.zeros(3, 4), "zero atom"), (torch.full((3, 4), math.nan), "finite"), (torch.tensor([[1.0, math.inf], [0.0, 1.0]]), "finite"), (torch.ones(3, 1), "at least 2"), (torch.ones(3), "D"), (torch.ones(3, 0), "D"),
       (torch.ones(3, 4, dtype=torch.long), "D"), ("dictionary", "D"), (torch.ones(2, 3, 4), "D")]


@pytest.mark.parametrize("D, word", BAD)
@pytest.mark.parametrize("function", [lambda D: gram.offdiagonal_histogram(D, 8), gram.max_offdiagonal, lambda D: gram.offdiagonal_quantile(D, 0.5), lambda D: gram.offdiagonal_cdf(D, torch.tensor([0.5])), gram.unit_rows])
def test_bad_dictionaries_are_refused(function, D, word):
    with pytest.raises((ValueError, TypeError), match=word):
        function(D)


@pytest.mark.parametrize("options, word", [({"bins": 0}, "bins"), ({"bins": 2.5}, "bins"), ({"low": 0.5, "high": 0.5}, "high"), ({"high": math.nan}, "high"), ({"backend": "gpu"}, "backend"), ({"precision": "fp8"}, "precision"),
                                           ({"metric": torch.eye(4)}, "metric"), ({"metric": -torch.eye(3)}, "positive definite"), ({"metric": torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])}, "symmetric")])
def test_bad_options_are_named(options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        gram.offdiagonal_histogram(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), **({"bins": 4} | options))


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan, "half"])
def test_bad_quantiles_are_named(q):
    with pytest.raises((ValueError, TypeError), match="q"):
        gram.offdiagonal_quantile(torch.eye(3), q)


@pytest.mark.parametrize("t", [[], [0.0], [1.5], [math.nan]])
def test_bad_thresholds_are_named(t):
    with pytest.raises((ValueError, TypeError), match="thresholds"):
        gram.offdiagonal_cdf(torch.eye(3), torch.tensor(t))


@pytest.mark.parametrize("N", [16384, 65536])
def test_stored_speed_of_training_follows_from_the_times_beside_it(N):
    run = load_result(f"threshold_sae_{N}")
    ours, work = run["trained"]["atomsnb"], 10 * run["batch"] * run["H"] * run["N"]
    for name, row in run["trained"].items():
        assert row["tokens_per_s"] == pytest.approx(row["steps"] * run["batch"] / row["seconds"], rel=1e-9)  # the same division
        assert run["share_of_ceiling"][name] == pytest.approx(work / row["step_s"]["mean"] / run["ceilings"]["flops_per_s"], rel=1e-9)
        assert run["ours_faster"][name]["tokens_per_s_whole_call"] == pytest.approx(ours["tokens_per_s"] / row["tokens_per_s"], rel=1e-9)
        assert row["step_s"]["low"] <= row["step_s"]["mean"] <= row["step_s"]["high"] and row["steps"] == run["steps"]
    for t in run["time_to_quality"].values():
        good = [row["seconds"] for row in run["ours"] if row["heldout_r2"] >= t["heldout_r2"] and row["heldout_l0"] <= t["l0_at_most"]]
        assert t["our_seconds"] == (min(good) if good else None)

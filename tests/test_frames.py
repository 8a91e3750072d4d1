"""Laws of frames and sparse coders: coherence, Welch, spark, restricted isometry, OMP, basis pursuit, copies."""
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.linear_model import OrthogonalMatchingPursuit

from atomsnb.nn.frames import (
    basis_pursuit,
    coherence,
    max_unique_sparsity,
    near_orthogonal_dictionary,
    omp,
    planted_atoms,
    rip_constant,
    spark,
    unit_atoms,
    welch_bound,
)
from atomsnb.nn.sparse_coders import CopyBatches, ReLUCoder, TopKCoder

FEW = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@FEW
@given(seed=seeds, H=st.integers(2, 8), extra=st.integers(1, 6))
def test_no_dictionary_beats_the_welch_bound(seed, H, extra):
    assert coherence(gaussian(H, H + extra, seed=seed)) >= welch_bound(H, H + extra) - 1e-12  # rounding of one inner product


@pytest.mark.parametrize("H", [2, 3, 5, 8])
def test_the_simplex_reaches_the_welch_bound_and_has_full_spark(H):
    simplex = torch.linalg.svd(torch.eye(H + 1, dtype=torch.float64) - 1 / (H + 1)).Vh[:H]
    assert abs(coherence(simplex) - 1 / H) < 1e-13 and abs(welch_bound(H, H + 1) - 1 / H) < 1e-15
    assert spark(simplex) == H + 1


@FEW
@given(seed=seeds, N=st.integers(5, 9), K=st.integers(1, 4))
def test_rip_constant_bounds_gram_spectrum_and_obeys_gershgorin(seed, N, K):
    D = unit_atoms(gaussian(5, N, seed=seed))
    worst = max(float((torch.linalg.eigvalsh(D[:, list(T)].T @ D[:, list(T)]) - 1).abs().max()) for T in combinations(range(N), K))
    assert abs(rip_constant(D, K) - worst) < 1e-12  # the same eigenvalues, one by one
    assert rip_constant(D, K) <= (K - 1) * coherence(D) + 1e-12
    assert rip_constant(D, K, method="sampled", samples=20, seed=seed) <= rip_constant(D, K) + 1e-12


@FEW
@given(seed=seeds)
def test_spark_is_at_least_one_plus_the_inverse_coherence(seed):
    D = gaussian(4, 7, seed=seed)
    assert spark(D) >= 1 + 1 / coherence(D) - 1e-9
    assert spark(torch.cat([D, 2 * D[:, :1]], 1)) == 2
    assert spark(torch.cat([D, (D[:, :1] + D[:, 1:2])], 1)) == 3


@FEW
@given(seed=seeds)
def test_coherence_ignores_order_sign_scale_and_rotation(seed):
    D, g = gaussian(6, 9, seed=seed), torch.Generator().manual_seed(seed)
    changed = D[:, torch.randperm(9, generator=g)] * (1 + torch.rand(9, generator=g, dtype=torch.float64)) * torch.where(torch.rand(9, generator=g) < 0.5, -1.0, 1.0)
    Q = torch.linalg.qr(gaussian(6, 6, seed=seed + 1)).Q
    assert abs(coherence(Q @ changed) - coherence(D)) < 1e-13  # rounding
    assert coherence(torch.cat([D, -D[:, :1]], 1)) > 1 - 1e-13


@FEW
@given(mu=st.floats(1e-3, 1.0))
def test_certified_sparsity_is_the_largest_below_the_bound(mu):
    K, bound = max_unique_sparsity(mu), 0.5 * (1 + 1 / mu)
    assert K < bound and K + 1 >= bound * (1 - 2e-9)


def test_certified_sparsity_of_independent_atoms_is_unbounded():
    assert max_unique_sparsity(0.0) == math.inf and max_unique_sparsity(1.0) == 0


@FEW
@given(seed=seeds)
def test_omp_and_basis_pursuit_return_every_certified_code(seed):
    D = near_orthogonal_dictionary(24, 48, seed=seed % 5, dtype=torch.float64, iterations=60)
    K = int(max_unique_sparsity(coherence(D)))
    world = planted_atoms(24, 48, K, 6, atoms=D, seed=seed, dtype=torch.float64)
    assert torch.allclose(omp(D, world.acts, K), world.codes, atol=1e-10)
    assert torch.allclose(basis_pursuit(D, world.acts), world.codes, atol=1e-7)  # HiGHS' feasibility tolerance
    assert torch.allclose(basis_pursuit(D, world.acts, nonnegative=True), world.codes, atol=1e-7)


def test_omp_agrees_with_scikit_learn_beyond_the_guarantee():
    D, x = unit_atoms(gaussian(20, 40)), gaussian(15, 20, seed=1)
    theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=6, fit_intercept=False).fit(D.numpy(), x.T.numpy()).coef_
    assert np.abs(omp(D, x, 6).numpy() - theirs).max() < 1e-10


def test_omp_survives_duplicated_atoms():
    D = unit_atoms(gaussian(6, 8))
    double = torch.cat([D, D], 1)
    codes = omp(double, gaussian(5, 6, seed=2), 6)
    assert bool(torch.isfinite(codes).all()) and torch.allclose(codes @ double.T, gaussian(5, 6, seed=2), atol=1e-9)


def test_basis_pursuit_has_the_norm_of_its_dual():
    D, x = gaussian(10, 25), gaussian(4, 10, seed=3)
    for sample, code in zip(x, basis_pursuit(D, x)):
        dual = linprog(-sample.numpy(), A_ub=np.concatenate([D.numpy().T, -D.numpy().T]), b_ub=np.ones(50), bounds=(None, None))
        assert abs(float(code.abs().sum()) + dual.fun) < 1e-7  # strong duality


def test_coherence_of_many_atoms_is_taken_by_tiles():
    D = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    D[:, 4321] = 3 * D[:, 17]
    assert coherence(D) > 1 - 1e-6


def test_planted_samples_are_sums_of_their_atoms():
    world = planted_atoms(12, 20, 3, 50, low=0.5, high=0.7, dtype=torch.float64)
    on = world.codes > 0
    assert torch.equal(world.codes @ world.atoms.T, world.acts) and bool((on.sum(1) == 3).all())
    assert 0.5 <= float(world.codes[on].min()) and float(world.codes[on].max()) <= 0.7


BAD_MATRICES = {
    "nan": torch.full((3, 4), float("nan")), "inf": torch.full((3, 4), float("inf")), "empty": torch.zeros(0, 4), "no atoms": torch.zeros(3, 0), "rank": torch.ones(3),
    "integer": torch.ones(3, 4, dtype=torch.long), "text": "atoms", "zero atom": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "list": [[1.0, 2.0]], "bool": torch.ones(3, 4, dtype=torch.bool),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_MATRICES)
@pytest.mark.parametrize("call", [coherence, unit_atoms, spark, lambda D: rip_constant(D, 1), lambda D: omp(D, torch.ones(1, 3), 1), lambda D: basis_pursuit(D, torch.ones(1, 3))])
def test_a_bad_dictionary_is_refused_by_name(call, kind):
    with pytest.raises((ValueError, TypeError), match=r"\bD\b"):
        call(BAD_MATRICES[kind])


BASIS = torch.eye(3)


@pytest.mark.parametrize("call, name", [
    (lambda: coherence(torch.ones(3, 1)), "D"), (lambda: coherence(BASIS, torch.eye(2)), "metric"), (lambda: coherence(BASIS, -BASIS), "metric"), (lambda: coherence(BASIS, BASIS + torch.ones(3, 3).triu(1)), "metric"),
    (lambda: welch_bound(0, 3), "H"), (lambda: welch_bound(3, 1), "N"), (lambda: welch_bound(3, 4.0), "N"), (lambda: spark(BASIS, tol=-1.0), "tol"), (lambda: spark(gaussian(40, 80)), "D"),
    (lambda: rip_constant(BASIS, 0), "K"), (lambda: rip_constant(BASIS, 4), "K"), (lambda: rip_constant(BASIS, True), "K"), (lambda: rip_constant(BASIS, 2, method="all"), "method"),
    (lambda: rip_constant(gaussian(30, 60), 12), "method"), (lambda: max_unique_sparsity(-0.1), "mu"), (lambda: max_unique_sparsity(float("nan")), "mu"), (lambda: max_unique_sparsity("0.5"), "mu"),
    (lambda: near_orthogonal_dictionary(0, 4), "H"), (lambda: near_orthogonal_dictionary(4, 1), "N"), (lambda: near_orthogonal_dictionary(4, 8, slack=0.5), "slack"), (lambda: near_orthogonal_dictionary(4, 8, iterations=0), "iterations"),
    (lambda: omp(BASIS, torch.ones(2, 4), 1), "x"), (lambda: omp(BASIS, torch.ones(2, 3), 0), "k"), (lambda: omp(BASIS, torch.ones(2, 3), 4), "k"), (lambda: omp(BASIS, torch.full((2, 3), float("nan")), 1), "x"),
    (lambda: omp(BASIS, torch.ones(2, 3), 1, tol=-1.0), "tol"), (lambda: basis_pursuit(BASIS[:, :2], torch.ones(3)), "x"), (lambda: basis_pursuit(BASIS, -torch.ones(3), nonnegative=True), "x"), (lambda: basis_pursuit(BASIS, torch.ones(2, 4)), "x"),
    (lambda: planted_atoms(4, 8, 0, 5), "K"), (lambda: planted_atoms(4, 8, 9, 5), "K"), (lambda: planted_atoms(4, 8, 2, 0), "n"), (lambda: planted_atoms(4, 8, 2, 5, low=2.0, high=1.0), "high"), (lambda: planted_atoms(4, 8, 2, 5, low=0.0), "low"),
    (lambda: planted_atoms(4, 8, 2, 5, atoms=torch.ones(4, 7)), "atoms"), (lambda: TopKCoder(4, 8, 9), "k"), (lambda: ReLUCoder(0, 8), "d_in"), (lambda: ReLUCoder(4, 8, copies=0), "copies"),
    (lambda: ReLUCoder(4, 8).fit(torch.ones(9, 4), l0=2), "x"), (lambda: ReLUCoder(4, 8).fit(torch.full((9, 4), float("nan")), l0=2), "x"), (lambda: ReLUCoder(4, 8).fit(torch.rand(9, 5), l0=2), "x"),
    (lambda: ReLUCoder(4, 8).fit(torch.rand(9, 4), l0=0), "l0"), (lambda: ReLUCoder(4, 8).fit(torch.rand(9, 4), l0=2, steps=0), "steps"), (lambda: ReLUCoder(4, 8, copies=2).fit(torch.rand(3, 9, 4), l0=2), "x"),
    (lambda: ReLUCoder(4, 8, copies=2).fit(torch.rand(9, 4), l0=2, rows=[4]), "rows"), (lambda: ReLUCoder(4, 8, copies=2).fit(torch.rand(9, 4), l0=2, rows=[4, 10]), "rows"), (lambda: ReLUCoder(4, 8).encode(torch.ones(2, 4, dtype=torch.long)), "x"),
    (lambda: ReLUCoder(4, 8).decode(torch.ones(2, 7)), "f"),
])  # fmt: skip
def test_a_bad_argument_is_refused_by_name(call, name):
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        call()


def test_copies_are_independent_models():
    """Changing the data of one copy leaves the other untouched, bit for bit: batched products do not mix them."""
    x = torch.randn(2, 300, 6, generator=torch.Generator().manual_seed(0))
    other = torch.stack([x[0], 2 * x[1] + 1])
    fit = lambda data: TopKCoder(6, 10, 2, copies=2).fit(data, l0=2, steps=20, batch_size=32, device="cpu", progress=False)  # noqa: E731
    one, two = fit(x), fit(other)
    assert torch.equal(one.dictionary[0], two.dictionary[0]) and not torch.allclose(one.dictionary[1], two.dictionary[1])
    assert torch.allclose(one.dictionary.norm(dim=-2), torch.ones(2, 10), atol=1e-6)


def test_batches_of_copies_respect_their_rows_and_divide_among_processes():
    draw = CopyBatches(torch.arange(50.0)[:, None], 64, copies=3, rows=[50, 5, 1], seed=2)
    assert [float(draw(k)[c].max()) <= m - 1 for k in range(5) for c, m in ((0, 50), (1, 5), (2, 1))] == [True] * 15
    assert torch.equal(torch.cat([draw.shard(r, 4)(3) for r in range(4)], 1), draw(3))
    assert draw.fingerprint() != CopyBatches(torch.arange(50.0)[:, None], 64, copies=3, rows=[50, 5, 2], seed=2).fingerprint()


def test_a_fit_that_is_resumed_equals_one_that_was_not(tmp_path):
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    options = dict(l0=2.0, steps=30, batch_size=32, device="cpu", progress=False)
    whole = ReLUCoder(6, 12).fit(x, **options)

    class Stop(Exception):
        pass

    def stop(model, step):
        if step == 17:
            raise Stop

    with pytest.raises(Stop):
        ReLUCoder(6, 12).fit(x, checkpoint=tmp_path / "run", save_every=10, callbacks=[stop], **options)
    again = ReLUCoder(6, 12).fit(x, checkpoint=tmp_path / "run", save_every=10, **options)
    assert again.history.resumed_from == 10
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


# ---- the edge of the number range, and ties


@pytest.mark.parametrize("power", [-1000, -700, 600, 1000])
def test_the_geometry_does_not_depend_on_the_length_of_an_atom(power):
    """Powers of two cost no digit, so what depends on directions alone is the same bit for bit, although squares overflow or vanish."""
    D, size = gaussian(4, 6), 2.0**power
    metric = (lambda B: B @ B.T + torch.eye(4))(gaussian(4, 4, seed=1))
    single = torch.ones(6, dtype=torch.float64)
    single[2] = size  # one atom alone leaves the range
    for scaled in (D * size, D * single):
        assert torch.equal(unit_atoms(scaled), unit_atoms(D)) and torch.equal(unit_atoms(scaled, metric), unit_atoms(D, metric))
        assert coherence(scaled) == coherence(D) and coherence(scaled, metric) == coherence(D, metric)
        assert spark(scaled) == spark(D) and rip_constant(scaled, 2) == rip_constant(D, 2)
    assert abs(coherence(D * 1e200) - coherence(D)) < 1e-14 and abs(coherence(D * 1e-200) - coherence(D)) < 1e-14  # one rounding an entry


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unit_atoms_of_every_precision_are_unit_at_both_ends(dtype):
    kind = torch.finfo(dtype)
    D = torch.tensor([[kind.max, kind.tiny, 1.0], [kind.max, -kind.tiny, 0.0]], dtype=dtype)
    A = unit_atoms(D)
    assert A.dtype == dtype and float((A.double().norm(dim=0) - 1).abs().max()) <= 2 * kind.eps  # one rounding an entry, and one of the length
    with pytest.raises(ValueError, match=r"\bD\b.*norm zero, got 1 of 2 \(first at column 1\)"):
        unit_atoms(torch.tensor([[kind.max, 0.0], [1.0, 0.0]], dtype=dtype))


@pytest.mark.parametrize("atom, sample", [(600, 600), (-600, -600), (900, 10), (-300, 400), (0, -900)])
def test_solvers_return_the_code_in_the_units_of_atoms_and_samples(atom, sample):
    D, x = unit_atoms(gaussian(6, 9)), gaussian(3, 6, seed=4)
    d, s = 2.0**atom, 2.0**sample
    assert torch.equal(omp(D * d, x * s, 3), omp(D, x, 3) * 2.0 ** (sample - atom))
    assert torch.allclose(basis_pursuit(D * d, x * s) * 2.0 ** (atom - sample), basis_pursuit(D, x), rtol=0, atol=1e-8)  # the solver's own tolerance
    assert int(omp(D * d, 0 * x, 3).count_nonzero()) == 0 and int(basis_pursuit(D * d, 0 * x).count_nonzero()) == 0


def test_small_samples_are_not_taken_for_zero_by_the_linear_programme():
    """HiGHS accepts an error of 1e-7: a sample of 1e-9 would have the code zero."""
    x = gaussian(2, 6, seed=4)
    codes = basis_pursuit(gaussian(6, 9), x * 1e-9)
    assert torch.allclose(codes @ gaussian(6, 9).T, x * 1e-9, rtol=0, atol=1e-15)


def test_codes_beyond_the_range_are_refused():
    for solver in (lambda D, x: omp(D, x, 2), basis_pursuit):
        with pytest.raises(ValueError, match=r"\bx\b"):
            solver(gaussian(4, 5) * 1e-200, gaussian(2, 4) * 1e200)
    with pytest.raises(ValueError, match=r"\bx\b"):
        omp(torch.eye(3), torch.full((1, 3), 1e200, dtype=torch.float64), 1)  # beyond float32
    with pytest.raises(ValueError, match="high"):
        planted_atoms(4, 8, 2, 5, high=1e300)
    with pytest.raises(ValueError, match="low"):
        planted_atoms(4, 8, 2, 5, low=1e-300, high=1e-300)
    assert max_unique_sparsity(5e-324) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_equal_scores_the_lowest_indices_are_kept(dtype):
    """Against a stable sort, on scores of few values, so that nearly every row has ties; exactly k stay where k are positive."""
    z = torch.randint(-2, 4, (400, 30), generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (1, 3, 7, 29, 30):
        coder = TopKCoder(4, 30, k)
        index = z.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        expected = torch.zeros_like(z).scatter(-1, index, z.gather(-1, index).relu())
        y = z.clone().requires_grad_()
        kept = coder.activate(y)
        assert torch.equal(kept, expected) and bool((kept > 0).sum(-1).eq((z > 0).sum(-1).clamp(max=k)).all())
        kept.sum().backward()
        assert torch.equal(y.grad, (expected > 0).to(dtype))
    assert TopKCoder(4, 64, 3).activate(torch.ones(2, 64)).nonzero()[:, 1].tolist() == [0, 1, 2] * 2


def test_both_ways_of_keeping_the_largest_agree_bit_for_bit():
    """A GPU takes the way without a question to the device, a CPU only where there are ties."""
    from atomsnb.nn.sparse_coders import _first_k
    z = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    for k in (1, 5, 40):
        assert torch.equal(_first_k(z, z.topk(k).values[:, -1:], k), TopKCoder(4, 40, k).activate(z))
    z[3, 7] = math.nan
    assert bool(_first_k(z, z.topk(5).values[:, -1:], 5)[3].isnan().any()), "a NaN that is hidden would not stop the training"


def test_a_sample_at_the_mean_starts_from_a_random_direction():
    x = torch.zeros(3, 16)
    x[0, 0], x[1, 0] = 1.0, -1.0
    coder, again = TopKCoder(16, 6, 1), TopKCoder(16, 6, 1)
    for c in (coder, again):
        c.start_from(x)
    rows = coder.dictionary.T
    assert torch.equal(rows, again.dictionary.T) and float((rows.norm(dim=-1) - 1).abs().max()) < 1e-6
    free = rows[rows[:, 0].abs() < 0.9]  # the others lie along the first axis, but for the jitter
    assert len(free) == 2 and float((free[0] @ free[1]).abs()) < 0.9  # the third point is drawn twice, each time with a direction of its own
    coder.fit(x, l0=1.0, steps=5, batch_size=3, device="cpu", progress=False)
    assert all(bool(torch.isfinite(p).all()) for p in coder.parameters())


@pytest.mark.parametrize("power", [-100, 100])
def test_training_has_no_unit_at_the_edge_of_the_range(power):
    x, s = planted_atoms(6, 8, 2, 200).acts, 2.0**power
    options = dict(l0=2.0, steps=20, batch_size=32, device="cpu", progress=False)
    plain, scaled = (TopKCoder(6, 8, 2).fit(data, **options) for data in (x, x * s))
    assert torch.allclose(scaled.dictionary, plain.dictionary, atol=1e-6) and torch.allclose(scaled.b_dec / s, plain.b_dec, atol=1e-6)
    start = TopKCoder(6, 8, 2)
    start.start_from(x * s)
    assert bool(torch.isfinite(start.w_dec).all()) and torch.allclose(start.b_dec, x.mean(0) * s, rtol=1e-4)


def test_samples_that_are_equal_up_to_rounding_or_beyond_the_weights_are_refused():
    for x in (torch.full((7, 3), 0.1), torch.full((7, 3), 0.1).nextafter(torch.rand(7, 3))):
        with pytest.raises(ValueError, match="x has no variance"):
            ReLUCoder(3, 4).fit(x, l0=1.0, steps=2, batch_size=4, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"\bx\b"):
        ReLUCoder(3, 4).fit(gaussian(7, 3) * 1e200, l0=1.0, steps=2, batch_size=4, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"\bx\b"):
        ReLUCoder(3, 4).encode(gaussian(7, 3) * 1e200)

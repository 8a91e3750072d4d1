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

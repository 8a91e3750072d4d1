"""Laws of the atoms paper: inner product, both scores, the theorem's window, training, studies, bad inputs."""
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from atomsnb.core import ledger
from atomsnb.models.activations import ActivationData, load_activations, read_activations
from atomsnb.nn.frames import coherence, near_orthogonal_dictionary, planted_atoms, unit_atoms
from atomsnb.representation import atoms
from atomsnb.representation.atoms import (
    AtomicInnerProduct,
    AtomsConfig,
    CapacityCell,
    ThresholdSAE,
    activation_study,
    best_cosines,
    critical_capacity,
    faithfulness,
    planted_study,
    random_stability,
    stability,
    unit_report,
)

FEW = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
QUIET = dict(device="cpu", progress=False)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def well_conditioned(H, seed):
    """Invertible map with condition number at most 10."""
    Q = torch.linalg.qr(gaussian(H, H, seed=seed)).Q
    return Q * torch.logspace(0, 1, H, dtype=torch.float64) @ torch.linalg.qr(gaussian(H, H, seed=seed + 1)).Q


# ------------------------------------------------------------------------------------------------ inner product
@FEW
@given(seed=seeds, H=st.integers(2, 12))
def test_the_metric_moves_with_the_data_so_that_cosines_stay(seed, H):
    m, A, u = gaussian(200, H, seed=seed) + 0.5, well_conditioned(H, seed), gaussian(7, H, seed=seed + 2)
    before, after = AtomicInnerProduct.fit(m), AtomicInnerProduct.fit(m @ A.T)
    assert torch.allclose(after.cosine(u @ A.T, u @ A.T), before.cosine(u, u), atol=1e-9)  # condition number 100 of A A'
    S = torch.linalg.inv(A).T @ before.metric @ torch.linalg.inv(A)
    assert torch.allclose(after.metric, S, atol=1e-8 * float(S.abs().max()))


@FEW
@given(seed=seeds, H=st.integers(2, 10), extra=st.integers(1, 20))
def test_overlaps_under_the_dictionary_metric_are_a_projector(seed, H, extra):
    D = gaussian(H, H + extra, seed=seed)
    G = D.T @ AtomicInnerProduct.from_dictionary(D).metric @ D
    assert torch.allclose(G @ G, G, atol=1e-7) and abs(float(G.trace()) - H) < 1e-7  # Gaussian matrices are at times badly conditioned
    assert float(G.diagonal().min()) >= -1e-9 and float(G.diagonal().max()) <= 1 + 1e-7


@FEW
@given(seed=seeds, power=st.integers(1, 3))
def test_mean_inner_product_is_at_most_one_for_any_data(seed, power):
    m = gaussian(60, 5, seed=seed) ** power + 1
    own, mean = AtomicInnerProduct.fit(m), m.mean(0)
    assert float(mean @ own.metric @ mean) <= 1 + 1e-9
    assert abs(float((m @ own.metric * m).sum(1).mean()) - 5) < 1e-8


def test_whitening_undoes_itself_and_centres_on_request():
    m = gaussian(500, 6) @ well_conditioned(6, 3) + 4
    for center in (False, True):
        aip = AtomicInnerProduct.fit(m, center=center)
        white = aip.whiten(m)
        assert torch.allclose(white.T @ white / 500, torch.eye(6, dtype=torch.float64), atol=1e-10)
        assert torch.allclose(aip.unwhiten(white), m, atol=1e-10) and (float(white.mean(0).abs().max()) < 1e-10) == center
    assert AtomicInnerProduct.fit(m).whiten(m.float()).dtype == torch.float32


def test_the_ridge_is_a_share_of_the_moment_and_so_has_no_unit():
    """Activations in another unit: the metric changes by the square of the unit, ridge or not."""
    m = gaussian(300, 5) @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64))
    one, other = AtomicInnerProduct.fit(m, ridge=0.3), AtomicInnerProduct.fit(7 * m, ridge=0.3)
    assert torch.allclose(one.metric / 49, other.metric, rtol=1e-10)


def test_a_lone_sparsest_sample_decides_where_the_quantiles_cross():
    """One sample with one atom, the rest with five, and a single pair of atoms below 1 / 9: both quantiles meet at zero, at K = 1, and denser samples do not move it."""
    D = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    report = stability(D, torch.tensor([1, 5, 5, 5]))
    assert (report.q_star, report.k_q) == (0.0, 1)


def test_denser_samples_must_reach_beyond_the_quantile_of_sparser_ones():
    """Three of five samples have one atom: the level of two begins at quantile 2 / 4, and overlaps that carry it to 0.45 only do not take the crossing there; 0.55 would."""
    counts = torch.tensor([1, 1, 1, 2, 2])
    assert atoms._crossing(counts, lambda t: 1.0 if t == 1 else 0.45) == (0.5, 1)
    assert atoms._crossing(counts, lambda t: 1.0 if t == 1 else 0.55) == (0.55, 2)


def test_on_a_line_there_are_no_random_directions_to_compare_with():
    assert stability(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([1, 1, 2])).random_baseline == 0.0


def test_the_ridge_opens_a_singular_moment():
    few = gaussian(4, 9)
    assert torch.isfinite(AtomicInnerProduct.fit(few, ridge=1e-3).metric).all()
    with pytest.raises(ValueError, match="ridge"):
        AtomicInnerProduct.fit(few)


# ------------------------------------------------------------------------------------------------ the two scores
@FEW
@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_faithfulness_ignores_units_and_origin(seed, scale, shift):
    x, x_hat = gaussian(30, 4, seed=seed), gaussian(30, 4, seed=seed + 1)
    assert math.isclose(faithfulness(scale * x + shift, scale * x_hat + shift), faithfulness(x, x_hat), rel_tol=1e-8, abs_tol=1e-8)
    assert faithfulness(x + 3, x_hat + 3, False) >= faithfulness(x + 3, x_hat + 3) - 1e-12
    assert torch.allclose(faithfulness(x, torch.stack([x, x_hat])), torch.tensor([1.0, faithfulness(x, x_hat)], dtype=torch.float64))


@pytest.mark.parametrize("value", [2.0, 0.1, 0.3, 1e200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_constant_up_to_rounding_has_no_variance(value, dtype):
    """The mean of equal numbers rounds, and so would leave a variance of about 1e-34 to divide by."""
    x = torch.full((3, 2), min(value, torch.finfo(dtype).max / 8), dtype=dtype)
    for constant in (x, x.nextafter(torch.tensor([[9.0, 0.0]] * 2 + [[0.0, 9.0]], dtype=dtype) * x)):
        with pytest.raises(ValueError, match=r"\bx\b has no variance"):
            faithfulness(constant, x)
    x[0, 0] *= 1.001
    assert faithfulness(x, x) == 1.0


@pytest.mark.parametrize("power", [300, 500, 900, 1015])
@pytest.mark.parametrize("centered", [True, False])
def test_faithfulness_has_no_unit_where_squares_overflow(power, centered):
    x, x_hat = gaussian(30, 4), gaussian(30, 4, seed=1)
    assert faithfulness(x * 2.0**power, x_hat * 2.0**power, centered) == faithfulness(x, x_hat, centered)  # a power of two costs no digit
    assert abs(faithfulness(x * 1e200, x * 0.5e200, False) - 0.75) < 1e-14
    assert faithfulness(x, x_hat * 2.0**600, centered) == -math.inf


def test_a_variance_that_float64_cannot_square_is_refused():
    x = gaussian(6, 3)
    for centered in (True, False):
        with pytest.raises(ValueError, match=r"\bx\b"):
            faithfulness(x * 1e-160, x * 1e-160, centered)
        assert abs(faithfulness(x * 1e-140, x * 1e-140 / 2, False) - 0.75) < 1e-12
    for scale in (1e-200, 1e-156, 1e200):
        with pytest.raises(ValueError, match=r"\bacts\b"):
            AtomicInnerProduct.fit(gaussian(40, 4) * scale)
        with pytest.raises(ValueError, match=r"\bD\b"):
            AtomicInnerProduct.from_dictionary(gaussian(4, 6) * scale)
    with pytest.raises(ValueError, match="target"):
        best_cosines(torch.eye(3), torch.full((3, 2), 1e200, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\bx\b"):
        ThresholdSAE.from_dictionary(torch.eye(3), 0.1).refit_support(torch.full((2, 3), 1e200, dtype=torch.float64))
    D = gaussian(4, 6)
    assert stability(D * 1e200, torch.tensor([1, 2])).q_star == stability(D, torch.tensor([1, 2])).q_star


def scanned(D, l0, metric=None):
    A = unit_atoms(D, metric)
    overlaps = (A.T @ A).abs()[tuple(torch.triu_indices(D.shape[1], D.shape[1], 1))].numpy()
    grid = np.linspace(0, 1, 4001)
    ok = np.quantile(overlaps, grid, method="higher") < 1 / (2 * np.quantile(l0.clamp(min=1).numpy(), grid, method="higher") - 1)
    return float(grid[ok].max()) if ok.any() else 0.0


@FEW
@given(seed=seeds, H=st.integers(2, 20), N=st.integers(2, 30), top=st.integers(1, 12), n=st.integers(1, 50))
def test_stability_equals_a_scan_with_numpys_quantiles(seed, H, N, top, n):
    D, l0 = gaussian(H, N, seed=seed), torch.randint(0, top + 1, (n,), generator=torch.Generator().manual_seed(seed))
    report = stability(D, l0)
    assert abs(report.q_star - scanned(D, l0)) <= 1 / 4000 + 1e-9  # resolution of the scan
    assert report.empty == float((l0 == 0).double().mean())


@FEW
@given(seed=seeds, K=st.integers(1, 6))
def test_stability_ignores_order_sign_and_maps_that_the_metric_follows(seed, K):
    D, l0, g = gaussian(8, 15, seed=seed), torch.full((5,), K), torch.Generator().manual_seed(seed)
    base = stability(D, l0, AtomicInnerProduct.from_dictionary(D).metric).q_star
    changed = D[:, torch.randperm(15, generator=g)] * torch.where(torch.rand(15, generator=g) < 0.5, -2.0, 1.0)
    assert abs(stability(D, l0).q_star - stability(changed, l0).q_star) < 1e-12
    mapped = well_conditioned(8, seed) @ D
    assert abs(stability(mapped, l0, AtomicInnerProduct.from_dictionary(mapped).metric).q_star - base) <= 1 / 104 + 1e-12  # at most one of 105 overlaps can sit within rounding of the threshold


@FEW
@given(seed=seeds, H=st.integers(3, 40), N=st.integers(20, 80), K=st.integers(1, 9))
def test_streamed_stability_agrees_with_exact(seed, H, N, K):
    D, l0 = gaussian(H, N, seed=seed).float(), torch.randint(1, K + 1, (60,), generator=torch.Generator().manual_seed(seed))
    exact, streamed = stability(D, l0, method="exact"), stability(D, l0, method="streamed")
    assert abs(exact.q_star - streamed.q_star) <= 1e-3 + 2 / (N * (N - 1) / 2)  # one bin in 8192 holds at most a pair or two of so few
    assert exact.method == "exact" and streamed.method == "streamed" and abs(exact.mu_q - streamed.mu_q) < 0.1


@pytest.mark.parametrize("K", [2, 3, 4])
def test_the_overlap_at_q_star_is_the_largest_below_the_window(K):
    """For constant K both methods must name the same pair; the histogram to within a bin."""
    chosen = {(0, 1): 0.05, (0, 2): 0.1, (0, 3): 0.17, (1, 2): 0.24, (1, 3): 0.36, (2, 3): 0.5}
    gram = torch.eye(4, dtype=torch.float64)
    for (i, j), overlap in chosen.items():
        gram[i, j] = gram[j, i] = overlap
    D, below = torch.linalg.cholesky(gram).T, [v for v in chosen.values() if v < 1 / (2 * K - 1)]
    exact, streamed = (stability(D, torch.full((5,), K), method=method) for method in ("exact", "streamed"))
    assert abs(exact.q_star - (len(below) - 1) / 5) < 1e-12 and abs(exact.mu_q - max(below)) < 1e-12
    assert abs(streamed.q_star - exact.q_star) < 1e-6 and abs(streamed.mu_q - max(below)) <= 1 / 4096


def test_the_index_of_the_quantile_survives_rounding():
    """Thirty of 36 overlaps lie below 1 / 3. (29 / 35) * 35 is above 29 in floating point, and the overlap at q* must not become the thirty-first for it."""
    assert (29 / 35) * 35 > 29
    gram, large = torch.eye(9, dtype=torch.float64), [(0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (5, 6)]
    small = iter(range(1, 31))
    for i in range(9):
        for j in range(i):
            gram[i, j] = gram[j, i] = 0.36 if (j, i) in large else next(small) / 1000
    report = stability(torch.linalg.cholesky(gram).T, torch.full((5,), 2))
    assert abs(report.q_star - 29 / 35) < 1e-12 and abs(report.mu_q - 0.03) < 1e-12


def test_up_to_4096_atoms_all_overlaps_are_held():
    D = gaussian(3, 4097)
    assert [stability(D[:, :n], torch.ones(2)).method for n in (4096, 4097)] == ["exact", "streamed"]


def test_streamed_stability_of_8192_atoms_is_within_a_thousandth():
    """The exact value for constant K is the share of overlaps below 1 / (2K - 1), counted pair by pair."""
    D = unit_atoms(torch.randn(64, 8192, generator=torch.Generator().manual_seed(0)))
    for K in (3, 8):
        below = sum(int(((D[:, i : i + 1024].T @ D).abs() < 1 / (2 * K - 1)).sum()) for i in range(0, 8192, 1024))  # the diagonal is not below
        report = stability(D, torch.full((3,), K))
        assert report.method == "streamed" and abs(report.q_star - below / (8192 * 8191)) < 1e-3


def test_one_active_atom_or_an_orthonormal_basis_is_always_stable():
    assert stability(gaussian(5, 40), torch.ones(3, dtype=torch.long)).q_star == 1.0
    assert stability(torch.eye(30), torch.full((4,), 30)).q_star == 1.0
    assert stability(gaussian(5, 40), torch.zeros(3)).q_star == 1.0  # no active atom counts as one


def test_a_duplicate_moves_coherence_to_one_and_stability_hardly():
    D, l0 = gaussian(16, 100), torch.full((3,), 2)
    double = torch.cat([D, D[:, :1]], 1)
    assert coherence(double) > 1 - 1e-12 and abs(stability(D, l0).q_star - stability(double, l0).q_star) < 0.01
    assert stability(torch.cat([D[:, :1]] * 2, 1), torch.ones(2)).q_star == 0.0  # two identical atoms: not unique even at K = 1


@pytest.mark.parametrize("H, expected", [(384, 0.0203), (2304, 0.0083), (3584, 0.0067), (4096, 0.0062)])
def test_neurons_score_what_the_gaussian_limit_says(H, expected):
    q = random_stability(H, torch.tensor([H]))
    assert abs(q - expected) < 6e-5 and abs(q - math.erf(math.sqrt(H / 2) / (2 * H - 1))) < 5e-3 * q  # O(1/H)


@pytest.mark.parametrize("K, expected", [(2, 0.998), (4, 0.81), (8, 0.46), (16, 0.23), (32, 0.11), (64, 0.057)])
def test_stability_of_random_directions_follows_the_beta_law(K, expected):
    D, l0 = gaussian(64, 600, seed=K), torch.full((4,), K)
    report = stability(D, l0)
    assert abs(report.q_star - report.random_baseline) < 0.01  # 180,000 weakly dependent pairs
    assert abs(report.random_baseline - expected) < 0.08  # figures quoted for a dictionary of 256 atoms, one draw


# ------------------------------------------------------------------------------------------------ the theorem
def planted(seed, K=2, dtype=torch.float64):
    D = near_orthogonal_dictionary(32, 64, seed=seed % 4, dtype=dtype, iterations=80)
    data = planted_atoms(32, 64, K, 200, low=1.0, high=1.25, atoms=D, seed=seed, dtype=dtype)
    eps = coherence(D)
    return data, (eps * K * 1.25, 1.0 - eps * (K - 1) * 1.25), eps


@FEW
@given(seed=seeds, share=st.floats(0.001, 0.999))
def test_inside_the_window_the_support_is_exact_and_the_refit_too(seed, share):
    data, (low, high), eps = planted(seed)
    assert low < high
    model = ThresholdSAE.from_dictionary(data.atoms, low + share * (high - low))
    codes = model.transform(data.acts)
    assert torch.equal(codes > 0, data.codes > 0)
    assert float((codes - data.codes).abs().max()) <= eps * 1.25 + 1e-12
    assert torch.allclose(model.refit_support(data.acts), data.codes, atol=1e-10)  # 2 x 2 solves


def test_the_theorem_does_not_give_equality_beyond_one_atom():
    data, (low, high), _ = planted(0)
    model = ThresholdSAE.from_dictionary(data.atoms, (low + high) / 2)
    assert 0.9 < model.score(data.acts) < 1 - 1e-4
    single = planted_atoms(32, 64, 1, 50, atoms=data.atoms, dtype=torch.float64)
    assert torch.allclose(model(single.acts), single.acts, atol=1e-12)


@pytest.mark.parametrize("K, eps", [(2, 0.2), (3, 0.1), (5, 0.05)])
def test_just_outside_the_window_the_worst_case_fails(K, eps):
    low, high = 1.0, 1.2
    stranger = torch.linalg.cholesky(torch.full((K + 1, K + 1), eps, dtype=torch.float64).fill_diagonal_(1.0)).T
    code = torch.tensor([high] * K + [0.0], dtype=torch.float64)
    for tau, right in ((eps * K * high - 1e-9, False), (eps * K * high + 1e-9, True)):
        assert torch.equal(ThresholdSAE.from_dictionary(stranger, tau).transform((stranger @ code)[None])[0] > 0, code > 0) == right
    gram = torch.eye(K, dtype=torch.float64)
    gram[0, 1:] = gram[1:, 0] = -eps
    weak, code = torch.linalg.cholesky(gram).T, torch.tensor([low] + [high] * (K - 1), dtype=torch.float64)
    edge = low - eps * (K - 1) * high
    for tau, right in ((edge - 1e-9, True), (edge + 1e-9, False)):
        assert torch.equal(ThresholdSAE.from_dictionary(weak, tau).transform((weak @ code)[None])[0] > 0, code > 0) == right


def test_the_metric_carries_the_theorem_to_other_coordinates():
    data, (low, high), _ = planted(1)
    B = well_conditioned(32, 5)
    model = ThresholdSAE.from_dictionary(B @ data.atoms, (low + high) / 2, torch.linalg.inv(B @ B.T))
    assert torch.equal(model.transform(data.acts @ B.T) > 0, data.codes > 0)
    assert torch.allclose(model.refit_support(data.acts @ B.T, torch.linalg.inv(B @ B.T)), data.codes, atol=1e-8)


def test_refit_survives_duplicates_and_empty_supports():
    D = torch.cat([torch.eye(3), torch.eye(3)], 1)
    model = ThresholdSAE.from_dictionary(D, 0.5)
    x = torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    codes = model.refit_support(x)
    assert torch.allclose(model.decode(codes), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), atol=1e-6)


def test_the_refit_is_least_squares_on_supports_of_every_size():
    D = near_orthogonal_dictionary(6, 9, seed=1)
    model = ThresholdSAE.from_dictionary(D.double(), 0.4)
    codes = torch.zeros(40, 9, dtype=torch.float64)
    for row, code in enumerate(codes):
        code[torch.randperm(9, generator=torch.Generator().manual_seed(row))[: row % 4]] = 1.5
    x = codes @ D.double().T + 0.05 * gaussian(40, 6)
    on, found = model.transform(x) > 0, model.refit_support(x)
    assert len(on.sum(1).unique()) >= 4
    for row in range(40):
        chosen = on[row].nonzero()[:, 0]
        expected = torch.zeros(9, dtype=torch.float64)
        if len(chosen):
            expected[chosen] = torch.linalg.lstsq(D.double()[:, chosen], x[row]).solution
        assert torch.allclose(found[row], expected, atol=1e-8)


def test_cells_of_a_grid_hold_the_scores_of_their_models():
    world = planted_atoms(12, 20, 2, 300, seed=0)
    model = ThresholdSAE(12, 20, copies=2).fit(world.acts[:200], l0=2, steps=30, batch_size=50, lr=1e-2, **QUIET)
    cells = atoms._cells(model, [100, 200], [0, 1], world.acts[:200], world.acts[200:], None)
    for cell, single, rows in zip(cells, model.unbind(), (100, 200)):
        active = single.transform(world.acts[:rows])
        report = stability(single.dictionary, (active > 0).sum(1))
        assert (cell.q_star, cell.q_random) == (report.q_star, report.random_baseline)
        assert abs(cell.train - faithfulness(world.acts[:rows], single.decode(active).detach())) < 1e-12
        assert abs(cell.l0 - float((single.transform(world.acts[200:]) > 0).sum(1).double().mean())) < 1e-12 and math.isnan(cell.recovered)


# ------------------------------------------------------------------------------------------------ training
def test_training_finds_planted_atoms_and_settles_at_the_sparsity_asked_for():
    world = planted_atoms(24, 48, 2, 5000, seed=0)
    sae = ThresholdSAE(24, 72, copies=2).fit(world.acts[:4000], l0=2, steps=400, batch_size=128, lr=1e-2, **QUIET)
    for single in sae.unbind():
        assert float((best_cosines(single.dictionary, world.atoms) > 0.95).double().mean()) > 0.8
        assert abs(float((single.transform(world.acts[4000:]) > 0).sum(1).double().mean()) - 2) < 0.4
        assert single.score(world.acts[4000:]) > 0.85
    assert torch.allclose(sae.dictionary.norm(dim=-2), torch.ones(2, 72), atol=1e-6) and float(sae.theta.detach().min()) > 0


def test_training_does_not_depend_on_the_units():
    x = planted_atoms(12, 20, 2, 500).acts
    one, other = (ThresholdSAE(12, 20).fit(scale * x, l0=2, steps=20, batch_size=64, **QUIET) for scale in (1.0, 64.0))
    assert torch.allclose(one.dictionary, other.dictionary, atol=1e-5)  # a power of two scales floats exactly, the root in the unit rounds
    assert torch.allclose(64 * one.theta, other.theta, rtol=1e-4)


def test_training_resumes_bit_for_bit(tmp_path):
    x = planted_atoms(12, 20, 2, 500).acts
    options = dict(l0=2.0, steps=24, batch_size=32, **QUIET)
    whole = ThresholdSAE(12, 20, copies=2).fit(x, **options)

    def stop(model, step):
        if step == 15:
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        ThresholdSAE(12, 20, copies=2).fit(x, checkpoint=tmp_path / "run", save_every=8, callbacks=[stop], **options)
    again = ThresholdSAE(12, 20, copies=2).fit(x, checkpoint=tmp_path / "run", save_every=8, **options)
    assert again.history.resumed_from == 8
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


def test_the_pseudo_gradient_estimates_the_slope_of_the_expected_loss():
    """First order in the width: the error at width 0.1 is below a fifth of that at 0.8 (an eighth, and sampling noise)."""
    x = torch.rand(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 0.5
    errors = {}
    for width in (0.8, 0.1):
        sae = ThresholdSAE.from_dictionary(torch.tensor([[1.0, 0.5], [0.0, math.sqrt(0.75)]], dtype=torch.float64), 0.8)
        sae.bandwidth = width
        price = torch.tensor(0.3, dtype=torch.float64)
        slope = float(torch.autograd.grad(sae.loss(x, price).total, sae.theta)[0][0])
        ends = []
        for tau in (0.8 + width / 2, 0.8 - width / 2):
            with torch.no_grad():
                sae.theta[0] = tau
                ends.append(float(sae.loss(x, price).total))
        errors[width] = abs(slope - (ends[0] - ends[1]) / width)
    assert errors[0.1] < errors[0.8] / 5


def test_thresholds_stay_above_zero():
    sae = ThresholdSAE(4, 6)
    with torch.no_grad():
        sae.theta.copy_(torch.tensor([-1.0, 0.0, 5e-4, 1e-3, 2e-3, 1.0]))
    sae.tidy()
    assert sae.theta.tolist() == torch.tensor([1e-3, 1e-3, 1e-3, 1e-3, 2e-3, 1.0]).tolist()


# ------------------------------------------------------------------------------------------------ studies
TINY = dict(seeds=2, dim=8, atoms=12, sparsity=2, samples=(10, 200), capacities=(6, 12), steps=10, batch=16, fit_tokens=300, train_tokens=200, heldout_tokens=100, n_atoms=16, l0=4,
            act_steps=10, act_batch=16, grid_tokens=(8, 100), grid_atoms=(8, 16), grid_steps=5)  # fmt: skip


def test_planted_study_fills_its_grid():
    cells = planted_study(AtomsConfig.preset("cpu", **TINY), **QUIET)
    assert {(c.samples, c.latents, c.seed) for c in cells} == {(n, N, s) for n in (10, 200) for N in (6, 12) for s in (0, 1)}
    assert all(c.train <= 1 and 0 <= c.q_star <= 1 and 0 <= c.recovered <= 1 for c in cells)


def test_a_planted_study_with_room_and_data_finds_every_atom():
    cells = planted_study(AtomsConfig.preset("cpu", **TINY | dict(dim=16, atoms=24, sparsity=2, samples=(10, 2000), capacities=(12, 32), steps=800, batch=256)), **QUIET)
    roomy, narrow = ([c for c in cells if c.samples == 2000 and c.latents == n] for n in (32, 12))
    assert min(c.recovered for c in roomy) > 0.9 and max(c.recovered for c in narrow) < 0.5 and all(1 < c.l0 < 4 for c in roomy)


def test_activation_study_runs_on_a_file_and_train_leaves_a_dictionary(tmp_path):
    g = torch.Generator().manual_seed(0)
    arrays = {name: torch.randn(n, 6, generator=g) @ torch.randn(6, 6, generator=g) for name, n in (("fit", 300), ("train", 200), ("heldout", 100))}
    save_file(arrays, tmp_path / "acts.safetensors")
    cfg = AtomsConfig.preset("gpu", **TINY, activations=str(tmp_path / "acts.safetensors"))
    data = atoms.activations_of(cfg)
    assert torch.equal(data.train, arrays["train"]) and data.source == "acts.safetensors"
    cells = activation_study(cfg, data, **QUIET)
    assert len(cells) == 4 and all(math.isnan(c.recovered) for c in cells)
    history = atoms.train(cfg, out=tmp_path / "out", progress=False)
    stored = load_file(tmp_path / "out" / "atoms.safetensors")
    assert history.completed == 10 and stored["atoms"].shape == (6, 16)
    first = {name: tensor.clone() for name, tensor in stored.items()}
    aip = AtomicInnerProduct.fit(data.fit)
    noted = ThresholdSAE(6, 16).fit(aip.whiten(data.train), l0=cfg.l0, steps=cfg.act_steps, batch_size=cfg.act_batch, lr=cfg.lr, rate=0.1, progress=False)  # as the notebook trains
    assert torch.equal(noted.w_enc, first["w_enc"]) and torch.equal(noted.theta, first["theta"])
    assert atoms.train(cfg, out=tmp_path / "out", progress=False).resumed_from == 10
    assert all(torch.equal(first[k], v) for k, v in load_file(tmp_path / "out" / "atoms.safetensors").items())


def test_the_full_scale_runs_on_a_tiny_gemma(tmp_path):
    """The code path of the paper's own model: a two-layer Gemma 2 with random weights, loaded like any other."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(vocab_size=128, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=256)
    torch.manual_seed(0)
    model = transformers.Gemma2Model(config)
    full = AtomsConfig.preset("full")
    assert (full.model, full.n_atoms) == ("google/gemma-2-2b", 4 * 2304)
    tiny = full.replace(**{**TINY, "characters": 200, "text": "stdlib_docs", "layer": 1})
    history = atoms.train(tiny, out=tmp_path, model=model, tokenizer=lambda text: [ord(c) % 128 for c in text], progress=False)
    assert history.completed == 10 and load_file(tmp_path / "atoms.safetensors")["atoms"].shape == (16, 16)


def test_a_unit_report_of_a_basis_is_perfect_and_says_how_dense_it_is():
    x = gaussian(400, 6).float()
    data = ActivationData(x[:200], x[200:300], x[300:], "", "noise")
    axes = torch.linalg.eigh(data.fit.T @ data.fit).eigenvectors
    report = unit_report("axes", axes, lambda x: x @ axes, lambda f: f @ axes.T, data, AtomicInnerProduct.fit(data.fit).metric)
    assert report.heldout > 1 - 1e-6 and report.q_star == 1.0 and report.l0_mean == 6 and report.dead == 0 and report.q_random < 0.5


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_critical_capacity_recovers_a_power_law(power):
    cells = [CapacityCell(n, N, 0, min(1.0, N / (20 * n**power)), 0.0, 1.0, 1.0, 1.0, 0.0) for n in (100, 1000, 10_000) for N in (4 * 2**k for k in range(17))]
    critical, exponent = critical_capacity(cells)
    assert len(critical) == 3 and abs(exponent - power) < 0.1  # interpolation inside a factor two, over a decade and more
    assert critical_capacity(cells[:17])[1] is None


# ------------------------------------------------------------------------------------------------ refusals
X, EYE = torch.rand(20, 4), torch.eye(4)
BAD = {"nan": torch.full((20, 4), float("nan")), "inf": torch.full((20, 4), float("inf")), "empty": torch.zeros(0, 4), "rank": torch.ones(4), "integer": torch.ones(20, 4, dtype=torch.long), "text": "acts", "none": None}
PLACES = {
    "acts": lambda bad: AtomicInnerProduct.fit(bad), "x": lambda bad: faithfulness(bad, X), "x_hat": lambda bad: faithfulness(X, bad), "D": lambda bad: stability(bad, torch.ones(3)),
    "U": lambda bad: AtomicInnerProduct.fit(X).cosine(bad, X), "V": lambda bad: AtomicInnerProduct.fit(X).cosine(X, bad),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", PLACES)
def test_a_bad_array_is_refused_by_name(name, kind):
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        PLACES[name](BAD[kind])


@pytest.mark.parametrize("call, name", [
    (lambda: AtomicInnerProduct.fit(X[:3]), "acts"), (lambda: AtomicInnerProduct.fit(X, ridge=-1.0), "ridge"), (lambda: AtomicInnerProduct.fit(X).whiten(torch.ones(2, 5)), "x"), (lambda: AtomicInnerProduct.fit(X).unwhiten(torch.ones(2, 5)), "x"),
    (lambda: faithfulness(X, X[:, :3]), "x_hat"), (lambda: faithfulness(X, X[:5]), "x_hat"), (lambda: faithfulness(torch.ones(5, 2), torch.ones(5, 2)), "x"), (lambda: stability(EYE[:, :1], torch.ones(2)), "D"),
    (lambda: stability(torch.zeros(4, 5), torch.ones(2)), "D"), (lambda: stability(EYE, torch.tensor([-1])), "l0"), (lambda: stability(EYE, torch.tensor([1.5])), "l0"), (lambda: stability(EYE, torch.zeros(0)), "l0"),
    (lambda: stability(EYE, torch.ones(2, 2)), "l0"), (lambda: stability(EYE, torch.ones(2), torch.eye(3)), "metric"), (lambda: stability(EYE, torch.ones(2), method="fast"), "method"), (lambda: stability(EYE, torch.ones(2), method="streamed", bins=0), "bins"),
    (lambda: random_stability(1, torch.ones(2)), "H"), (lambda: ThresholdSAE(4, 8, tau_init=-0.1), "tau_init"), (lambda: ThresholdSAE(4, 8, bandwidth=0.0), "bandwidth"), (lambda: ThresholdSAE(4.0, 8), "d_in"), (lambda: ThresholdSAE(4, 0), "n_atoms"),
    (lambda: ThresholdSAE.from_dictionary(EYE, -1.0), "tau"), (lambda: ThresholdSAE.from_dictionary(EYE, 0.1, torch.eye(3)), "metric"), (lambda: ThresholdSAE(4, 8).fit(X.long(), l0=2), "x"), (lambda: ThresholdSAE(4, 8).encode(torch.ones(2, 5)), "x"),
    (lambda: ThresholdSAE(4, 8, copies=2).refit_support(X), "copies"), (lambda: ThresholdSAE(4, 8).refit_support(torch.ones(4)), "x"), (lambda: best_cosines(EYE, torch.ones(3, 2)), "target"),
    (lambda: critical_capacity([], 1.0), "level"), (lambda: AtomsConfig(l0=600.0), "n_atoms"), (lambda: AtomsConfig(sparsity=97), "atoms"), (lambda: AtomsConfig(samples=()), "samples"), (lambda: AtomsConfig(steps=0), "steps"),
    (lambda: AtomsConfig.preset("cpu", stepz=3), "steps"), (lambda: AtomsConfig.preset("gpuu"), "gpu"), (lambda: AtomsConfig.preset("cpu", steps="many"), "steps"), (lambda: read_activations("nowhere.safetensors", (1, 1, 1)), "activations"),
    (lambda: load_activations("minilm", 3, (1, 1)), "sizes"), (lambda: load_activations("minilm", 3, (1, 1, 0)), "sizes"), (lambda: load_activations("minilm", 3, (1, 1, 1), characters=0), "characters"),
])  # fmt: skip
def test_a_bad_argument_is_refused_by_name(call, name):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=rf"\b{name}\b"):
        call()


def test_every_public_name_of_the_paper_is_importable_from_its_room():
    for name in ("AtomicInnerProduct coherence welch_bound spark rip_constant max_unique_sparsity faithfulness stability StabilityReport ThresholdSAE AtomsConfig basis_pursuit omp planted_atoms near_orthogonal_dictionary train").split():
        assert name in atoms.__all__ and getattr(atoms, name).__doc__


def test_a_notebook_runs_without_jupyter_with_its_parameters_set(tmp_path):
    cells = [("SCALE, SET, OUT = 'cpu', {}, None", ["parameters"]), ("from IPython.display import Markdown, display\ndisplay(Markdown(f'{SCALE} {SET}'))", []), ("(__import__('pathlib').Path(OUT) / 'x').touch()", [])]
    notebook = tmp_path / "page.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source, "metadata": {"tags": tags}} for source, tags in cells]}))
    program = Path(__file__).parents[1] / "benchmarks" / "run_on_gpu.py"
    command = [sys.executable, str(program), str(notebook), "--scale", "gpu", "--set", "seeds=2", "--set", "model=minilm", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "gpu {'seeds': 2, 'model': 'minilm'}" in done.stdout and (tmp_path / "out" / "x").exists(), done.stderr
    cells[2] = ("1 / 0", [])
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source, "metadata": {"tags": tags}} for source, tags in cells]}))
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 1  # a cell that fails ends the run


def test_records_of_an_interrupted_run_take_the_place_of_older_ones(tmp_path, monkeypatch):
    """The cut ledger's records are put in, each as it was measured; the others stay as they are."""
    spec = importlib.util.spec_from_file_location("run_on_gpu", Path(__file__).parents[1] / "benchmarks" / "run_on_gpu.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    source = json.loads((Path(__file__).parents[1] / "claims" / "cpu" / "representation.atoms.json").read_text())
    target, cut = tmp_path / "claims" / "cpu" / "representation.atoms.json", tmp_path / "claims-cut.json"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(source))
    newer = {**source, "records": [{**source["records"][0], "commit": "f" * 40}]}
    cut.write_text(json.dumps(newer))
    monkeypatch.setattr(ledger, "repo_root", lambda: tmp_path)
    program.merge(cut)
    after = {r["claim_id"]: r for r in json.loads(target.read_text())["records"]}
    before = {r["claim_id"]: r for r in source["records"]}
    first = source["records"][0]["claim_id"]
    assert after.keys() == before.keys() and after[first]["commit"] == "f" * 40
    assert all(after[key] == before[key] for key in before if key != first)

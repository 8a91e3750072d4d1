"""Laws of the quantum neural network: the product form, the representation theorem, landscapes, data and training."""
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.quantum import digits as digits_module
from atomsnb.quantum import qnn
from atomsnb.quantum.boolean import bit_strings as every
from atomsnb.quantum.digits import count_labels, logistic_rule, lookup_rule, one_pixel_rule, shrink, split_counts, two_pixel_rule, weighted_accuracy
from atomsnb.quantum.qnn import (
    MIXING, QNN, QNNConfig, ProductForm, binarize_images, categorical_error, cross_entropy_loss, edge_signs, hamiltonian_sign_task, hinge_loss, label_superposition, label_unitary,
    load_images, margin_loss, polyak_step, reed_muller, subset_majority, subset_parity, train_angles, tutorial_counts,
)  # fmt: skip
from atomsnb.quantum.statevector import PauliString, basis_state, expectation, zero_state

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import annotations
import r3_bad_inputs
import r3_cases_quantum

torch.set_num_threads(1)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def model(n, layers, seed=0, scale=0.6, **options):
    return QNN(n, layers, scale=scale, generator=gen(seed), dtype=torch.float64, **options)


def test_everything_the_paper_needs_is_importable_from_its_room():
    names = {"QNN", "QNNConfig", "margin_loss", "categorical_error", "polyak_step", "reed_muller", "label_unitary", "subset_parity", "subset_majority", "binarize_images", "label_superposition", "hamiltonian_sign_task"}
    assert names <= set(qnn.__all__) and all(hasattr(qnn, name) for name in qnn.__all__)
    assert qnn.reed_muller.__module__ == "atomsnb.quantum.boolean" and qnn.binarize_images.__module__ == "atomsnb.quantum.digits"


# ---- the product form

@given(layers=st.lists(st.sampled_from(("ZX", "XX", "YX")), min_size=1, max_size=6), n=st.integers(1, 6), seed=st.integers(0, 30), readout=st.integers(-1, 1), observable=st.sampled_from("YZ"))
@settings(max_examples=40)
def test_a_circuit_that_conserves_x_is_a_product(layers, n, seed, readout, observable):
    """Any data letters, any depth, any place of the readout; float64."""
    m = model(n, layers, seed, readout=readout, observable=observable)
    with torch.no_grad():
        torch.testing.assert_close(m.product_form()(every(n)), m(every(n)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("letter, observable", [("X", "Y"), ("X", "Z"), ("Y", "X"), ("Y", "Z"), ("Z", "X"), ("Z", "Y")])
def test_every_conserved_letter_has_its_constant(letter, observable):
    m = model(4, ["Z" + letter, "X" + letter, PauliString(letter, (4,)), PauliString("Z", (1,)), "Y" + letter], observable=observable)
    with torch.no_grad():
        torch.testing.assert_close(m.product_form()(every(4)), m(every(4)), rtol=0, atol=1e-12)
    assert m.product_form().kappa.abs().item() <= 1 + 1e-12


def test_the_paper_s_circuit_at_full_size_is_a_product():
    m = model(16, ["ZX", "XX"] * 3, scale=0.3)
    rows = every(16)[::16_001]
    with torch.no_grad():
        torch.testing.assert_close(m.product_form()(rows), m(rows), rtol=0, atol=1e-12)  # float64, 96 gates


@given(seed=st.integers(0, 50), depth=st.integers(1, 4))
@settings(max_examples=20)
def test_the_product_is_a_contrast_times_a_sine(seed, depth):
    form = model(5, ["ZX", "XX"] * depth, seed).product_form()
    spins = 1.0 - 2 * every(5)
    torch.testing.assert_close(form(every(5)), form.contrast * torch.sin((form.phases * spins).sum(1)), rtol=0, atol=1e-13)
    assert 0 <= float(form.contrast.detach()) <= 1 + 1e-13
    assert torch.equal(form(spins, spins=True), form(every(5)))


def test_one_layer_has_full_contrast_and_twice_the_angles_as_phases():
    m = model(5, ["ZX"], scale=0.2)
    form = m.product_form()
    torch.testing.assert_close(form.contrast.detach(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(form.phases, 2 * m.theta)


def test_the_product_form_trains_like_the_simulator():
    m = model(4, ["ZX", "XX", "ZX"])
    sets = torch.randn(3, 12, generator=gen(), dtype=torch.float64).requires_grad_()
    weight = torch.randn(16, generator=gen(1), dtype=torch.float64)
    (a,), (b,) = (torch.autograd.grad((weight * f).sum(), sets) for f in (m.product_form(sets)(every(4)), m(every(4), sets)))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_factor_of_zero_gives_zero_and_no_nan():
    m = QNN(2, ["ZX", "XX"], dtype=torch.float64)
    theta = torch.tensor([[0.3, 0.2, math.pi / 4, 0.1]], dtype=torch.float64).requires_grad_()
    f = m.product_form(theta)(every(2))
    torch.testing.assert_close(f, m(every(2), theta), rtol=0, atol=1e-12)
    f.sum().backward()
    assert bool(torch.isfinite(theta.grad).all())


@pytest.mark.parametrize("layers, observable, word", [(["ZX", "XY"], "Z", "letters X, Y"), (["ZX"], "X", "letter X"), ([PauliString("Z", (0,))], "Y", "no letter"), (["ZX", PauliString("ZZ", (0, 1))], "Y", "two data qubits")])
def test_what_conserves_nothing_has_no_product_form(layers, observable, word):
    with pytest.raises(ValueError, match=word):
        QNN(3, layers, observable=observable).product_form()


@given(layers=st.lists(st.sampled_from(("ZX", "XX", "YX")), min_size=1, max_size=5), seed=st.integers(0, 30))
@settings(max_examples=20)
def test_flipping_a_bit_conjugates_its_factor_whatever_the_data_letters(layers, seed):
    """Diagonal entries of an SU(2) matrix are conjugates; so every such circuit is a perceptron."""
    form = model(3, layers, seed).product_form()
    torch.testing.assert_close(form.factors[:, 0].conj(), form.factors[:, 1], rtol=0, atol=1e-13)
    torch.testing.assert_close(form(every(3)), form.contrast * torch.sin((form.phases * (1.0 - 2 * every(3))).sum(1)), rtol=0, atol=1e-13)


def test_phases_are_refused_for_factors_that_are_no_conjugates():
    with pytest.raises(ValueError, match="conjugates"):
        _ = ProductForm(torch.tensor([[1.0, 1j]]), torch.tensor(-1j)).phases


def test_a_thousand_pixels_need_no_simulator():
    m = QNN(1000, ["ZX", "XX"], scale=0.01, generator=gen())
    f = m.product_form()(torch.randint(0, 2, (5, 1000), generator=gen()))
    assert f.shape == (5,) and float(f.detach().abs().max()) <= 1
    with pytest.raises(ValueError, match="bytes"):
        m(torch.zeros(1, 1000, dtype=torch.long))


def test_the_tutorial_s_circuit_is_a_product():
    m = model(6, ["XX", "ZZ"], observable="X")
    alpha, beta = m.theta.detach().view(2, 6)
    minus = math.sqrt(0.5) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    start = (basis_state(every(6), dtype=torch.complex128)[:, :, None] * minus).flatten(1)
    closed = -torch.complex(torch.cos(2 * beta).expand(64, 6), torch.sin(2 * beta) * torch.cos(2 * alpha) * (1 - 2 * every(6))).prod(1).real
    with torch.no_grad():
        torch.testing.assert_close(m(start), closed, rtol=0, atol=1e-12)


# ---- invariants of predictions

@given(seed=st.integers(0, 20))
@settings(max_examples=15)
def test_predictions_are_odd_in_the_angles_and_have_period_pi(seed):
    m = model(3, ["ZX", "XX", "ZX"], seed)
    theta = m.theta.detach()
    f = m(every(3), theta)
    torch.testing.assert_close(m(every(3), -theta), -f, rtol=0, atol=1e-13)
    shifted = theta.clone()
    shifted[seed % 9] += math.pi
    torch.testing.assert_close(m(every(3), shifted), f, rtol=0, atol=1e-13)
    assert float(f.abs().max()) <= 1 + 1e-12


def test_relabelling_pixels_with_their_angles_changes_nothing():
    m, order = model(4, ["ZX", "XY", "YZ"]), torch.tensor([2, 0, 3, 1])
    theta = m.theta.detach()
    torch.testing.assert_close(m(every(4)[:, order], theta.view(3, 4)[:, order].flatten()), m(every(4), theta), rtol=0, atol=1e-13)


def test_layers_of_zx_commute():
    m = model(3, ["ZX", "ZX"])
    theta = m.theta.detach()
    torch.testing.assert_close(m(every(3), theta), m(every(3), theta.view(2, 3).flip(0).flatten()), rtol=0, atol=1e-14)


def test_mixing_circuits_conserve_nothing():
    m = model(3, list(MIXING[:4]), seed=3)
    f = m(every(3)).detach()
    assert float((f + f.flip(0)).abs().max()) > 0.05
    with pytest.raises(ValueError, match="conserved"):
        m.product_form()


def test_spins_states_and_bits_are_three_ways_to_say_the_same():
    m = model(3, ["ZX", "XY"])
    bits = every(3)
    f = m(bits)
    torch.testing.assert_close(m(1 - 2 * bits, spins=True), f)
    torch.testing.assert_close(m(basis_state(bits, dtype=torch.complex128)), f)
    torch.testing.assert_close(m(m.initial_state(bits)), f)
    middle = QNN(3, ["ZX", "XY"], readout=1, dtype=torch.float64)
    middle.theta.data.copy_(m.theta)
    torch.testing.assert_close(middle(bits), f)
    torch.testing.assert_close(middle(basis_state(bits, dtype=torch.complex128)), f)


def test_gradients_agree_and_shots_are_means_of_outcomes():
    m = model(3, list(MIXING[:3]))
    g = m.adjoint_gradient(every(3))
    (auto,) = torch.autograd.grad(expectation(m.circuit(m.initial_state(every(3)), m.theta), m.observable).sum(), m.theta)
    torch.testing.assert_close(g.angles.sum(0), auto, rtol=0, atol=1e-12)
    drawn = m.sample(every(3), 400, gen())
    assert float((drawn - g.value).abs().max()) < 5 * math.sqrt(1 / 400)
    torch.testing.assert_close((drawn + 1) * 200, ((drawn + 1) * 200).round())


def test_the_network_is_the_same_circuit_in_qiskit():
    from qiskit.quantum_info import SparsePauliOp, Statevector

    m = model(3, ["ZX", "XX", "ZZ"], readout=1)
    for bits in every(3)[[0, 3, 6]]:
        value = Statevector(m.to_qiskit(bits)).expectation_value(SparsePauliOp(m.observable.label(4))).real
        assert abs(value - float(m(bits[None]).detach())) < 1e-12


@pytest.mark.parametrize("call, word", [
    (lambda: QNN(3, ["ZXX"]), "layers"), (lambda: QNN(3, [5]), "layers"), (lambda: QNN(3, "ZX"), "layers"), (lambda: QNN(3, ["ZA"]), "letters"), (lambda: QNN(0, ["ZX"]), "n_data"), (lambda: QNN(3, []), "gates"),
    (lambda: QNN(3, ["ZX"], readout=4), "readout"), (lambda: QNN(3, ["ZX"], observable="W"), "observable"), (lambda: QNN(3, ["ZX"], scale=-1.0), "scale"), (lambda: QNN(3, ["ZX"], dtype=torch.float16), "dtype"),
    (lambda: QNN(3, [PauliString("Z", (4,))]), "qubits"), (lambda: QNN(3, ["ZX"])(torch.tensor([[0, 1, 2]])), "bits"), (lambda: QNN(3, ["ZX"])(torch.tensor([[1, -1, 1]])), "spins=True"),
    (lambda: QNN(3, ["ZX"])(torch.tensor([[0, 1, 1]]), spins=True), "spins"), (lambda: QNN(3, ["ZX"])(torch.zeros(1, 2, dtype=torch.long)), "columns"), (lambda: QNN(3, ["ZX"])(zero_state(2)), "states"),
    (lambda: QNN(3, ["ZX"])(2 * zero_state(3)), "norm"), (lambda: QNN(3, ["ZX"])(torch.zeros(1, 3, dtype=torch.long), torch.zeros(4)), "angles"), (lambda: QNN(2, ["ZX"]).product_form(torch.zeros(3)), "theta"),
    (lambda: QNN(2, ["ZX"]).product_form()(torch.tensor([[0, 1, 1]])), "columns"), (lambda: QNN(2, ["ZX"]).sample(torch.tensor([[0, 1]]), 0), "shots")])
def test_the_network_names_the_bad_argument(call, word):
    with pytest.raises((ValueError, TypeError), match=word):
        call()


# ---- losses

@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=8))
@settings(max_examples=30)
def test_the_hinge_loss_at_gain_one_is_the_linear_loss(values):
    pred = torch.tensor(values, dtype=torch.float64)
    label = torch.ones(len(values)).long()
    torch.testing.assert_close(hinge_loss(pred, label), margin_loss(pred, label))
    torch.testing.assert_close(margin_loss(pred.repeat(2), torch.cat([label, -label])), torch.tensor(1.0, dtype=torch.float64))
    assert float(cross_entropy_loss(pred, label, gain=3.0)) >= math.log(1 + math.exp(-3)) - 1e-12


def test_no_decision_is_an_error_and_weights_are_weights():
    pred, label = torch.tensor([0.5, 0.0, -0.5]), torch.tensor([1, 1, 1])
    torch.testing.assert_close(categorical_error(pred, label), torch.tensor(2 / 3))
    torch.testing.assert_close(categorical_error(pred, label, torch.tensor([3.0, 1.0, 0.0])), torch.tensor(0.25))


@pytest.mark.parametrize("loss", [margin_loss, hinge_loss, cross_entropy_loss, categorical_error])
def test_losses_refuse_labels_that_are_bits(loss):
    with pytest.raises(ValueError, match="label"):
        loss(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels"):
        loss(torch.tensor([0.1, 0.2]), torch.tensor([1]))


def test_a_full_polyak_step_zeroes_a_linear_loss():
    theta, g = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    moved = polyak_step(theta, 0.8, g)
    assert abs(0.8 + float(g @ (moved - theta))) < 1e-15
    torch.testing.assert_close(polyak_step(theta, 0.8, torch.zeros(2, dtype=torch.float64)), theta)
    for bad in (dict(loss=-1.0), dict(rate=0.0), dict(rate=1.5), dict(gradient=torch.zeros(3, dtype=torch.float64)), dict(gradient=g[None])):
        with pytest.raises((ValueError, TypeError), match="loss|rate|gradient"):
            polyak_step(**(dict(theta=theta, loss=0.8, gradient=g) | bad))


@pytest.mark.parametrize("dtype, powers", [(torch.float64, (-1000, -530, 530, 1000)), (torch.float32, (-120, -66, 66, 120))])
def test_a_polyak_step_scales_inversely_with_the_gradient_where_its_square_leaves_the_range(dtype, powers):
    """Powers of two cost no digit: loss * g / |g|^2 of 2^p g is 2^-p times that of g, bit for bit."""
    zero, g = torch.zeros(2, 3, dtype=dtype), torch.randn(2, 3, generator=gen(), dtype=dtype)
    for p in powers:
        assert torch.equal(polyak_step(zero, 0.7, g * 2.0**p, 0.5) * 2.0**p, polyak_step(zero, 0.7, g, 0.5))
        mixed = g * torch.tensor([[1.0], [2.0**p]], dtype=dtype)
        assert torch.equal(polyak_step(zero, 0.7, mixed, 0.5)[0], polyak_step(zero, 0.7, g, 0.5)[0])
    tiny = torch.full((3,), torch.finfo(dtype).tiny / 64, dtype=dtype)  # its step has no number: the angles stay
    assert torch.equal(polyak_step(g[0], 1.0, tiny), g[0])
    assert torch.equal(polyak_step(torch.zeros(2, dtype=torch.float64), 1.0, torch.full((2,), 1e-160, dtype=torch.float64)) < -4.9e159, torch.ones(2, dtype=torch.bool))


def test_weights_too_large_to_add_up_are_still_weights():
    pred, label = torch.tensor([0.5, -0.5, 0.25]), torch.tensor([1, 1, -1])
    for loss in (margin_loss, hinge_loss, cross_entropy_loss, categorical_error):
        assert torch.allclose(loss(pred, label, torch.tensor([3e38, 1.5e38, 3e38])), loss(pred, label, torch.tensor([2.0, 1.0, 2.0])), rtol=1e-6)


def test_steps_of_several_models_are_those_of_each_alone():
    theta, g, loss = torch.randn(3, 4, generator=gen(), dtype=torch.float64), torch.randn(3, 4, generator=gen(1), dtype=torch.float64), torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    g[1] = 0
    together = polyak_step(theta, loss, g, 0.3)
    for k in range(3):
        torch.testing.assert_close(polyak_step(theta[k], float(loss[k]), g[k], 0.3), together[k], rtol=0, atol=1e-15)
    torch.testing.assert_close(together[1], theta[1])
    for bad in (torch.tensor([0.1, -1.0, 2.0]), torch.tensor([0.1, math.nan, 2.0]), torch.tensor([0.1, 1.0])):
        with pytest.raises(ValueError, match="loss"):
            polyak_step(theta, bad, g)


def test_single_precision_states_are_unit_vectors_in_double_precision_too():
    """A complex64 vector of norm 1 has norm 1 to about 1e-8 in complex128, which the simulator would refuse."""
    states = torch.randn(5, 8, generator=gen(), dtype=torch.complex64)
    states = states / torch.linalg.vector_norm(states, dim=1, keepdim=True)
    lifted = model(3, ["ZX", "XY"]).initial_state(states)
    assert lifted.dtype == torch.complex128 and float((torch.linalg.vector_norm(lifted, dim=1) - 1).abs().max()) < 1e-14
    torch.testing.assert_close(model(3, ["ZX", "XY"])(states).detach(), model(3, ["ZX", "XY"])(states.to(torch.complex128) / torch.linalg.vector_norm(states.to(torch.complex128), dim=1, keepdim=True)).detach(), rtol=0, atol=1e-13)


# ---- representation

@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_function_of_three_bits_is_represented_exactly(n):
    for f in range(2 ** 2**n):
        table = torch.tensor([f >> i & 1 for i in range(2**n)])
        torch.testing.assert_close(label_unitary(table).predict(every(n)), 1.0 - 2 * table.double(), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 100), n=st.integers(1, 7))
@settings(max_examples=25)
def test_the_normal_form_is_its_definition_and_its_own_inverse(seed, n):
    table = torch.randint(0, 2, (2**n,), generator=gen(seed))
    anf = reed_muller(table)
    assert torch.equal(reed_muller(anf), table)
    direct = torch.stack([sum(int(anf[S]) for S in range(2**n) if S & b == S) % 2 * torch.ones((), dtype=torch.long) for b in range(2**n)])
    assert torch.equal(direct, table)
    torch.testing.assert_close(label_unitary(table).predict(every(n)), 1.0 - 2 * table.double(), rtol=0, atol=1e-11)


def test_parity_has_one_two_qubit_gate_per_bit_and_majority_the_right_signs():
    parity = subset_parity((0, 2, 3), 5)
    torch.testing.assert_close(parity.predict(every(5)), 1.0 - 2 * (every(5)[:, [0, 2, 3]].sum(1) % 2).double(), rtol=0, atol=1e-12)
    assert sum(len(g.qubits) == 2 for g in parity.circuit.gates) == 3 and max(len(g.qubits) for g in parity.circuit.gates) == 2
    f = subset_majority((0, 2, 3), 5).predict(every(5))
    votes = (1 - 2 * every(5))[:, [0, 2, 3]].sum(1)
    assert torch.equal(f.sign().long(), votes.sign())
    torch.testing.assert_close(f, torch.sin(0.3 * math.pi * votes.double()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("call, word", [
    (lambda: reed_muller(torch.tensor([0, 1, 1])), "truth_table"), (lambda: reed_muller(torch.tensor([0, -1])), "truth_table"), (lambda: reed_muller(torch.tensor([1])), "truth_table"), (lambda: reed_muller(torch.zeros(4)), "truth_table"),
    (lambda: subset_parity((), 3), "subset"), (lambda: subset_parity((0, 0), 3), "subset"), (lambda: subset_parity((3,), 3), "subset"), (lambda: subset_majority((0,), 3, beta=-1.0), "beta"),
    (lambda: subset_parity(3, 5), "subset is 3; accepted: a sequence"), (lambda: subset_majority(3, 5), "subset is 3; accepted: a sequence"), (lambda: subset_parity("01", 3), "subset is '01'"), (lambda: subset_parity(iter((2, 2)), 3), r"subset is \(2, 2\)")])
def test_labels_name_the_bad_argument(call, word):
    with pytest.raises((ValueError, TypeError), match=word):
        call()


# ---- landscapes

@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_parity_plateau_has_variance_two_to_the_minus_n(n):
    """Exact averages: three points per angle integrate a polynomial of degree two in exp(2 i theta)."""
    grid = torch.cartesian_prod(*[math.pi / 3 * torch.arange(3, dtype=torch.float64)] * n).requires_grad_()
    risk = 1 - torch.cos(grid.sum(1)) * torch.cos(grid).prod(1)
    (slope,) = torch.autograd.grad(risk.sum(), grid)
    torch.testing.assert_close(slope.square().mean(0), torch.full((n,), 2.0**-n, dtype=torch.float64), rtol=1e-10, atol=0)
    assert abs(float(risk.detach().var(correction=0)) - (2.0**-n - 4.0**-n) / 2) < 1e-12


# ---- data

def test_shrinking_is_an_exact_mean_over_areas():
    image = torch.rand(2, 8, 8, generator=gen())
    torch.testing.assert_close(shrink(image, 4), image.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)))
    torch.testing.assert_close(shrink(image, 3).mean((1, 2)), image.mean((1, 2)))
    torch.testing.assert_close(shrink(image, 8), image)


@given(seed=st.integers(0, 30))
@settings(max_examples=15)
def test_counts_of_binary_images_add_up(seed):
    images = torch.rand(60, 4, 4, generator=gen(seed))
    labels = 1 - 2 * torch.randint(0, 2, (60,), generator=gen(seed))
    data = binarize_images(images, labels, 2)
    assert torch.equal(data.distinct[data.index], data.bits) and int(data.counts.sum()) == 60
    assert torch.equal(data.counts, count_labels(data.index, labels, len(data.distinct)))
    assert data.duplicates == 60 - len({tuple(r) for r in data.bits.tolist()})
    pairs = {}
    for row, label in zip(data.bits.tolist(), labels.tolist()):
        pairs.setdefault(tuple(row), []).append(label)
    assert data.contradictory == sum(len(set(v)) == 2 for v in pairs.values())
    assert data.bayes_limit == pytest.approx(sum(max(v.count(1), v.count(-1)) for v in pairs.values()) / 60)


def test_equal_counts_of_both_labels_cost_exactly_one():
    pred = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for f in pred:
        torch.testing.assert_close(margin_loss(torch.stack([f, f]), torch.tensor([1, -1]), torch.tensor([4.0, 4.0], dtype=torch.float64)), torch.tensor(1.0, dtype=torch.float64))


def test_scikit_learn_s_digits_reduce_to_the_known_counts():
    images, digits, sha = load_images()
    assert len(sha) == 64
    for a, b, total, distinct, clash in ((3, 6, 364, 66, 0), (3, 5, 365, 66, 9), (5, 8, 356, 87, 11), (0, 1, 360, 95, 7)):
        rows = (digits == a) | (digits == b)
        data = binarize_images(images[rows], torch.where(digits[rows] == a, 1, -1))
        assert (len(data.bits), len(data.distinct), data.contradictory) == (total, distinct, clash)


@pytest.mark.parametrize("images, labels, options, word", [
    (torch.full((2, 4, 4), 16.0), torch.tensor([1, -1]), {}, "images"), (torch.rand(2, 4, 4), torch.tensor([1, 0]), {}, "labels"), (torch.rand(2, 4, 4), torch.tensor([1]), {}, "labels"), (torch.rand(2, 4), torch.tensor([1, 1]), {}, "images"),
    (torch.full((1, 4, 4), math.nan), torch.tensor([1]), {}, "images"), (torch.rand(1, 4, 4), torch.tensor([1]), dict(size=5), "size"), (torch.rand(1, 4, 4), torch.tensor([1]), dict(threshold=2.0), "threshold"),
    (torch.rand(1, 4, 4), torch.tensor([1]), dict(method="cubic"), "method")])
def test_binary_images_name_the_bad_argument(images, labels, options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        binarize_images(images, labels, **options)


def test_the_tutorial_removes_contradictions_before_it_makes_new_ones():
    images = torch.zeros(6, 4, 4)
    images[0, 0, 0], images[1, 0, 0], images[2, 0, 0], images[3, 0, 0] = 0.9, 0.8, 0.3, 0.3
    digits = torch.tensor([3, 6, 3, 6, 3, 7])
    counts = tutorial_counts(images, digits, train=5)
    assert counts == {"train": 5, "test": 0, "grey": 4, "grey-both": 1, "kept": 3, "distinct": 2, "contradictory": 1}
    with pytest.raises(ValueError, match="digits"):
        tutorial_counts(images, torch.full((6,), 7))


def test_images_come_from_a_file_or_say_what_to_fetch(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    save_file({"images": torch.rand(5, 8, 8), "target": torch.arange(5)}, tmp_path / "own.safetensors")
    images, digits, sha = load_images(str(tmp_path / "own.safetensors"))
    assert images.shape == (5, 8, 8) and digits.tolist() == [0, 1, 2, 3, 4] and len(sha) == 64
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_images("nowhere")

    class Closed:
        @staticmethod
        def fetch_openml(*args, **options):
            raise OSError("no network")

    monkeypatch.setattr(digits_module, "require", lambda *args: Closed)
    with pytest.raises(FileNotFoundError, match="mnist_784"):
        load_images("mnist")


# ---- rules without a circuit

@given(seed=st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_one_and_two_pixel_rules_are_the_best_of_all(seed):
    """Against trying every rule."""
    bits = every(4)[torch.randperm(16, generator=gen(seed))[:11]]
    train = torch.randint(0, 6, (3, 11, 2), generator=gen(seed))
    train[:, 0] += 1
    one, two = weighted_accuracy(one_pixel_rule(bits, train), train), weighted_accuracy(two_pixel_rule(bits, train), train)
    singles = torch.stack([sign * (1.0 - 2 * bits[:, j]) for j in range(4) for sign in (1, -1)])
    torch.testing.assert_close(one, torch.stack([weighted_accuracy(singles, t).max() for t in train]))
    margin, best = (train[..., 0] - train[..., 1]).double(), torch.zeros(3, dtype=torch.float64)
    for i in range(4):
        for j in range(i):
            cells = [(bits[:, i] == a) & (bits[:, j] == b) for a in (0, 1) for b in (0, 1)]
            best = torch.maximum(best, sum(margin[:, c].sum(1).abs() for c in cells))
    right = (train.sum((1, 2)) + best) / 2 / train.sum((1, 2))
    ties = sum(train[:, c].sum((1, 2)) * 0 for c in cells)
    assert bool((two <= right + 1e-6).all()) and bool((two + 1e-6 >= one).all() | (ties == 0).all())
    assert bool((weighted_accuracy(lookup_rule(bits, train), train) + 1e-6 >= two).all())


def test_splits_hold_every_image_once_and_keep_the_labels_in_proportion():
    images, digits, _ = load_images()
    rows = (digits == 3) | (digits == 6)
    data = binarize_images(images[rows], torch.where(digits[rows] == 3, 1, -1))
    train, test = split_counts(data, 5, seed=1)
    assert torch.equal(test.sum(0), data.counts) and torch.equal(train, data.counts - test)
    assert int(test.sum(1).amax(0).max() - test.sum(1).amin(0).min()) <= 3
    assert not torch.equal(split_counts(data, 5, seed=2)[1], test)
    biased, plain = logistic_rule(data.distinct, train), logistic_rule(data.distinct, train, bias=False)
    assert float(weighted_accuracy(biased, test).mean()) > 0.97 and not torch.equal(biased, plain)
    few, pixels = data.keep(9)
    assert torch.equal(few.bits, data.bits[:, pixels]) and int(few.counts.sum()) == 364 and few.bayes_limit <= data.bayes_limit
    assert float(data.bits[:, pixels].double().var(0).min()) >= max(float(data.bits[:, j].double().var()) for j in range(16) if j not in pixels.tolist())
    for call, word in ((lambda: split_counts(data, 1), "folds"), (lambda: split_counts(data, 400), "folds"), (lambda: split_counts(data, 5, -1), "seed"), (lambda: data.keep(17), "pixels"), (lambda: weighted_accuracy(torch.ones(4), torch.zeros(4, 2)), "test"), (lambda: logistic_rule(every(1), torch.tensor([[[1, 0], [2, 0]]])), "train"),
                       (lambda: one_pixel_rule(every(1), -torch.ones(1, 2, 2)), "train"), (lambda: data.keep(0), "pixels")):
        with pytest.raises(ValueError, match=word):
            call()


def test_no_decision_is_wrong_for_either_label():
    torch.testing.assert_close(weighted_accuracy(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([[3, 4], [1, 0], [0, 2]])), torch.tensor(0.3))


# ---- training

def test_models_train_alone_though_side_by_side():
    m, bits = QNN(3, ["ZX"]), every(3)
    counts = torch.rand(4, 8, 2, generator=gen())
    start = 0.1 * torch.randn(4, 3, generator=gen())
    together = train_angles(lambda t: m.product_form(t)(bits), start, counts, steps=30, lr=0.05)
    for k in range(4):
        torch.testing.assert_close(train_angles(lambda t: m.product_form(t)(bits), start[k : k + 1], counts[k : k + 1], steps=30, lr=0.05)[0], together[k], rtol=0, atol=1e-5)  # float32


@pytest.mark.parametrize("loss", ["margin", "hinge", "cross entropy"])
def test_training_learns_a_label_that_is_one_bit(loss):
    m, bits = QNN(3, ["ZX", "XX"]), every(3)
    counts = torch.stack([bits[:, 1] == 0, bits[:, 1] == 1], -1).float()[None]
    angles = train_angles(lambda t: m.product_form(t)(bits), 0.05 * torch.randn(1, 6, generator=gen()), counts, loss=loss, gain=3.0, steps=200, lr=0.05)
    assert float(categorical_error(m.product_form(angles)(bits)[0], 1 - 2 * bits[:, 1])) == 0


@pytest.mark.parametrize("change, word", [(dict(loss="square"), "loss"), (dict(steps=-1), "steps"), (dict(lr=0.0), "lr"), (dict(start=torch.zeros(3)), "start"), (dict(counts=torch.zeros(2, 8, 2)), "counts")])
def test_training_names_the_bad_argument(change, word):
    m, bits = QNN(3, ["ZX"]), every(3)
    with pytest.raises((ValueError, TypeError), match=word):
        train_angles(**(dict(value=lambda t: m.product_form(t)(bits), start=torch.zeros(1, 3), counts=torch.ones(1, 8, 2), steps=1) | change))


# ---- superpositions and states

@given(seed=st.integers(0, 30))
@settings(max_examples=15)
def test_superpositions_are_class_means_for_diagonal_circuits_only(seed):
    labels = (1 - 2 * torch.randint(0, 2, (16,), generator=gen(seed))).clone()
    labels[0], labels[1] = 1, -1
    weights, phases = torch.rand(16, generator=gen(seed)) + 0.1, 6.3 * torch.rand(16, generator=gen(seed + 1))
    states = label_superposition(every(4), labels, weights=weights, phases=phases)
    torch.testing.assert_close(torch.linalg.vector_norm(states, dim=1), torch.ones(2, dtype=torch.float64))
    gaps = []
    for layers in (["ZX", "ZX"], ["ZX", "XX"]):
        m = model(4, layers, seed)
        f, both = m(every(4)).detach(), m(states).detach()
        means = torch.stack([(weights * f)[labels == s].sum() / weights[labels == s].sum() for s in (1, -1)])
        gaps.append(float((both - means).abs().max()))
    assert gaps[0] < 1e-7 < gaps[1]  # weights in float32


@pytest.mark.parametrize("bits, labels, options, word", [
    (every(2), torch.tensor([1, 1, 1, 1]), {}, "labels"), (every(2), torch.tensor([1, -1, 0, 1]), {}, "labels"), (torch.tensor([[0, 1], [0, 1], [1, 1]]), torch.tensor([1, 1, -1]), {}, "twice"),
    (every(2), torch.tensor([1, -1, 1, -1]), dict(weights=-torch.ones(4)), "weights"), (every(2), torch.tensor([1, -1, 1, -1]), dict(phases=torch.ones(3)), "phases"), (every(2), torch.tensor([1, -1, 1, -1]), dict(weights=torch.tensor([1.0, 0, 1, 0])), "-1"),
    (2 * every(2), torch.tensor([1, -1, 1, -1]), {}, "bits")])
def test_superpositions_name_the_bad_argument(bits, labels, options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        label_superposition(bits, labels, **options)


@pytest.mark.parametrize("kind", ["product", "shallow", "haar"])
def test_labels_of_states_are_signs_of_their_energies(kind):
    edges, J = [(0, 1), (1, 2), (0, 2)], torch.tensor([1.0, -1.0, 1.0])
    task = hamiltonian_sign_task(edges, J, 50, kind=kind, generator=gen())
    H = sum(float(c) * PauliString("ZZ", e).matrix(3) for c, e in zip(J, edges))
    energy = (task.states.to(torch.complex128).conj() * (task.states.to(torch.complex128) @ H.T)).sum(1).real
    torch.testing.assert_close(energy, task.energies, rtol=0, atol=1e-6)  # states in complex64
    assert torch.equal(task.labels, task.energies.sign().long()) and len(task.states) == 50
    assert float((torch.linalg.vector_norm(task.states, dim=1) - 1).abs().max()) < 1e-5


def test_the_energy_circuit_predicts_the_mean_of_a_sine():
    edges, J = [(0, 1), (1, 2)], torch.tensor([1.0, -1.0], dtype=torch.float64)
    m = QNN(3, [tuple(PauliString("ZZX", (*e, 3)) for e in edges)], dtype=torch.float64)
    m.theta.data.copy_(0.2 * J)
    task = hamiltonian_sign_task(edges, J, 20, generator=gen())
    expected = task.states.abs().square().double() @ torch.sin(0.4 * edge_signs(edges, 3) @ J)
    torch.testing.assert_close(m(task.states).detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph, J, n, options, word", [
    ([], torch.zeros(0), 3, {}, "graph"), ([(0, 0)], torch.ones(1), 3, {}, "graph"), ([(0, 1), (1, 0)], torch.ones(2), 3, {}, "graph"), ([(0, 1)], torch.ones(2), 3, {}, "couplings"), ([(0, 1)], torch.ones(1), 0, {}, "n_states"),
    ([(0, 1)], torch.ones(1), 3, dict(kind="ghz"), "kind"), ([(0, 1)], torch.zeros(1), 3, {}, "couplings"), ([(0, -1)], torch.ones(1), 3, {}, "graph")])
def test_sign_tasks_name_the_bad_argument(graph, J, n, options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        hamiltonian_sign_task(graph, J, n, **options)


# ---- bad input, class by class

ROOMS = ("quantum.boolean", "quantum.digits", "quantum.labelled_states", "quantum.qnn")


@pytest.mark.parametrize("case", [case for case in r3_cases_quantum.CASES if case.target.startswith(ROOMS)], ids=lambda case: case.target)
def test_bad_input_is_refused_by_name(case):
    """NaN, infinities, empty and zero axes, wrong ranks, dtypes, sizes, ranges and text, on every argument of every public function."""
    rows = r3_bad_inputs.case_rows(case)
    annotations.FOUND.clear()
    missed = [row for row in rows if row["outcome"] != "named"]
    assert rows and not missed, missed


# ---- settings

def test_presets_exist_and_the_gpu_takes_all_pairs():
    assert len(QNNConfig.preset("gpu").pairs) == 45 and QNNConfig.preset("full").images == "mnist" and QNNConfig.preset("cpu").pairs[0] == "3-6"


@pytest.mark.parametrize("change, word", [
    (dict(pairs=("3-3", "3-6")), "pairs"), (dict(pairs=("3-5",)), "3-6"), (dict(folds=1), "folds"), (dict(mix_pixels=17), "mix_pixels"), (dict(gain=0.0), "gain"), (dict(train_states=()), "train_states"), (dict(seeds=0), "seeds"),
    (dict(label_bits=20), "label_bits"), (dict(rate=0.0), "rate"), (dict(state_rates=()), "state_rates"), (dict(cost_qubits=(5, 7)), "cost_qubits"), (dict(nonsense=1), "nonsense")])
def test_settings_name_the_bad_one(change, word):
    with pytest.raises(ValueError, match=word):
        QNNConfig.preset("cpu", **change)


def test_product_forms_can_be_made_by_hand():
    form = ProductForm(torch.ones(2, 2, dtype=torch.complex64), torch.tensor(-1j))
    assert float(form(torch.tensor([[0, 1]]))[0]) == 0.0 and np.isclose(float(form.contrast), 1.0)

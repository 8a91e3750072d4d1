"""Laws of the statevector simulator: masks, runs, gradients, shots, and the way to Qiskit and back."""
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.quantum.qiskit_bridge import rotations_to_qiskit
from atomsnb.quantum.statevector import (
    Circuit, PauliString, apply_pauli, apply_rotation, basis_state, check_state, expectation, find_runs, hadamard_test, plan_steps,
    product_state, random_state, reverse_qubits, sample_value, walsh, zero_state,
)  # fmt: skip

torch.set_num_threads(1)
ONE = {"I": torch.eye(2), "X": torch.tensor([[0, 1], [1, 0]]), "Y": torch.tensor([[0, -1j], [1j, 0]]), "Z": torch.diag(torch.tensor([1, -1]))}


def expm(matrix):
    """Dense exponential; torch's own loses digits, to 1e-10, on matrices of small norm."""
    return torch.from_numpy(scipy.linalg.expm(matrix.numpy()))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kron(pauli, n):
    """The dense matrix from its definition, qubit 0 first."""
    letters, out = dict(zip(pauli.qubits, pauli.letters)), torch.ones(1, 1, dtype=torch.complex128)
    for q in range(n):
        out = torch.kron(out, ONE[letters.get(q, "I")].to(torch.complex128))
    return out


@st.composite
def strings(draw, n=4):
    qubits = draw(st.permutations(range(n)))[: draw(st.integers(1, n))]
    return PauliString("".join(draw(st.lists(st.sampled_from("XYZ"), min_size=len(qubits), max_size=len(qubits)))), tuple(qubits))


@st.composite
def circuits(draw, n=4, most=7):
    gates = draw(st.lists(strings(n), min_size=1, max_size=most))
    return Circuit(n, gates), torch.tensor(draw(st.lists(st.floats(-4, 4), min_size=len(gates), max_size=len(gates))), dtype=torch.float64)


def dense(circuit, angles):
    out = torch.eye(2**circuit.n_qubits, dtype=torch.complex128)
    for gate, angle in zip(circuit.gates, angles):
        out = expm(1j * angle * kron(gate, circuit.n_qubits)) @ out
    return out


# ---- strings

@given(p=strings(), q=strings())
@settings(max_examples=40)
def test_a_string_is_its_masks_and_commutes_as_its_matrix_does(p, q):
    a, b = kron(p, 4), kron(q, 4)
    assert torch.equal(p.matrix(4), a)
    assert p.commutes_with(q) == bool(torch.equal(a @ b, b @ a))
    state = random_state(4, 2, generator=generator(), dtype=torch.complex128)
    torch.testing.assert_close(apply_pauli(state, p), state @ a.T, rtol=0, atol=1e-15)  # products with 1, -1, i, -i


def test_qubit_zero_is_the_most_significant_bit_and_qiskit_counts_the_other_way():
    assert basis_state(torch.tensor([[1, 0, 0]])).abs().argmax() == 0b100
    assert PauliString("ZX", (0, 2)).label(3) == "XIZ"
    assert reverse_qubits(basis_state(torch.tensor([[1, 1, 0]]))).abs().argmax() == 0b011


@pytest.mark.parametrize("letters, qubits, error, word", [
    ("ZA", (0, 1), ValueError, "letters"), ("", (), ValueError, "letters"), (5, (0,), TypeError, "letters"), ("I", (0,), ValueError, "letters"), ("ZX", (0,), ValueError, "qubits"),
    ("ZX", (1, 1), ValueError, "qubits"), ("Z", (-1,), ValueError, "qubits"), ("Z", (0.5,), TypeError, "qubits"), ("Z", 0, TypeError, "qubits"), ("Z", "0", TypeError, "qubits")])
def test_a_string_names_the_bad_argument(letters, qubits, error, word):
    with pytest.raises((error, TypeError), match=word):
        PauliString(letters, qubits)


def test_a_qubit_out_of_range_is_refused():
    for call in (lambda: PauliString("Z", (3,)).masks(3), lambda: Circuit(3, [PauliString("Z", (3,))]), lambda: expectation(zero_state(3), PauliString("Z", (3,))),
                 lambda: Circuit(3, [PauliString("Z", (0,))]).expectation(zero_state(3), torch.zeros(1), PauliString("Z", (3,)))):
        with pytest.raises(ValueError, match="qubits"):
            call()


# ---- states and rotations

@pytest.mark.parametrize("state, error, word", [
    (torch.zeros(1, 4), TypeError, "dtype"), (2 * zero_state(2), ValueError, "norm"), (torch.full((1, 4), math.nan, dtype=torch.complex64), ValueError, "finite"),
    (torch.full((1, 4), complex(math.inf, 0), dtype=torch.complex64), ValueError, "finite"), (zero_state(2)[:, :3], ValueError, "shape"), (zero_state(2)[0], ValueError, "shape"),
    (torch.ones(1, 1, dtype=torch.complex64), ValueError, "shape"), ("state", TypeError, "state")])
def test_states_that_are_none_are_refused_everywhere(state, error, word):
    z = PauliString("Z", (0,))
    for call in (lambda: check_state(state), lambda: apply_pauli(state, z), lambda: apply_rotation(state, z, 0.1), lambda: expectation(state, z), lambda: Circuit(2, [z])(state, torch.zeros(1))):
        with pytest.raises((error, TypeError), match=word if error is ValueError else None):
            call()


def test_states_too_large_for_the_memory_say_their_bytes():
    with pytest.raises(ValueError, match="8,796,093,022,208 bytes"):
        zero_state(40, dtype=torch.complex64)
    with pytest.raises(ValueError, match="bytes"):
        basis_state(torch.zeros(1, 300, dtype=torch.long))


@pytest.mark.parametrize("bits", [torch.tensor([[0, 2]]), torch.tensor([[1, -1]])])
def test_bits_are_zero_and_one(bits):
    with pytest.raises(ValueError, match="bits"):
        basis_state(bits)


@given(p=strings(), angle=st.floats(-7, 7))
@settings(max_examples=40)
def test_a_rotation_is_the_exponential_and_has_period_pi_in_values(p, angle):
    state = random_state(4, 3, generator=generator(1), dtype=torch.complex128)
    turned = apply_rotation(state, p, angle)
    torch.testing.assert_close(turned, state @ expm(1j * angle * kron(p, 4)).T, rtol=0, atol=1e-13)  # dense exponential in float64
    torch.testing.assert_close(torch.linalg.vector_norm(turned, dim=1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(apply_rotation(state, p, angle + math.pi), -turned, rtol=0, atol=1e-13)


@pytest.mark.parametrize("angle", [math.nan, math.inf, "1", torch.zeros(2), 1j])
def test_angles_that_are_none_are_refused(angle):
    with pytest.raises((ValueError, TypeError), match="angle"):
        apply_rotation(zero_state(2, 3), PauliString("X", (0,)), angle)


def test_one_angle_per_state():
    state, angles = random_state(3, 4, generator=generator(), dtype=torch.complex128), torch.randn(4, generator=generator(), dtype=torch.float64)
    p = PauliString("YZ", (2, 0))
    together = apply_rotation(state, p, angles)
    for k in range(4):
        torch.testing.assert_close(together[k : k + 1], apply_rotation(state[k : k + 1], p, float(angles[k])), rtol=0, atol=1e-15)


def test_product_states_factorise():
    vectors = random_state(1, 6, generator=generator(), dtype=torch.complex128).view(2, 3, 2)
    for k in range(2):
        torch.testing.assert_close(product_state(vectors)[k], torch.kron(torch.kron(vectors[k, 0], vectors[k, 1]), vectors[k, 2]))
    for q in range(3):
        local = (vectors[:, q].abs().square() * torch.tensor([1.0, -1.0], dtype=torch.float64)).sum(1)
        torch.testing.assert_close(expectation(product_state(vectors), PauliString("Z", (q,))), local, rtol=0, atol=1e-14)


# ---- runs

@given(st.lists(st.floats(-3, 3), min_size=16, max_size=16))
@settings(max_examples=20)
def test_walsh_is_its_definition_and_its_own_inverse(values):
    x = torch.tensor(values, dtype=torch.float64)
    matrix = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in range(16)] for i in range(16)], dtype=torch.float64)
    torch.testing.assert_close(walsh(x), matrix @ x, rtol=0, atol=1e-12)  # 16 terms of size 3
    torch.testing.assert_close(walsh(walsh(x)), 16 * x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9])
def test_walsh_of_every_size(n):
    x = torch.randn(3, 2**n, generator=generator(n), dtype=torch.float64)
    out = x.reshape(3, *[2] * n)
    for axis in range(1, n + 1):
        a, b = out.unbind(axis)
        out = torch.stack([a + b, a - b], axis)
    torch.testing.assert_close(walsh(x), out.reshape(3, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(0), torch.tensor([1.0, math.nan]), torch.zeros(4, dtype=torch.long)])
def test_walsh_refuses_what_it_cannot_transform(x):
    with pytest.raises((ValueError, TypeError), match="x"):
        walsh(x)


@given(pair=circuits())
@settings(max_examples=30)
def test_runs_keep_order_and_never_ask_a_qubit_for_two_letters(pair):
    circuit, _ = pair
    assert [k for run in circuit.runs for k in run.gates] == list(range(len(circuit)))
    for run in circuit.runs:
        for k in run.gates:
            assert all(run.letters[q] == a for q, a in zip(circuit.gates[k].qubits, circuit.gates[k].letters))
        assert all(circuit.gates[a].commutes_with(circuit.gates[b]) for a in run.gates for b in run.gates)


def test_a_layer_is_one_run_and_one_diagonal():
    gates = [PauliString(w, (j, 5)) for w in ("ZX", "XX", "ZX") for j in range(5)]
    assert [len(run.gates) for run in find_runs(6, gates)] == [5, 5, 5]
    assert sum(bool(step.gates) for step in plan_steps(6, find_runs(6, gates), ("Z",) * 6)) == 3


@given(pair=circuits())
@settings(max_examples=60)
def test_a_circuit_is_the_product_of_its_exponentials(pair):
    """Runs, Hadamards and merged diagonals, global phase included; float64, seven 16 x 16 products."""
    circuit, angles = pair
    state = random_state(4, 3, generator=generator(2), dtype=torch.complex128)
    torch.testing.assert_close(circuit(state, angles), state @ dense(circuit, angles).T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 13])
def test_every_number_of_qubits_has_its_windows(n):
    """Sizes around the blocks of four qubits, against gates applied one by one."""
    g = generator(n)
    words = ("Y", "X", "Z") if n == 1 else ("ZX", "XY", "YZ", "XX", "ZY", "YX")
    gates = [PauliString(w, (j,) if n == 1 else (j, n - 1)) for w in words for j in range(max(1, n - 1))]
    circuit, angles = Circuit(n, gates), torch.randn(len(gates), generator=g, dtype=torch.float64)
    state = random_state(n, 2, generator=g, dtype=torch.complex128)
    slow = state
    for gate, angle in zip(gates, angles):
        slow = apply_rotation(slow, gate, angle)
    torch.testing.assert_close(circuit(state, angles), slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(circuit(state.to(torch.complex64), angles.float()).to(torch.complex128), slow, rtol=0, atol=2e-5)  # complex64, up to 72 gates


def test_portions_and_what_is_kept_change_nothing(monkeypatch):
    """Portions of the batch, phases and states kept or not, few masks or a transform: sums in another order only."""
    from atomsnb.quantum import statevector

    circuit = Circuit(5, [PauliString(w, (j, 4)) for w in ("ZX", "XY", "YZ") for j in range(4)])
    state, observable = random_state(5, 13, generator=generator(), dtype=torch.complex128), PauliString("Y", (4,))
    for angles in (torch.randn(12, generator=generator(), dtype=torch.float64), torch.randn(7, 12, generator=generator(), dtype=torch.float64)):
        results = []
        for portion, keep, few in ((2**20, 2**28, 64), (64, 2**28, 64), (64, 0, 64), (2**20, 0, 0), (64, 6000, 1)):
            monkeypatch.setattr(statevector, "_PORTION", portion)
            monkeypatch.setattr(statevector, "_KEEP", keep)
            monkeypatch.setattr(statevector, "_FEW", few)
            leaf, states = angles.clone().requires_grad_(), state.clone().requires_grad_()
            value = circuit.expectation(states, leaf, observable)
            (value.square().sum()).backward()
            results.append((value.detach(), leaf.grad, states.grad, *circuit.adjoint_gradient(state, angles, observable)))
        plain = expectation(circuit(state, angles), observable)
        for result in results:
            torch.testing.assert_close(result[0], plain, rtol=0, atol=1e-13)
            for a, b in zip(results[0], result):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@given(pair=circuits(), seed=st.integers(0, 20))
@settings(max_examples=25)
def test_gradients_by_masks_are_gradients_by_runs(pair, seed):
    circuit, angles = pair
    state, observable = random_state(4, 3, generator=generator(seed), dtype=torch.complex128), PauliString("YZX", (3, 1, 0))
    for mine, theirs in zip(circuit.adjoint_gradient(state, angles, observable, engine="masks"), circuit.adjoint_gradient(state, angles, observable, engine="runs")):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)  # float64


def test_an_engine_that_is_none_is_refused():
    circuit, observable = Circuit(2, [PauliString("ZX", (0, 1))]), PauliString("Y", (1,))
    with pytest.raises(ValueError, match="engine"):
        circuit.adjoint_gradient(zero_state(2), torch.zeros(1), observable, engine="gpu")
    with pytest.raises(ValueError, match="engine"):
        circuit.adjoint_gradient(zero_state(2), torch.zeros(3, 1), observable, engine="masks")


def test_calls_do_not_write_to_what_they_are_given():
    circuit, observable = Circuit(3, [PauliString("ZX", (0, 2)), PauliString("Y", (1,)), PauliString("XZ", (1, 0))]), PauliString("Z", (0,))
    state, angles = random_state(3, 2, generator=generator(), dtype=torch.complex128), torch.randn(3, generator=generator(), dtype=torch.float64)
    before = state.clone(), angles.clone()
    first = circuit.adjoint_gradient(state, angles, observable)
    kept = first.value.clone(), first.angles.clone()
    circuit.expectation(state, angles, observable)
    for engine in ("runs", "masks"):
        circuit.adjoint_gradient(state, 2 * angles, observable, engine=engine)
    assert torch.equal(state, before[0]) and torch.equal(angles, before[1]) and torch.equal(first.value, kept[0]) and torch.equal(first.angles, kept[1])


# ---- gradients

def test_four_gradients_and_the_finite_difference_agree():
    from qiskit import transpile
    from qiskit.quantum_info import SparsePauliOp, Statevector
    from qiskit_aer import AerSimulator

    g = generator(3)
    circuit = Circuit(4, [PauliString("X", (3,)), PauliString("ZX", (0, 3)), PauliString("Y", (1,)), PauliString("YYZ", (1, 2, 0)), PauliString("XZ", (1, 3)), PauliString("ZY", (3, 1))])
    angles, observable = torch.randn(6, generator=g, dtype=torch.float64), PauliString("ZZ", (3, 1))
    start = basis_state(torch.tensor([[1, 0, 1, 0]]), dtype=torch.complex128)
    leaf = angles.clone().requires_grad_()
    (autograd,) = torch.autograd.grad(expectation(circuit(start, leaf), observable).sum(), leaf)
    value, adjoint = circuit.adjoint_gradient(start, angles, observable)
    shifts = math.pi / 4 * torch.eye(6, dtype=torch.float64)
    shift = (circuit.expectation(start, angles + shifts, observable) - circuit.expectation(start, angles - shifts, observable))[:, 0]
    tests = transpile([hadamard_test(circuit, angles, k, observable, (1, 0, 1, 0)) for k in range(6)], AerSimulator(), optimization_level=0)
    hadamard = torch.tensor([2 * Statevector(t).expectation_value(SparsePauliOp("ZIIII")).real for t in tests])
    small = 1e-5 * torch.eye(6, dtype=torch.float64)
    finite = (circuit.expectation(start, angles + small, observable) - circuit.expectation(start, angles - small, observable))[:, 0] / 2e-5
    for other in (adjoint[0], shift, hadamard):
        torch.testing.assert_close(other, autograd, rtol=0, atol=1e-12)  # float64
    torch.testing.assert_close(finite, autograd, rtol=0, atol=1e-8)  # truncation 1e-10, cancellation 1e-11
    torch.testing.assert_close(value, expectation(circuit(start, angles), observable), rtol=0, atol=1e-14)
    assert float(autograd.abs().min()) > 1e-3  # or the comparison would be empty


@given(pair=circuits(), seed=st.integers(0, 20))
@settings(max_examples=25)
def test_the_adjoint_pass_is_autograd_for_angles_and_states(pair, seed):
    circuit, angles = pair
    observable, weight = PauliString("YZ", (3, 1)), torch.randn(3, generator=generator(seed), dtype=torch.float64)
    state = random_state(4, 3, generator=generator(seed), dtype=torch.complex128)
    grads = []
    for way in (lambda s, a: circuit.expectation(s, a, observable), lambda s, a: expectation(circuit(s, a), observable)):
        s, a = state.clone().requires_grad_(), angles.clone().requires_grad_()
        grads.append(torch.autograd.grad((weight * way(s, a)).sum(), (s, a)))
    for mine, theirs in zip(*grads):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)  # float64
    torch.testing.assert_close(circuit.adjoint_gradient(state, angles, observable).angles.T @ weight, grads[0][1], rtol=0, atol=1e-12)


def test_models_side_by_side_are_independent_and_share_their_states():
    circuit, observable = Circuit(3, [PauliString("ZX", (0, 2)), PauliString("XY", (1, 2)), PauliString("YZ", (0, 1))]), PauliString("Y", (2,))
    state, sets = random_state(3, 4, generator=generator(), dtype=torch.complex128).requires_grad_(), torch.randn(5, 3, generator=generator(), dtype=torch.float64).requires_grad_()
    value = circuit.expectation(state, sets, observable)
    assert value.shape == (5, 4)
    grads = torch.autograd.grad(value.square().sum(), (state, sets))
    plain = torch.stack([expectation(circuit(state, row), observable) for row in sets])
    torch.testing.assert_close(value, plain, rtol=0, atol=1e-14)
    for mine, theirs in zip(grads, torch.autograd.grad(plain.square().sum(), (state, sets))):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-13)
    own = random_state(3, 20, generator=generator(9), dtype=torch.complex128).view(5, 4, 8)
    torch.testing.assert_close(circuit(own, sets.detach())[2], circuit(own[2], sets[2].detach()), rtol=0, atol=1e-15)


@pytest.mark.parametrize("state, angles, error, word", [
    (zero_state(3), torch.zeros(2), ValueError, "state"), (zero_state(2), torch.zeros(3), ValueError, "angles"), (zero_state(2), torch.zeros(1, 1, 2), ValueError, "angles"),
    (zero_state(2), torch.tensor([0.0, math.nan]), ValueError, "angles"), (zero_state(2), torch.zeros(2, dtype=torch.long), TypeError, "angles"), (zero_state(2), [0.0, 0.0], TypeError, "angles"),
    (zero_state(2, 6).view(3, 2, 4), torch.zeros(2), ValueError, "shape"), (zero_state(2, 6).view(3, 2, 4), torch.zeros(4, 2), ValueError, "shape")])
def test_a_circuit_names_the_bad_argument(state, angles, error, word):
    circuit, observable = Circuit(2, [PauliString("ZX", (0, 1)), PauliString("X", (0,))]), PauliString("Y", (1,))
    for call in (circuit, lambda s, a: circuit.expectation(s, a, observable), lambda s, a: circuit.adjoint_gradient(s, a, observable)):
        with pytest.raises((error, TypeError), match=word if error is ValueError else None):
            call(state, angles)


def test_a_circuit_refuses_what_is_no_gate():
    for gates, error in (([], ValueError), (["ZX"], TypeError), ([None], TypeError)):
        with pytest.raises(error, match="gates"):
            Circuit(2, gates)
    with pytest.raises((ValueError, TypeError), match="n_qubits"):
        Circuit(0, [PauliString("Z", (0,))])


# ---- shots

def test_shots_are_unbiased_with_the_variance_of_a_binomial():
    """20,000 means of 40 outcomes: five standard errors of mean and variance."""
    f = 0.3
    draws = sample_value(torch.full((20_000,), f), 40, generator(5))
    variance = (1 - f**2) / 40
    assert abs(float(draws.mean()) - f) < 5 * math.sqrt(variance / 20_000)
    assert abs(float(draws.var()) - variance) < 5 * variance * math.sqrt(2 / 20_000)
    assert torch.equal(sample_value(torch.tensor([1.0, -1.0]), 7), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("value, shots", [(torch.tensor([1.5]), 3), (torch.tensor([math.nan]), 3), (torch.tensor([0.0]), 0), (torch.tensor([0.0]), 1.5)])
def test_shots_refuse_what_they_cannot_draw(value, shots):
    with pytest.raises((ValueError, TypeError), match="value|shots"):
        sample_value(value, shots)


def test_the_same_generator_gives_the_same_shots():
    circuit, state = Circuit(2, [PauliString("ZX", (0, 1))]), zero_state(2, 5)
    a, b = (circuit.sample(state, torch.tensor([0.4]), PauliString("Y", (1,)), 30, generator(1)) for _ in range(2))
    assert torch.equal(a, b)


# ---- Qiskit

@given(pair=circuits(n=3, most=6))
@settings(max_examples=15, deadline=None)
def test_qiskit_simulates_the_same_amplitudes_and_the_way_back_is_exact(pair):
    from qiskit import transpile
    from qiskit.quantum_info import Statevector

    circuit, angles = pair
    qc = circuit.to_qiskit(angles)
    judge = torch.tensor(np.asarray(Statevector(transpile(qc, basis_gates=["rx", "ry", "rz", "cx", "h", "sx", "s", "sdg", "rzx", "rxx", "ryy", "rzz"], optimization_level=0)).data))
    torch.testing.assert_close(reverse_qubits(circuit(zero_state(3, dtype=torch.complex128), angles))[0], judge, rtol=0, atol=1e-11)  # transpiled angles
    again, back = Circuit.from_qiskit(qc)
    torch.testing.assert_close(back, angles, rtol=1e-14, atol=1e-15)
    assert [dict(zip(g.qubits, g.letters)) for g in again.gates] == [dict(zip(g.qubits, g.letters)) for g in circuit.gates]


def test_aer_estimates_the_same_value_within_five_standard_errors():
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer.primitives import EstimatorV2

    circuit, angles = Circuit(3, [PauliString("ZX", (j, 2)) for j in range(2)] + [PauliString("XX", (j, 2)) for j in range(2)]), torch.tensor([0.3, -0.7, 0.2, 0.5], dtype=torch.float64)
    observable = PauliString("Y", (2,))
    value = float(circuit.expectation(zero_state(3, dtype=torch.complex128), angles, observable))
    pub = (circuit.to_qiskit(angles), SparsePauliOp(observable.label(3)))
    assert abs(float(EstimatorV2().run([pub]).result()[0].data.evs) - value) < 1e-12  # double precision
    noisy = float(EstimatorV2(options={"run_options": {"seed_simulator": 11}}).run([pub], precision=0.01).result()[0].data.evs)
    assert abs(noisy - value) < 5 * 0.01


def test_free_parameters_are_named_in_order():
    qc = Circuit(2, [PauliString("ZX", (0, 1)), PauliString("Y", (0,))]).to_qiskit()
    assert [p.name for p in qc.parameters] == ["θ[0]", "θ[1]"]
    with pytest.raises(ValueError, match="unbound"):
        Circuit.from_qiskit(qc)


def test_foreign_gates_are_named():
    from qiskit import QuantumCircuit

    qc = QuantumCircuit(2)
    with pytest.raises(ValueError, match="no rotation"):
        Circuit.from_qiskit(qc)
    qc.h(0)
    with pytest.raises(ValueError, match="'h'"):
        Circuit.from_qiskit(qc)
    with pytest.raises(TypeError, match="circuit"):
        Circuit.from_qiskit("qc")


def test_x_gates_and_commuting_evolutions_come_back_up_to_a_phase():
    from qiskit import QuantumCircuit
    from qiskit.circuit.library import PauliEvolutionGate
    from qiskit.quantum_info import SparsePauliOp, Statevector

    qc = QuantumCircuit(3)
    qc.x(1)
    qc.append(PauliEvolutionGate(SparsePauliOp(["ZZ", "XX"], [0.5, -1.5]), time=0.3), [0, 2])
    circuit, angles = Circuit.from_qiskit(qc)
    ours = reverse_qubits(circuit(zero_state(3, dtype=torch.complex128), angles))[0]
    judge = torch.tensor(np.asarray(Statevector(qc.decompose(reps=3)).data))
    assert abs(float((ours.conj() @ judge).abs()) - 1) < 1e-12  # overlap of unit vectors
    qc.append(PauliEvolutionGate(SparsePauliOp(["ZI", "XX"]), time=0.3), [0, 2])
    with pytest.raises(ValueError, match="commut"):
        Circuit.from_qiskit(qc)


@pytest.mark.parametrize("k, bits", [(5, ()), (-1, ()), (0, (0, 1)), (0, (0, 1, 2))])
def test_the_hadamard_test_names_the_bad_argument(k, bits):
    circuit = Circuit(3, [PauliString("ZX", (0, 2))])
    with pytest.raises((ValueError, TypeError), match="k|bits"):
        hadamard_test(circuit, torch.zeros(1), k, PauliString("Y", (2,)), bits)


def test_what_is_no_string_is_refused_by_name():
    state, circuit, angles = zero_state(2), Circuit(2, [PauliString("Z", (0,))]), torch.zeros(1)
    for call, word in ((lambda: apply_pauli(state, "Z"), "pauli"), (lambda: apply_rotation(state, None, 0.1), "pauli"), (lambda: expectation(state, "Z"), "observable"), (lambda: circuit.expectation(state, angles, "Z"), "observable"),
                       (lambda: circuit.adjoint_gradient(state, angles, (0, 1, 0)), "observable"), (lambda: circuit.sample(state, angles, 3, 10), "observable"), (lambda: hadamard_test(circuit, angles, 0, "Z"), "observable"),
                       (lambda: find_runs(2, ["Z"]), "gates"), (lambda: rotations_to_qiskit(2, ["Z"], angles), "gates"), (lambda: PauliString("Z", (0,)).commutes_with("Z"), "other")):
        with pytest.raises(TypeError, match=word):
            call()


@pytest.mark.parametrize("gates, angles, word", [([PauliString("Z", (2,))], torch.zeros(1), "qubits"), ([PauliString("Z", (1,))], torch.zeros(2), "angles"), ([PauliString("Z", (1,))], torch.tensor([math.nan]), "angles")])
def test_drawing_names_the_bad_argument(gates, angles, word):
    with pytest.raises(ValueError, match=word):
        rotations_to_qiskit(2, gates, angles)

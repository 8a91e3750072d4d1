"""The calls of R3 on circuits: states, their kernels, labels and digits, quantum neural networks, magnitudes."""
from importlib.util import find_spec

import torch
from r3_bad_inputs import NAN_DOCUMENTED, Case
from r3_cases import rand

from atomsnb.kernels.pauli import fuse_strings
from atomsnb.quantum.qnn import QNN, label_unitary
from atomsnb.quantum.statevector import Circuit, PauliString, random_state

ANY_AXES = "documented as (...): any number of axes"
ANY_BITS = "any number of columns is documented: it decides the number of qubits"
IN_PLACE = "changed in place, so documented as contiguous and refused otherwise"
PASSES = {**NAN_DOCUMENTED, "non-contiguous": IN_PLACE}
UNSEEN = "which way to go does not depend on values, and the documentation says that they are not looked at"
ZX = PauliString("ZX", (0, 2))
X, Y = PauliString("X", (1,)), PauliString("Y", (2,))
CIRCUIT = Circuit(3, [ZX, X, Y])
MASKS = [gate.masks(3) for gate in (ZX, X, Y)]
STRINGS = fuse_strings([(4, 1, 0), (4, 2, 0)])[0]
LABELS, BITS = torch.tensor([1, -1, 1, -1]), torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])


def gen(seed: int = 0) -> torch.Generator:
    """A generator of its own for every call."""
    return torch.Generator().manual_seed(seed)


def states(n: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Random unit vectors."""
    return random_state(n, batch, generator=gen(seed))


def qnn() -> QNN:
    """Two data qubits, two layers, four angles."""
    return QNN(2, ["ZX", "XX"], generator=gen())


def counts(*shape: int) -> torch.Tensor:
    """Positive numbers."""
    return 1 + rand(*shape).abs()


def unit(*shape: int) -> torch.Tensor:
    """Numbers inside (-1, 1)."""
    return torch.tanh(rand(*shape))


def losses(name: str, **more: str) -> Case:
    """A loss of predictions and labels; only `margin_loss` wants predictions in [-1, 1]."""
    bounded = name == "margin_loss"
    return Case(f"quantum.qnn:{name}", lambda: {"pred": unit(4), "label": LABELS, "weight": counts(4), **({"gain": 2.0} if "gain" in more else {})},
                {"pred": "sized rows + beyond one" if bounded else "sized rows", "label": "labels", "weight": "sized rows + negative", **more}, {"pred": "predictions", "label": "labels"},
                {"label": {"wrong rank": "(..., B): leading axes broadcast", "wrong dtype": "+1 and -1 in any real dtype"}})


def rules(name: str) -> Case:
    """A rule fitted to counts of images."""
    return Case(f"quantum.digits:{name}", lambda: {"bits": BITS, "train": 10 * counts(3, 4, 2)}, {"bits": "bits", "train": "sized + negative"}, {},
                {"bits": {"size": "any number of pixels is documented"}, "train": {"wrong dtype": "counts are documented as integer or float"}})


BRIDGE = [
    Case("quantum.statevector:Circuit.to_qiskit", lambda: {"self": CIRCUIT, "angles": rand(3)}, {"angles": "sized"}),
    Case("quantum.statevector:hadamard_test", lambda: {"circuit": CIRCUIT, "angles": rand(3), "k": 1, "observable": Y, "bits": (0, 1, 1)}, {"angles": "sized", "k": "index", "bits": "whole numbers"}, {},
         {"bits": {"empty": "zeros by default"}}),
    Case("quantum.qnn:QNN.to_qiskit", lambda: {"self": qnn(), "bits": torch.tensor([0, 1])}, {"bits": "bits"}),
] if find_spec("qiskit") else []

CASES = [
    *BRIDGE,
    Case("quantum.boolean:check_bits", lambda: {"inputs": BITS}, {"inputs": "bits"}, {"inputs": "bits"}, {"inputs": {"size": ANY_BITS}}),
    Case("quantum.boolean:bit_strings", lambda: {"n": 3}, {"n": "count + too large"}),
    Case("quantum.boolean:reed_muller", lambda: {"truth_table": torch.tensor([0, 1, 1, 0])}, {"truth_table": "bits"}),
    Case("quantum.boolean:label_unitary", lambda: {"truth_table": torch.tensor([0, 1, 1, 0])}, {"truth_table": "bits"}),
    Case("quantum.boolean:LabelCircuit.predict", lambda: {"self": label_unitary(torch.tensor([0, 1, 1, 0])), "bits": BITS}, {"bits": "bits"}),
    Case("quantum.boolean:subset_parity", lambda: {"subset": (0, 1), "n_data": 3}, {"subset": "qubits", "n_data": "count"}, {"n_data": "subset"}),
    Case("quantum.boolean:subset_majority", lambda: {"subset": (0, 1), "n_data": 3, "beta": 0.3}, {"subset": "qubits", "n_data": "count", "beta": "positive"}, {"n_data": "subset"}),
    Case("quantum.digits:shrink", lambda: {"images": counts(3, 4, 4), "size": 2, "method": "area"}, {"images": "tensor", "size": "count + too large", "method": "choice"}),
    Case("quantum.digits:binarize_images", lambda: {"images": unit(4, 4, 4).abs(), "labels": LABELS, "size": 2, "threshold": 0.5, "method": "area"},
         {"images": "tensor + beyond one + negative", "labels": "labels", "size": "count + too large", "threshold": "share", "method": "choice"}, {"images": "samples"}),
    Case("quantum.digits:check_labels", lambda: {"labels": LABELS, "count": 4}, {"labels": "labels"}),
    Case("quantum.digits:count_labels", lambda: {"index": torch.tensor([0, 1, 1, 0]), "labels": LABELS, "distinct": 2}, {"index": "token ids", "labels": "labels", "distinct": "count"}),
    *(rules(name) for name in ("one_pixel_rule", "two_pixel_rule", "lookup_rule", "logistic_rule")),
    Case("quantum.digits:weighted_accuracy", lambda: {"pred": unit(3, 4), "test": counts(3, 4, 2)}, {"pred": "sized rows", "test": "sized stack + negative"}, {"pred": "test"},
         {"test": {"wrong rank": ANY_AXES, "wrong dtype": "integer or float is documented"}}),
    Case("quantum.digits:tutorial_counts", lambda: {"images": unit(4, 8, 8).abs(), "digits": torch.tensor([3, 6, 3, 6]), "train": 3, "threshold": 0.5},
         {"images": "tensor", "digits": "naturals", "train": "count", "threshold": "share"}, {"images": "digits"}),
    Case("quantum.labelled_states:label_superposition", lambda: {"bits": BITS, "labels": LABELS, "weights": counts(4), "phases": rand(4)},
         {"bits": "bits", "labels": "labels", "weights": "sized + negative", "phases": "sized"}, {"bits": "labels"}, {"bits": {"size": ANY_BITS}}),
    Case("quantum.labelled_states:hamiltonian_sign_task", lambda: {"graph": [(0, 1), (1, 2)], "couplings": counts(2), "n_states": 4, "kind": "product", "generator": gen()},
         {"couplings": "sized", "n_states": "count", "kind": "choice"}),
    Case("quantum.labelled_states:edge_signs", lambda: {"graph": [(0, 1), (1, 2)], "n": 3}, {"n": "count + too large"}),
    Case("quantum.qnn:QNNConfig", lambda: {"pairs": ("3-6", "3-5"), "train_states": (10, 30), "state_rates": (0.1, 0.2), "cost_qubits": (4, 6, 8)}, {**dict.fromkeys(("seeds", "size", "depth", "steps", "mix_layers", "mix_steps", "parity_runs", "parity_steps", "test_states", "folds"), "count"),
         **dict.fromkeys(("mix_pixels", "label_bits", "parity_small", "parity_large"), "count + too large"), **dict.fromkeys(("lr", "init", "gain", "mix_lr"), "positive"), "images": "text", "pairs": "words",
         "threshold": "share", "rate": "share", "train_states": "whole numbers", "state_rates": "numbers", "cost_qubits": "whole numbers"}),
    Case("quantum.qnn:QNN", lambda: {"n_data": 2, "layers": ["ZX", "XX"], "readout": -1, "observable": "Y", "scale": 0.1, "dtype": torch.float32},
         {"n_data": "count", "layers": "words", "readout": "index", "observable": "choice", "scale": "nonnegative", "dtype": "floating dtype"}),
    *(Case(f"quantum.qnn:QNN.{name}", lambda: {"self": qnn(), "inputs": BITS, "theta": rand(4)}, {"inputs": "bits", "theta": "sized stack"}, {"inputs": "bits states", "theta": "angles"})
      for name in ("forward", "adjoint_gradient")),
    Case("quantum.qnn:QNN.initial_state", lambda: {"self": qnn(), "inputs": states(2)}, {"inputs": "states"}, {"inputs": "states bits"}),
    Case("quantum.qnn:QNN.sample", lambda: {"self": qnn(), "inputs": BITS, "shots": 5, "generator": gen()}, {"inputs": "bits", "shots": "count"}, {"inputs": "bits states"}),
    Case("quantum.qnn:QNN.product_form", lambda: {"self": qnn(), "theta": rand(4)}, {"theta": "sized rows"}),
    Case("quantum.qnn:ProductForm.__call__", lambda: {"self": qnn().product_form(), "bits": BITS}, {"bits": "bits of runs"}),
    losses("margin_loss"), losses("hinge_loss", gain="positive"), losses("cross_entropy_loss", gain="positive"), losses("categorical_error"),
    Case("quantum.qnn:polyak_step", lambda: {"theta": rand(3), "loss": 0.4, "gradient": rand(3, seed=1), "rate": 0.5}, {"theta": "sized stack", "loss": "nonnegative", "gradient": "sized stack", "rate": "share + positive"}, {"theta": "gradient"}),
    Case("quantum.qnn:train_angles", lambda: {"value": lambda t: torch.sin(t @ (1.0 - 2 * BITS).T), "start": rand(2, 2), "counts": counts(2, 4, 2), "loss": "hinge", "gain": 2.0, "steps": 1, "lr": 0.1},
         {"start": "tensor", "counts": "sized + negative", "loss": "choice", "gain": "positive", "steps": "natural", "lr": "positive"}, {"start": "counts", "counts": "weight"}),
    Case("quantum.statevector:walsh", lambda: {"x": rand(3, 4)}, {"x": "sized rows"}),
    Case("quantum.statevector:find_runs", lambda: {"n": 3, "gates": [ZX, X]}, {"n": "count", "gates": "words"}),
    Case("quantum.statevector:plan_steps", lambda: {"n": 3, "runs": CIRCUIT.runs, "closing": ("Z", "Z", "Z")}, {"n": "count", "closing": "words"}),
    Case("quantum.statevector:Circuit", lambda: {"n_qubits": 3, "gates": [ZX, X]}, {"n_qubits": "count + too large", "gates": "words"}),
    Case("quantum.statevector:Circuit.__call__", lambda: {"self": CIRCUIT, "state": states(3), "angles": rand(3)}, {"state": "states", "angles": "sized stack"}),
    Case("quantum.statevector:Circuit.expectation", lambda: {"self": CIRCUIT, "state": states(3), "angles": rand(3), "observable": Y}, {"state": "states", "angles": "sized stack"}),
    Case("quantum.statevector:Circuit.adjoint_gradient", lambda: {"self": CIRCUIT, "state": states(3), "angles": rand(3), "observable": Y, "engine": "runs"}, {"state": "states", "angles": "sized stack", "engine": "choice"}),
    Case("quantum.statevector:Circuit.sample", lambda: {"self": CIRCUIT, "state": states(3), "angles": rand(3), "observable": Y, "shots": 5, "generator": gen()}, {"state": "states", "angles": "sized stack", "shots": "count"}),
    Case("quantum.statevector:PauliString", lambda: {"letters": "ZX", "qubits": (0, 2)}, {"letters": "choice", "qubits": "whole numbers"}),
    *(Case(f"quantum.statevector:PauliString.{name}", lambda: {"self": ZX, "n": 3}, {"n": "count"}, {"n": "qubits"}) for name in ("masks", "matrix", "label")),
    Case("quantum.statevector:apply_pauli", lambda: {"state": states(3), "pauli": ZX}, {"state": "states"}),
    Case("quantum.statevector:apply_rotation", lambda: {"state": states(3), "pauli": ZX, "angle": rand(2)}, {"state": "states", "angle": "sized"}),
    Case("quantum.statevector:expectation", lambda: {"state": states(3), "observable": ZX}, {"state": "states"}),
    Case("quantum.statevector:basis_state", lambda: {"bits": BITS, "dtype": torch.complex64}, {"bits": "bits", "dtype": "floating dtype"}, {}, {"bits": {"size": ANY_BITS}}),
    Case("quantum.statevector:check_size", lambda: {"n": 3, "batch": 1, "dtype": torch.complex64, "device": torch.device("cpu")}, {"n": "count", "batch": "count"}),
    Case("quantum.statevector:check_state", lambda: {"state": states(3)}, {"state": "states"}),
    Case("quantum.statevector:product_state", lambda: {"vectors": states(1, 6).view(2, 3, 2)}, {"vectors": "states"}),
    Case("quantum.statevector:random_state", lambda: {"n": 3, "batch": 2, "dtype": torch.complex64}, {"n": "count + too large", "batch": "count", "dtype": "floating dtype"}),
    Case("quantum.statevector:zero_state", lambda: {"n": 3, "batch": 2, "dtype": torch.complex64, "device": "cpu"}, {"n": "count + too large", "batch": "count", "dtype": "floating dtype", "device": "device"}),
    Case("quantum.statevector:reverse_qubits", lambda: {"state": states(3)}, {"state": "amplitudes"}, {}, {"state": {"wrong rank": "(*batch, D): a single vector has no batch axis"}}),
    Case("quantum.statevector:sample_value", lambda: {"value": unit(4), "shots": 5, "generator": gen()}, {"value": "tensor + beyond one", "shots": "count"}, {}, {"value": {"wrong rank": ANY_AXES}}),
    Case("kernels.pauli:fuse_strings", lambda: {"masks": MASKS, "most": 4}, {"masks": "triples", "most": "count"}),
    Case("kernels.pauli:parity_signs", lambda: {"size": 8, "mask": 3, "dtype": torch.float32}, {"size": "count", "mask": "natural", "dtype": "floating dtype"}),
    Case("kernels.pauli:fused_way", lambda: {"state": states(3), "backend": "torch"}, {"state": "amplitudes", "backend": "choice"}, {}, {"state": {**dict.fromkeys(("nan", "+inf", "-inf"), UNSEEN), "non-contiguous": IN_PLACE}}),
    Case("kernels.pauli:reference_rotate", lambda: {"state": states(3), "strings": STRINGS, "angles": rand(2)}, {"state": "amplitudes", "angles": "sized"}, {}, dict.fromkeys(("state", "angles"), NAN_DOCUMENTED)),
    Case("kernels.pauli:reference_undo", lambda: {"state": states(3), "adjoint": states(3, seed=1), "strings": STRINGS, "angles": rand(2)}, {"state": "amplitudes", "adjoint": "amplitudes", "angles": "sized"}, {},
         dict.fromkeys(("state", "adjoint", "angles"), NAN_DOCUMENTED)),
    Case("kernels.pauli:rotate_", lambda: {"state": states(3), "strings": STRINGS, "angles": rand(2), "backend": "torch", "block": 4}, {"state": "amplitudes", "angles": "sized", "backend": "choice", "block": "count"}, {},
         {"state": PASSES, "angles": NAN_DOCUMENTED}),
    Case("kernels.pauli:undo_", lambda: {"state": states(3), "adjoint": states(3, seed=1), "strings": STRINGS, "angles": rand(2), "backend": "torch", "block": 4},
         {"state": "amplitudes", "adjoint": "amplitudes", "angles": "sized", "backend": "choice", "block": "count"}, {}, {"state": PASSES, "adjoint": PASSES, "angles": NAN_DOCUMENTED}),
    Case("kernels.pauli:rotations_gradient", lambda: {"state": states(3), "masks": MASKS, "angles": rand(3), "observable": MASKS[1], "backend": "torch", "most": 4},
         {"state": "amplitudes", "masks": "triples", "angles": "sized", "backend": "choice", "most": "count"}, {},
         dict.fromkeys(("state", "angles"), NAN_DOCUMENTED)),
    Case("kernels.readout_layer:plan_passes", lambda: {"layers": ["ZX", "XX"], "n_data": 2, "window": 2}, {"layers": "words", "n_data": "count", "window": "count + too large"}),
    Case("kernels.readout_layer:layer_strings", lambda: {"word": "ZX", "n_data": 2}, {"word": "choice", "n_data": "count"}),
    Case("kernels.readout_layer:reference_layers", lambda: {"state": states(3), "layers": ["ZX", "XX"], "angles": rand(2, 2)}, {"state": "amplitudes", "layers": "words", "angles": "sized"}, {},
         dict.fromkeys(("state", "angles"), NAN_DOCUMENTED)),
    Case("kernels.readout_layer:readout_layers_", lambda: {"state": states(3), "layers": ["ZX", "XX"], "angles": rand(2, 2), "backend": "torch", "window": 2, "block": 4},
         {"state": "amplitudes", "layers": "words", "angles": "sized", "backend": "choice", "window": "count + too large", "block": "count"}, {}, {"state": PASSES, "angles": NAN_DOCUMENTED}),
    Case("kernels.readout_layer:undo_readout_layers_", lambda: {"state": states(3), "adjoint": states(3, seed=1), "layers": ["ZX", "XX"], "angles": rand(2, 2), "backend": "torch", "window": 2, "block": 4},
         {"state": "amplitudes", "adjoint": "amplitudes", "layers": "words", "angles": "sized", "backend": "choice", "window": "count + too large", "block": "count"}, {},
         {"state": PASSES, "adjoint": PASSES, "angles": NAN_DOCUMENTED}),
    Case("core.magnitude:binary_size", lambda: {"x": rand(3, 4), "dim": 1}, {"x": "tensor", "dim": "optional index"}, {}, {"x": {**dict.fromkeys(("nan", "+inf", "-inf"), "1 where an entry is not finite"), "wrong rank": ANY_AXES}}),
    Case("core.magnitude:squares_hold", lambda: {"total": rand(3).square()}, {"total": "tensor"}, {},
         {"total": {**dict.fromkeys(("nan", "+inf", "-inf"), "False for what is not finite"), "wrong rank": ANY_AXES}}),
    Case("core.magnitude:varies", lambda: {"x": rand(5, 3)}, {"x": "tensor"}, {}, {"x": dict.fromkeys(("nan", "+inf", "-inf"), "a column that is not finite does not count as varying")}),
]

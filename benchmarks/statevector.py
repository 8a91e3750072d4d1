"""Value and full gradient of a circuit of Pauli rotations on a batch of states: ours beside qulacs, pennylane-lightning and qiskit-aer.

    python benchmarks/statevector.py                          # CPU, one thread a side; peers that are not installed are reported as such
    python benchmarks/statevector.py --device cuda            # the kernels: copy bandwidth, single rotations, the fused digit circuit, 1,000 parameters at 20 qubits
    python benchmarks/statevector.py --device cpu --rehearse  # the code path of the GPU part at tiny sizes (TRITON_INTERPRET=1 runs the kernels themselves)

CPU. The circuit: six layers of two-letter strings between every qubit and the last, letters changing from layer to layer (ZX, XY, YZ, XX, ZY, YX); at some sizes also as
many strings at random places, which have nothing in common with their neighbours. Inputs are basis states, one circuit each for the peers, built outside the clock. All
sides work in complex128, and take one thread; times are CPU seconds of the process, which other work on the machine disturbs less than the wall clock. Before any timing their values and gradients are shown to agree to 1e-8. "Gradient" is the derivative of every state's value with respect to every
angle; ours and lightning's include the value, qulacs' does not. Aer has no adjoint method: its gradient is the exact shift rule, two values per angle, measured where it is
affordable. Lightning knows no rotation of mixed letters in its adjoint method: "pennylane-lightning" is qml.PauliRot as the device itself takes it apart, "pennylane-lightning,
by hand" changes bases only where the letter of a qubit changes and uses the device's IsingZZ: what one would write for speed.
"""
import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["QULACS_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when the peers are loaded
import argparse
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import compare, save_result
from atomsnb.kernels.launch import interpreted
from atomsnb.kernels.pauli import fuse_strings, rotate_, rotations_gradient, undo_
from atomsnb.kernels.readout_layer import layer_strings, plan_passes, readout_layers_, undo_readout_layers_
from atomsnb.quantum.statevector import Circuit, PauliString, basis_state, random_state

BAR = 2.0  # the best peer's seconds over ours, full gradient, batch >= 32, at most 16 qubits
TOLERANCE = 1e-8
WORDS = ("ZX", "XY", "YZ", "XX", "ZY", "YX")


def mixing(n: int, layers: int = 6) -> Circuit:
    """Layers of two-letter strings between every qubit and the last."""
    return Circuit(n, [PauliString(WORDS[k % 6], (j, n - 1)) for k in range(layers) for j in range(n - 1)])


def scattered(n: int, gates: int, seed: int = 0) -> Circuit:
    """Two random letters on two random qubits, again and again."""
    rng = np.random.default_rng(seed)
    return Circuit(n, [PauliString("".join(rng.choice(list("XYZ"), 2)), tuple(int(q) for q in rng.choice(n, 2, replace=False))) for _ in range(gates)])


# ---- peers: each makes (value, gradient) for a circuit, inputs (B, n), angles and an observable; both return arrays

def qulacs_side(circuit: Circuit, bits: Tensor, angles: Tensor, observable: PauliString) -> tuple[Callable, Callable]:
    from qulacs import Observable, ParametricQuantumCircuit, QuantumState
    n, numbers = circuit.n_qubits, {"X": 1, "Y": 2, "Z": 3}
    read = Observable(n)
    read.add_operator(1.0, " ".join(f"{a} {q}" for a, q in zip(observable.letters, observable.qubits)))
    circuits, state = [], QuantumState(n)
    for row in bits.tolist():
        qc = ParametricQuantumCircuit(n)
        for q, bit in enumerate(row):
            if bit:
                qc.add_X_gate(q)
        for gate, angle in zip(circuit.gates, angles.tolist()):
            qc.add_parametric_multi_Pauli_rotation_gate(list(gate.qubits), [numbers[a] for a in gate.letters], 2 * angle)
        circuits.append(qc)

    def value() -> np.ndarray:
        out = []
        for qc in circuits:
            state.set_zero_state()
            qc.update_quantum_state(state)
            out.append(read.get_expectation_value(state))
        return np.array(out)

    return value, lambda: 2 * np.array([qc.backprop(read) for qc in circuits])


def lightning_side(circuit: Circuit, bits: Tensor, angles: Tensor, observable: PauliString, by_hand: bool) -> tuple[Callable, Callable]:
    import pennylane as qml
    from pennylane.devices import ExecutionConfig
    n = circuit.n_qubits
    device = qml.device("lightning.qubit", wires=n)
    read = qml.prod(*[getattr(qml, a)(q) for a, q in zip(observable.letters, observable.qubits)]) if len(observable.letters) > 1 else getattr(qml, observable.letters)(observable.qubits[0])
    config = ExecutionConfig(gradient_method="adjoint", use_device_gradient=True)

    def rotations() -> list:
        if not by_hand:
            return [qml.PauliRot(-2 * angle, gate.letters, wires=list(gate.qubits)) for gate, angle in zip(circuit.gates, angles.tolist())]
        ops, basis = [], dict.fromkeys(range(n), "Z")

        def turn(q: int, letter: str) -> None:
            if basis[q] != letter:
                ops.extend({"Z": [], "X": [qml.Hadamard(q)], "Y": [qml.Hadamard(q), qml.S(q)]}[basis[q]])
                ops.extend({"Z": [], "X": [qml.Hadamard(q)], "Y": [qml.adjoint(qml.S(q)), qml.Hadamard(q)]}[letter])
                basis[q] = letter

        for gate, angle in zip(circuit.gates, angles.tolist()):
            for a, q in zip(gate.letters, gate.qubits):
                turn(q, a)
            ops.append(qml.IsingZZ(-2 * angle, wires=list(gate.qubits)))
        for q in range(n):
            turn(q, "Z")
        return ops

    ops = rotations()
    if not by_hand:
        program, config = device.preprocess(config)
        ((tape,), _) = program([qml.tape.QuantumScript(ops, [qml.expval(read)])])
        ops = tape.operations
    tapes = [qml.tape.QuantumScript([qml.X(q) for q, bit in enumerate(row) if bit] + ops, [qml.expval(read)]) for row in bits.tolist()]
    for tape in tapes:  # only the angles of the circuit, not those of the changes of basis
        tape.trainable_params = [k for k, info in enumerate(tape.par_info) if info["op"].name in ("MultiRZ", "IsingZZ")]
    return lambda: np.array(device.execute(tapes, config)).ravel(), lambda: -2 * np.array([np.array(row).ravel() for row in device.execute_and_compute_derivatives(tapes, config)[1]])


def aer_side(circuit: Circuit, bits: Tensor, angles: Tensor, observable: PauliString) -> tuple[Callable, Callable]:
    from qiskit import QuantumCircuit, transpile
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer import AerSimulator
    from qiskit_aer.primitives import EstimatorV2
    n, read = circuit.n_qubits, SparsePauliOp(observable.label(circuit.n_qubits))
    native, circuits = transpile(circuit.to_qiskit(), AerSimulator(), optimization_level=0), []
    for row in bits.tolist():
        qc = QuantumCircuit(n)
        for q, bit in enumerate(row):
            if bit:
                qc.x(q)
        circuits.append(qc.compose(native))
    estimator = EstimatorV2(options={"backend_options": {"method": "statevector", "max_parallel_threads": 1}})
    point = angles.numpy()
    shifts = np.concatenate([point + s * math.pi / 4 * np.eye(len(point)) for s in (1, -1)])

    def value() -> np.ndarray:
        return np.array([float(result.data.evs) for result in estimator.run([(qc, read, point) for qc in circuits]).result()])

    def gradient() -> np.ndarray:
        rows = [result.data.evs.reshape(2, -1) for result in estimator.run([(qc, read, shifts) for qc in circuits]).result()]
        return np.array([up - down for up, down in rows])

    return value, gradient


PEERS: dict[str, tuple[str, Callable]] = {
    "qulacs": ("qulacs", qulacs_side),
    "pennylane-lightning": ("pennylane-lightning", lambda *a: lightning_side(*a, by_hand=False)),
    "pennylane-lightning, by hand": ("pennylane-lightning", lambda *a: lightning_side(*a, by_hand=True)),
    "qiskit-aer": ("qiskit-aer", aer_side),
}


def installed() -> dict[str, str]:
    """Version of each peer, or that it was not measured and why."""
    out = {}
    for name, (package, _) in PEERS.items():
        try:
            __import__({"qulacs": "qulacs", "pennylane-lightning": "pennylane_lightning.lightning_qubit", "qiskit-aer": "qiskit_aer"}[package])
            out[name] = version(package)
        except (ImportError, PackageNotFoundError):
            out[name] = "not measured: not installed"
    return out


def once(call: Callable) -> tuple[Any, float]:
    """Result and seconds of one call."""
    start = time.perf_counter()
    out = call()
    return out, time.perf_counter() - start


def measure(kind: str, n: int, batch: int, peers: dict[str, str], seconds: float) -> dict:
    """One row of the table: agreement first, then times in turn."""
    g = torch.Generator().manual_seed(1000 * n + batch)
    circuit, observable = (mixing(n) if kind == "layers" else scattered(n, 6 * (n - 1))), PauliString("Y", (n - 1,))
    bits = torch.randint(0, 2, (batch, n), generator=g)
    angles = 0.5 * torch.randn(len(circuit), generator=g, dtype=torch.float64)
    state = basis_state(bits, dtype=torch.complex128)
    single, few = state.to(torch.complex64), angles.float()
    exact = circuit.adjoint_gradient(state, angles, observable)
    values: dict[str, Callable] = {"ours": lambda: circuit.expectation(state, angles, observable)}
    gradients: dict[str, Callable] = {"ours": lambda: circuit.adjoint_gradient(state, angles, observable), "ours, complex64": lambda: circuit.adjoint_gradient(single, few, observable)}
    row: dict[str, Any] = {"circuit": kind, "qubits": n, "batch": batch, "angles": len(circuit), "steps": len(circuit.plan(observable)), "largest_derivative": float(exact.angles.abs().max()), "error": {}, "not_measured": {}}
    spent = {"value": once(values["ours"])[1], "gradient": once(gradients["ours"])[1]}
    for name, there in peers.items():
        if there.startswith("not measured"):
            continue
        value, gradient = PEERS[name][1](circuit, bits, angles, observable)
        value()  # the first call of a peer may load and plan things
        mine, took = once(value)
        errors = [float(np.abs(mine - exact.value.numpy()).max())]
        if took <= seconds:
            values[name], spent["value"] = value, spent["value"] + took
        else:
            row["not_measured"][f"{name}, value"] = f"one call takes {took:.1f} s"
        expected = 2 * len(circuit) * took if name == "qiskit-aer" else 0.0
        if expected > seconds:
            row["not_measured"][f"{name}, gradient"] = f"the shift rule would take about {expected:.0f} s ({2 * len(circuit)} values per state)"
        else:
            slopes, took = once(gradient)
            errors.append(float(np.abs(slopes - exact.angles.numpy()).max()))
            gradients[name], spent["gradient"] = gradient, spent["gradient"] + took
        row["error"][name] = max(errors)
        assert max(errors) <= TOLERANCE, f"{name} at {n} qubits disagrees: {errors}"
    for what, calls in (("value", values), ("gradient", gradients)):
        pairs = max(3 if n <= 16 else 2, min(15, round(seconds / spent[what])))
        timed = compare(calls, pairs=pairs, warmup=0, device="cpu", clock=time.process_time)
        row[f"{what}_s"] = {name: timed.time(name).median for name in timed.names}
        row[f"{what}_ratio"] = {name: [(r := timed.ratio(name)).median, r.low, r.high] for name in timed.names[1:]}
        row[f"{what}_pairs"] = pairs
    rivals = {name: ratio[0] for name, ratio in row["gradient_ratio"].items() if name in peers}
    if rivals:
        row["best_peer"] = min(rivals, key=rivals.__getitem__)
        row["factor"] = rivals[row["best_peer"]]
    print(f"{kind:9} {n:2} qubits, batch {batch:3}: " + "; ".join(f"{name} {1e3 * t:.1f}" for name, t in row["gradient_s"].items()) + f" ms; x{row.get('factor', math.nan):.2f} (load {os.getloadavg()[0]:.1f})", flush=True)
    row["load"] = os.getloadavg()[0]
    return row


def tried(n: int, batch: int, pairs: int) -> dict:
    """Our own gradient with one choice undone at a time, in turn: seconds, and the ratio to the choices that were kept."""
    from atomsnb.quantum import statevector as room
    circuit, observable, g = mixing(n), PauliString("Y", (n - 1,)), torch.Generator().manual_seed(0)
    state, angles = random_state(n, batch, generator=g, dtype=torch.complex128), torch.randn(len(circuit), generator=g, dtype=torch.float64)
    chosen = {"_PORTION": room._PORTION, "_KEEP": room._KEEP, "_FEW": room._FEW}
    variants = {"as it is": {}, "portions of 2**13 amplitudes": {"_PORTION": 2**13}, "portions of 2**18 amplitudes": {"_PORTION": 2**18}, "the whole batch at once": {"_PORTION": 2**62, "_KEEP": 2**40},
                "both states walk back, phases on demand": {"_KEEP": 0}, "a transform for every sum of signs": {"_FEW": 0}}

    def call(change: dict) -> Callable:
        def run() -> None:
            for key, value in (chosen | change).items():
                setattr(room, key, value)
            circuit.adjoint_gradient(state, angles, observable)
        return run

    timed = compare({name: call(change) for name, change in variants.items()}, pairs=pairs, warmup=1, device="cpu", clock=time.process_time)
    call({})()
    out = {"qubits": n, "batch": batch, "seconds": {name: timed.time(name).median for name in timed.names}, "ratio": {name: timed.ratio(name).median for name in timed.names[1:]}}
    print("tried:", {name: round(r, 2) for name, r in out["ratio"].items()}, flush=True)
    return out


def cpu_part(a: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    peers = installed()
    print(peers)
    grid = [("layers", n, batch) for n in a.qubits for batch in a.batches if batch * 2**n <= a.amplitudes] + [("scattered", n, 32) for n in a.qubits if n % 4 == 0 and 32 * 2**n <= a.amplitudes // 4]
    left_out = [(n, batch) for n in a.qubits for batch in a.batches if batch * 2**n > a.amplitudes]
    rows = [measure(*row, peers, a.seconds) for row in grid]
    judged = [row for row in rows if row["circuit"] == "layers" and row["batch"] >= 32 and row["qubits"] <= 16 and "factor" in row]
    bar = {"factor": BAR, "rows": len(judged), "met": sum(row["factor"] >= BAR for row in judged), "least": min((row["factor"] for row in judged), default=None)}
    print("bar:", bar)
    print("saved", save_result("statevector_cpu", {
        "label": "one thread a side, complex128, CPU seconds of the process per batch (the machine may have had other work: load per row)", "circuit": "six layers of two-letter strings between every qubit and the last", "peers": peers, "bar": bar, "rows": rows, "tried": [tried(n, 32, 7) for n in a.qubits if n in (12, 14)],
        "left_out": [f"{n} qubits, batch {batch}" for n, batch in left_out]}, folder=a.out, device="cpu"))


# ---- GPU

def bandwidth(state: Tensor, calls: dict[str, Callable], passes: dict[str, float], device: torch.device, pairs: int) -> dict:
    """Seconds of some calls that go over the state, their bytes per second, and the share of a copy's."""
    target = torch.empty_like(state)
    timed = compare({"copy": lambda: target.copy_(state)} | calls, pairs=pairs, warmup=2, device=device)
    once_over = 2 * state.numel() * state.element_size()
    rate = {name: passes.get(name, 1.0) * once_over / timed.time(name).median for name in timed.names}
    return {"seconds": {name: timed.time(name).median for name in timed.names}, "bytes_per_s": rate, "of_copy": {name: r / rate["copy"] for name, r in rate.items()}}


def rotations(n: int, batch: int, device: torch.device, backend: str, pairs: int) -> dict:
    """General kernel against a copy and against a gate by einsum, which is what a framework user writes."""
    g = torch.Generator(device=device).manual_seed(0)
    state = random_state(n, batch, generator=g)
    half, word = n // 2, [1 << k for k in range(n)]
    cases = {"Z Z": [(0, word[half] | 1, 0)], "Z X, X on the last": [(1, word[half], 0)], "X X": [(word[half] | 1, 0, 0)], "X Y, far apart": [(word[n - 1] | word[half], word[half], 1)],
             "five letters": [(word[n - 1] | word[half] | 2, word[half] | word[1] | 1, 2)], f"{min(16, n - 1)} strings Z X at once": [(1, word[k], 0) for k in range(1, min(17, n))]}
    calls, exact = {}, {}
    for name, masks in cases.items():
        (strings,) = fuse_strings(masks)
        angles = torch.randn(len(masks), generator=g, device=device)
        calls[name] = lambda s=strings, t=angles: rotate_(state, s, t, backend=backend)
        small = random_state(n, 1, generator=g)
        exact[name] = float((rotate_(small.clone(), strings, angles, backend=backend) - rotate_(small.to(torch.complex128), strings, angles.double(), backend="torch")).abs().max())
    c, s = math.cos(0.3), 1j * math.sin(0.3)
    gate = torch.tensor([[c, 0, 0, s], [0, c, s, 0], [0, s, c, 0], [s, 0, 0, c]], dtype=torch.complex64, device=device).view(2, 2, 2, 2)
    cube = state.view(batch * 2 ** (n - 1 - half), 2, 2 ** (half - 1), 2)
    calls["X X by einsum"] = lambda: torch.einsum("xyab,iajb->ixjy", gate, cube)
    out = bandwidth(state, calls, {}, device, pairs)
    kernels = [out["of_copy"][name] for name in cases]
    return {"qubits": n, "batch": batch, "amplitudes": state.numel(), "error": exact, "bar": 0.75, "least": min(kernels), "met": min(kernels) >= 0.75} | out


def digit_circuit(n_data: int, batch: int, device: torch.device, backend: str, pairs: int) -> dict:
    """Six layers ZX, XX on n_data + 1 qubits: passes that do whole layers, against one kernel per gate and per group of strings; forward, and back with all derivatives."""
    layers, g = ["ZX", "XX"] * 3, torch.Generator(device=device).manual_seed(0)
    state, lam = (random_state(n_data + 1, batch, generator=g) for _ in range(2))
    angles = 0.3 * torch.randn(6, n_data, generator=g, device=device)
    groups = [(k, strings) for k, word in enumerate(layers) for strings in layer_strings(word, n_data)]
    alone = [(k, single, angles[k, j : j + 1]) for k, strings in groups for j, single in zip(strings.members, [fuse_strings([(strings.flip, z, 0)])[0] for z in strings.signs])]

    def gate_by_gate() -> None:
        for _, strings, angle in alone:
            rotate_(state, strings, angle, backend=backend)

    def by_groups() -> None:
        for k, strings in groups:
            rotate_(state, strings, angles[k, strings.members[0] : strings.members[-1] + 1], backend=backend)

    def back_gate_by_gate() -> None:
        for _, strings, angle in reversed(alone):
            undo_(state, lam, strings, angle, per_state=True, backend=backend)

    few = state[:2].clone()
    exact = readout_layers_(few.to(torch.complex128), layers, angles.double(), backend="torch")
    error = float((readout_layers_(few.clone(), layers, angles, backend=backend) - exact).abs().max())
    psi, dual = exact.clone(), lam[:2].to(torch.complex128)
    slopes = undo_readout_layers_(psi, dual, layers, angles.double(), per_state=True, backend="torch")
    mine = undo_readout_layers_(exact.to(torch.complex64), lam[:2].clone(), layers, angles, per_state=True, backend=backend)
    forward = {"layers": lambda: readout_layers_(state, layers, angles, backend=backend), "gate by gate": gate_by_gate, "groups": by_groups}
    back = {"layers": lambda: undo_readout_layers_(state, lam, layers, angles, per_state=True, backend=backend), "gate by gate": back_gate_by_gate}
    out = bandwidth(state, forward, {"layers": len(plan_passes(layers, n_data)), "gate by gate": len(alone), "groups": len(groups)}, device, pairs)
    timed = compare(back, pairs=pairs, warmup=1, device=device)
    ratio = out["seconds"]["gate by gate"] / out["seconds"]["layers"]
    return {"qubits": n_data + 1, "batch": batch, "gates": len(alone), "passes": len(plan_passes(layers, n_data)), "error": error, "gradient_error": float((mine - slopes).abs().max()), "bar": 5.0, "factor": ratio, "met": ratio >= 5.0,
            "back_s": {name: timed.time(name).median for name in timed.names}, "back_factor": timed.ratio("gate by gate").median} | out


def many_parameters(n: int, parameters: int, batch: int, device: torch.device, backend: str, pairs: int) -> list[dict]:
    """Value and derivatives of a circuit of many gates: string by string with the kernels, and run by run."""
    rows, dtype = [], torch.complex64
    for kind, circuit in (("layers", mixing(n, -(-parameters // (n - 1)))), ("scattered", scattered(n, parameters))):
        g = torch.Generator(device=device).manual_seed(0)
        state, angles, observable = random_state(n, batch, generator=g, dtype=dtype), 0.2 * torch.randn(len(circuit), generator=g, device=device), PauliString("Y", (n - 1,))
        masks, read = [tuple(p.masks(n)) for p in circuit.gates], tuple(observable.masks(n))
        calls = {"strings": lambda m=masks, s=state, a=angles, r=read: rotations_gradient(s, m, a, r, backend=backend), "runs": lambda c=circuit, s=state, a=angles, o=observable: c.adjoint_gradient(s, a, o, engine="runs")}
        exact = circuit.adjoint_gradient(state[:1].to(torch.complex128) / state[:1].to(torch.complex128).norm(), angles.double(), observable, engine="runs")
        errors = {name: float((call()[1][:1] - exact.angles).abs().max()) for name, call in calls.items()}
        timed = compare(calls, pairs=pairs, warmup=1, device=device)
        rows.append({"circuit": kind, "qubits": n, "batch": batch, "angles": len(circuit), "groups": len(fuse_strings(masks)), "runs": len(circuit.runs), "largest_derivative": float(exact.angles.abs().max()), "error": errors,
                     "seconds": {name: timed.time(name).median for name in timed.names}, "forward_floor_passes": 3 * len(fuse_strings(masks))})
    return rows


def gpu_part(a: argparse.Namespace) -> None:
    device = torch.device(a.device)
    backend = "auto" if device.type == "cuda" else "triton" if interpreted() else "torch"
    tiny = a.rehearse
    pairs = 1 if tiny else 20
    out: dict[str, Any] = {"label": "rehearsal at tiny sizes, no figures" if tiny else torch.cuda.get_device_name(device), "backend": backend}
    out["rotations"] = rotations(*((6, 2) if tiny else (20, 256)), device, backend, pairs)
    print("rotations:", {k: round(v, 3) for k, v in out["rotations"]["of_copy"].items()}, "of the copy's", f"{out['rotations']['bytes_per_s']['copy'] / 1e12:.2f} TB/s; errors", out["rotations"]["error"], flush=True)
    out["digit_circuit"] = digit_circuit(*((4, 2) if tiny else (16, 1024)), device, backend, pairs)
    print("digit circuit:", {k: out["digit_circuit"][k] for k in ("seconds", "factor", "error", "gradient_error", "back_s", "back_factor")}, flush=True)
    out["many_parameters"] = [row for batch in ((1,) if tiny else (1, 16)) for row in many_parameters(*((5, 20) if tiny else (20, 1000)), batch, device, backend, max(1, pairs // 4))]
    for row in out["many_parameters"]:
        print("parameters:", row, flush=True)
    if not tiny:
        print("saved", save_result("statevector_gpu", out, folder=a.out, device=device))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--device", default=None, help="cuda for the kernels (default: the peers on the CPU)")
    ap.add_argument("--rehearse", action="store_true", help="the GPU part at tiny sizes, nothing saved")
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    ap.add_argument("--qubits", type=int, nargs="*", default=[8, 10, 12, 14, 16, 18, 20])
    ap.add_argument("--batches", type=int, nargs="*", default=[1, 32, 256])
    ap.add_argument("--amplitudes", type=int, default=2**21, help="largest batch * 2**qubits")
    ap.add_argument("--seconds", type=float, default=6.0, help="about how long each table entry may take")
    a = ap.parse_args()
    if a.rehearse or (a.device or "cpu").startswith("cuda"):
        a.device = a.device or "cpu"
        gpu_part(a)
    else:
        cpu_part(a)


if __name__ == "__main__":
    main()

"""Operators on a GPU: making flows, a step of a Fourier neural operator beside neuraloperator, a DeepONet on 10^4 x 10^4 pairs, and how costs grow.

    python benchmarks/operators_gpu.py                        # on a GPU: all parts, about a minute and a half
    python benchmarks/operators_gpu.py --device cpu           # the growth of costs alone, one thread
    python benchmarks/operators_gpu.py --device cpu --rehearse    # every part at tiny sizes, nothing saved

Flows. 10,000 vorticity fields at 64^2, float32, advanced over T = 0.25 at nu = 1e-3. The least traffic of a stage of the Runge-Kutta scheme: five real fields are transformed (four
back, one forth), each a pass that reads and writes once, and the products between them read and write each of the five once more: 5 x 2 x 2 passes of a real field. The share of the
copy rate is that traffic over the time.
Fourier neural operator. Forward, mean square error, backward and Adam, equal sizes and equal weights, outputs compared first; `compiled` is ours under torch.compile,
`recorded` ours or the peer's through `core.cudagraph.RecordedUpdate`, which replays the update as one CUDA graph. Outputs are compared without, and times taken with,
PyTorch's default of rounding the operands of convolutions (the peer has some) to ten bits.
Small networks. An update through `core.train.fit` as it is and with record=True: the networks of the DeepONet notebook, three copies in one batch, one and three recurrent networks, and the errors that the runs end with.
DeepONet. One step on 10,000 functions at 10,000 places. `whole` writes the 10^8 predictions; `parts` goes through the functions in pieces and adds up gradients; `merged` never forms the
table: with S = A C (targets of rank r, as solutions of linear problems have) the sum of squares of B T' - S is a trace of small Gram matrices. That trace is a difference of large numbers: in float32 it loses digits as the loss falls;
`cancellation` says how many, on targets that differ from the network's own table by a given share.
Growth. Seconds against one size at a time; the exponent is fitted to the upper half of the sizes and printed beside the predicted one.
"""
import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from nns2nos import equal_peer, stepper, twice

from atomsnb.core.bench import ceilings, compare, save_result, synchronize
from atomsnb.core.cudagraph import RecordedUpdate, recordable
from atomsnb.operators.deeponet import DeepONet, MLPOperator, OperatorData, fit_operator, operator_error
from atomsnb.operators.nets import SequenceOperator, SideBySide
from atomsnb.operators.nns2nos import FNO
from atomsnb.operators.pde import _admissible, navier_stokes, velocity
from atomsnb.operators.fields import PeriodicField

NU, T = 1e-3, 0.25
CASES = ((64, 12, 32, 4, 16), (64, 12, 32, 4, 64), (64, 12, 64, 4, 16), (128, 16, 32, 4, 16))  # points, modes, width, layers, batch
TINY_CASES = ((16, 4, 6, 2, 2),)


def flows(count: int, size: int, part: int, device: torch.device) -> dict[str, Any]:
    """Time and traffic of `count` trajectories, in parts; inputs are drawn on the CPU and are not in the time."""
    draws = [4 * PeriodicField(modes=size // 4).sample(min(part, count - first), size, seed=first).float() for first in range(0, count, part)]
    moved, seconds, steps = 0.0, 0.0, []
    for k, draw in enumerate([draws[0], *draws]):
        w = draw.to(device)
        synchronize(device)
        clock = time.perf_counter()
        end = navier_stokes(w, nu=NU, T=T)
        synchronize(device)
        if k == 0:
            continue  # a warm-up: plans of the transforms
        seconds += time.perf_counter() - clock
        steps.append(_admissible(sum(float(v.abs().max()) for v in velocity(w)), size, T, None))
        moved += steps[-1] * 4 * 20 * w.numel() * w.element_size()
        assert bool(torch.isfinite(end).all())
    rate = ceilings(device).bytes_per_s
    row = {"trajectories": count, "size": size, "part": part, "steps": [min(steps), max(steps)], "seconds": seconds, "trajectories_per_s": count / seconds, "bytes": moved, "of_copy": moved / seconds / rate, "copy_bytes_per_s": rate}
    print(f"flows: {count} at {size}^2 over T = {T}, {steps[0]} steps: {seconds:.2f} s, {count / seconds:,.0f} a second, {row['of_copy']:.2f} of the copy rate", flush=True)
    return row


def operator_step(points: int, modes: int, width: int, layers: int, batch: int, device: torch.device, pairs: int) -> dict[str, Any]:
    """One training step, ours (as it is, compiled, and recorded) and neuraloperator's (as it is, and recorded)."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(batch, 1, points, points, generator=draw).to(device) for _ in range(2))
    make = lambda: FNO(1, 1, modes, width, layers, coordinates=False, activation=twice)  # noqa: E731
    ours, fast = make(), make()
    fast.load_state_dict(ours.state_dict())
    nets: dict[str, nn.Module] = {"ours": ours, "ours, compiled": fast}
    row: dict[str, Any] = {"points": points, "modes": modes, "width": width, "layers": layers, "batch": batch, "parameters": sum(p.numel() for p in ours.parameters())}
    theirs = equal_peer(ours, modes, width, layers)
    if theirs is None:
        row["neuraloperator"] = "not measured: not installed"
    else:
        fast.load_state_dict(ours.state_dict())
        nets["neuraloperator"] = theirs
    for net in nets.values():
        net.to(device)
    if "neuraloperator" in nets:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # the peer's pointwise convolutions otherwise round to 10 bits on a GPU; times are taken as both come
            row["error"] = float((ours(x) - nets["neuraloperator"](x)).norm() / nets["neuraloperator"](x).norm())
        assert row["error"] < 1e-4, row  # float32 products, other orders of summation
    steps = {name: stepper(torch.compile(net) if name.endswith("compiled") else net, x, y) for name, net in nets.items()}
    try:
        steps["ours, compiled"]()
    except Exception as failure:  # a compiler that is missing or refuses complex numbers is told, not fatal
        row["compiled"] = f"not measured: {str(failure).splitlines()[0][:200]}"
        del steps["ours, compiled"]
    for name in [n for n in ("ours", "neuraloperator") if n in nets and recordable(device)]:
        try:
            steps[f"{name}, recorded"] = recorded_stepper(nets[name], x, y)
        except RuntimeError as failure:
            row[f"{name}, recorded"] = f"not measured: {str(failure).splitlines()[0][:200]}"
    timed = compare(steps, pairs=pairs, warmup=3, device=device)
    row["seconds"] = {name: timed.time(name).median for name in timed.names}
    row["samples_per_s"] = {name: batch / s for name, s in row["seconds"].items()}
    row["ratio"] = {name: [(r := timed.ratio(name)).median, r.low, r.high] for name in timed.names[1:]}
    print(f"FNO step, {points}^2, {modes} modes, width {width}, batch {batch}: " + ", ".join(f"{name} {v:,.0f} samples/s" for name, v in row["samples_per_s"].items()), flush=True)
    return row


def recorded_stepper(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Any]:
    """A call that makes one training step as a CUDA graph; recorded here."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-6, capturable=True)

    def update(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        adam.zero_grad(set_to_none=True)
        loss = (net(batch[0]) - batch[1]).square().mean()
        loss.backward()
        adam.step()
        return {"loss": loss.detach()}

    step = RecordedUpdate(update, x.device)
    step((x, y)), step((x, y))
    return lambda: step((x, y))


def small_networks(functions: int, batch: int, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Microseconds of an update through `fit`, as it is and recorded, and the errors that the two runs reach."""
    draw, rows = torch.Generator().manual_seed(0), []
    u = torch.randn(3, functions, 100, generator=draw).cumsum(2) / 10
    y = torch.linspace(0, 1, 101)[:, None]
    pairs = torch.rand(3, functions, 1, generator=draw)
    whole_curves = OperatorData(u, y, torch.cat([torch.zeros(3, functions, 1), u.cumsum(2) / 100], 2), True)
    triples = OperatorData(u, pairs, (whole_curves.s.gather(2, (pairs * 100).long())).squeeze(2), False)
    sequences = OperatorData(u[0, :1000], torch.linspace(0, 1, 100)[:, None], u[0, :1000].cumsum(1) / 100, True)
    jobs = [("DeepONet, triples", lambda: DeepONet(100, copies=3), triples, steps), ("fully connected network, triples", lambda: MLPOperator(100, (40, 40, 40, 40), copies=3), triples, steps),
            ("DeepONet, whole curves", lambda: DeepONet(100, copies=3), whole_curves, steps), ("recurrent network", lambda: SequenceOperator(100, 100), sequences, max(10, steps // 10)),
            ("three recurrent networks side by side", lambda: SideBySide(*[SequenceOperator(100, 100, seed=s) for s in range(3)]), sequences, max(10, steps // 10))]
    for name, make, data, count in jobs:
        first = count // 5
        row: dict[str, Any] = {"network": name, "functions": data.u.shape[-2], "batch": min(batch, data.u.shape[-2]), "steps": count, "us": {}, "error": {}}
        for kind, record in (("as it is", False), ("recorded", True)):
            net, seen = make(), []
            clock = lambda model, step, seen=seen, marks=(first, count - 1): seen.append(time.perf_counter()) if step in marks and not synchronize(device) else None  # noqa: E731
            fit_operator(net, data, steps=count, batch=batch, lr=1e-3, device=device, record=record, callbacks=[clock], progress=False, log_every=count)
            row["us"][kind] = 1e6 * (seen[1] - seen[0]) / (count - 1 - first)
            row["error"][kind] = operator_error(net, data).tolist()
        row["ratio"] = row["us"]["as it is"] / row["us"]["recorded"]
        rows.append(row)
        print(f"{name}: {row['us']['as it is']:.0f} us an update as it is, {row['us']['recorded']:.0f} us recorded ({row['ratio']:.1f}); errors {row['error']}", flush=True)
    return rows


def gradients(net: DeepONet) -> list[Tensor]:
    """The gradients of a network, taken out of it."""
    out = [p.grad.detach().clone() for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    return out


def whole(net: DeepONet, u: Tensor, y: Tensor, A: Tensor, C: Tensor) -> Tensor:
    """Mean square error and its gradient through the full table."""
    loss = (net.grid(u, y) - A @ C).square().mean()
    loss.backward()
    return loss.detach()


def in_parts(net: DeepONet, u: Tensor, y: Tensor, A: Tensor, C: Tensor, rows: int) -> Tensor:
    """The same, some functions at a time."""
    total = u.new_zeros(())
    for us, As in zip(u.split(rows), A.split(rows)):
        loss = (net.grid(us, y) - As @ C).square().sum() / (len(u) * len(y))
        loss.backward()
        total += loss.detach()
    return total


def merged(net: DeepONet, u: Tensor, y: Tensor, A: Tensor, C: Tensor) -> Tensor:
    """The same without any table: sum of (L R')^2 = trace(L'L R'R), where L = [b, 1, -A] and R = [t, b0, C']."""
    branch, trunk = net.branch(u)[0], net.basis(y)[0, :, :, 0]
    left = torch.cat([branch, torch.ones_like(branch[:, :1]), -A], 1)
    right = torch.cat([trunk, net.b0.reshape(1, 1).expand(len(y), 1), C.T], 1)
    loss = ((left.T @ left) * (right.T @ right)).sum() / (len(u) * len(y))
    loss.backward()
    return loss.detach()


def big_deeponet(functions: int, places: int, rank: int, device: torch.device, pairs: int) -> dict[str, Any]:
    """One gradient on functions x places three ways: agreement in float64 at a small size, then seconds and memory."""
    def make(n: int, q: int, dtype: torch.dtype) -> tuple:
        g = torch.Generator().manual_seed(0)
        parts = [torch.randn(*shape, generator=g, dtype=dtype).to(device) for shape in ((n, 100), (q, 1), (n, rank), (rank, q))]
        return DeepONet(100).to(device, dtype), *parts

    small = make(50, 60, torch.float64)
    ways: dict[str, Callable] = {"whole": whole, "parts": lambda *a: in_parts(*a, rows=max(1, len(a[1]) // 10)), "merged": merged}
    losses, slopes = {}, {}
    for name, way in ways.items():
        losses[name], slopes[name] = way(*small), gradients(small[0])
    gap = {name: max(float(abs(losses[name] - losses["whole"])), *(float((a - b).abs().max()) for a, b in zip(slopes[name], slopes["whole"]))) for name in ("parts", "merged")}
    assert max(gap.values()) < 1e-10, gap  # float64, sums of 3,000 terms
    given = make(functions, places, torch.float32)
    peak = {}
    for name, way in ways.items():
        way(*given), given[0].zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device), torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            way(*given), given[0].zero_grad(set_to_none=True)
            peak[name] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
    timed = compare({name: lambda way=way: way(*given) for name, way in ways.items()}, pairs=pairs, warmup=1, device=device)
    p, rate = given[0].branch(given[1][:1]).shape[-1], ceilings(device)
    table = 4.0 * functions * places
    row = {"functions": functions, "places": places, "rank_of_targets": rank, "products": p, "agreement": gap, "seconds": {name: timed.time(name).median for name in ways}, "peak_gb": peak,
           "floor_s_of_whole": 6 * table / rate.bytes_per_s}  # the table of predictions and that of targets are written and read, differences written and read
    print("DeepONet:", f"{functions} x {places}:", {k: f"{1e3 * v:.2f} ms" for k, v in row["seconds"].items()}, "peak GB", {k: round(v, 2) for k, v in peak.items()}, f"; six passes over the table {1e3 * row['floor_s_of_whole']:.2f} ms", flush=True)
    return row


def cancellation(n: int, device: torch.device) -> list[dict[str, float]]:
    """Relative error of the float32 loss, whole and merged, against float64, as the loss falls."""
    g, rows = torch.Generator().manual_seed(0), []
    net = DeepONet(100).double()
    u, y, noise = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((n, 100), (n, 1), (n, 40)))
    with torch.no_grad():
        branch, trunk, size = net.branch(u)[0], net.basis(y)[0, :, :, 0], float(net.grid(u, y).square().mean())
    for share in (1e-1, 1e-2, 1e-3, 1e-4):
        A, C = branch + share * branch.std() * noise[:, : branch.shape[1]], trunk.T.contiguous()
        exact = float(whole(net, u, y, A, C))
        single = DeepONet(100).to(device)
        single.load_state_dict(net.state_dict())
        given = [t.float().to(device) for t in (u, y, A, C)]
        rows.append({"loss_over_square": exact / size, **{name: abs(float(way(single, *given)) / exact - 1) for name, way in (("whole", whole), ("merged", merged))}})
        print(f"cancellation: loss {rows[-1]['loss_over_square']:.1e} of the mean square; relative error whole {rows[-1]['whole']:.1e}, merged {rows[-1]['merged']:.1e}", flush=True)
    return rows


def growth(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Seconds of one gradient against one size at a time."""
    gpu, out = device.type == "cuda" and not tiny, {}

    def scale(a: int, b: int, c: int) -> int:
        """Tiny, on a CPU, on a GPU."""
        return c if gpu else a if tiny else b

    def deeponet(m: int, q: int, p: int, n: int) -> Callable[[], None]:
        g = torch.Generator().manual_seed(0)
        net = DeepONet(m, (p,), (p, p), p).to(device)
        u, y, s = (torch.randn(*shape, generator=g).to(device) for shape in ((n, m), (q, 1), (n, q)))
        def step() -> None:
            (net.grid(u, y) - s).square().mean().backward()
            net.zero_grad(set_to_none=True)
        return step

    def fno(points: int, modes: int) -> Callable[[], None]:
        g = torch.Generator().manual_seed(0)
        net = FNO(1, 1, modes, scale(4, 16, 32), 2, coordinates=False).to(device)
        x = torch.randn(scale(1, 2, 16), 1, points, points, generator=g).to(device)
        def step() -> None:
            net(x).square().mean().backward()
            net.zero_grad(set_to_none=True)
        return step

    n, base = scale(8, 200, 4000), scale(8, 100, 1000)
    sizes = [base * 2**k for k in range(scale(4, 6, 6))]
    grids = [scale(16, 32, 64) * 2**k for k in range(scale(3, 4, 4))]
    modes = [2, 4] if tiny else [4, 8, 12, 16, 24, 31] if not gpu else [8, 16, 24, 32, 48, 63]
    jobs: dict[str, tuple[list[int], Callable[[int], Callable[[], None]], float]] = {
        "sensors m": ([4 * v for v in sizes], lambda m: deeponet(m, 50, 40, n), 1.0), "places q": (sizes, lambda q: deeponet(100, q, 40, n), 1.0), "products p": ([max(2, v // 4) for v in sizes], lambda p: deeponet(100, 50, p, n), 2.0),
        "grid points": (grids, lambda k: fno(k, 4), 2.0), "modes": (modes, lambda k: fno(scale(16, 64, 128), k), 2.0),
    }
    for name, (values, make, predicted) in jobs.items():
        seconds = []
        for value in values:
            step = make(value)
            seconds.append(compare({"step": step}, pairs=2 if tiny else 7, warmup=1 if tiny else 2, device=device).time("step").median)
        upper = slice(len(values) // 2, None) if len(values) > 3 else slice(0, None)
        x, y = torch.tensor(values[upper], dtype=torch.float64).log(), torch.tensor(seconds[upper], dtype=torch.float64).log()
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
        rest = y - y.mean() - slope * (x - x.mean())
        error = float((rest.square().sum() / max(1, len(x) - 2) / (x - x.mean()).square().sum()).sqrt()) if len(x) > 2 else math.nan
        out[name] = {"values": values, "seconds": seconds, "exponent": slope, "standard_error": error if math.isfinite(error) else None, "fitted_to": values[upper], "predicted_at_most": predicted}
        print(f"growth in {name}: exponent {slope:.2f} ± {error:.2f} over {values[upper]} (products alone: {predicted:g}); ms", [round(1e3 * s, 2) for s in seconds], flush=True)
    return out


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--rehearse", action="store_true", help="tiny sizes, nothing saved")
    ap.add_argument("--parts", nargs="+", help="these parts alone (flows, fno, small, deeponet, cancellation, growth), nothing saved")
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    a = ap.parse_args()
    warnings.simplefilter("ignore")
    device, tiny = torch.device(a.device), a.rehearse
    gpu, pairs = device.type == "cuda", 1 if a.rehearse else 15
    if not gpu:
        torch.set_num_threads(1)
    try:
        peer = version("neuraloperator")
    except PackageNotFoundError:
        peer = "not measured: not installed"
    name, out = "operators_gpu" if gpu else "operators_cost_cpu", {"label": torch.cuda.get_device_name(device) if gpu else "one thread", "peers": {"neuraloperator": peer}}
    jobs: dict[str, Callable[[], Any]] = {"cancellation": lambda: cancellation(20 if tiny else 1000, device), "growth": lambda: growth(device, tiny)}
    if gpu or tiny:
        jobs = {"flows": lambda: flows(*((6, 32, 3) if tiny else (10_000, 64, 2500)), device), "fno": lambda: [operator_step(*case, device, pairs) for case in (TINY_CASES if tiny else CASES)],
                "small": lambda: small_networks(*((40, 20, 20) if tiny else (10_000, 2000, 3000)), device),
                "deeponet": lambda: big_deeponet(*((40, 50) if tiny else (10_000, 10_000)), 20, device, pairs)} | jobs
    unknown = [key for key in a.parts or () if key not in jobs]
    if unknown:
        ap.error(f"--parts: {', '.join(unknown)} is not measured here; accepted: {', '.join(jobs)}")
    for key, job in jobs.items():
        if a.parts and key not in a.parts:
            continue
        try:
            out[key] = job()
        except (RuntimeError, AssertionError) as failure:  # out of memory, or a disagreement: told, and the other parts go on
            out[key] = {"failed": str(failure)[:500]}
            print(f"{key} failed: {failure}", flush=True)
        if not (tiny or a.parts):
            print("saved", Path(save_result(name, out, folder=a.out, device=device)).name, flush=True)  # after every part: a run that is cut off keeps the earlier ones


if __name__ == "__main__":
    main()

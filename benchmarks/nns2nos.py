"""One training step of a Fourier neural operator: ours beside neuraloperator 2 at equal size and with equal weights, one thread.

    python benchmarks/nns2nos.py               # a peer that is not installed is reported as such
    python benchmarks/nns2nos.py --pairs 5     # fewer readings

Both networks are built from the same sizes (lifting, spectral layers with a linear skip, projection; no channel MLP, no coordinates) and share weights; before any timing their outputs are shown to
agree. Without a channel MLP the peer activates twice in a row; so do ours here, for equal work. A step is forward, mean square error, backward and Adam.
"""
import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when torch is loaded
import argparse
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import compare, save_result
from atomsnb.operators.nns2nos import FNO

BAR = 1.2  # neuraloperator's seconds over ours
CASES = ((16, 4, 14, 3, 8), (32, 8, 24, 4, 8), (64, 12, 32, 4, 4), (64, 16, 32, 4, 4), (128, 16, 32, 4, 1))  # points, modes, width, layers, batch


def copy_weights(theirs: nn.Module, ours: FNO) -> None:
    """neuraloperator's weights into ours: (c_in, c_out, *modes) complex to (2, *modes, c_in, c_out)."""
    with torch.no_grad():
        for a, b in ((theirs.lifting, ours.lift), (theirs.projection, ours.project)):
            for fc, m in zip(a.fcs, b.maps):
                m.weight.copy_(fc.weight[..., 0]), m.bias.copy_(fc.bias)
        for i, conv in enumerate(theirs.fno_blocks.convs):
            weight = conv.weight.to_tensor() if hasattr(conv.weight, "to_tensor") else conv.weight
            ours.spectral[i].weight.copy_(torch.view_as_real(weight).movedim((-1, 0, 1), (0, -2, -1)))
            ours.spectral[i].bias.copy_(conv.bias.flatten())
            ours.skip[i].copy_(next(theirs.fno_blocks.fno_skips[i].parameters())[..., 0])


def equal_peer(ours: FNO, modes: int, width: int, layers: int) -> "nn.Module | None":
    """neuraloperator's network of the same size; its weights go into ours. None where it is not installed."""
    try:
        from neuralop.models import FNO as Peer
    except ImportError:
        return None
    torch.manual_seed(0)
    theirs = Peer(n_modes=(2 * modes + 1, 2 * modes), in_channels=1, out_channels=1, hidden_channels=width, n_layers=layers, positional_embedding=None, use_channel_mlp=False)
    copy_weights(theirs, ours)
    return theirs


def twice(h: Tensor) -> Tensor:
    """The peer's activation without a channel MLP."""
    return F.gelu(F.gelu(h))


def stepper(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A call that makes one training step."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-6)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        (net(x) - y).square().mean().backward()
        adam.step()

    return step


def measure(points: int, modes: int, width: int, layers: int, batch: int, pairs: int) -> dict:
    """Agreement, then times in turn."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(batch, 1, points, points, generator=draw) for _ in range(2))
    ours = FNO(1, 1, modes, width, layers, coordinates=False, activation=twice)
    row: dict = {"points": points, "modes": modes, "width": width, "layers": layers, "batch": batch, "parameters": sum(p.numel() for p in ours.parameters()), "load": os.getloadavg()[0]}
    by_fft = FNO(1, 1, modes, width, layers, coordinates=False, activation=twice)
    by_fft.load_state_dict(ours.state_dict())
    for layer in by_fft.spectral:
        layer.transform = "fft"
    nets = {"ours": ours, "ours, by FFT": by_fft}
    theirs = equal_peer(ours, modes, width, layers)
    if theirs is None:
        row["neuraloperator"] = "not measured: not installed"
    else:
        with torch.no_grad():
            row["error"] = float((ours(x) - theirs(x)).norm() / theirs(x).norm())
        assert row["error"] < 1e-5, row
        nets["neuraloperator"] = theirs
    timed = compare({name: stepper(net, x, y) for name, net in nets.items()}, pairs=pairs, warmup=2, device="cpu")
    row["seconds"] = {name: timed.time(name).median for name in timed.names}
    row["ratio"] = {name: [(r := timed.ratio(name)).median, r.low, r.high] for name in timed.names[1:]}
    print(f"{points}^2, {modes} modes, width {width}, batch {batch}: " + ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in row["seconds"].items()) + f"; ratios {({k: round(v[0], 2) for k, v in row['ratio'].items()})}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", default=None)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows = [measure(*case, a.pairs) for case in CASES]
    judged = [row["ratio"]["neuraloperator"][0] for row in rows if "neuraloperator" in row["ratio"]]
    try:
        peer = version("neuraloperator")
    except PackageNotFoundError:
        peer = "not measured: not installed"
    bar = {"factor": BAR, "rows": len(judged), "met": sum(r >= BAR for r in judged), "least": min(judged, default=None)}
    print("bar:", bar, f"{time.perf_counter() - start:.0f} s")
    print("saved", save_result("nns2nos_cpu", {"label": "one thread a side, float32, seconds per training step (forward, backward, Adam)", "peers": {"neuraloperator": peer}, "bar": bar, "rows": rows}, folder=a.out, device="cpu"))


if __name__ == "__main__":
    main()

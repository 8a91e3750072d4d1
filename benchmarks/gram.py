"""Angles of a large dictionary without its Gram matrix: time, memory and error of the tiled histogram.

    python benchmarks/gram.py

On a GPU: error against float64 at N = 8,192, then time and memory at N = 147,456 (H = 2,304). On a CPU: a small size, and it says so.
"""
import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import ceilings, compare, save_result
from atomsnb.kernels.gram import MOST_BINS, max_offdiagonal, offdiagonal_cdf, offdiagonal_histogram, offdiagonal_quantile, unit_rows

SPARSITIES = (2, 4, 8, 16, 32, 64)


def dictionary(H: int, N: int, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Gaussian atoms with a common direction (so that angles are not centred) and a few near-duplicates."""
    g = torch.Generator(device=device).manual_seed(seed)
    D = torch.randn(H, N, generator=g, device=device) + 0.1 * torch.randn(H, 1, generator=g, device=device)
    D[:, 1:40:4] = D[:, 0:40:4] + 0.3 * torch.randn(H, 10, generator=g, device=device)
    return D


def q_star(cdf: torch.Tensor) -> list:
    """Stability score of a dictionary under codes of constant sparsity K: the share of pairs below 1 / (2K - 1)."""
    return [float(v) for v in cdf]


def errors(H: int, N: int, device: torch.device) -> dict:
    """Largest error of q* and of quantiles against float64, per precision."""
    D = dictionary(H, N, device)
    rows = unit_rows(D.double())
    values = torch.cat([(rows[i] @ rows[i + 1 :].T).abs() for i in range(N - 1)]).sort().values
    t = torch.tensor([1 / (2 * k - 1) for k in SPARSITIES], dtype=torch.float64)
    exact = torch.searchsorted(values, t.to(device)).double().cpu() / values.numel()
    quantiles = (0.5, 0.9, 0.99, 0.998)
    exact_q = [float(values[min(values.numel() - 1, int(-(-q * (values.numel() - 1) // 1)))]) for q in quantiles]
    out = {"H": H, "N": N, "K": SPARSITIES, "exact_q_star": exact.tolist(), "exact_max": float(values[-1])}
    for precision in ("bfloat16", "float32") if device.type == "cuda" else ("float32",):
        cdf = offdiagonal_cdf(D, t, precision=precision)
        mu = [offdiagonal_quantile(D, q, precision=precision) for q in quantiles]
        out[precision] = {"q_star_error": float((cdf - exact).abs().max()), "quantile_error": max(abs(a - b) for a, b in zip(mu, exact_q))}
    out["max_error"] = abs(max_offdiagonal(D) - out["exact_max"])
    return out


def large(H: int, N: int, device: torch.device, pairs: int) -> dict:
    """Seconds, memory beyond the dictionary and share of the matrix-product ceiling of the public functions."""
    D = dictionary(H, N, device)
    half = N * (N - 1) * H  # operations of the products of the upper triangle
    top = ceilings(device)
    jobs = {"histogram, 255 bins, bf16": (1, lambda: offdiagonal_histogram(D, 255)), "quantile 0.998, 3 passes, bf16": (3, lambda: offdiagonal_quantile(D, 0.998)),
            "share below 1/(2K-1), one K, bf16": (1, lambda: offdiagonal_cdf(D, torch.tensor([1 / 31]))), "histogram, 255 bins, tf32": (1, lambda: offdiagonal_histogram(D, 255, precision="float32")),
            "histogram, 4080 bins, bf16": (-(-4080 // (MOST_BINS - 2)), lambda: offdiagonal_histogram(D, 4080)), "largest, tf32": (1, lambda: max_offdiagonal(D))}
    if device.type == "cpu":
        jobs = {n: j for n, j in jobs.items() if "tf32" not in n or "largest" in n}
    if device.type == "cpu":
        jobs = {n.replace(", bf16", "").replace(", tf32", ""): j for n, j in jobs.items()}
    timed = compare({n: f for n, (_, f) in jobs.items()}, pairs=pairs, warmup=1, device=device)
    rows = {}
    for name, (passes, _) in jobs.items():
        s = timed.time(name).median
        rows[name] = {"seconds": s, "tflops": passes * half / s / 1e12, "share_of_ceiling": passes * half / s / top.flops_per_s, "memory_beyond_dictionary_gb": (timed.peak_mb[name] or 0) / 1e3}
        print(f"{name:36} {s * 1e3:9.1f} ms  {rows[name]['tflops']:6.1f} TFLOP/s  {rows[name]['memory_beyond_dictionary_gb']:.2f} GB", flush=True)
    t = time.perf_counter()
    counts = offdiagonal_histogram(D, 255)
    assert int(counts.sum()) == N * (N - 1) // 2
    return {"H": H, "N": N, "dictionary_gb": D.numel() * D.element_size() / 1e9, "gram_gb": 4 * N * N / 1e9, "ceiling_tflops": top.flops_per_s / 1e12, "jobs": rows, "compare": timed.as_dict(), "check_s": time.perf_counter() - t}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    a = ap.parse_args()
    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        r = {"label": torch.cuda.get_device_name(device), "error": errors(2304, 8192, device), "large": large(2304, 147456, device, 5)}
        print(r["error"])
        print("saved", save_result("gram", r, folder=a.out, device=device))
    else:
        device = torch.device("cpu")
        r = {"label": "small CPU run: shows that the script works, says nothing about speed at size", "error": errors(64, 600, device), "large": large(64, 2000, device, 3)}
        print(r["error"])
        print("saved", save_result("gram_cpu", r, folder=a.out, device=device))


if __name__ == "__main__":
    main()

"""Training of a threshold autoencoder: `ThresholdSAE.fit` itself beside sae-lens and sparsify, on the same planted data.

    python benchmarks/threshold_sae.py                 # sizes by the machine: an H200-class GPU, or a small CPU run that says so
    python benchmarks/threshold_sae.py --latents 16384 --steps 1200
    python benchmarks/threshold_sae.py --rates         # held-out quality of each trainer by learning rate, from which the rates below were taken
    python benchmarks/threshold_sae.py --tried         # variants of one training step, in turn (A B A B ...)

Every trainer starts from data points, sees the same samples and lowers its learning rate linearly to zero over the last 30 % of its
steps. Ours is the public call `ThresholdSAE(...).fit(...)`: seconds of the whole call, seconds per step from the wall times of its
History after the price has risen (the first 30 % of the steps, in which kernels are compiled and codes are still dense, are left out), and
centred R^2 and L0 on held-out samples. It is run with half, the same and twice the steps of the peers, so that the time to the peers'
quality can be read off. Dense-equivalent FLOP/s count 10 B H N per step. A peer that cannot be imported is reported as "not measured".
"""
import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import ceilings, compare, roofline, save_result
from atomsnb.kernels import sae_kernels
from atomsnb.kernels.adam import sae_optimizer
from atomsnb.kernels.threshold_sae import _fused_loss, reference_loss, threshold_sae_loss
from atomsnb.representation.atoms import ThresholdSAE

BANDWIDTH, THETA0, PRICE, BETAS, COOLDOWN = 0.1, 0.2, 0.03, (0.0, 0.999), 0.3  # from a threshold of 0.5 a few atoms of 2,048 stay unfound, which costs 0.0005 to 0.003 of R^2
RATES = {"atomsnb": 2e-3, "sae-lens": 2e-3, "sparsify": 2e-3}  # the best of those tried (--rates) for each trainer; each result holds the rates that it was taken with


class Planted:
    """Sparse sums of random unit atoms: K of `atoms` at a time, coefficients uniform in (0.5, 1.5), a little noise."""

    def __init__(self, H: int, batch: int, pool: int, atoms: int, K: int, device: torch.device, dtype: torch.dtype, seed: int = 0):
        g = torch.Generator(device=device).manual_seed(seed)
        self.D = torch.randn(atoms, H, generator=g, device=device)
        self.D /= self.D.norm(dim=1, keepdim=True)
        self.batch, self.pool = batch, pool
        self.train, self.heldout = torch.empty(pool * batch, H, device=device, dtype=dtype), torch.empty(4 * batch, H, device=device, dtype=dtype)
        for rows in (*self.train.split(batch), *self.heldout.split(batch)):
            index = torch.randint(0, atoms, (batch, K), generator=g, device=device)
            coefficient = torch.rand(batch, K, generator=g, device=device) + 0.5
            clean = nn.functional.embedding_bag(index, self.D, per_sample_weights=coefficient, mode="sum")
            rows.copy_(clean + 0.02 * torch.randn(batch, H, generator=g, device=device))

    def __call__(self, step: int) -> Tensor:
        """Batch of the peers: a stretch of the pool, without the cost of gathering shuffled rows."""
        k = step % self.pool
        return self.train[k * self.batch : (k + 1) * self.batch]


@torch.no_grad()
def quality(data: Planted, reconstruct, rows: Tensor) -> dict:
    """Held-out centred R^2 and L0 in float32 without autocast, and the share of planted atoms with a decoder row at cosine above 0.9."""
    mean, error, total, l0 = data.heldout.float().mean(0), 0.0, 0.0, 0.0
    for x in data.heldout.split(data.batch):
        x = x.float()
        x_hat, active = reconstruct(x)
        error += float((x - x_hat.float()).square().sum())
        total += float((x - mean).square().sum())
        l0 += float(active.sum()) / len(data.heldout)
    unit = rows / rows.norm(dim=1, keepdim=True)
    return {"heldout_r2": 1 - error / total, "heldout_l0": l0, "recovered": float(((data.D @ unit.T).amax(1) > 0.9).float().mean())}


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def interval(values: list[float]) -> dict:
    """Median of some seconds, and the range that holds 95 % of them."""
    t = torch.tensor(sorted(values), dtype=torch.float64)
    low, median, high = torch.quantile(t, torch.tensor([0.025, 0.5, 0.975], dtype=torch.float64)).tolist()
    return {"low": low, "median": median, "high": high}


def fit_ours(data: Planted, N: int, steps: int, l0: float, device: torch.device, lr: float | None = None, **options: Any) -> tuple[ThresholdSAE, dict[str, Any]]:
    """The public call, timed from outside; steady seconds per step from its own History."""
    model, lr = ThresholdSAE(data.train.shape[1], N, bandwidth=BANDWIDTH, tau_init=THETA0), lr or RATES["atomsnb"]
    sync(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    t = time.perf_counter()
    model.fit(data.train, l0=l0, steps=steps, batch_size=data.batch, lr=lr, betas=BETAS, cooldown=COOLDOWN, device=device, progress=False, **options)
    sync(device)
    seconds = time.perf_counter() - t
    h = model.history
    steady = [k for k in range(1, len(h.steps)) if h.steps[k - 1] >= 0.3 * steps]
    each = [float(h.wall_s[k] - h.wall_s[k - 1]) / int(h.steps[k] - h.steps[k - 1]) for k in steady]
    first = steady[0] - 1
    mean = float(h.wall_s[-1] - h.wall_s[first]) / int(h.steps[-1] - h.steps[first])
    row = {"steps": steps, "lr": lr, "seconds": seconds, "tokens_per_s": steps * data.batch / seconds, "step_s": interval(each) | {"mean": mean},
           "before_the_first_step_s": seconds - float(h.wall_s[-1]), "l0_asked": l0}
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    row |= quality(data, lambda x: (lambda f: (model.decode(f), (f > 0).sum(1)))(model.transform(x)), model.w_dec.detach())
    return model, row


def history_of(model: ThresholdSAE, points: int = 25) -> dict:
    """A thinned record of a fit."""
    h = model.history
    keep = sorted({round(i * (len(h.steps) - 1) / (points - 1)) for i in range(points)})
    return {"step": h.steps[keep].tolist(), "wall_s": h.wall_s[keep].tolist()} | {name: h.losses[name][keep].tolist() for name in ("l0", "mse")}


def starting_rows(data: Planted, N: int) -> Tensor:
    """Unit data points, the start of the peers."""
    rows = data.train[torch.arange(N, device=data.train.device) % len(data.train)].float()
    return rows / rows.norm(dim=1, keepdim=True)


def make_saelens(data: Planted, start: Tensor, steps: int, lr: float, device: torch.device):
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer
    N, H = start.shape
    sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=H, d_sae=N, dtype="float32", device=str(device), apply_b_dec_to_input=False, normalize_activations="none", jumprelu_init_threshold=THETA0,
                                                        jumprelu_bandwidth=BANDWIDTH, l0_coefficient=PRICE, l0_warm_up_steps=steps // 3))
    with torch.no_grad():
        sae.W_dec.copy_(start)
        sae.W_enc.copy_(start.T)
    cfg = SAETrainerConfig(total_training_samples=steps * data.batch, train_batch_size_samples=data.batch, lr=lr, lr_end=lr, lr_decay_steps=round(COOLDOWN * steps), adam_beta1=BETAS[0], adam_beta2=BETAS[1],
                           device=str(device), autocast=device.type == "cuda", logger=LoggingConfig(log_to_wandb=False))
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=iter([]))
    sae.to(device)

    def step(k: int) -> None:
        trainer.step(data(k))
        trainer.n_training_steps += 1

    def reconstruct(x: Tensor):
        f = sae.encode(x)
        return sae.decode(f), (f > 0).sum(1)
    return step, reconstruct, sae.W_dec


def make_sparsify(data: Planted, start: Tensor, steps: int, lr: float, k: int, device: torch.device):
    from sparsify import SparseCoder, SparseCoderConfig
    N, H = start.shape
    coder = SparseCoder(H, SparseCoderConfig(num_latents=N, k=k), device=device, dtype=torch.float32)
    with torch.no_grad():
        coder.encoder.weight.copy_(start)
        coder.W_dec.copy_(start)
    optimizer = torch.optim.Adam(coder.parameters(), lr=lr, betas=BETAS, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (steps - s) / max(1.0, COOLDOWN * steps)))

    def step(number: int) -> None:  # the order of sparsify's Trainer for loss_fn="fvu", normalize_decoder=True
        coder.set_decoder_norm_to_unit_norm()
        coder(data(number).float()).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    def reconstruct(x: Tensor):
        out = coder(x)
        return out.sae_out, (out.latent_acts > 0).sum(1)
    return step, reconstruct, coder.W_dec


def train_peer(name: str, data: Planted, N: int, steps: int, device: torch.device, lr: float | None = None, k: int = 0) -> dict | str:
    """Train a peer for `steps` after a trial of three; the row of the table, or why there is none."""
    lr = lr or RATES[name]

    def make(length: int):
        start = starting_rows(data, N)
        return make_saelens(data, start, length, lr, device) if name == "sae-lens" else make_sparsify(data, start, length, lr, k, device)

    try:
        trial = make(100)[0]
        for number in range(3):
            trial(number)
        del trial
        step, reconstruct, rows = make(steps)
    except ImportError as fault:
        return f"not measured: not installable ({fault})"
    except Exception as fault:  # a peer that breaks must not cost the other figures
        return f"not measured: {type(fault).__name__}: {str(fault)[:300]}"
    sync(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    t, marks = time.perf_counter(), []
    for k in range(steps):
        step(k)
        if (k + 1) % max(1, steps // 25) == 0:
            sync(device)
            marks.append((k + 1, time.perf_counter() - t))
    sync(device)
    seconds = time.perf_counter() - t
    each = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(marks, marks[1:]) if a[0] >= 0.3 * steps]
    row = {"steps": steps, "lr": lr, "seconds": seconds, "tokens_per_s": steps * data.batch / seconds, "step_s": interval(each) | {"mean": sum(each) / len(each)}}
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row | quality(data, reconstruct, rows.detach())


class Window:
    """Callback of `fit`: profile the GPU kernels of a stretch of steps."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.seen = first, last, None

    def after_step(self, model: nn.Module, step: int) -> None:
        if step == self.first:
            from torch.profiler import ProfilerActivity, profile
            torch.cuda.synchronize()
            self.seen = profile(activities=[ProfilerActivity.CUDA])
            self.seen.start()
        elif step == self.last:
            torch.cuda.synchronize()
            self.seen.stop()

    def report(self) -> dict:
        """Milliseconds per step of each kernel (largest first), their sum, and the number of launches."""
        n, rows = self.last - self.first, sorted(self.seen.key_averages(), key=lambda e: -e.device_time_total)
        return {"kernels_ms": {e.key[:80]: e.device_time_total / 1e3 / n for e in rows if e.device_time_total / 1e3 / n > 0.005},
                "busy_ms": sum(e.device_time_total for e in rows) / 1e3 / n, "launches_per_step": sum(e.count for e in rows if e.device_time_total > 0) / n}


def gradient_errors(device: torch.device, B: int = 1000, H: int = 300, N: int = 2000) -> dict:
    """Largest relative error of a gradient against float64, both ways through the kernels (on a CPU they need TRITON_INTERPRET=1)."""
    g, out = torch.Generator().manual_seed(0), {}
    w = [torch.randn(N, H, generator=g) / math.sqrt(H), 0.1 * torch.randn(N, generator=g), 1.2 + 0.1 * torch.randn(N, generator=g).abs(), torch.randn(N, H, generator=g) / math.sqrt(H), 0.1 * torch.randn(H, generator=g)]
    x, exact = torch.randn(B, H, generator=g).to(device), [v.to(device).double().requires_grad_() for v in w]
    reference_loss(x.double(), *exact, bandwidth=0.3, l0_coef=0.05).total.backward()
    for force in ("sparse", "dense"):
        ours = [v.to(device).clone().requires_grad_() for v in w]
        _fused_loss(x, *ours, bandwidth=0.3, l0_coef=0.05, force=force).total.backward()
        out[force] = max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in zip(ours, exact))
    return {"B": B, "H": H, "N": N, "dtype": "float32", "relative": out}


def run(N: int, H: int, batch: int, steps: int, pool: int, atoms: int, K: int, device: torch.device, peers: bool, label: str, factors: tuple[float, ...] = (0.5, 1.0, 2.0)) -> dict:
    data = Planted(H, batch, pool, atoms, K, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    flop, top = 10 * batch * H * N, ceilings(device)
    result: dict = {"label": label, "N": N, "H": H, "batch": batch, "steps": steps, "planted": {"atoms": atoms, "K": K, "pool_samples": pool * batch},
                    "settings": {"bandwidth": BANDWIDTH, "theta0": THETA0, "lr": RATES, "betas": list(BETAS), "clip_norm": 1.0, "cooldown": COOLDOWN, "peer_l0_coef": PRICE, "peer_l0_warm_up": steps // 3},
                    "ceilings": {"dtype": top.dtype, "flops_per_s": top.flops_per_s, "bytes_per_s": top.bytes_per_s}, "trained": {}, "ours": []}
    gpu = device.type == "cuda"
    fit_ours(data, N, 60, float(K), device)  # compiles the kernels and fills the allocator; thrown away
    trained, l0 = result["trained"], float(K)
    if peers:
        trained["sae-lens"] = train_peer("sae-lens", data, N, steps, device)
        print(N, "sae-lens", trained["sae-lens"], flush=True)
        l0 = trained["sae-lens"]["heldout_l0"] if isinstance(trained["sae-lens"], dict) else l0
    for factor in factors:
        if gpu:
            torch.cuda.empty_cache()
        model, row = fit_ours(data, N, round(factor * steps), l0, device)
        result["ours"].append(row)
        print(N, "ours", row, flush=True)
        if factor == 1.0:
            trained["atomsnb"], result["history"] = row, history_of(model)
            del model
            if peers:
                trained["sparsify"] = train_peer("sparsify", data, N, steps, device, k=max(1, round(l0)))
                print(N, "sparsify", trained["sparsify"], flush=True)
    if gpu:
        result["gradient_errors"] = gradient_errors(device)
        window = Window(380, 400)
        fit_ours(data, N, 420, l0, device, callbacks=[window])
        result |= window.report()
        result["fit_by_l0"] = {str(k): fit_ours(data, N, 300, float(k), device)[1] for k in (32, 64)}
        for k, row in result["fit_by_l0"].items():
            print(N, "fit at L0", k, row["heldout_l0"], row["step_s"], flush=True)

    measured = {name: row for name, row in trained.items() if isinstance(row, dict)}
    ours = measured["atomsnb"]
    result["dense_equivalent_tflops"] = {name: flop / row["step_s"]["mean"] / 1e12 for name, row in measured.items()}
    result["share_of_ceiling"] = {name: flop / row["step_s"]["mean"] / top.flops_per_s for name, row in measured.items()}
    result["ours_faster"] = {name: {"tokens_per_s_whole_call": ours["tokens_per_s"] / row["tokens_per_s"], "steady_step": row["step_s"]["mean"] / ours["step_s"]["mean"]} for name, row in measured.items()}
    result["time_to_quality"] = {}
    for name in ("sae-lens", "sparsify"):
        if name in measured:
            target, limit = measured[name]["heldout_r2"], 1.01 * measured[name]["heldout_l0"]
            reached = [row for row in result["ours"] if row["heldout_r2"] >= target and row["heldout_l0"] <= limit]
            best = min(reached, key=lambda row: row["seconds"]) if reached else None
            result["time_to_quality"][name] = {"heldout_r2": target, "their_seconds": measured[name]["seconds"], "l0_at_most": limit, "our_steps": best and best["steps"], "our_seconds": best and best["seconds"],
                                               "ratio": best and measured[name]["seconds"] / best["seconds"]}
    # the floor: the encoder's product, the scores written and read, both gradients and the optimiser's bytes
    floor = roofline(2 * batch * H * N, 2 * 2 * batch * N + 2 * N * H * (4 + 22), measured=top)
    result["floor_ms"] = {"product": floor.compute_s * 1e3, "bytes": floor.memory_s * 1e3, "sum": (floor.compute_s + floor.memory_s) * 1e3, "reached": ours["step_s"]["mean"] * 1e3}
    for key in ("share_of_ceiling", "ours_faster", "time_to_quality", "floor_ms"):
        print(N, key, result[key], flush=True)
    return result


class Coder(nn.Module):
    """The five tensors of `ThresholdSAE`, from given decoder rows."""

    def __init__(self, start: Tensor, theta: float = THETA0):
        super().__init__()
        N, H = start.shape
        self.w_enc, self.w_dec = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.b_enc, self.theta, self.b_dec = nn.Parameter(start.new_zeros(N)), nn.Parameter(start.new_full((N,), theta)), nn.Parameter(start.new_zeros(H))

    def tensors(self) -> tuple:
        return self.w_enc, self.b_enc, self.theta, self.w_dec, self.b_dec


def variant(data: Planted, trained: ThresholdSAE, device: torch.device, *, loss=threshold_sae_loss, betas=BETAS, one_pass: bool = True, gather: bool = False, l0_coef: float, **options: Any):
    """One training step of a copy of a trained coder, with one thing changed."""
    model = Coder(trained.w_dec.detach()).to(device)
    model.load_state_dict({k: v for k, v in trained.state_dict().items() if k in dict(model.named_parameters())})
    optimizer = sae_optimizer(*model.tensors(), lr=1e-4, betas=betas) if one_pass else torch.optim.Adam(model.parameters(), lr=1e-4, betas=betas, fused=True)
    rows, price, counter = torch.randperm(len(data.train), device=device), torch.tensor(l0_coef, device=device), iter(range(10**9))

    def step() -> None:
        k = next(counter)
        x = data.train[rows[(k % data.pool) * data.batch : (k % data.pool + 1) * data.batch]] if gather else data(k)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            out = loss(x, *model.tensors(), bandwidth=BANDWIDTH, l0_coef=price, **options)
        out.total.backward()
        if not one_pass:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not one_pass:
            with torch.no_grad():
                model.w_dec.div_(model.w_dec.norm(dim=1, keepdim=True))
                model.theta.clamp_(min=0.0)
    return step


def impatient(step):
    """The same step with the counts fetched before anything is launched after them."""
    fetch = sae_kernels.fetch

    def at_once(s):
        known = fetch(s)()
        return lambda: known

    def run() -> None:
        sae_kernels.fetch = at_once
        try:
            step()
        finally:
            sae_kernels.fetch = fetch
    return run


def by_density(data: Planted, N: int, device: torch.device) -> dict:
    """Seconds per step of a random coder (no structure, so that rows differ) whose thresholds give a wanted L0, by both ways."""
    out: dict = {}
    fake = Coder(torch.nn.functional.normalize(torch.randn(N, data.train.shape[1], device=device), dim=1))
    still, x, price = sae_optimizer(*fake.tensors(), lr=0.0), torch.randn(data.batch, data.train.shape[1], device=device, dtype=torch.bfloat16), torch.tensor(PRICE, device=device)
    for K in (16, 32, 64, 128, 256, 512):
        with torch.no_grad():
            fake.theta.fill_(math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * K / N, dtype=torch.float64))))

        def step(force):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = _fused_loss(x, *fake.tensors(), bandwidth=BANDWIDTH, l0_coef=price, force=force)
            loss.total.backward()
            still.step()
            still.zero_grad(set_to_none=True)
        jobs = {"dense": lambda: step("dense")} if K == 16 else {}
        timed = compare({"sparse": lambda: step("sparse")} | jobs, pairs=5, warmup=2, inner=5, device=device)
        out |= {str(K): timed.time("sparse").median} | {n: timed.time(n).median for n in jobs}
    print(N, {k: round(v * 1e3, 3) for k, v in out.items()}, flush=True)
    return out


def tried(N: int, H: int, batch: int, steps: int, pool: int, atoms: int, K: int, device: torch.device) -> dict:
    """Variants of one training step from the same trained coder, in turn; and time against L0."""
    gpu = device.type == "cuda"
    data = Planted(H, batch, pool, atoms, K, device, torch.bfloat16 if gpu else torch.float32)
    trained, row = fit_ours(data, N, steps, float(K), device)
    model = ThresholdSAE(H, N).to(device)  # the coder in the units of the data, as fit leaves it
    model.load_state_dict(trained.state_dict())

    def make(**options: Any):
        return variant(data, model, device, l0_coef=PRICE, **options)

    jobs = {"as in fit": make(), "rows gathered in shuffled order": make(gather=True), "first moment kept (beta1 0.9)": make(betas=(0.9, 0.999)), "torch's fused Adam, clip, unit rows apart": make(one_pass=False)}
    if gpu:
        jobs |= {"counts awaited before decode is launched": impatient(make()), "dense products, fused in between": make(loss=_fused_loss, force="dense")}
    jobs["plain PyTorch, eager"] = make(loss=reference_loss, one_pass=False)
    timed = compare(jobs, pairs=7, warmup=3, inner=5, device=device)
    print(N, timed.table(), flush=True)
    return {"N": N, "H": H, "batch": batch, "l0": row["heldout_l0"], "compare": timed.as_dict(), "fit_step_s": row["step_s"], "seconds_by_l0": by_density(data, N, device) if gpu else {}}


def rates(N: int, H: int, batch: int, steps: int, pool: int, atoms: int, K: int, device: torch.device) -> list[dict]:
    """Held-out quality by learning rate, every trainer at the sparsity at which sae-lens settles."""
    data = Planted(H, batch, pool, atoms, K, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    fit_ours(data, N, 60, float(K), device)
    rows = []
    for name, tried_rates in (("sae-lens", (5e-4, 1e-3, 2e-3)), ("atomsnb", (1e-3, 2e-3, 4e-3)), ("sparsify", (1e-3, 2e-3))):
        l0 = rows[1]["heldout_l0"] if len(rows) > 1 and "heldout_l0" in rows[1] else float(K)
        for lr in tried_rates:
            row = fit_ours(data, N, steps, l0, device, lr=lr)[1] if name == "atomsnb" else train_peer(name, data, N, steps, device, lr=lr, k=max(1, round(l0)))
            rows.append({"trainer": name, "lr": lr} | (row if isinstance(row, dict) else {"why": row}))
            print({k: rows[-1].get(k) for k in ("trainer", "lr", "heldout_r2", "heldout_l0", "recovered", "seconds", "why")}, flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--latents", type=int, nargs="*", default=None)
    ap.add_argument("--steps", type=int, nargs="*", default=None, help="steps of the peers, one per size; ours also runs with half and twice as many")
    ap.add_argument("--no-peers", action="store_true")
    ap.add_argument("--rates", action="store_true", help="try learning rates instead, at the first size; saved as threshold_sae_rates")
    ap.add_argument("--tried", action="store_true", help="time variants of one step instead; saved as threshold_sae_tried")
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    a = ap.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    if gpu:
        torch.set_float32_matmul_precision("highest")
        label, sizes, steps, shape = torch.cuda.get_device_name(device), a.latents or [16384, 65536], a.steps or ([600, 600] if a.tried else [1200, 600]), dict(H=2304, batch=8192, pool=40 if a.tried else 200, atoms=2048, K=16)
    else:
        label, sizes, steps, shape = "small CPU run: shows that the script works, says nothing about speed at size", a.latents or [512], a.steps or [200], dict(H=96, batch=256, pool=20, atoms=192, K=3)
    if a.rates:
        rows = rates(sizes[0], steps=steps[0] // 2, device=device, **shape)
        print("saved", save_result("threshold_sae_rates" if gpu else "threshold_sae_rates_cpu", {"label": label, "N": sizes[0], "steps": steps[0] // 2, "rows": rows}, folder=a.out, device=device))
        return
    if a.tried:
        rows = [tried(N, steps=s, device=device, **shape) for N, s in zip(sizes, steps)]
        print("saved", save_result("threshold_sae_tried" if gpu else "threshold_sae_tried_cpu", {"label": label, "rows": rows}, folder=a.out, device=device))
        return
    for N, s in zip(sizes, steps):
        result = run(N, steps=s, device=device, peers=not a.no_peers, label=label, **shape)
        print("saved", save_result(f"threshold_sae_{N}" if gpu else "threshold_sae_cpu", result, folder=a.out, device=device), flush=True)
        if gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

"""Training step of a threshold autoencoder: our kernels beside plain PyTorch, sae-lens and sparsify.

    python benchmarks/threshold_sae.py                 # sizes by the machine: an H200-class GPU, or a small CPU run that says so
    python benchmarks/threshold_sae.py --latents 16384 --steps 1000

All of them train on the same planted data from the same initial weights for the same number of steps; the figures are the
seconds of one step after training (A B A B ..., median and interval), tokens per second over the whole training, and the
centred R^2 and L0 on held-out samples. Dense-equivalent FLOP/s count 10 B H N per step. A peer that cannot be imported is
reported as "not measured: not installable".
"""
import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import ceilings, compare, roofline, save_result
from atomsnb.core.train import fit
from atomsnb.kernels.adam import sae_optimizer
from atomsnb.kernels.threshold_sae import _fused_loss, reference_loss, threshold_sae_loss

BANDWIDTH, THETA0, LAMBDA, LR = 0.1, 0.5, 0.03, 1e-3


class Planted:
    """Batches of sparse sums of random unit atoms: K of `atoms` at a time, coefficients uniform in (0.5, 1.5), a little noise."""

    def __init__(self, H: int, batch: int, pool: int, atoms: int, K: int, device: torch.device, dtype: torch.dtype, seed: int = 0):
        g = torch.Generator(device=device).manual_seed(seed)
        self.D = torch.randn(atoms, H, generator=g, device=device)
        self.D /= self.D.norm(dim=1, keepdim=True)

        def batch_of() -> Tensor:
            index = torch.randint(0, atoms, (batch, K), generator=g, device=device)
            coefficient = torch.rand(batch, K, generator=g, device=device) + 0.5
            clean = nn.functional.embedding_bag(index, self.D, per_sample_weights=coefficient, mode="sum")
            return (clean + 0.02 * torch.randn(batch, H, generator=g, device=device)).to(dtype)

        self.pool = [batch_of() for _ in range(pool)]
        self.heldout = [batch_of() for _ in range(4)]

    def __call__(self, step: int) -> Tensor:
        return self.pool[step % len(self.pool)]


class Coder(nn.Module):
    """The five tensors that `ThresholdSAE` trains; decoder rows start as data directions, the encoder as their copy."""

    def __init__(self, start: Tensor):
        super().__init__()
        N, H = start.shape
        self.w_enc, self.w_dec = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.b_enc, self.theta, self.b_dec = nn.Parameter(start.new_zeros(N)), nn.Parameter(start.new_full((N,), THETA0)), nn.Parameter(start.new_zeros(H))

    def tensors(self) -> tuple:
        return self.w_enc, self.b_enc, self.theta, self.w_dec, self.b_dec


def loss_with(function, warm: int, **options):
    """A `loss_fn` for `core.train.fit` with a linear warm-up of lambda."""
    def loss(model: Coder, x: Tensor, step: int) -> dict:
        out = function(x, *model.tensors(), bandwidth=BANDWIDTH, l0_coef=LAMBDA * min(1.0, (step + 1) / warm), **options)
        return {"loss": out.total, "mse": out.mse, "l0": out.l0}
    return loss


@torch.no_grad()
def quality(data: Planted, reconstruct) -> dict:
    """Held-out centred R^2 and L0; `reconstruct(x)` gives (x_hat, l0 per sample), in float32 without autocast."""
    mean = torch.stack([x.float().mean(0) for x in data.heldout]).mean(0)
    error = total = l0 = 0.0
    for x in data.heldout:
        x = x.float()
        x_hat, active = reconstruct(x)
        error += float((x - x_hat.float()).square().sum())
        total += float((x - mean).square().sum())
        l0 += float(active.float().mean()) / len(data.heldout)
    return {"heldout_r2": 1 - error / total, "heldout_l0": l0}


def ours_reconstruct(m: Coder):
    def run(x: Tensor):
        f = torch.relu(x @ m.w_enc.T + m.b_enc)
        f = f * (f > m.theta)
        return f @ m.w_dec + m.b_dec, (f > 0).sum(1)
    return run


def recovered(data: Planted, rows: Tensor) -> float:
    """Share of planted atoms with a decoder row at cosine above 0.9."""
    rows = rows.detach() / rows.detach().norm(dim=1, keepdim=True)
    return float(((data.D @ rows.T).amax(1) > 0.9).float().mean())


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train_ours(data, start, steps, warm, device, betas, backend="auto"):
    model = Coder(start).to(device)
    optimizer = sae_optimizer(*model.tensors(), lr=LR, betas=betas)
    loss = loss_with(threshold_sae_loss, warm, backend=backend)
    if device.type == "cuda":  # compile the kernels outside the clock: a first, short training, thrown away
        other = Coder(start).to(device)
        fit(other, loss, data, steps=150, optimizer=sae_optimizer(*other.tensors(), lr=LR, betas=betas), device=device, precision="bf16", progress=False)
        del other
    sync(device)
    t = time.perf_counter()
    history = fit(model, loss, data, steps=steps, optimizer=optimizer, device=device, precision="bf16" if device.type == "cuda" else "fp32", log_every=max(1, steps // 20), progress=False)
    sync(device)
    return model, optimizer, time.perf_counter() - t, history


def one_step(model, optimizer, loss, data, device, warm):
    """The body of `core.train.fit`'s loop, as a function for `compare`."""
    counter = iter(range(10**9))

    def run():
        k = next(counter)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            out = loss(model, data(k), warm + k)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def make_saelens(data, start, steps, warm, device):
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer
    N, H = start.shape
    batch = data(0).shape[0]
    sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=H, d_sae=N, dtype="float32", device=str(device), apply_b_dec_to_input=False, normalize_activations="none", jumprelu_init_threshold=THETA0,
                                                        jumprelu_bandwidth=BANDWIDTH, l0_coefficient=LAMBDA, l0_warm_up_steps=warm))
    with torch.no_grad():
        sae.W_dec.copy_(start)
        sae.W_enc.copy_(start.T)
    cfg = SAETrainerConfig(total_training_samples=steps * batch, train_batch_size_samples=batch, lr=LR, lr_end=LR, adam_beta1=0.0, adam_beta2=0.999, device=str(device), autocast=device.type == "cuda", logger=LoggingConfig(log_to_wandb=False))
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=iter([]))
    sae.to(device)

    def reconstruct(x: Tensor):
        f = sae.encode(x)
        return sae.decode(f), (f > 0).sum(1)
    return trainer, reconstruct, sae


def make_sparsify(data, start, k, device):
    from sparsify import SparseCoder, SparseCoderConfig
    N, H = start.shape
    coder = SparseCoder(H, SparseCoderConfig(num_latents=N, k=k), device=device, dtype=torch.float32)
    with torch.no_grad():
        coder.encoder.weight.copy_(start)
        coder.W_dec.copy_(start)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR, betas=(0.0, 0.999), fused=device.type == "cuda")

    def step(x: Tensor):  # the order of sparsify's Trainer for loss_fn="fvu", normalize_decoder=True
        x = x.float()
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    def reconstruct(x: Tensor):
        out = coder(x)
        return out.sae_out, (out.latent_acts > 0).sum(1)
    return step, reconstruct, coder


def by_density(model: Coder, optimizer, data, device) -> dict:
    """Seconds per step of a random coder (no structure, so that rows differ) whose thresholds give a wanted L0, by both ways."""
    out: dict = {}
    H, N = model.w_enc.shape[1], model.w_enc.shape[0]
    fake = Coder(torch.nn.functional.normalize(torch.randn(N, H, device=device), dim=1))
    still = sae_optimizer(*fake.tensors(), lr=0.0)
    x = torch.randn(data(0).shape, device=device, dtype=torch.bfloat16)
    for K in (16, 32, 64, 128, 256, 512):
        with torch.no_grad():
            fake.theta.fill_(float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - K / N))))

        def step(force):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = _fused_loss(x, *fake.tensors(), bandwidth=BANDWIDTH, l0_coef=LAMBDA, force=force)
            loss.total.backward()
            still.step()
            still.zero_grad(set_to_none=True)
        jobs = {"dense": lambda: step("dense")} if K == 16 else {}
        timed = compare({"sparse": lambda: step("sparse")} | jobs, pairs=5, warmup=2, inner=5, device=device)
        out |= {str(K): timed.time("sparse").median} | {n: timed.time(n).median for n in jobs}
    print({k: round(v * 1e3, 3) for k, v in out.items()}, flush=True)
    return out


def kernel_times(step, n: int = 5) -> dict:
    """Milliseconds per step of each GPU kernel, largest first."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(n):
            step()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda e: -e.device_time_total)
    return {e.key[:80]: e.device_time_total / 1e3 / n for e in rows if e.device_time_total / 1e3 / n > 0.01}


def run(N: int, H: int, batch: int, steps: int, pool: int, atoms: int, K: int, pairs: int, inner: int, device: torch.device, peers: bool, label: str) -> dict:
    data = Planted(H, batch, pool, atoms, K, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    source = torch.cat([data(i).float() for i in range(min(pool, -(-N // batch)))])[:N]
    start = source / source.norm(dim=1, keepdim=True)
    del source
    warm, flop, tokens = steps // 3, 10 * batch * H * N, batch * steps
    top = ceilings(device)
    result: dict = {"label": label, "N": N, "H": H, "batch": batch, "steps": steps, "planted": {"atoms": atoms, "K": K, "pool_samples": pool * batch},
                    "settings": {"bandwidth": BANDWIDTH, "theta0": THETA0, "l0_coef": LAMBDA, "lr": LR, "betas": [0.0, 0.999], "clip_norm": 1.0, "l0_warm_up": warm},
                    "ceilings": {"dtype": top.dtype, "flops_per_s": top.flops_per_s, "bytes_per_s": top.bytes_per_s}, "trained": {}}

    model, optimizer, seconds, history = train_ours(data, start, steps, warm, device, (0.0, 0.999))
    result["trained"]["atomsnb"] = {"seconds": seconds, "tokens_per_s": tokens / seconds, "recovered": recovered(data, model.w_dec)} | quality(data, ours_reconstruct(model))
    result["history"] = {"step": history.steps.tolist(), "l0": history.losses["l0"].tolist(), "mse": history.losses["mse"].tolist(), "wall_s": history.wall_s.tolist()}
    print(N, "ours", result["trained"]["atomsnb"], flush=True)
    steppers = {"atomsnb": one_step(model, optimizer, loss_with(threshold_sae_loss, warm), data, device, warm)}
    if device.type == "cuda":
        result["kernels_ms"] = kernel_times(steppers["atomsnb"])
        other = sae_optimizer(*(m := Coder(start).to(device)).tensors(), lr=LR, betas=(0.9, 0.999))
        m.load_state_dict(model.state_dict())
        steppers["atomsnb, beta1 0.9"] = one_step(m, other, loss_with(threshold_sae_loss, warm), data, device, warm)
    plain = Coder(start).to(device)
    plain.load_state_dict(model.state_dict())
    steppers["plain torch, eager"] = one_step(plain, torch.optim.Adam(plain.parameters(), lr=LR, betas=(0.9, 0.999), fused=True), loss_with(reference_loss, warm), data, device, warm)

    result["seconds_by_l0"] = by_density(model, optimizer, data, device) if device.type == "cuda" else {}
    l0 = max(1, round(result["trained"]["atomsnb"]["heldout_l0"]))
    if peers:
        for name in ("sae-lens", "sparsify"):
            try:
                if name == "sae-lens":
                    trainer, reconstruct, sae = make_saelens(data, start, steps, warm, device)
                    counter = iter(range(10**9))

                    def body(trainer=trainer, counter=counter):
                        trainer.step(data(next(counter)))
                        trainer.n_training_steps += 1
                    rows = sae.W_dec
                else:
                    step, reconstruct, coder = make_sparsify(data, start, l0, device)
                    counter = iter(range(10**9))

                    def body(step=step, counter=counter):
                        step(data(next(counter)))
                    rows = coder.W_dec
            except ImportError as fault:
                result["trained"][name] = f"not measured: not installable ({fault})"
                print(name, result["trained"][name])
                continue
            try:
                body()
            except Exception as fault:  # a peer that breaks must not cost the other figures
                result["trained"][name] = f"not measured: {type(fault).__name__}: {str(fault)[:300]}"
                print(name, result["trained"][name])
                continue
            sync(device)
            t = time.perf_counter()
            for _ in range(steps - 1):
                body()
            sync(device)
            seconds = (time.perf_counter() - t) * steps / (steps - 1)
            result["trained"][name] = {"seconds": seconds, "tokens_per_s": tokens / seconds, "recovered": recovered(data, rows)} | quality(data, reconstruct)
            print(N, name, result["trained"][name], flush=True)
            steppers[name] = body
    timed = compare(steppers, pairs=pairs, warmup=2, inner=inner, device=device)
    print(timed.table(), flush=True)
    result["compare"] = timed.as_dict()
    result["dense_equivalent_tflops"] = {n: flop / timed.time(n).median / 1e12 for n in timed.names}
    result["share_of_ceiling"] = {n: flop / timed.time(n).median / top.flops_per_s for n in timed.names}
    result["tokens_per_s_ratio_to_ours"] = {n: timed.time("atomsnb").median / timed.time(n).median for n in timed.names}
    # the floor: the encoder's product, the scores written and read, both gradients and the optimiser's bytes
    floor = roofline(2 * batch * H * N, 2 * 2 * batch * N + 2 * N * H * (4 + 22), measured=top)
    result["floor_ms"] = {"product": floor.compute_s * 1e3, "bytes": floor.memory_s * 1e3, "sum": (floor.compute_s + floor.memory_s) * 1e3, "reached": timed.time("atomsnb").median * 1e3}
    print({k: round(v / 1, 3) for k, v in result["share_of_ceiling"].items()}, result["floor_ms"], flush=True)
    return result


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--latents", type=int, nargs="*", default=None)
    ap.add_argument("--steps", type=int, nargs="*", default=None)
    ap.add_argument("--no-peers", action="store_true")
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    a = ap.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    if gpu:
        torch.set_float32_matmul_precision("highest")
        sizes, steps = a.latents or [16384, 65536], a.steps or [1500, 750]
        for N, s in zip(sizes, steps):
            r = run(N, 2304, 8192, s, 200, 2048, 16, 10, 10, device, not a.no_peers, torch.cuda.get_device_name(device))
            print("saved", save_result(f"threshold_sae_{N}", r, folder=a.out, device=device))
            torch.cuda.empty_cache()
    else:
        r = run((a.latents or [512])[0], 96, 256, (a.steps or [60])[0], 20, 192, 3, 5, 2, device, not a.no_peers, "small CPU run: shows that the script works, says nothing about speed at size")
        print("saved", save_result("threshold_sae_cpu", r, folder=a.out, device=device))


if __name__ == "__main__":
    main()

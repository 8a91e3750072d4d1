"""Entanglement profiles: thin path against dense path; LoRA step against peft; and, on a GPU, the fine-tuning experiment at scale gpu.

    python benchmarks/entanglement.py                         profiles (and the step against peft where peft is installed)
    python benchmarks/entanglement.py --part rates            learning rates of the notebook's arms, searched with its settings
    python benchmarks/entanglement.py --part train            the fine-tuning experiment: learning rates, arms, ranks, scale
    python benchmarks/entanglement.py --write-text FILE       write the text to fine-tune on, for a machine whose interpreter lacks it

Results go to entanglement_cpu.json or, on a GPU, entanglement_gpu.json; of `rates` to entanglement_rates.json, of `train` to entanglement_gpu_train.json.
"""
import argparse
import dataclasses
import json
import math
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import compare, save_result
from atomsnb.nn.adapters import inject_adapters, remove_adapters
from atomsnb.nn.fine_tuning import Arm, FineTuning, norm_matched, truncated
from atomsnb.nn.schmidt import entanglement_profile, lora_profile
from atomsnb.quantum.entanglement import EntanglementConfig, arm_depth, attention_scaling, base_model, depth_null, fine_tuning_text, logit_spread, lora_null_profile, no_hair_report, python_reference, random_attention, scaling_fits, token_streams


GRID = tuple(2.5e-4 * 2**k for k in range(8))  # learning rates of a search where the configuration names none


def literal(W: torch.Tensor) -> torch.Tensor:
    """The profile as its definition says: singular values of every unfolding, float64."""
    out, bits = [], int(math.log2(W.numel()))
    for l in range(1, bits):
        s = torch.linalg.svdvals(W.reshape(2**l, -1)) ** 2
        p = s / s.sum()
        out.append(-torch.special.xlogy(p, p).sum())
    return torch.stack(out)


def profiles(device: torch.device) -> dict:
    """Thin against dense at d = 4096, r = 16, their agreement; dense against the definition at a size where that is bearable."""
    gpu = device.type == "cuda"
    g = torch.Generator().manual_seed(0)
    d, r = 4096, 16
    A, B = (torch.randn(*s, generator=g, dtype=torch.float64).to(device) for s in ((r, d), (d, r)))
    W = B @ A
    gap = float((lora_profile(A, B).entropy - entanglement_profile(W).entropy).abs().max())
    thin = compare({"thin": lambda: lora_profile(A, B), "dense": lambda: entanglement_profile(W)}, pairs=10 if gpu else 5, warmup=2 if gpu else 1, device=device)
    print(thin.table(), flush=True)
    dense = thin.time("dense").median
    out = {"d": d, "r": r, "largest_difference": gap, "thin_against_dense": thin.as_dict(), "ratio": thin.ratio("dense").median}
    lines = [f"profile of a product of rank {r}, d = {d}: from the factors {1e3 * thin.time('thin').median:.1f} ms, dense {dense:.2f} s, ratio {out['ratio']:.0f} (bar 50; medians of {10 if gpu else 5} readings{'' if gpu else ', one thread'}); largest difference {gap:.1e} (bar 1e-8)"]
    if gpu:
        full = torch.randn(d, d, generator=g, dtype=torch.float64).to(device)
        general = compare({"dense profile": lambda: entanglement_profile(full), "one svdvals": lambda: torch.linalg.svdvals(full), "one eigvalsh": lambda: torch.linalg.eigvalsh(full @ full.T)}, pairs=5, warmup=1, device=device)
        print(general.table(), flush=True)
        seconds = general.time("dense profile").median
        out["dense_gaussian"] = general.as_dict()
        lines.append(f"dense profile of a {d} x {d} matrix: {seconds:.3f} s (bar 0.5); svdvals of one cut {general.time('one svdvals').median:.3f} s, eigvalsh of one Gram matrix {general.time('one eigvalsh').median:.3f} s")
    size = 2048 if gpu else 512
    M = torch.randn(size, size, generator=g, dtype=torch.float64).to(device)
    word = compare({"ours": lambda: entanglement_profile(M), "svd of every cut": lambda: literal(M)}, pairs=3, warmup=1, device=device)
    error = float((entanglement_profile(M).entropy - literal(M)).abs().max())
    print(word.table(), flush=True)
    out["definition"] = word.as_dict() | {"d": size, "largest_difference": error}
    lines.append(f"dense profile, d = {size}: {word.ratio('svd of every cut').median:.1f} times faster than a singular value decomposition per cut; largest difference {error:.1e}")
    if not gpu and find_spec("quimb"):
        import quimb.tensor as qtn

        small = torch.randn(256, 256, generator=g, dtype=torch.float64)
        vector = (small / small.norm()).reshape(-1).numpy()

        def peer() -> np.ndarray:
            state = qtn.MatrixProductState.from_dense(vector, dims=[2] * 16)
            return np.array([state.entropy(k) for k in range(1, 16)])

        against = compare({"ours": lambda: entanglement_profile(small, base=2), "quimb": peer}, pairs=5, warmup=1, device=device)
        print(against.table(), flush=True)
        out["quimb"] = against.as_dict() | {"d": 256, "largest_difference": float(np.abs(peer() - entanglement_profile(small, base=2).entropy.numpy()).max())}
        lines.append(f"dense profile, d = 256, against quimb: {against.ratio('quimb').median:.1f} times faster; largest difference {out['quimb']['largest_difference']:.1e}")
    elif not gpu:
        lines.append("quimb: not measured: not installed here")
    return out | {"summary": lines}


def step_against_peft(device: torch.device) -> dict:
    """One training step of LoRA on a small Llama: peft, ours, and ours with three seeds at once."""
    if not (find_spec("peft") and find_spec("transformers")):
        return {"summary": ["LoRA step against peft: not measured: not installed here"]}
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama() -> torch.nn.Module:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=1024, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)).to(device)

    ids = torch.randint(0, 1024, (4, 128), generator=torch.Generator().manual_seed(0)).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = {"peft": get_peft_model(llama(), LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])), "ours": llama(), "ours, 3 seeds": llama()}
    inject_adapters(models["ours"], r=8)
    inject_adapters(models["ours, 3 seeds"], r=8, seeds=(0, 1, 2))

    def step(name: str):
        model, copies = models[name], 3 if "3" in name else 1
        optimizer, batch = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3), ids.repeat(copies, 1)

        def call() -> None:
            optimizer.zero_grad()
            (model(input_ids=batch, labels=batch).loss * copies).backward()
            optimizer.step()

        return call

    timed = compare({name: step(name) for name in models}, pairs=15, warmup=3, device=device)
    print(timed.table(), flush=True)
    lines = [f"LoRA step (4 layers, d = 256, 512 tokens): ours / peft {timed.ratio('ours').median:.2f}; three seeds at once / three times peft {timed.ratio('ours, 3 seeds').median / 3:.2f}"]
    return {"peft": timed.as_dict(), "summary": lines}


def text_lines() -> str:
    """The text to fine-tune on, with its split, as .jsonl."""
    return "\n".join(json.dumps({"name": d.path, "split": d.split, "text": d.text}) for d in python_reference().documents) + "\n"


def experiment_of(cfg: EntanglementConfig, device: torch.device) -> tuple[FineTuning, dict]:
    """The experiment on the base model of the configuration, and what it was."""
    data = fine_tuning_text(cfg.text)
    model, tokenizer = base_model(cfg.base)
    streams = token_streams(data, tokenizer)
    return FineTuning(model.to(device), streams, cfg, device), {"base": cfg.base, "data": data.source, "data_sha256": data.sha256, "tokens": {k: len(v) for k, v in streams.items()}}


def curves(arm: Arm, targets: tuple[str, ...], record: int = -1) -> dict:
    """Mean profile over layers, per target and seed."""
    profiles = arm.profiles(record)
    return {t: np.mean([p.entropy.numpy() for n, p in profiles.items() if n.endswith(t)], 0).round(5).tolist() for t in targets}


def arm_record(arm: Arm, targets: tuple[str, ...]) -> dict:
    """What is kept of an arm: losses, depths and profiles at every record."""
    return {"parameters": arm.parameters, "lr": arm.lr, "steps": arm.steps, "losses": arm.losses.round(5).tolist(), "depth": [arm_depth(arm, k).mean(0).round(5).tolist() for k in range(len(arm.steps))],
            "profiles": [curves(arm, targets, k) for k in range(len(arm.steps))]}  # fmt: skip


def winners(trial: FineTuning, cfg: EntanglementConfig, grid: tuple[float, ...]) -> tuple[dict, dict, int]:
    """Best learning rate of every arm by validation loss, the losses of all seeds, and the rank of the arm with as many parameters as the MPS adapter."""
    made = trial.inject("mps")
    remove_adapters(trial.model)
    equal = max(1, round(sum(a.n_parameters for a in made.values()) / sum(sum(a.weight.shape) for a in made.values())))
    searched = {}
    for name, (method, r) in {"full": ("full", None), "lora": ("lora", None), "mps": ("mps", None), "equal": ("lora", equal)}.items():
        searched[name] = trial.tune(method, grid, r=r)
        print(name, {lr: round(float(v.mean()), 4) for lr, v in searched[name].items()}, flush=True)
    best = {n: min(v, key=lambda lr, v=v: v[lr].mean()) for n, v in searched.items()}
    return best, {n: {str(lr): v.round(5).tolist() for lr, v in losses.items()} for n, losses in searched.items()}, equal


def rates_of_cpu(device: torch.device, text: str | None) -> dict:
    """The learning rates that the notebook replays: a search with its own settings, scored on four times as many validation windows."""
    cfg = EntanglementConfig.preset("cpu", **({"text": text} if text else {}))
    trial, facts = experiment_of(cfg.replace(heldout_windows=4 * cfg.heldout_windows), device)
    best, validation, equal = winners(trial, cfg, GRID)
    ends = [n for n, lr in best.items() if lr in (GRID[0], GRID[-1])]
    line = f"learning rates at scale cpu ({facts['base']}, {cfg.steps} steps, {cfg.seeds} seeds): {best}" + (f"; at an end of the grid: {ends}" if ends else "; none at an end of the grid")
    return {"rates": best, "validation": validation, "equal_rank": equal, **facts, "steps": cfg.steps, "seeds": cfg.seeds, "validation_windows": 4 * cfg.heldout_windows, "config": dataclasses.asdict(cfg), "summary": [line]}


def train(cfg: EntanglementConfig, device: torch.device, text: str | None, ranks: tuple[int, ...], alphas: tuple[float, ...], steps: int | None) -> dict:
    """Scale gpu: search, four arms, untrained partners, ranks, alphas, attention."""
    torch.set_float32_matmul_precision("high")
    began, out, lines = time.perf_counter(), {}, []
    if text:
        cfg = cfg.replace(text=text)
    if steps:
        cfg = cfg.replace(steps=steps, warmup=min(cfg.warmup, steps // 4), records=tuple(sorted({r for r in cfg.records if r < steps} | {steps})))
    trial, facts = experiment_of(cfg, device)
    base_loss = float(trial.score()[0])
    rates, searched, equal = winners(trial, cfg, cfg.lr_grid or GRID)
    print("learning rates at scale gpu:", rates, f"{time.perf_counter() - began:.0f} s", flush=True)
    arms = {n: trial.run(m, rates[n], r=r, name=n, progress=False) for n, (m, r) in {"full": ("full", None), "lora": ("lora", None), "mps": ("mps", None), "equal": ("lora", equal)}.items()}
    g = torch.Generator().manual_seed(1)
    deltas = arms["lora"].deltas()
    arms["random"], arms["cut"] = trial.fixed("random", norm_matched(deltas, cfg.rank, g)), trial.fixed("cut", truncated(arms["full"].deltas(), cfg.rank))
    null, spectrum = depth_null(deltas, cfg.rank, cfg.null_samples, g), depth_null(deltas, cfg.rank, cfg.null_samples, g, spectrum=True)
    out |= facts | {"config": dataclasses.asdict(cfg), "base_loss": base_loss, "rates": rates, "validation": searched, "equal_rank": equal, "arms": {n: arm_record(a, cfg.targets) for n, a in arms.items()},
                    "null_depth": {"mean": float(null.mean()), "q975": np.quantile(null, 0.975, 0).tolist()}, "spectrum_depth": {"mean": float(spectrum.mean()), "q975": np.quantile(spectrum, 0.975, 0).tolist()}}  # fmt: skip
    lines += [f"{facts['base']}, {cfg.seeds} seeds, {cfg.steps} steps, r = {cfg.rank}: base loss {base_loss:.4f}, " + ", ".join(f"{n} {a.losses[-1].mean():.4f}" for n, a in arms.items()),
              "valley depth in nats: " + ", ".join(f"{n} {arm_depth(a).mean():.3f}" for n, a in arms.items()) + f"; random factors {null.mean():.3f}, trained spectrum with random vectors {spectrum.mean():.3f}"]  # fmt: skip
    print(*lines[-2:], f"{time.perf_counter() - began:.0f} s", sep="\n", flush=True)

    sweep = {}
    for name, values in (("rank", ranks), ("alpha", alphas)):
        for value in values:
            other = cfg.replace(**{name: value}) if name == "alpha" else cfg
            arm = FineTuning(trial.model, trial.streams, other, device).run("lora", rates["lora"], r=value if name == "rank" else None, progress=False)
            profile = curves(arm, cfg.targets)
            law = {}
            for t in cfg.targets:
                d_out, d_in = next(d.shape[1:] for n, d in arm.deltas().items() if n.endswith(t))
                c, rank = int(math.log2(d_out)), value if name == "rank" else cfg.rank
                law[t] = {"peak": [int(np.argmax(p[:c])) + 1 for p in profile[t]], "peak_law": (math.log2(d_out) + math.log2(rank)) / 2, "floor": [p[c - 1] for p in profile[t]], "floor_null": float(lora_null_profile(d_out, d_in, rank)[c - 1])}
            sweep[f"{name}={value}"] = {"losses": arm.losses[-1].tolist(), "depth": arm_depth(arm).mean(0).tolist(), "profile": profile, "law": law}
            print(f"{name} {value}: loss {arm.losses[-1].mean():.4f}, depth {np.mean(sweep[f'{name}={value}']['depth']):.3f}, " + "; ".join(f"{t} peak {np.mean(v['peak']):.1f} (rank alone {v['peak_law']:.1f}), floor {np.mean(v['floor']):.2f} (rank alone {v['floor_null']:.2f})" for t, v in law.items()), flush=True)
    out["sweep"] = sweep
    lines.append("peak of the query profile, trained (rank alone): " + ", ".join(f"{k} {np.mean(v['law'][cfg.targets[0]]['peak']):.1f} ({v['law'][cfg.targets[0]]['peak_law']:.1f})" for k, v in sweep.items() if k.startswith("rank")))

    states = {"base": trial.attention(), **{n: trial.attention(arms[n]) for n in ("lora", "full", "random")}}
    report = no_hair_report(states)
    out["no_hair"] = {part: {m: v.tolist() for m, v in getattr(report, part).items()} for part in ("pair", "seeds", "control", "base")}
    lines.append("relative distance of attention outputs at the end of training: " + ", ".join(f"{words} {report_part['output'].mean():.3f}" for words, report_part in (("lora-full", report.pair), ("seed-seed", report.seeds), ("lora-random", report.control), ("lora-base", report.base))))
    out["attention_entropy"] = {n: s.entropy.tolist() for n, s in states.items()}
    wide = trial.attention(arms["lora"], length=cfg.scaling_length).weights.cpu()
    sizes = tuple(round(16 * 2 ** (k / 2)) for k in range(2 * round(math.log2(cfg.scaling_length / 16)) + 1))
    trained = attention_scaling(wide, sizes).mean((0, 2, 3)).numpy()
    spread = logit_spread(wide).mean((1, 2)).flatten()
    blank = attention_scaling(torch.stack([random_attention(cfg.scaling_length, float(s), generator=g)[0] for s in spread]), sizes).mean(0).numpy()
    fits = {"trained": scaling_fits(sizes, trained.mean(0)), "null": scaling_fits(sizes, blank)}
    out["scaling"] = {"sizes": sizes, "trained": trained.tolist(), "null": blank.tolist(), "fits": {k: {n: dataclasses.asdict(f) for n, f in v.items()} for k, v in fits.items()}}
    lines.append(f"attention entropy per ln n: trained {fits['trained']['log'].parameters[1]:.3f}, null {fits['null']['log'].parameters[1]:.3f}")
    print(*lines[-2:], sep="\n", flush=True)
    return out | {"summary": lines, "wall_s": time.perf_counter() - began}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    ap.add_argument("--part", choices=("profiles", "rates", "train", "all"), default=None, help="default: profiles on a CPU, all on a GPU")
    ap.add_argument("--text", default=None, help=".jsonl file to fine-tune on (default: the interpreter's language reference)")
    ap.add_argument("--steps", type=int, default=None, help="training steps of the experiment at scale gpu")
    ap.add_argument("--scale", default="gpu", help="preset of the experiment")
    ap.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4, 8, 32, 64, 128], help="ranks of the sweep")
    ap.add_argument("--alphas", type=float, nargs="*", default=[8.0, 128.0], help="scales of the sweep")
    ap.add_argument("--write-text", default=None, help="write the text to this file and stop")
    a = ap.parse_args()
    if a.write_text:
        Path(a.write_text).parent.mkdir(parents=True, exist_ok=True)
        Path(a.write_text).write_text(text_lines(), encoding="utf-8")
        print("written", a.write_text)
        return
    gpu = torch.cuda.is_available()
    device, tag = torch.device("cuda", 0) if gpu else torch.device("cpu"), "gpu" if gpu else "cpu"
    part = a.part or ("all" if gpu else "profiles")
    if not gpu:
        torch.set_num_threads(1)  # thin and dense alike: the ratio should not depend on the number of cores
    if part in ("profiles", "all"):
        r, s = profiles(device), step_against_peft(device)
        r |= {k: v for k, v in s.items() if k != "summary"} | {"summary": r["summary"] + s["summary"]}
        print("saved", save_result(f"entanglement_{tag}", r, folder=a.out, device=device), *r["summary"], sep="\n")
    if part == "rates":
        r = rates_of_cpu(device, a.text)
        print("saved", save_result("entanglement_rates", r, folder=a.out, device=device), *r["summary"], sep="\n")
    if part in ("train", "all"):
        r = train(EntanglementConfig.preset(a.scale), device, a.text, tuple(a.ranks), tuple(a.alphas), a.steps)
        print("saved", save_result(f"entanglement_{tag}_train", r, folder=a.out, device=device), *r["summary"], sep="\n")


if __name__ == "__main__":
    main()

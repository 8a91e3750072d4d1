"""Train and measure the language models that ship with the library, on one GPU (or, with --toy, on a CPU in a minute).

    python benchmarks/language_models.py --corpus corpus.safetensors --out results --device cuda:0 sweep regular
    python benchmarks/language_models.py --corpus corpus.safetensors --out results code-lm --seed 0 1 2 --set lr=2e-3 --set dropout=0.2
    python benchmarks/language_models.py --corpus corpus.safetensors --out results --toy sweep code-lm code-mdlm json-mdlm-bytes byte-lm-tiny speed evaluate

Jobs, each of which writes what it found at once, so that a run that is cut off loses only the job in hand:

    sweep            depth x width x learning rate at equal parameters, one seed, few steps; bits per byte on the validation files
    regular          dropout x weight decay for the shipped shape, then the number of steps: how long a small text can be gone through
    code-lm          the causal model (weights of the first seed; figures of all)
    code-mdlm        the masked-diffusion model over the same tokens
    json-mdlm-bytes  the masked-diffusion model over bytes, trained on JSON records
    byte-lm-tiny     the small causal model over bytes
    speed            the training step against the matmul ceiling: batches, compile modes, where the time goes
    evaluate         what needs two models: infilling, sampling quality (reads the weights written by the jobs above, or those that ship)
    evaluate-json    samples of json-mdlm-bytes that json.loads accepts, by steps, temperature and policy
    baselines        Kneser-Ney on the same tokens, xz and zstd given the training text, on the held-out files (no GPU)
    remeasure        the shipped weights again on this machine: held-out bits per byte and likelihood bounds

Figures go into <out>/results[-TAG].json, weights into <out>/<model>.tar (bf16 safetensors, config, history); benchmarks/language_models_ship.py makes one file of the figures and
puts the weights into the package. The corpus file is written by
`atomsnb.models.corpus.write_corpus`.
"""
import argparse
import gc
import io
import json
import math
import sys
import tarfile
import time
import traceback
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import ceilings, provenance
from atomsnb.core.runtime import atomic_write
from atomsnb.models import evaluation, registry, training
from atomsnb.models.evaluation import bits_per_byte
from atomsnb.models.masked_diffusion import likelihood_bound
from atomsnb.models.training import RECIPES, ModelRecipe, flops_per_token, train
from atomsnb.nn.transformer import Transformer, TransformerConfig

SHAPES = {"192x10": {"d_model": 192, "n_layers": 10, "n_heads": 3, "n_kv_heads": 1, "d_ff": 560}, "256x5": {"d_model": 256, "n_layers": 5, "n_heads": 4, "n_kv_heads": 2, "d_ff": 768},
          "320x3": {"d_model": 320, "n_layers": 3, "n_heads": 5, "n_kv_heads": 1, "d_ff": 1024}}
RATES = (1e-3, 2e-3, 4e-3)
SWEEP_STEPS = 800
TOY = {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64, "window": 32, "batch": 4, "steps": 12, "warmup": 2, "precision": "fp32"}


class Session:
    """The arguments, the corpus on the device (read when it is first asked for), and where results go."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device, self.out = args, torch.device(args.device), Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.began, self.results = time.perf_counter(), self.out / f"results{'-' + args.tag if args.tag else ''}.json"

    @cached_property
    def corpus(self) -> "Corpus":
        """The corpus; its facts go into the results at once."""
        corpus = Corpus(Path(self.args.corpus) if self.args.corpus else None, self.device)
        self.note("provenance", provenance(self.device) | {"corpus": corpus.facts})
        return corpus

    def note(self, key: str, value: object) -> None:
        """Write a result under its key, keeping the others."""
        held = json.loads(self.results.read_text()) if self.results.is_file() else {}
        held[key] = value
        atomic_write(self.results, json.dumps(held, indent=1) + "\n")

    def left(self) -> float:
        """Seconds until no new run may begin."""
        return self.args.minutes * 60 - (time.perf_counter() - self.began)

    def recipe(self, name: str, **more: object) -> ModelRecipe:
        """The shipped recipe with what the command line changes (and the toy sizes)."""
        recipe = RECIPES[name]
        if self.args.toy:
            recipe = recipe.replace(**(TOY | ({"window": Corpus.ROW} if recipe.data == "json" else {})))
        chosen = dict(item.split("=", 1) for item in self.args.set)
        return recipe.replace(**{**chosen, **more})


class Corpus:
    """Token streams and JSON rows, from a corpus file or from the running interpreter's standard library, on a device."""

    SPECIAL = {"code-bpe": {"pad": 0, "end": 1, "mask": 2, "fill": 3}, "bytes": {"pad": 256, "end": 257, "mask": 258, "fill": 259}}
    ROW = 256

    def __init__(self, path: "Path | None", device: torch.device) -> None:
        from atomsnb.models import corpus

        held = corpus.read_corpus(path) if path is not None else corpus.build_corpus()
        self.held: dict = {}
        self.facts = {"sha256": held.sha256} | {k: held.facts[k] for k in ("python", "data", "tokenizers", "bytes", "records")}
        for side in ("training", "validation", "heldout"):
            for tokenizer in self.SPECIAL:
                stream = held.stream(tokenizer, side)
                self.held[f"{tokenizer}/{side}"] = (stream.ids.to(device, torch.int64), stream.bytes)
            rows = held.json_windows(side, self.ROW).to(device, torch.int64)
            self.held[f"json/{side}"] = (rows, int((rows < 256).sum()))

    def train(self, recipe: ModelRecipe) -> Tensor:
        """What a recipe trains on."""
        return self.held[f"{'json' if recipe.data == 'json' else recipe.tokenizer}/training"][0]

    def text(self, tokenizer: str, side: str) -> "tuple[Tensor, int]":
        """Tokens and bytes of a side's files."""
        return self.held[f"{tokenizer}/{side}"]

    def json(self, side: str) -> Tensor:
        """The JSON rows of a side."""
        return self.held[f"json/{side}"][0]


# --- training and what is measured at once ---


class Curve:
    """Bits per byte on the validation files during training, as a callback of `fit`."""

    def __init__(self, measure, every: int) -> None:
        self.measure, self.every, self.points = measure, every, []

    def after_step(self, model, step: int) -> None:
        """Measure after every `every` updates."""
        if (step + 1) % self.every == 0:
            self.points.append([step + 1, self.measure(model)])


def validation(s: Session, recipe: ModelRecipe, mask_id: int, end_id: int):
    """A function of the model: bits per byte (causal) or the loss on fixed windows with fixed corruption (masked), on the validation files."""
    if recipe.kind == "causal":
        ids, n_bytes = s.corpus.text(recipe.tokenizer, "validation")
        if s.args.toy:
            n_bytes, ids = max(1, n_bytes * 400 // len(ids)), ids[:400]
        return lambda model: bits_per_byte(model, ids, n_bytes, batch_size=256, precision=recipe.precision).bits_per_byte
    ids = s.corpus.json("validation") if recipe.data == "json" else s.corpus.text(recipe.tokenizer, "validation")[0]
    batches = training.make_batches(recipe.replace(batch=16 if s.args.toy else 256, seed=10_007), ids.to(s.device), end_id=end_id)
    loss = training.MaskedLoss(mask_id)

    @torch.no_grad()
    def measure(model) -> float:
        was = model.training
        model.eval()
        with torch.autocast(s.device.type, dtype=torch.bfloat16, enabled=recipe.precision != "fp32"):
            values = [float(loss(model, batches(k))["loss"]) for k in range(1 if s.args.toy else 4)]
        model.train(was)
        return sum(values) / len(values)

    return measure


def run(s: Session, recipe: ModelRecipe, *, curve_points: int = 8, compile: "bool | str | None" = None, reset: bool = True) -> "tuple[Transformer, dict, dict]":
    """Train by a recipe; the model, figures as JSON, arrays."""
    if reset:
        torch._dynamo.reset()
    special = s.corpus.SPECIAL[recipe.tokenizer]
    ids = s.corpus.train(recipe)
    curve = Curve(validation(s, recipe, special["mask"], special["end"]), max(1, recipe.steps // curve_points)) if curve_points else None
    began = time.perf_counter()
    compile = s.args.compile if compile is None else compile
    model, history = train(recipe, ids, end_id=special["end"], mask_id=special["mask"], device=s.device, compile=s.device.type == "cuda" if compile == "auto" else compile, progress=False,
                           callbacks=[curve] if curve else [], log_every=min(50, max(1, recipe.steps // 4)))
    wall = time.perf_counter() - began
    tokens = recipe.batch * recipe.window
    half = len(history.wall_s) // 2
    step_s = (history.wall_s[-1] - history.wall_s[half]) / max(1, history.steps[-1] - history.steps[half]) if half else math.nan
    top = ceilings(s.device)
    flops = {("full_attention", "causal_attention")[skip]: tokens * flops_per_token(model.config, recipe.window, skip_masked=bool(skip)) for skip in (0, 1)}
    share = {} if math.isnan(step_s) else {k: round(f / step_s / top.flops_per_s, 4) for k, f in flops.items()}
    figures = {"recipe": recipe.as_dict(), "share_of_ceiling": share, "parameters": model.config.n_parameters, "wall_s": round(wall, 2), "step_ms": None if math.isnan(step_s) else round(step_s * 1e3, 3),
               "epochs": round(recipe.steps * tokens / ids.numel(), 2), "tokens_seen": recipe.steps * tokens, "final_train_loss": float(history.losses["loss"][-4:].mean()),
               "validation_curve": curve.points if curve else [], "device": provenance(s.device)["device"]}
    arrays = {"steps": torch.from_numpy(history.steps), "wall_s": torch.from_numpy(history.wall_s)} | {f"losses.{k}": torch.from_numpy(v) for k, v in history.losses.items()}
    if curve and curve.points:
        arrays["validation"] = torch.tensor(curve.points, dtype=torch.float64)
    return model, figures, arrays


def rounded(model: Transformer) -> Transformer:
    """The same model with weights rounded to bf16 and computed with in float32: what is shipped."""
    other = Transformer(model.config).to(next(model.parameters()).device).eval()
    other.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in model.state_dict().items()})
    return other


def pack(s: Session, name: str, model: Transformer, figures: dict, arrays: dict) -> None:
    """<out>/<name>.tar: weights in bf16, configuration, figures, history."""
    from safetensors.torch import save

    files = {"model.safetensors": save({k: v.detach().to("cpu", torch.bfloat16).contiguous().clone() for k, v in model.state_dict().items()}),
             "config.json": json.dumps(model.config.as_dict(), indent=1).encode(), "figures.json": json.dumps(figures, indent=1).encode(),
             "history.safetensors": save({k: v.contiguous().clone() for k, v in arrays.items()})}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    atomic_write(s.out / f"{name}.tar", buffer.getvalue())


def unpack(s: Session, name: str) -> Transformer:
    """The model in <out>/<name>.tar (or in a folder given with --models), or else the one that ships, on the device."""
    path = next((p for p in (s.out / f"{name}.tar", Path(s.args.models or s.out) / f"{name}.tar") if p.is_file()), None)
    if path is not None:
        return opened(path)[0].to(s.device)
    config, tensors, _ = registry.load_weights(name)
    model = Transformer(TransformerConfig(**config["atomsnb"]["transformer"]))
    model.load_state_dict(tensors | ({"lm_head.weight": tensors["model.embed_tokens.weight"]} if "lm_head.weight" in model.state_dict() else {}))
    return model.to(s.device).eval()


def opened(path: Path) -> "tuple[Transformer, dict, dict]":
    """A tar that `pack` wrote: the model in evaluation mode without dropout, its figures, its history as lists."""
    from safetensors.torch import load

    name = path.stem
    with tarfile.open(path) as tar:
        config, weights, figures, history = (tar.extractfile(f"{name}/{f}").read() for f in ("config.json", "model.safetensors", "figures.json", "history.safetensors"))  # type: ignore[union-attr]
    model = Transformer(TransformerConfig(**(json.loads(config) | {"dropout": 0.0})))  # dropout belongs to the recipe, not to the network that ships
    model.load_state_dict({k: v.float() for k, v in load(weights).items()})
    return model.eval(), json.loads(figures), {k: v.tolist() for k, v in load(history).items()}


# --- jobs ---


def job_sweep(s: Session) -> None:
    """Depth x width x learning rate at equal parameters."""
    rows: list = []
    for shape, sizes in SHAPES.items():
        for i, lr in enumerate(RATES):
            if s.left() < 20:
                print(f"sweep: out of time before {shape} at {lr}", flush=True)
                continue
            steps = 12 if s.args.toy else SWEEP_STEPS
            recipe = s.recipe("code-lm", lr=lr, steps=steps, warmup=max(1, steps // 16), **({} if s.args.toy else sizes))
            _, figures, _ = run(s, recipe, curve_points=2, reset=i == 0)
            rows.append({"shape": shape, "lr": lr, "validation_bpb": figures["validation_curve"][-1][1]} | figures)
            print(f"sweep {shape:8} lr {lr:.0e}: {rows[-1]['validation_bpb']:.4f} bits/byte, {figures['parameters']:,} parameters, {figures['step_ms']} ms/step, {figures['wall_s']} s", flush=True)
            s.note("sweep", rows)


def job_regular(s: Session) -> None:
    """Dropout x weight decay for the shipped shape, then the number of steps at the best of them: how long a small text can be gone through."""
    rows: list = []

    def one(dropout: float, decay: float, steps: int, reset: bool) -> None:
        if s.left() < 30:
            print(f"regular: out of time before dropout {dropout}, decay {decay}, {steps} steps", flush=True)
            return
        recipe = s.recipe("code-lm", dropout=dropout, weight_decay=decay, steps=steps, warmup=max(1, steps // 16))
        _, figures, _ = run(s, recipe, curve_points=6, reset=reset)
        rows.append({"dropout": dropout, "weight_decay": decay, "steps": steps, "validation_bpb": figures["validation_curve"][-1][1]} | figures)
        print(f"regular dropout {dropout} decay {decay} steps {steps}: {rows[-1]['validation_bpb']:.4f} bits/byte (best on the way {min(p[1] for p in figures['validation_curve']):.4f}), "
              f"train loss {figures['final_train_loss']:.3f}, {figures['step_ms']} ms/step, {figures['wall_s']} s", flush=True)
        s.note("regular", rows)

    usual = 12 if s.args.toy else 2000
    for dropout in (0.2, 0.3, 0.1):
        for i, decay in enumerate((0.1, 0.5, 1.5)):
            one(dropout, decay, usual, i == 0)
    best = min(rows, key=lambda r: r["validation_bpb"])
    for steps in (2 * usual, usual // 2, 4 * usual):
        one(best["dropout"], best["weight_decay"], steps, False)


def job_causal(s: Session, name: str) -> None:
    """A causal model, one run per seed; the weights of the first are packed."""
    rows: list = []
    for i, seed in enumerate(s.args.seed):
        if s.left() < 20:
            print(f"{name}: out of time before seed {seed}", flush=True)
            continue
        recipe = s.recipe(name, seed=seed)
        model, figures, arrays = run(s, recipe, reset=i == 0)
        half = rounded(model)
        for side in ("validation", "heldout"):
            ids, n_bytes = s.corpus.text(recipe.tokenizer, side)
            if s.args.toy:
                n_bytes, ids = max(1, n_bytes * 400 // len(ids)), ids[:400]
            figures[side] = {"fp32": bits_per_byte(model, ids, n_bytes, batch_size=128)._asdict(), "bf16": bits_per_byte(half, ids, n_bytes, batch_size=128)._asdict(),
                             "no_context": bits_per_byte(half, ids, n_bytes, batch_size=128, stride=recipe.window)._asdict()}
        rows.append({"seed": seed} | figures)
        print(f"{name} seed {seed}: heldout {figures['heldout']['fp32']['bits_per_byte']:.5f} bits/byte in float32, {figures['heldout']['bf16']['bits_per_byte']:.5f} with bf16 weights, "
              f"validation {figures['validation']['fp32']['bits_per_byte']:.4f}, {figures['step_ms']} ms/step, {figures['wall_s']} s", flush=True)
        s.note(name, rows)
        if seed == 0:
            pack(s, name, half, figures, arrays)


def job_masked(s: Session, name: str) -> None:
    """A masked-diffusion model of each seed; the weights of the first are packed."""
    rows: list = []
    for i, seed in enumerate(s.args.seed):
        if s.left() < 30:
            print(f"{name}: out of time before seed {seed}", flush=True)
            continue
        recipe = s.recipe(name, seed=seed)
        model, figures, arrays = run(s, recipe, reset=i == 0)
        half = rounded(model)
        figures["bound"] = {"fp32": bound(s, recipe, model), "bf16": bound(s, recipe, half)}
        rows.append({"seed": seed} | figures)
        if seed == 0:
            pack(s, name, half, figures, arrays)
        print(f"{name} seed {seed}: validation {figures['validation_curve'][-1][1]:.4f} nats/token, heldout bound {figures['bound']['bf16']}, {figures['step_ms']} ms/step, {figures['wall_s']} s", flush=True)
        s.note(name, rows)


@torch.no_grad()
def bound(s: Session, recipe: ModelRecipe, model: Transformer, repeats: int = 16) -> dict:
    """Nats per token and bits per byte of the likelihood bound on the held-out side: every window `repeats` times, with stratified times of its own."""
    special = s.corpus.SPECIAL[recipe.tokenizer]
    if recipe.data == "json":
        rows = s.corpus.json("heldout").to(s.device)
        n_bytes = int((rows < 256).sum())
    else:
        ids, n_bytes = s.corpus.text(recipe.tokenizer, "heldout")
        rows = evaluation.document_rows(ids.to(s.device), recipe.window, end_id=special["end"])
    if s.args.toy:
        rows, n_bytes, repeats = rows[:4], max(1, n_bytes * 4 // len(rows)), 2
    result = likelihood_bound(model, rows, mask_id=special["mask"], samples=repeats, generator=torch.Generator(device=s.device).manual_seed(1), batch_size=256)
    bits, error = result.bits_per_byte(n_bytes)
    return {"bits_per_byte": bits, "stderr": error, "nats_per_token": result.nats_per_token, "rows": len(rows), "tokens": result.tokens, "bytes": n_bytes, "samples": repeats}


def job_evaluate(s: Session) -> None:
    """Infilling against a left-only model, sampling by number of steps."""
    from atomsnb.models.masked_sampling import sample

    toy, few, found = s.args.toy, s.args.samples, {"samples": s.args.samples or None}
    made = lambda: torch.Generator(device=s.device).manual_seed(0)  # noqa: E731
    lm, mdlm, special = unpack(s, "code-lm"), unpack(s, "code-mdlm"), Corpus.SPECIAL["code-bpe"]
    window = mdlm.config.context
    rows = evaluation.document_rows(s.corpus.text("code-bpe", "heldout")[0], window, end_id=special["end"])
    rows = rows[rows[:, -1] != special["end"]]
    rows = rows[torch.linspace(0, len(rows) - 1, 4 if toy else min(few or 700, len(rows))).long()]
    found["infilling"] = {str(span): evaluation.infilling_accuracy(mdlm, lm, rows, span, mask_id=special["mask"], batch_size=8 if few else 128)._asdict() for span in ((1, 4) if toy else (1, 4, 16) if few else (1, 2, 4, 8, 16, 32))}
    for span, row in found["infilling"].items():
        print(f"infilling {span:>3}: {({k: round(v, 4) for k, v in row.items()})}", flush=True)
    s.note("evaluate", found)

    start, length, n = (8, 16, 4) if toy else (64, 64, few) if few else (128, 128, 256)
    prompts = rows[:n, :start]

    def judged(ids: Tensor) -> dict:
        new = ids[:, start:]
        out = {"perplexity": math.exp(evaluation.continuation_nats(lm, ids, start)), "repetition_4": evaluation.repetition(new), "nothing": float((new == special["end"]).float().mean())}
        try:
            from atomsnb.models.tokenizer import load_tokenizer

            tokenizer = load_tokenizer("code-bpe")
            texts = [tokenizer.decode(row) for row in ids.tolist()]
            return out | {"parses": sum(map(evaluation.parses, texts)) / len(texts), "example": tokenizer.decode(ids[0].tolist())[-400:]}
        except ImportError:
            return out

    found["sampling"] = {"real text": judged(rows[:n, : start + length])}
    for temperature in (0.0, 1.0) if few else (0.0, 0.7, 1.0):
        for steps in ((1, 4) if toy else (1, 2, 4, 8, 16, 32, 64) if few else (1, 2, 4, 8, 16, 32, 64, 128)):
            ids = sample(mdlm, prompt=prompts, length=length, steps=steps, temperature=temperature, generator=made(), mask_id=special["mask"]).ids
            found["sampling"][f"T {temperature}, {steps} steps"] = judged(ids)
            print(f"sampling T {temperature} steps {steps:>3}: {({k: round(v, 4) for k, v in found['sampling'][f'T {temperature}, {steps} steps'].items() if k != 'example'})}", flush=True)
        s.note("evaluate", found)


def job_evaluate_json(s: Session) -> None:
    """JSON accepted by number of steps and temperature."""
    from atomsnb.models.masked_sampling import RandomOrder, sample

    toy, few, found = s.args.toy, s.args.samples, {"samples": s.args.samples or None}
    made = lambda: torch.Generator(device=s.device).manual_seed(0)  # noqa: E731
    bytes_, special = unpack(s, "json-mdlm-bytes"), Corpus.SPECIAL["bytes"]
    held = s.corpus.json("heldout")
    length = 256 - 8
    prompts = held[torch.linspace(0, len(held) - 1, 4 if toy else few or 256).long().to(held.device), :8]
    found["real records"] = {"accepted": evaluation.accepted_json(held[:1000], end_id=special["end"]), "mean_length": float((held[:1000] < 256).sum(1).float().mean())}
    for policy in ("confidence", "random order"):
        for temperature in (0.0, 1.0) if few else (0.0, 0.5, 1.0):
            if few and policy == "random order" and temperature == 0.0:
                continue
            for steps in ((1, 4) if toy else (4, 16, 62) if few else (4, 8, 16, 31, 62, 124, 248)):
                ids = sample(bytes_, prompt=prompts, length=length, steps=steps, temperature=temperature, policy=RandomOrder() if policy == "random order" else None, generator=made(), mask_id=special["mask"]).ids
                found[f"{policy}, T {temperature}, {steps} steps"] = {"accepted": evaluation.accepted_json(ids, end_id=special["end"]), "mean_length": float((ids < 256).sum(1).float().mean()),
                                                                             "example": bytes(b for b in ids[0].tolist() if b < 256).decode("utf-8", "replace")}
                print(f"json {policy} T {temperature} steps {steps:>3}: {found[f'{policy}, T {temperature}, {steps} steps']['accepted']:.4f}", flush=True)
            s.note("evaluate-json", found)


# --- speed ---


def step_time(s: Session, recipe: ModelRecipe, *, compile: "bool | str", steps: int = 75, profile: bool = False, low: bool = False) -> dict:
    """Seconds of a training step through `core.train.fit`, after compilation; with `profile`, milliseconds per kernel of five steps."""
    torch._dynamo.reset()
    gc.collect()
    if s.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(s.device)
    special = s.corpus.SPECIAL[recipe.tokenizer]
    seen: dict = {}

    def watch(model, step: int) -> None:
        if not profile or s.device.type != "cuda":
            return
        from torch.profiler import ProfilerActivity, profile as record

        if step == 30:
            torch.cuda.synchronize()
            seen["p"] = record(activities=[ProfilerActivity.CUDA])
            seen["p"].__enter__()
        if step == 35:
            torch.cuda.synchronize()
            seen["p"].__exit__(None, None, None)

    ids = s.corpus.train(recipe)
    began = time.perf_counter()
    model, history = train(recipe.replace(precision="bf16-all") if low else recipe, ids, end_id=special["end"], mask_id=special["mask"], device=s.device, compile=compile, steps=steps, log_every=25 if steps > 50 else 1, callbacks=[watch], progress=False)
    wall = time.perf_counter() - began
    at = len(history.steps) // 2 if profile else 1
    seconds = float(history.wall_s[-1] - history.wall_s[at]) / int(history.steps[-1] - history.steps[at])
    tokens = recipe.batch * recipe.window
    full, least = (tokens * flops_per_token(model.config, recipe.window, skip_masked=skip) for skip in (False, True))
    top = ceilings(s.device)
    out = {"batch": recipe.batch, "compile": str(compile), "low": low, "dropout": recipe.dropout, "step_ms": seconds * 1e3, "tokens_per_s": tokens / seconds, "flops_full_attention": full, "flops_causal_attention": least,
           "share_full_attention": full / seconds / top.flops_per_s, "share_causal_attention": least / seconds / top.flops_per_s, "wall_s": wall, "loss": float(history.losses["loss"][-1]),
           "peak_gb": torch.cuda.max_memory_allocated(s.device) / 1e9 if s.device.type == "cuda" else None}
    if seen:
        rows = sorted(seen["p"].key_averages(), key=lambda e: -e.device_time_total)
        out["kernels_ms"] = {e.key[:110]: round(e.device_time_total / 1e3 / 5, 4) for e in rows[:45]}
        out["kernels_total_ms"] = sum(e.device_time_total for e in rows) / 1e3 / 5
    return out


def job_speed(s: Session) -> None:
    """The training step of the shipped size against the measured ceiling."""
    top = ceilings(s.device)
    found: dict = {"ceilings": {"flops_per_s": top.flops_per_s, "bytes_per_s": top.bytes_per_s, "dtype": top.dtype, "device": top.device}, "rows": []}
    print(f"ceiling {top.flops_per_s / 1e12:.0f} TFLOP/s, copy {top.bytes_per_s / 1e12:.2f} TB/s ({top.device})", flush=True)
    base = s.recipe("code-lm")
    auto: "bool | str" = s.device.type == "cuda"
    plans: list = [(128, auto, False, 0.0, False), (256, auto, True, 0.0, True)]
    if auto:  # CUDA graphs take the launches away, so that a batch may be small enough for its activations to stay in the L2 cache
        plans += [(64, "reduce-overhead", True, 0.0, False), (32, "reduce-overhead", True, 0.0, True), (256, "max-autotune-no-cudagraphs", True, 0.0, True), (256, auto, True, 0.0, "320x3")]
    for batch, mode, low, dropout, profile in [(base.batch, False, False, 0.0, False)] if s.args.toy else plans:
        if s.left() < 30:
            print("speed: out of time", flush=True)
            break
        try:
            other = SHAPES[profile] if isinstance(profile, str) else {}
            row = step_time(s, base.replace(batch=batch, dropout=dropout, steps=1000, warmup=10, **other), compile=mode, low=low, profile=profile is True, steps=8 if s.args.toy else 75)
            row["shape"] = profile if isinstance(profile, str) else "shipped"
        except Exception as fault:  # one variant that does not run must not cost the others
            row = {"batch": batch, "compile": str(mode), "low": low, "failed": f"{type(fault).__name__}: {str(fault)[:300]}"}
        found["rows"].append(row)
        print({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items() if k != "kernels_ms"}, flush=True)
        if "kernels_ms" in row:
            print("\n".join(f"  {v:8.3f} ms  {k}" for k, v in list(row["kernels_ms"].items())[:25]), flush=True)
        s.note("speed", found)


# --- without a GPU ---


def job_remeasure(s: Session) -> None:
    """Held-out figures of the shipped weights on this machine, beside those of the run that trained them: the causal models on the whole side (disjoint windows), the masked ones on evenly spaced rows with the spread between groups of rows."""
    found: dict = {}
    for name in ("code-lm", "byte-lm-tiny", "code-mdlm", "json-mdlm-bytes"):
        recipe, model, special = RECIPES[name], unpack(s, name), Corpus.SPECIAL[RECIPES[name].tokenizer]
        if recipe.kind == "causal":
            ids, n_bytes = s.corpus.text(recipe.tokenizer, "heldout")
            found[name] = {"windows": "disjoint"} | bits_per_byte(model, ids, n_bytes, batch_size=8, stride=recipe.window)._asdict()
        else:
            rows = s.corpus.json("heldout") if recipe.data == "json" else evaluation.document_rows(s.corpus.text(recipe.tokenizer, "heldout")[0], recipe.window, end_id=special["end"])
            rows = rows[torch.linspace(0, len(rows) - 1, s.args.samples or 160).long()]
            made = torch.Generator().manual_seed(2)
            groups = [likelihood_bound(model, part, mask_id=special["mask"], samples=2, generator=made, batch_size=8).nats_per_token for part in rows[torch.randperm(len(rows), generator=made)].chunk(16)]
            each = torch.tensor(groups, dtype=torch.float64)
            found[name] = {"nats_per_token": float(each.mean()), "stderr": float(each.std() / len(each) ** 0.5), "rows": len(rows), "samples": 2}
        print(name, found[name], flush=True)
        s.note("remeasure", found)


def job_baselines(s: Session) -> None:
    """What counting and compressing make of the held-out files, given the same training text."""
    from atomsnb.models.ngram import KneserNey, compressed_bits_per_byte

    found: dict = {}
    for tokenizer, size in (("code-bpe", 4096), ("bytes", 260)):
        (train_ids, _), (ids, n_bytes) = s.corpus.text(tokenizer, "training"), s.corpus.text(tokenizer, "heldout")
        for order in ((5,) if tokenizer == "code-bpe" else (5, 8)):
            nats = -float(KneserNey(order).fit(train_ids, size).logprob(ids).sum())
            found[f"Kneser-Ney {order}, {tokenizer}"] = {"bits_per_byte": nats / math.log(2) / n_bytes, "nats_per_token": nats / len(ids), "tokens": len(ids), "bytes": n_bytes}
            print(f"Kneser-Ney {order}, {tokenizer}: {nats / math.log(2) / n_bytes:.5f} bits/byte", flush=True)
            s.note("baselines", found)
    (train_ids, _), (ids, n_bytes) = s.corpus.text("bytes", "training"), s.corpus.text("bytes", "heldout")
    texts = [torch.where(x < 256, x, 0).to(torch.uint8).cpu().numpy().tobytes() for x in (train_ids, ids)]  # a zero byte closes each file
    for method in ("xz", "zstd"):
        result = compressed_bits_per_byte(texts[0], texts[1], method)
        found[result.method] = {"bits_per_byte": 8 * (result.both_bytes - result.train_bytes) / n_bytes, "train_bytes": result.train_bytes, "both_bytes": result.both_bytes, "bytes": n_bytes}
        print(f"{result.method}: {found[result.method]['bits_per_byte']:.5f} bits/byte", flush=True)
        s.note("baselines", found)


JOBS = {"sweep": job_sweep, "regular": job_regular, "code-lm": lambda s: job_causal(s, "code-lm"), "byte-lm-tiny": lambda s: job_causal(s, "byte-lm-tiny"),
        "code-mdlm": lambda s: job_masked(s, "code-mdlm"), "json-mdlm-bytes": lambda s: job_masked(s, "json-mdlm-bytes"), "speed": job_speed, "evaluate": job_evaluate, "evaluate-json": job_evaluate_json, "baselines": job_baselines, "remeasure": job_remeasure}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("jobs", nargs="+", choices=list(JOBS))
    ap.add_argument("--corpus", default=None, help="file of atomsnb.models.corpus.write_corpus; default: the standard library of this interpreter")
    ap.add_argument("--out", required=True)
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--seed", type=int, nargs="+", default=[0])
    ap.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe, for every job of this call")
    ap.add_argument("--minutes", type=float, default=9.0, help="no new run begins after this many minutes")
    ap.add_argument("--compile", default="auto", help="auto, or a mode of torch.compile")
    ap.add_argument("--models", default=None, help="folder of the tars of an earlier call")
    ap.add_argument("--tag", default="", help="results go to results-TAG.json")
    ap.add_argument("--samples", type=int, default=0, help="rows or samples per measure in evaluate and remeasure; default: what a GPU does in minutes")
    ap.add_argument("--toy", action="store_true", help="tiny sizes, for a test on a CPU")
    args = ap.parse_args()
    if torch.device(args.device).type == "cuda":
        torch.cuda.set_device(torch.device(args.device))
    s = Session(args)
    failed = []
    for job in args.jobs:
        began = time.perf_counter()
        try:
            JOBS[job](s)
        except Exception as fault:
            failed.append(job)
            s.note(f"{job}-failed", f"{type(fault).__name__}: {str(fault)[:500]}")
            traceback.print_exc()
        print(f"== {job}: {time.perf_counter() - began:.1f} s, {s.left():.0f} s left", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Greedy decoding with a cache on a CPU: tokens per second of ours and of transformers, same weights, same prompts, in turn.

    python benchmarks/decoding.py

Batch 1 and 16, one thread and all of torch's, the shipped code-lm (random weights of its size if it is not there), prompts of 32 tokens, 128 new ones. Everything that
`generate` does is inside the clock: reading the prompt, rearranging the weights, the loop. Both sides are first shown to give the same tokens. Wall-clock times on a machine
with other work on it scatter, with several threads most of all (they wait for one another); the ratio of CPU times is given beside that of wall-clock times.
"""
import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import compare, save_result
from atomsnb.models.causal_lm import generate, load_causal_lm, to_llama
from atomsnb.models.encoder import ModelNotFoundError
from atomsnb.nn.transformer import KVCache, Transformer, TransformerConfig

BAR = 1.5  # tokens per second, ours over transformers'


def subject() -> "tuple[Transformer, str]":
    """The shipped model, or random weights of its size."""
    try:
        return load_causal_lm("code-lm", device="cpu").model, "code-lm"
    except ModelNotFoundError:
        return Transformer(TransformerConfig()).eval(), "random weights at the size of code-lm"


def prompts(model: Transformer, batch: int, length: int) -> torch.Tensor:
    """Token ids (batch, length): what the model itself says, at temperature 1, after one token each."""
    starts = torch.randint(4, model.vocab_size, (batch, 1), generator=torch.Generator().manual_seed(0))
    return torch.stack(generate(model, starts, max_new_tokens=length - 1, temperature=1.0, generator=torch.Generator().manual_seed(1)).sequences)


def floor(model: Transformer, batch: int, length: int, repeats: int) -> dict:
    """Seconds of one decoding step and of its matrix products alone, on the weights at rest; medians."""
    rows = torch.randn(batch, model.config.d_model)
    with torch.inference_mode(), model.frozen():
        cache, token = KVCache(length + 8), torch.zeros(batch, 1, dtype=torch.int64)
        model(token.expand(batch, length), cache=cache)

        def step() -> None:
            model(token, cache=cache)
            cache.crop(length)

        layers, head = model._frozen.layout(batch == 1)

        def products() -> None:
            for qkv, out, gated, down in layers:
                qkv(rows)
                out(rows, rows)
                down(gated(rows), rows)
            head(rows)

        timed = compare({"step": step, "products": products}, pairs=repeats, inner=5, device="cpu")
    return {name: timed.time(name).median for name in ("step", "products")}


def measure(model: Transformer, llama: torch.nn.Module, batch: int, threads: int, new: int, pairs: int) -> dict:
    """Tokens per second of both sides, and the ratio with its spread."""
    torch.set_num_threads(threads)
    ids = prompts(model, batch, 32)

    def ours() -> torch.Tensor:
        return torch.stack(generate(model, ids, max_new_tokens=new).sequences)

    def theirs() -> torch.Tensor:
        return llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)

    same = bool((ours() == theirs()).all())
    used = {"atomsnb": 0.0, "transformers": 0.0}

    def counted(name: str, call: Callable) -> Callable:
        def run() -> None:
            start = time.process_time()
            call()
            used[name] += time.process_time() - start
        return run

    timed = compare({"atomsnb": counted("atomsnb", ours), "transformers": counted("transformers", theirs)}, pairs=pairs, warmup=1, device="cpu")
    speed = timed.ratio("transformers")
    rates = {name: batch * new / timed.time(name).median for name in timed.names}
    out = {"batch": batch, "threads": threads, "load": os.getloadavg()[0], "new_tokens": new, "same_tokens": same, "tokens_per_s": rates, "speedup": speed.median, "speedup_interval": [speed.low, speed.high], "cpu_time_ratio": used["transformers"] / used["atomsnb"],
           "one_step_s": floor(model, batch, 96, pairs), "bar": BAR, "met": speed.median >= BAR, "compare": timed.as_dict()}
    print(f"batch {batch:2}, {threads} thread{'s' if threads > 1 else ''}: transformers {rates['transformers']:7.0f} tokens/s, ours {rates['atomsnb']:7.0f} tokens/s; x{speed.median:.2f} (95 % interval {speed.low:.2f} to {speed.high:.2f}), by CPU time x{out['cpu_time_ratio']:.2f}; "
          f"same tokens: {same}; a step takes {out['one_step_s']['step'] * 1e3:.2f} ms, its matrix products {out['one_step_s']['products'] * 1e3:.2f} ms", flush=True)
    return out


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    ap.add_argument("--new", type=int, default=128, help="new tokens per row")
    ap.add_argument("--pairs", type=int, default=10, help="rounds")
    ap.add_argument("--threads", type=int, nargs="*", default=None, help="numbers of threads (default: 1, and torch's own number)")
    a = ap.parse_args()
    threads = a.threads or sorted({1, torch.get_num_threads()})
    model, label = subject()
    llama = to_llama(model)
    rows = [measure(model, llama, batch, n, a.new, a.pairs) for n in threads for batch in (1, 16)]
    import transformers

    print("saved", save_result("decoding", {"label": f"{label}, {model.config.n_parameters:,} parameters, float32, greedy", "transformers": transformers.__version__, "attention": llama.config._attn_implementation, "rows": rows}, folder=a.out, device="cpu"))


if __name__ == "__main__":
    main()

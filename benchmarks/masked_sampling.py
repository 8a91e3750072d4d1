"""Masked-diffusion sampling against a plain loop that re-encodes everything at every step.

    python benchmarks/masked_sampling.py [--pairs 5]

The plain loop is the published one: at each step the whole text through the whole network, logits of all positions, noise and softmax in float64 over all of
them, the most confident holes of the block committed. Ours gives the same texts with work left out that cannot change them. (On a CPU ours also holds the
weights at rest while it decodes, `Transformer.frozen`; "plain at rest" is the plain loop with that advantage, so that the two can be told apart.) Networks of the shipped sizes with random
weights: time does not depend on the weights, except where a text ends early; there the end-of-text token is one that the answer happens to contain.
"""
import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from atomsnb.core.bench import compare, save_result
from atomsnb.models.masked_sampling import sample
from atomsnb.nn.transformer import Transformer, TransformerConfig

SIZES = {
    "code": TransformerConfig(vocab_size=4096, d_model=256, n_layers=5, n_heads=4, n_kv_heads=2, d_ff=768, context=512, causal=False),
    "bytes": TransformerConfig(vocab_size=260, d_model=192, n_layers=7, n_heads=3, n_kv_heads=3, d_ff=512, context=256, causal=False),
}
# name: network, rows, prompt, answer, steps, block, temperature, whether all rows have one prompt, place of the end (None: no end-of-text token)
SCENES = {
    "one text, blocks of 32, greedy": ("code", 1, 64, 64, 32, 32, 0.0, False, None),
    "one text, blocks of 32, T = 0.7": ("code", 1, 64, 64, 32, 32, 0.7, False, None),
    "one text, no blocks, greedy": ("code", 1, 64, 64, 32, 64, 0.0, False, None),
    "8 prompts, blocks of 32, greedy": ("code", 8, 64, 64, 8, 32, 0.0, False, None),
    "8 prompts, blocks of 32, T = 0.7": ("code", 8, 64, 64, 8, 32, 0.7, False, None),
    "8 samples of one prompt, 4 steps": ("code", 8, 64, 64, 4, 64, 0.7, True, None),
    "one text that ends at 30 of 128": ("code", 1, 32, 128, 64, 32, 0.0, False, 30),
    "bytes, one text, blocks of 32": ("bytes", 1, 32, 96, 48, 32, 0.0, False, None),
    "bytes, 8 prompts, T = 0.7": ("bytes", 8, 32, 96, 12, 32, 0.7, False, None),
}


@torch.no_grad()
def plain_loop(model, ids, mask, start, steps, block, temperature, generator):
    """Block-wise decoding that leaves nothing out."""
    ids = ids.clone()
    blocks = (ids.shape[1] - start) // block
    per_block = steps // blocks
    for b in range(blocks):
        low, high = start + b * block, start + (b + 1) * block
        for j in range(per_block):
            quota = block // per_block + (j < block % per_block)
            logits = model(ids).logits.float()
            logits[..., mask] = -torch.inf
            noisy = logits
            if temperature > 0:
                noisy = logits.double() - temperature * torch.empty(logits.shape, dtype=torch.float64, device=logits.device).exponential_(generator=generator).log()
            token = noisy.argmax(-1)
            confidence = logits.double().softmax(-1).gather(2, token[..., None])[..., 0]
            open_ = ids == mask
            confidence = torch.where(open_, confidence, -torch.inf)
            confidence[:, :low], confidence[:, high:] = -torch.inf, -torch.inf
            top = confidence.topk(quota, dim=1).indices
            ids.scatter_(1, top, token.gather(1, top))
    return ids


def scene(name, device, dtype, pairs):
    """Paired times of one scene, and whether the texts agree (greedy ones must; drawn ones use other noise)."""
    size, rows, prompt, answer, steps, block, temperature, shared, end = SCENES[name]
    model, mask = Transformer(SIZES[size]).to(device, dtype).eval(), SIZES[size].vocab_size - 1
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(3)  # away from near-ties
    g = torch.Generator(device=device).manual_seed(0)
    given = torch.randint(mask, (1 if shared else rows, prompt), generator=g, device=device).expand(rows, prompt).contiguous()
    ids = torch.cat([given, torch.full((rows, answer), mask, device=device)], 1)
    end_id, compared = None, answer
    if end is not None:
        text = sample(model, prompt=given, length=answer, steps=steps, block=block, mask_id=mask).answer[0].tolist()
        compared = next(i for i in range(end - 1, answer) if text[i] not in text[:i]) + 1
        end_id = text[compared - 1]
    plain = lambda: plain_loop(model, ids, mask, prompt, steps, block, temperature, g)  # noqa: E731
    ours = lambda: sample(model, prompt=given, length=answer, steps=steps, block=block, temperature=temperature, generator=g, mask_id=mask, end_id=end_id)  # noqa: E731
    done = ours()
    same = bool(torch.equal(done.ids[:, : prompt + compared].cpu(), plain()[:, : prompt + compared].cpu())) if temperature == 0 else None  # `sample` hands its texts back on the CPU
    contenders = {"plain": plain, "ours": ours}
    if device.type == "cpu":

        def rested():
            with model.frozen():
                return plain()

        contenders["plain at rest"] = rested
    timed = compare(contenders, pairs=pairs, warmup=1, device=device)
    times = timed.ratio("plain", "ours")
    rest = timed.ratio("plain at rest", "ours").median if device.type == "cpu" else None
    shown = "" if rest is None else f", at rest {rest:.2f}x"
    print(f"{name:34} plain {timed.time('plain').median * 1e3:8.1f} ms  ours {timed.time('ours').median * 1e3:8.1f} ms  {times.median:5.2f}x [{times.low:.2f}, {times.high:.2f}]{shown}  same text: {same}", flush=True)
    return {"network": size, "rows": rows, "prompt": prompt, "answer": answer, "steps": steps, "block": block, "temperature": temperature, "one_prompt": shared, "ends_at": compared if end else None,
            "same_text": same, "forwards": done.forwards, "rows_encoded": done.rows_encoded, "speedup": {"median": times.median, "low": times.low, "high": times.high}, "speedup_over_plain_at_rest": rest, "compare": timed.as_dict()}


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--pairs", type=int, default=5, help="rounds per scene (default 5)")
    ap.add_argument("--out", default=None, help="folder of the result file (default benchmarks/results)")
    a = ap.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    result = {"threads": torch.get_num_threads()}
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        print(f"{device}, {str(dtype).removeprefix('torch.')}")
        result[str(dtype).removeprefix("torch.")] = {name: scene(name, device, dtype, a.pairs) for name in SCENES}
    print("saved", save_result("masked_sampling" if device.type == "cuda" else "masked_sampling_cpu", result, folder=a.out, device=device))


if __name__ == "__main__":
    main()

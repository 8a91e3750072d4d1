"""The calls of R3 on language models: attention, transformers, generation, masked diffusion, evaluation, training."""
from functools import lru_cache

import torch
from r3_bad_inputs import NAN_DOCUMENTED, Case
from r3_cases import rand

from atomsnb.core.batches import TensorBatches
from atomsnb.models.masked_diffusion import Bound, JointModel
from atomsnb.models.training import ModelRecipe
from atomsnb.nn.attention import KVCache, rotary_tables
from atomsnb.nn.transformer import Attention, Block, GatedMLP, Transformer, TransformerConfig

BATCHES = "documented with any number of axes before it"
NOTHING = "no such tokens, the default"
UNREAD = "documented: a tensor's values are not read, since a GPU would be waited for"
TINY = TransformerConfig(vocab_size=12, d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=8, context=40)
RECIPE = ModelRecipe(vocab_size=12, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, window=4, batch=2, steps=2, warmup=0, dropout=0.0, precision="fp32")
IDS, WHOLE_TEXTS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]), torch.tensor([[0, 1, 2], [2, 1, 0]])
STREAM = torch.tensor([3, 4, 5, 6, 0] * 8)
HOLES = torch.tensor([[1, 11, 3, 11, 5, 6], [11, 4, 3, 11, 1, 2]])
SEEN = torch.tensor([[True, True, False], [True, False, True]])
SETTINGS = {"temperature": "nonnegative", "top_k": "optional count", "top_p": "share"}
DECODING = {"steps": "optional count", "block": "optional count", "temperature": "nonnegative", "mask_id": "optional token", "banned": "whole numbers", "max_vetoes": "natural"}


def gen(seed: int = 0) -> torch.Generator:
    """A generator of its own for every call."""
    return torch.Generator().manual_seed(seed)


@lru_cache(maxsize=8)
def net(causal: bool = True, vocab_size: int = 12) -> Transformer:
    """A small transformer at rest."""
    return Transformer(TINY.replace(causal=causal, vocab_size=vocab_size)).eval()


@lru_cache(maxsize=1)
def joint() -> JointModel:
    """Three tokens at three places; 3 is the mask token."""
    return JointModel(rand(3, 3, 3).double().flatten().softmax(0).view(3, 3, 3))


def heads(seed: int = 0, h: int = 2, n: int = 3) -> torch.Tensor:
    """Queries, keys or values."""
    return rand(1, h, n, 4, seed=seed)


def cache(tokens: int = 4) -> KVCache:
    """Two rows of one layer."""
    held = KVCache()
    held.update(0, rand(2, 1, tokens, 4), rand(2, 1, tokens, 4, seed=1))
    held.advance(tokens)
    return held


def tables(n: int = 3) -> "dict[str, torch.Tensor]":
    """Rotary tables as the modules take them."""
    cos, sin = rotary_tables(torch.arange(n), 4)
    return {"cos": cos[:, None], "sin": sin[:, None]}


CASES = [
    Case("nn.attention:rotary_tables", lambda: {"positions": torch.arange(5), "head_dim": 4, "theta": 100.0, "dtype": torch.float32}, {"positions": "naturals", "head_dim": "count", "theta": "positive", "dtype": "floating dtype"}, {},
         {"positions": {"wrong rank": BATCHES, "range": "documented: below 0 the angles turn the other way"}}),
    Case("nn.attention:rotate", lambda: {"x": rand(3, 4), **dict(zip(("cos", "sin"), rotary_tables(torch.arange(3), 4)))}, {"x": "sized rows", "cos": "sized rows", "sin": "sized rows"}, {},
         dict.fromkeys(("x", "cos", "sin"), NAN_DOCUMENTED)),
    Case("nn.attention:attend", lambda: {"q": heads(), "k": heads(1), "v": heads(2), "mask": torch.ones(1, 1, 3, 3, dtype=torch.bool)}, {"q": "sized", "k": "sized", "v": "sized", "mask": "mask"}, {},
         dict.fromkeys("qkv", NAN_DOCUMENTED)),
    Case("nn.attention:attention_weights", lambda: {"q": heads(), "k": heads(1), "mask": torch.ones(1, 1, 3, 3, dtype=torch.bool)}, {"q": "sized", "k": "sized", "mask": "mask"}, {}, dict.fromkeys("qk", NAN_DOCUMENTED)),
    Case("nn.attention:KVCache", lambda: {"capacity": 4}, {"capacity": "natural"}),
    Case("nn.attention:KVCache.layer", lambda: {"self": cache(), "index": 0}, {"index": "index"}),
    Case("nn.attention:KVCache.update", lambda: {"self": cache(), "layer": 0, "k": rand(2, 1, 3, 4), "v": rand(2, 1, 3, 4)}, {"layer": "index", "k": "sized", "v": "sized"}, {}, dict.fromkeys("kv", NAN_DOCUMENTED)),
    Case("nn.attention:KVCache.advance", lambda: {"self": cache(), "new": 2}, {"new": "natural"}),
    Case("nn.attention:KVCache.crop", lambda: {"self": cache(), "length": 2}, {"length": "index"}),
    Case("nn.attention:KVCache.gather", lambda: {"self": cache(), "positions": torch.tensor([0, 2, 3])}, {"positions": "token rows"}),
    Case("nn.attention:KVCache.reorder", lambda: {"self": cache(), "rows": torch.tensor([1, 0, 1])}, {"rows": "token ids"}),
    Case("nn.attention:read_mask", lambda: {"mask": torch.ones(3, 5, dtype=torch.bool), "batch": 2, "new": 3, "past": 2}, {"mask": "mask of several shapes", "batch": "count", "new": "count", "past": "natural"}, {"mask": "attention_mask"}),
    Case("nn.attention:tree_mask", lambda: {"parents": torch.tensor([-1, 0, 0, 1]), "past": 2}, {"parents": "parents", "past": "natural"}),
    Case("nn.transformer:TransformerConfig", dict, {**dict.fromkeys(("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "context"), "count"), "rope_theta": "positive", "norm_eps": "nonnegative", "dropout": "share"}),
    Case("nn.transformer:Transformer", lambda: {"config": TINY, "seed": 1}, {"seed": "natural"}),
    Case("nn.transformer:Transformer.forward", lambda: {"self": net(), "ids": IDS, "position_ids": torch.arange(5), "attention_mask": torch.ones(5, 5, dtype=torch.bool).tril(), "positions": torch.tensor([-1, 0])},
         {"ids": "token ids", "position_ids": "token rows", "attention_mask": "mask of several shapes", "positions": "places"}),
    Case("nn.transformer:Transformer.forward", lambda: {"self": net(), "embeddings": rand(2, 5, 8)}, {"embeddings": "sized"}, {}, {"embeddings": NAN_DOCUMENTED}),
    Case("nn.transformer:Attention", lambda: {"config": TINY, "layer": 0}, {"layer": "natural"}),
    Case("nn.transformer:Attention.forward", lambda: {"self": Attention(TINY, 0), "x": rand(2, 3, 8), **tables()}, {"x": "sized", "cos": "sized", "sin": "sized"}, {},
         dict.fromkeys(("x", "cos", "sin"), NAN_DOCUMENTED)),
    Case("nn.transformer:GatedMLP.forward", lambda: {"self": GatedMLP(TINY), "x": rand(2, 3, 8)}, {"x": "sized rows"}, {}, {"x": NAN_DOCUMENTED}),
    Case("nn.transformer:Block", lambda: {"config": TINY, "layer": 0}, {"layer": "natural"}),
    Case("nn.transformer:Block.forward", lambda: {"self": Block(TINY, 0), "x": rand(2, 3, 8), **tables()}, {"x": "sized"}, {}, {"x": NAN_DOCUMENTED}),
    Case("models.generation:warp", lambda: {"logits": rand(3, 5), "temperature": 0.7, "top_k": 3, "top_p": 0.9}, {"logits": "rows", **SETTINGS}, {}, {"logits": {"-inf": "a log-probability: minus infinity is the logarithm of zero"}}),
    Case("models.generation:generate", lambda: {"model": net(), "ids": IDS, "max_new_tokens": 2, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "stop": 7, "generator": gen(), "overflow": "error"},
         {"ids": "token rows", "max_new_tokens": "count + too large", **SETTINGS, "stop": "token", "overflow": "choice"}, {"ids": "prompt", "max_new_tokens": "new tokens"}),
    Case("models.masked_diffusion:mask_tokens", lambda: {"ids": WHOLE_TEXTS, "mask_id": 3, "t": 0.5, "maskable": SEEN, "noise": rand(2, 3).sigmoid()}, {"ids": "naturals", "mask_id": "natural", "t": "share", "maskable": "mask", "noise": "sized + beyond one"}),
    Case("models.masked_diffusion:mask_tokens", lambda: {"ids": WHOLE_TEXTS, "mask_id": 3, "t": torch.tensor([0.2, 0.8]), "generator": gen()}, {"t": "sized"}, {}, {"t": dict.fromkeys(("nan", "+inf", "-inf"), UNREAD)}),
    Case("models.masked_diffusion:model_logits", lambda: {"model": net(causal=False), "ids": HOLES, "mask_id": 11}, {"ids": "token ids", "mask_id": "token"}),
    Case("models.masked_diffusion:JointModel", lambda: {"joint": rand(9).double().softmax(0).view(3, 3)}, {"joint": "sized + beyond one"}),
    Case("models.masked_diffusion:JointModel.forward", lambda: {"self": joint(), "ids": WHOLE_TEXTS}, {"ids": "token ids"}),
    *(Case(f"models.masked_diffusion:{name}", lambda more=more: {"model": joint(), "ids": WHOLE_TEXTS, "mask_id": 3, **dict.fromkeys(more, 16)}, {"ids": "token ids", "mask_id": "token", **more})
      for name, more in (("conditional_log_probs", {"batch_size": "count"}), ("any_order_bound", {}), ("exact_likelihood", {}))),
    Case("models.masked_diffusion:draw_corruption", lambda: {"batch": 2, "length": 3, "generator": gen(), "device": "cpu"}, {"batch": "count", "length": "count", "device": "device"}),
    Case("models.masked_diffusion:mdlm_loss", lambda: {"model": joint(), "ids": WHOLE_TEXTS, "mask_id": 3, "generator": gen(), "t": torch.tensor([0.2, 0.8]), "maskable": SEEN, "scheme": "count", "lowest_t": 0.01},
         {"ids": "token ids", "mask_id": "token", "t": "sized + beyond one", "maskable": "mask", "scheme": "choice", "lowest_t": "share"}),
    Case("models.masked_diffusion:likelihood_bound", lambda: {"model": joint(), "ids": WHOLE_TEXTS, "mask_id": 3, "samples": 2, "generator": gen(), "maskable": SEEN, "batch_size": 4},
         {"ids": "token ids", "mask_id": "token", "samples": "count", "maskable": "mask", "batch_size": "count"}),
    Case("models.masked_diffusion:Bound.bits_per_byte", lambda: {"self": Bound(1.0, 0.1, 10, 2), "bytes": 20}, {"bytes": "count"}),
    Case("models.masked_diffusion:MaskedLM", lambda: {"model": net(causal=False), "tokenizer": None, "mask_id": 11}, {"mask_id": "token"}),
    Case("models.masked_diffusion:masked_config", lambda: {"config": {"atomsnb": {"kind": "masked", "transformer": TINY.replace(causal=False).as_dict()}}}, {"config": "mapping"}, {"config": "configuration architecture"}),
    Case("models.masked_diffusion:load_masked_lm", lambda: {"name": "json-mdlm-bytes", "dtype": torch.float32, "device": "cpu"}, {"name": "text", "dtype": "floating dtype", "device": "device"}),
    Case("models.masked_sampling:logits_at", lambda: {"model": net(causal=False), "ids": HOLES, "positions": torch.tensor([[1, 3], [0, 3]])}, {"ids": "token ids", "positions": "token ids"}),
    Case("models.masked_sampling:best", lambda: {"score": rand(2, 3), "competing": SEEN, "k": 1}, {"score": "sized", "competing": "mask", "k": "natural"}),
    *(Case(f"models.masked_sampling:{name}", lambda: {"k": 2}, {"k": "optional count"}) for name in ("TopK", "Margin", "Entropy", "RandomOrder", "LeftToRight")),
    Case("models.masked_sampling:Threshold", lambda: {"gamma": 0.5}, {"gamma": "share"}),
    Case("models.masked_sampling:Factor", lambda: {"f": 1.0}, {"f": "positive"}),
    Case("models.masked_sampling:infill", lambda: {"model": net(causal=False), "ids": HOLES, "steps": 2, "block": 6, "temperature": 0.5, "generator": gen(), "mask_id": 11, "banned": (7,), "max_vetoes": 3}, {"ids": "token ids", **DECODING}, {},
         {"banned": {"empty": NOTHING}}),
    Case("models.masked_sampling:sample", lambda: {"model": net(causal=False), "prompt": torch.tensor([1, 2]), "length": 4, "steps": 2, "block": 4, "temperature": 0.5, "generator": gen(), "batch": 2, "end_id": 5, "mask_id": 11, "banned": (7,),
         "max_vetoes": 3}, {"prompt": "token rows", "length": "count + too large", "batch": "count", "end_id": "optional token", **DECODING}, {"prompt": "ids", "length": "tokens"},
         {"banned": {"empty": NOTHING}, "prompt": dict.fromkeys(("empty", "zero axis"), "a prompt of no tokens is nothing, the default")}),
    Case("models.evaluation:bits_per_byte", lambda: {"model": net(), "ids": STREAM, "n_bytes": 50, "window": 8, "stride": 4, "start_id": 0, "batch_size": 4, "precision": "fp32"},
         {"ids": "token ids", "n_bytes": "count", "window": "optional count", "stride": "optional count", "start_id": "optional token", "batch_size": "count", "precision": "choice"}),
    Case("models.evaluation:document_rows", lambda: {"ids": STREAM, "window": 3, "end_id": 0}, {"ids": "naturals", "window": "count", "end_id": "token"}, {"end_id": "end token"}),
    Case("models.evaluation:infilling_accuracy", lambda: {"masked": net(causal=False), "causal": net(), "rows": IDS, "span": 2, "mask_id": 11, "batch_size": 4}, {"rows": "token ids", "span": "count + too large", "mask_id": "token", "batch_size": "count"}, {"rows": "ids"}),
    Case("models.evaluation:accepted_json", lambda: {"rows": torch.tensor([[91, 93, 257]]), "end_id": 257}, {"rows": "naturals", "end_id": "natural"}),
    Case("models.evaluation:repetition", lambda: {"rows": IDS, "order": 2}, {"rows": "naturals", "order": "count + too large"}),
    Case("models.evaluation:parses", lambda: {"text": "a = 1\n"}, {"text": "text"}, {}, {"text": {"empty": "a piece of text, cut off anywhere"}}),
    Case("models.evaluation:continuation_nats", lambda: {"judge": net(), "rows": IDS, "start": 2, "batch_size": 4}, {"rows": "token ids", "start": "count + too large", "batch_size": "count"}, {"rows": "ids"}),
    Case("models.training:ModelRecipe", dict, {**dict.fromkeys(("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "window", "batch", "steps"), "count"), **dict.fromkeys(("kind", "data", "precision", "tokenizer"), "choice"),
         **dict.fromkeys(("lr", "weight_decay", "clip_norm"), "nonnegative"), **dict.fromkeys(("dropout", "beta2", "final_lr"), "share"), "name": "text", "warmup": "natural", "seed": "natural"}),
    Case("models.training:StreamWindows", lambda: {"ids": STREAM, "window": 4, "batch_size": 2, "seed": 1}, {"ids": "naturals", "window": "count + too large", "batch_size": "count", "seed": "natural"}, {"window": "windows"}),
    Case("models.training:DocumentWindows", lambda: {"ids": STREAM, "window": 4, "batch_size": 2, "end_id": 0, "seed": 1}, {"ids": "naturals", "window": "count", "batch_size": "count", "end_id": "token", "seed": "natural"}, {"end_id": "end"}),
    Case("models.training:MaskedBatches", lambda: {"source": TensorBatches(IDS, batch_size=2), "seed": 1}, {"seed": "natural"}),
    Case("models.training:next_token_loss", lambda: {"model": net(), "batch": IDS}, {"batch": "token ids"}, {"batch": "ids"}),
    Case("models.training:MaskedLoss", lambda: {"mask_id": 11, "scheme": "count"}, {"mask_id": "natural", "scheme": "choice"}),
    Case("models.training:make_batches", lambda: {"recipe": RECIPE, "ids": STREAM, "end_id": 0}, {"ids": "naturals"}),
    Case("models.training:train", lambda: {"recipe": RECIPE, "ids": STREAM, "end_id": 0, "mask_id": 11, "device": "cpu", "steps": 1, "log_every": 1, "save_every": 1, "resume": "never", "progress": False},
         {"ids": "token ids", "steps": "optional natural", "log_every": "count", "save_every": "count", "resume": "choice", "device": "device"}),
    Case("models.training:flops_per_token", lambda: {"config": TINY, "window": 4}, {"window": "optional count"}),
]

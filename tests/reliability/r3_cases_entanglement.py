"""The calls of R3 on entanglement and fine-tuning: profiles of matrices, adapters, arms, null models, recorded passes."""
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from r3_bad_inputs import NAN_DOCUMENTED, Case
from r3_cases import rand
from r3_cases_quantum import ANY_AXES, gen
from torch import nn

from atomsnb.nn.adapters import FullLinear, LoRALinear, MPSLinear, inject_adapters, peft_state_dict
from atomsnb.nn.fine_tuning import Arm, AttentionStates, FineTuning, FineTuningConfig
from atomsnb.nn.replay import Replay
from atomsnb.nn.transformer import Transformer, TransformerConfig

INPUTS = {**NAN_DOCUMENTED, "empty": "an empty batch gives an empty one"}
DENSITY = "an empty array gives an empty density"
REAL = "any real dtype is documented; computed in float64"


def causal(n: int = 6, lead: "tuple[int, ...]" = ()) -> torch.Tensor:
    """Causal attention weights."""
    return rand(*lead, n, n).masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def attention(seed: int = 0, copies: int = 2) -> AttentionStates:
    """Attention of two layers on one window."""
    return AttentionStates(rand(2, copies, 1, 2, 6, 6, seed=seed).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf).softmax(-1), rand(2, copies, 1, 6, 4, seed=seed + 1))


def named() -> "dict[str, torch.Tensor]":
    """A correction of two copies."""
    return {"q_proj": rand(2, 4, 6)}


def arm() -> Arm:
    """One layer, two seeds, one record."""
    return Arm("lora", 20, 0.1, (1,), np.zeros((1, 2)), ({"q_proj": (rand(2, 2, 6), rand(2, 4, 2, seed=1))},))


def layers() -> nn.Module:
    """Two linear layers by name."""
    return nn.ModuleDict({"q_proj": nn.Linear(6, 4), "v_proj": nn.Linear(6, 4)})


def adapted(method: str = "lora") -> nn.Module:
    """The same with adapters of two seeds."""
    model = layers()
    inject_adapters(model, method=method, r=2, chi=2, seeds=(0, 1))
    return model


def adapter(kind: type, **options: object) -> nn.Module:
    """One adapter on a linear layer."""
    return kind(nn.Linear(6, 4), **options)


TINY = TransformerConfig(vocab_size=12, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, context=40)
SETTINGS = FineTuningConfig(seeds=2, window=8, batch=2, steps=1, warmup=0, records=(1,), rank=2, chi=2, heldout_windows=2, attention_windows=1, attention_length=16)


@lru_cache(maxsize=1)
def streams() -> "MappingProxyType[str, torch.Tensor]":
    """Tokens of three sides."""
    return MappingProxyType({side: torch.randint(0, 12, (60,), generator=gen(k)) for k, side in enumerate(("train", "validation", "heldout"))})


def tuning() -> FineTuning:
    """An experiment on one small model."""
    return FineTuning(Transformer(TINY), streams(), SETTINGS)


CASES = [
    Case("quantum.entanglement:EntanglementConfig", lambda: {"lr_grid": (0.1, 0.2)}, {**dict.fromkeys(("lr_full", "lr_lora", "lr_mps", "lr_equal"), "positive"), "null_samples": "count", "scaling_length": "count", "lr_grid": "numbers", "base": "text", "text": "text"}, {},
         {"lr_grid": {"empty": "empty takes the rates of the arms"}}),
    *(Case(f"quantum.entanglement:{name}", lambda: {"m": 4, "n": 6, "base": 2.0}, {"m": "count", "n": "count", "base": "above one"}) for name in ("page_entropy", "marchenko_pastur_entropy")),
    Case("quantum.entanglement:marchenko_pastur_pdf", lambda: {"x": np.array([0.5, 1.0]), "ratio": 0.5}, {"x": "array", "ratio": "share"}, {},
         {"x": {**dict.fromkeys(("+inf", "-inf"), "the density is zero outside its support"), "wrong rank": ANY_AXES, "wrong dtype": "whole numbers are numbers", "empty": DENSITY, "zero axis": DENSITY}}),
    Case("quantum.entanglement:chain_entropy", lambda: {"sizes": (4, 6), "base": 2.0}, {"sizes": "whole numbers", "base": "above one"}),
    Case("quantum.entanglement:full_null_profile", lambda: {"d_out": 4, "d_in": 6, "base": 2.0}, {"d_out": "count", "d_in": "count", "base": "above one"}),
    Case("quantum.entanglement:lora_null_profile", lambda: {"d_out": 4, "d_in": 6, "r": 2, "base": 2.0}, {"d_out": "count", "d_in": "count", "r": "count + too large", "base": "above one"}),
    Case("quantum.entanglement:mps_null_profile", lambda: {"d_out": 4, "d_in": 6, "r": 2, "chi": 2, "d1": 2, "d2": 3, "base": 2.0},
         {"d_out": "count", "d_in": "count", "r": "count + too large", "chi": "count", "d1": "count + too large", "d2": "count + too large", "base": "above one"}),
    Case("quantum.entanglement:valley_depth", lambda: {"profile": rand(3, 7).double().numpy(), "center": 4}, {"profile": "array rows", "center": "index"}),
    Case("quantum.entanglement:random_attention", lambda: {"n": 4, "s": 0.5, "rank": 2, "samples": 2, "generator": gen()}, {"n": "count", "s": "nonnegative", "rank": "optional count", "samples": "count"}),
    Case("quantum.entanglement:attention_null_entropy", lambda: {"n": 4, "s": 0.5, "causal": True, "rank": 2, "samples": 2}, {"n": "count", "s": "nonnegative", "rank": "optional count", "samples": "count"}),
    Case("quantum.entanglement:attention_scaling", lambda: {"attn": causal(), "sizes": (2, 4, 6)}, {"attn": "sized stack", "sizes": "whole numbers"}),
    Case("quantum.entanglement:logit_spread", lambda: {"attn": causal()}, {"attn": "sized stack"}),
    Case("quantum.entanglement:scaling_fits", lambda: {"sizes": (4, 8, 16, 32, 64), "entropy": [0.5, 0.9, 1.4, 1.6, 2.1]}, {"sizes": "whole numbers", "entropy": "numbers"}),
    Case("quantum.entanglement:fine_tuning_text", lambda: {"name": "python_reference"}, {"name": "text"}),
    Case("quantum.entanglement:depth_null", lambda: {"deltas": named(), "r": 2, "samples": 2, "generator": gen()}, {"deltas": "named tensors", "r": "count + too large", "samples": "count"}),
    Case("quantum.entanglement:arm_depth", lambda: {"arm": arm(), "record": -1}, {"record": "index"}),
    Case("quantum.entanglement:base_model", lambda: {"name": "byte-lm-tiny"}, {"name": "text"}),
    Case("quantum.entanglement:state_distances", lambda: {"a": attention(), "b": attention(3)}, {"a": "record of tensors", "b": "record of tensors"}, {"a": "weights outputs", "b": "weights outputs"}),
    Case("quantum.entanglement:no_hair_report", lambda: {"models": {"lora": attention(), "full": attention(3), "random": attention(6), "base": attention(9, 1)}, "pair": ("lora", "full"), "control": "random", "base": "base"},
         {"pair": "choice", "control": "choice", "base": "choice"}, {"control": "models", "base": "models", "pair": "models"}),
    Case("nn.schmidt:prime_sites", lambda: {"shape": (4, 6)}, {"shape": "whole numbers"}),
    Case("nn.schmidt:entanglement_profile", lambda: {"W": rand(4, 6), "dims": (4, 6), "order": "row-col", "base": 2.0, "device": "cpu"},
         {"W": "stack", "dims": "whole numbers", "order": "choice", "base": "above one", "device": "device"}, {}, {"W": {"wrong dtype": REAL}}),
    Case("nn.schmidt:lora_profile", lambda: {"A": rand(2, 6), "B": rand(4, 2, seed=1), "base": 2.0, "device": "cpu"}, {"A": "stack", "B": "sized stack", "base": "above one", "device": "device"}, {},
         {"A": {"wrong dtype": REAL}, "B": {"wrong dtype": REAL}}),
    Case("nn.schmidt:attention_entropy", lambda: {"attn": causal(), "base": 2.0}, {"attn": "sized stack", "base": "above one"}),
    Case("nn.adapters:Adapter", lambda: {"base": nn.Linear(6, 4), "copies": 2}, {"copies": "count"}),
    Case("nn.adapters:FullLinear", lambda: {"base": nn.Linear(6, 4), "delta": rand(2, 4, 6)}, {"delta": "sized"}),
    Case("nn.adapters:LoRALinear", lambda: {"base": nn.Linear(6, 4), "r": 2, "alpha": 4.0, "seeds": (0, 1)}, {"r": "count + too large", "alpha": "positive", "seeds": "whole numbers"}),
    Case("nn.adapters:MPSLinear", lambda: {"base": nn.Linear(6, 4), "r": 2, "chi": 2, "d1": 2, "d2": 3, "alpha": 4.0, "seeds": (0, 1)},
         {"r": "count + too large", "chi": "count", "d1": "optional count + too large", "d2": "optional count + too large", "alpha": "positive", "seeds": "whole numbers"}),
    Case("nn.adapters:FullLinear.forward", lambda: {"self": adapter(FullLinear, copies=2), "x": rand(4, 6)}, {"x": "sized rows"}, {}, {"x": INPUTS}),
    Case("nn.adapters:LoRALinear.forward", lambda: {"self": adapter(LoRALinear, r=2, seeds=(0, 1)), "x": rand(4, 6)}, {"x": "sized rows"}, {}, {"x": INPUTS}),
    Case("nn.adapters:MPSLinear.forward", lambda: {"self": adapter(MPSLinear, r=2, chi=2, seeds=(0, 1)), "x": rand(4, 6)}, {"x": "sized rows"}, {}, {"x": INPUTS}),
    Case("nn.adapters:balanced_split", lambda: {"d": 12}, {"d": "count"}),
    Case("nn.adapters:mps_cores", lambda: {"A": rand(2, 6), "d1": 2, "d2": 3, "chi": 2}, {"A": "sized stack", "d1": "count + too large", "d2": "count + too large", "chi": "count"}),
    Case("nn.adapters:inject_adapters", lambda: {"model": layers(), "targets": ["q_proj"], "method": "mps", "r": 2, "alpha": 4.0, "chi": 2, "d1": 2, "d2": 3, "seeds": (0, 1)},
         {"targets": "words", "method": "choice", "r": "count + too large", "alpha": "positive", "chi": "count", "d1": "optional count + too large", "d2": "optional count + too large", "seeds": "whole numbers"}),
    Case("nn.adapters:attach_deltas", lambda: {"model": layers(), "deltas": named()}, {"deltas": "named tensors"}, {"deltas": "delta"}),
    Case("nn.adapters:merge", lambda: {"model": adapted(), "copy": 1}, {"copy": "index"}),
    Case("nn.adapters:peft_state_dict", lambda: {"model": adapted(), "copy": 1}, {"copy": "index"}),
    Case("nn.adapters:load_peft_state_dict", lambda: {"model": adapted(), "state": peft_state_dict(adapted(), 0), "copy": 1}, {"state": "named tensors", "copy": "index"}),
    Case("nn.fine_tuning:FineTuningConfig", lambda: {"steps": 60, "records": (20, 60)}, {**dict.fromkeys(("seeds", "window", "batch", "steps", "rank", "chi", "heldout_windows", "attention_windows", "attention_length"), "count"), "warmup": "natural", "alpha": "positive",
         "records": "whole numbers", "targets": "texts"}),
    Case("nn.fine_tuning:attention_states", lambda: {"model": Transformer(TINY), "ids": torch.tensor([[1, 2, 3]])}, {"ids": "token ids"}),
    Case("nn.fine_tuning:Arm.deltas", lambda: {"self": arm(), "record": -1}, {"record": "index"}),
    Case("nn.fine_tuning:Arm.profiles", lambda: {"self": arm(), "record": -1}, {"record": "index"}),
    Case("nn.fine_tuning:FineTuning", lambda: {"model": Transformer(TINY), "streams": dict(streams()), "cfg": SETTINGS}, {"streams": "named naturals"}),
    Case("nn.fine_tuning:FineTuning.windows", lambda: {"self": tuning(), "side": "train", "number": 2, "length": 8}, {"side": "choice", "number": "count", "length": "count + too large"}),
    Case("nn.fine_tuning:FineTuning.score", lambda: {"self": tuning(), "side": "train"}, {"side": "choice"}),
    Case("nn.fine_tuning:FineTuning.inject", lambda: {"self": tuning(), "method": "lora", "r": 2}, {"method": "choice", "r": "optional count + too large"}),
    Case("nn.fine_tuning:FineTuning.run", lambda: {"self": tuning(), "method": "lora", "lr": 0.1, "r": 2, "records": (1,), "side": "heldout", "progress": False},
         {"method": "choice", "lr": "positive", "r": "optional count + too large", "records": "whole numbers", "side": "choice"}),
    Case("nn.fine_tuning:FineTuning.tune", lambda: {"self": tuning(), "method": "lora", "grid": [0.1], "r": 2}, {"method": "choice", "grid": "numbers", "r": "optional count"}, {"grid": "lr"}),
    Case("nn.fine_tuning:FineTuning.fixed", lambda: {"self": tuning(), "name": "given", "deltas": {"model.layers.0.self_attn.q_proj": rand(2, 8, 8)}}, {"deltas": "named tensors"}, {"deltas": "delta"}),
    Case("nn.fine_tuning:FineTuning.attention", lambda: {"self": tuning(), "length": 16}, {"length": "optional count + too large"}),
    Case("nn.fine_tuning:norm_matched", lambda: {"deltas": named(), "r": 2, "generator": gen()}, {"deltas": "named tensors", "r": "count + too large"}),
    Case("nn.fine_tuning:spectrum_matched", lambda: {"delta": rand(2, 4, 6), "r": 2, "samples": 2, "generator": gen()}, {"delta": "tensor", "r": "count + too large", "samples": "count"}, {}, {"delta": {"wrong rank": ANY_AXES}}),
    Case("nn.fine_tuning:truncated", lambda: {"deltas": named(), "r": 2}, {"deltas": "named tensors", "r": "count + too large"}),
    Case("nn.replay:Replay.__call__", lambda: {"self": Replay((), torch.device("cpu")), "name": "double", "fn": lambda x: 2 * x, "inputs": (rand(2, 3),), "shapes": ((4, 3),)}, {"name": "text", "inputs": "texts", "shapes": "words"}),
]

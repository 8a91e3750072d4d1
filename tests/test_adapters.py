"""Laws of adapters: start at the base model, independent copies, counts, peft, into and out of any model, bad inputs."""
import copy
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atomsnb.nn import adapters as A

FEW = settings(max_examples=20, deadline=None, derandomize=True)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(d_out=8, d_in=12, bias=False, seed=0):
    layer = nn.Linear(d_in, d_out, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(gaussian(d_out, d_in, seed=seed))
        if bias:
            layer.bias.copy_(gaussian(d_out, seed=seed + 1))
    return layer


def llama(seed=0, eager=False):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    torch.manual_seed(seed)
    return (LlamaForCausalLM._from_config(config, attn_implementation="eager") if eager else LlamaForCausalLM(config)).eval()


def made(method, copies=2, bias=False):
    base, seeds = linear(bias=bias), tuple(range(copies))
    if method == "full":
        return A.FullLinear(base, copies=copies)
    return A.LoRALinear(base, 3, seeds=seeds) if method == "lora" else A.MPSLinear(base, 3, 2, 3, 4, seeds=seeds)


def randomise(adapter, seed=0):
    with torch.no_grad():
        for k, (name, p) in enumerate(adapter.named_parameters()):
            if not name.startswith("base."):
                p.copy_(gaussian(*p.shape, seed=seed + k))
    return adapter


@pytest.mark.parametrize("method", A.METHODS)
def test_a_fresh_adapter_changes_nothing(method):
    x = gaussian(6, 5, 12, seed=3)
    assert torch.equal(made(method, bias=True)(x), linear(bias=True)(x))  # exactly: the correction is zero


@pytest.mark.parametrize("method", A.METHODS)
@pytest.mark.parametrize("shape", [(4, 12), (4, 5, 12), (2, 3, 2, 12)])
def test_each_copy_applies_its_own_correction_to_its_own_block(method, shape):
    adapter, x = randomise(made(method, bias=True)), gaussian(*shape, seed=9)
    half = shape[0] // 2
    expected = torch.cat([x[:half] @ (adapter.weight + adapter.delta()[0]).T, x[half:] @ (adapter.weight + adapter.delta()[1]).T]) + adapter.bias
    assert torch.allclose(adapter(x), expected, atol=1e-12)  # float64


@FEW
@given(r=st.integers(1, 6), chi=st.integers(1, 8), seed=st.integers(0, 1000))
def test_mps_count_formula_and_rank_bound(r, chi, seed):
    layer = randomise(A.MPSLinear(linear(10, 12), r, chi, 3, 4), seed)
    assert layer.n_parameters == r * 3 * chi + chi * 4 + 10 * r
    assert A.LoRALinear(linear(10, 12), r).n_parameters == r * (10 + 12)
    factor, _ = layer.factors()
    assert int(torch.linalg.matrix_rank(factor.reshape(r * 3, 4))) <= min(chi, 4, 3 * r)


@FEW
@given(r=st.integers(1, 5), extra=st.integers(0, 3), seed=st.integers(0, 1000))
def test_a_full_bond_reproduces_every_matrix(r, extra, seed):
    matrix = gaussian(2, r, 24, seed=seed)
    G1, G2 = A.mps_cores(matrix, 4, 6, min(4 * r, 6) + extra)
    assert torch.allclose(torch.einsum("crix,cxj->crij", G1, G2).reshape(2, r, 24), matrix, atol=1e-12)


@pytest.mark.parametrize("chi", [4, 32])
def test_the_mps_start_has_the_variance_of_loras(chi):
    """3 d_in Var(A) = 1 whatever chi; the smaller core has 64 chi numbers: relative error of its variance sqrt(2 / 64 chi), three of them."""
    A4, _ = A.MPSLinear(nn.Linear(4096, 64, bias=False), r=32, chi=chi, seeds=(0, 1, 2)).factors()
    assert abs(float(A4.var()) * 3 * 4096 - 1) < 3 * (2 / (64 * chi * 3)) ** 0.5


def test_copies_do_not_see_each_other():
    adapter, x = randomise(made("lora")), gaussian(4, 12, seed=5)
    adapter(x)[:2].square().sum().backward()
    assert float(adapter.lora_A.grad[0].abs().min()) > 0 and float(adapter.lora_A.grad[1].abs().max()) == 0 and float(adapter.lora_B.grad[1].abs().max()) == 0


def test_a_copy_starts_as_its_seed_says_whatever_the_others_are():
    alone, joint = A.LoRALinear(linear(), 3, seeds=(7,), name="q"), A.LoRALinear(linear(), 3, seeds=(1, 7), name="q")
    assert torch.equal(alone.lora_A[0], joint.lora_A[1])
    assert not torch.equal(alone.lora_A, A.LoRALinear(linear(), 3, seeds=(7,), name="v").lora_A)


def test_the_frozen_layer_gets_no_gradient_and_half_precision_stays_half_outside():
    layer = nn.Linear(12, 8, bias=False).bfloat16()
    adapter = A.LoRALinear(layer, 3)
    assert adapter.lora_A.dtype == torch.float32  # corrections live in single precision
    out = adapter(torch.ones(2, 12, dtype=torch.bfloat16))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and layer.weight.grad is None and adapter.lora_B.grad is not None


@pytest.mark.parametrize("method", A.METHODS)
def test_injection_into_a_transformers_model_is_undone_exactly(method):
    model, ids = llama(), torch.arange(48).reshape(6, 8)
    flags = [n for n, _ in model.named_parameters()]
    with torch.no_grad():
        before = model(ids).logits
        adapters = A.inject_adapters(model, method=method, r=4, chi=2, seeds=(0, 1, 2))
        assert sorted({n.rpartition(".")[2] for n in adapters}) == ["q_proj", "v_proj"] and len(adapters) == 4
        assert torch.equal(model(ids).logits, before)
        for k, adapter in enumerate(adapters.values()):
            for name, p in adapter.named_parameters():
                if not name.startswith("base."):
                    p.copy_(0.2 * gaussian(*p.shape, seed=k))
        assert not torch.equal(model(ids).logits, before)
        assert A.remove_adapters(model).keys() == adapters.keys() and torch.equal(model(ids).logits, before)
        A.attach_adapters(model, adapters)
        adapted = model(ids).logits
        deltas = A.delta_weights(model)
        A.remove_adapters(model)
        A.attach_deltas(model, deltas)
        assert torch.allclose(model(ids).logits, adapted, atol=1e-5)  # float32, product formed before or after
        A.remove_adapters(model)
    assert [n for n, _ in model.named_parameters()] == flags


def test_merge_and_unmerge_are_the_identity():
    model, ids = llama(), torch.arange(32).reshape(4, 8)
    adapters = A.inject_adapters(model, r=4, seeds=(0, 1))
    with torch.no_grad():
        for k, adapter in enumerate(adapters.values()):
            adapter.lora_B.copy_(0.2 * gaussian(*adapter.lora_B.shape, seed=k))
        adapted = model(ids).logits
        held = A.merge(model, 1)
        assert not A.adapters_of(model) and torch.allclose(model(ids[2:]).logits, adapted[2:], atol=1e-5)  # float32
        assert not torch.allclose(model(ids[:2]).logits, adapted[:2], atol=1e-3)  # the other copy is another model
        A.unmerge(model, held)
        assert torch.equal(model(ids).logits, adapted)


def test_training_goes_as_in_peft_from_the_same_start():
    """Twenty AdamW steps: losses agree to float32 rounding that training amplifies (1e-4)."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", target_modules=["q_proj", "v_proj"]))
    ours = llama()
    A.inject_adapters(ours, r=4, alpha=8.0, seeds=(3,))
    A.load_peft_state_dict(ours, get_peft_model_state_dict(theirs))
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    batches = torch.randint(0, 96, (20, 4, 16), generator=torch.Generator().manual_seed(1))
    curves = []
    for model in (theirs, ours):
        model.train()
        optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0), []
        for ids in batches:
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses.append(float(loss.detach()))
        curves.append(torch.tensor(losses))
    assert torch.allclose(*curves, atol=1e-4), (curves[0] - curves[1]).abs().max()
    state, back = A.peft_state_dict(ours), get_peft_model_state_dict(theirs)
    assert state.keys() == back.keys() and max(float((state[k] - back[k]).abs().max()) for k in state) < 1e-2
    assert float(torch.stack([v.abs().max() for k, v in state.items() if "lora_B" in k]).min()) > 0.01  # it did train


def test_a_file_that_peft_saved_is_read(tmp_path):
    """`save_pretrained` of peft, then our reader: the same logits to float32 rounding."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
        theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours, ids = llama(), torch.randint(0, 96, (2, 16), generator=torch.Generator().manual_seed(1))
    A.inject_adapters(ours, r=4, alpha=8.0)
    A.load_peft_state_dict(ours, load_file(tmp_path / "adapter_model.safetensors"))
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5) and not torch.allclose(ours(ids).logits, llama()(ids).logits, atol=1e-3)


def test_peft_state_survives_the_round_trip_and_refuses_strangers():
    model = llama()
    adapters = A.inject_adapters(model, r=4, seeds=(0, 1))
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.lora_B.normal_(generator=torch.Generator().manual_seed(0))
    state = A.peft_state_dict(model, 1)
    A.load_peft_state_dict(model, state, 0)
    assert all(torch.equal(v, state[k]) for k, v in A.peft_state_dict(model, 0).items())
    first = next(iter(state))
    with pytest.raises(ValueError, match="state has no"):
        A.load_peft_state_dict(model, {k: v for k, v in state.items() if k != first})
    with pytest.raises(ValueError, match="without a layer"):
        A.load_peft_state_dict(model, {**state, "other": state[first]})
    with pytest.raises(ValueError, match="accepted"):
        A.load_peft_state_dict(model, {**state, first: torch.zeros(5, 32)})
    A.remove_adapters(model)
    A.inject_adapters(model, method="mps", r=4, chi=2)
    with pytest.raises(ValueError, match="not LoRA"):
        A.peft_state_dict(model)


BAD = {
    "base": (TypeError, lambda: A.LoRALinear(nn.Embedding(3, 4), 2)),
    "rank 0": (ValueError, lambda: A.LoRALinear(linear(), 0)),
    "rank above min": (ValueError, lambda: A.LoRALinear(linear(8, 12), 9)),
    "rank no int": (TypeError, lambda: A.LoRALinear(linear(), 2.5)),
    "alpha": (ValueError, lambda: A.LoRALinear(linear(), 2, 0.0)),
    "alpha nan": (ValueError, lambda: A.LoRALinear(linear(), 2, float("nan"))),
    "chi": (ValueError, lambda: A.MPSLinear(linear(), 2, 0)),
    "d1 d2": (ValueError, lambda: A.MPSLinear(linear(), 2, 2, 5, 2)),
    "d1": (ValueError, lambda: A.MPSLinear(linear(), 2, 2, 5)),
    "seeds empty": (ValueError, lambda: A.LoRALinear(linear(), 2, seeds=())),
    "seeds text": (ValueError, lambda: A.LoRALinear(linear(), 2, seeds="01")),
    "seeds negative": (ValueError, lambda: A.LoRALinear(linear(), 2, seeds=(-1,))),
    "delta shape": (ValueError, lambda: A.FullLinear(linear(), torch.zeros(1, 8, 11))),
    "copies": (ValueError, lambda: A.FullLinear(linear(), copies=0)),
    "batch": (ValueError, lambda: made("lora")(gaussian(3, 12))),
    "method": (ValueError, lambda: A.inject_adapters(llama(), method="dora")),
    "targets": (ValueError, lambda: A.inject_adapters(llama(), ("q_prj",))),
    "targets text": (ValueError, lambda: A.inject_adapters(llama(), "q_proj")),
    "target kind": (TypeError, lambda: A.inject_adapters(llama(), ("embed_tokens",))),
    "no adapters": (ValueError, lambda: A.delta_weights(llama())),
    "merge nothing": (ValueError, lambda: A.merge(llama())),
    "deltas": (ValueError, lambda: A.attach_deltas(llama(), {})),
    "deltas name": (ValueError, lambda: A.attach_deltas(llama(), {"model.nothing": torch.zeros(1, 2, 2)})),
    "cores": (ValueError, lambda: A.mps_cores(gaussian(3, 12), 5, 2, 2)),
    "cores chi": (ValueError, lambda: A.mps_cores(gaussian(3, 12), 3, 4, 0)),
    "model": (TypeError, lambda: A.inject_adapters("llama")),
    "model none": (TypeError, lambda: A.delta_weights(None)),
    "targets number": (ValueError, lambda: A.inject_adapters(llama(), 4)),
    "chi of lora": (ValueError, lambda: A.inject_adapters(llama(), chi=0)),
    "d1 of lora": (TypeError, lambda: A.inject_adapters(llama(), d1="two")),
}
NAMED = {"rank 0": "r", "rank above min": "r", "rank no int": "r", "batch": "x", "target kind": "embed_tokens", "no adapters": "model", "merge nothing": "model", "cores": "d1", "cores chi": "chi"}  # the argument that a message must name


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    kind, call = BAD[case]
    with pytest.raises(kind, match="accepted|has no adapters|must be equal|nowhere|no layer of the model") as refused:
        call()
    assert re.search(rf"\b{NAMED.get(case, case.split()[0])}\b", str(refused.value)), refused.value


def test_adapters_of_another_model_and_a_second_injection_are_refused():
    model, other = llama(), llama(1)
    adapters = A.inject_adapters(model, r=2)
    with pytest.raises(ValueError, match="adapters already"):
        A.inject_adapters(model, r=2)
    with pytest.raises(ValueError, match="not the layer"):
        A.attach_adapters(other, adapters)
    with pytest.raises(ValueError, match="copies"):
        A.attach_deltas(other, {n: torch.zeros(k + 1, *a.weight.shape) for k, (n, a) in enumerate(adapters.items())})


def test_an_adapted_model_can_be_copied():
    model = llama()
    A.inject_adapters(model, r=2)
    twin = copy.deepcopy(model)
    assert A.adapters_of(twin).keys() == A.adapters_of(model).keys()

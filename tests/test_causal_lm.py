"""Laws of the language models' face: one call for ours and for transformers', greedy equality, draws that follow their law, and loading that refuses what it should."""
import copy
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from atomsnb.core.runtime import MissingExtraError
from atomsnb.models import causal_lm as room
from atomsnb.models.causal_lm import CausalLM, from_llama, generate, load_causal_lm, to_llama
from atomsnb.models.encoder import ModelNotFoundError, WeightsError
from atomsnb.models.generation import warp
from atomsnb.models.registry import ModelCard, save_model
from atomsnb.models.tokenizer import ByteTokenizer
from atomsnb.nn.transformer import KVCache, Transformer, TransformerConfig, tree_mask

transformers = pytest.importorskip("transformers")

FEW = settings(max_examples=20, deadline=None, derandomize=True)
SMALL = TransformerConfig(vocab_size=41, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=40, context=48)
PROMISE = 1e-4  # largest difference of logits (of order 1 to 10) that the bridge promises in float32
EXACT = 1e-10  # float64 throughout
SOFTMAX = 1e-4  # transformers' plain attention takes the softmax in float32 even in a float64 model: 1e-7 of the weights, through two layers, on logits of order 10


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(config=SMALL, seed=0):
    net, g = Transformer(config, seed=seed).eval(), rng(seed)
    for name, p in net.named_parameters():
        p.data += torch.randn(p.shape, generator=g) * (1.0 if "embed" in name else 0.4)
    return net.requires_grad_(False)


NET = lively()
BYTES = CausalLM(lively(SMALL.replace(vocab_size=260), seed=1), ByteTokenizer(), "letters")
IDS = torch.randint(0, 41, (3, 20), generator=rng(1))
STRETCHED = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
PEERS = {"llama3": ("Llama", {"rope_parameters": STRETCHED}), "gemma2": ("Gemma2", {"sliding_window": 4}), "mistral": ("Mistral", {"sliding_window": 4}), "qwen2": ("Qwen2", {}), "gptneox": ("GPTNeoX", {}),
         "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48})}  # positions of its own, not rotary: a wrong number is a wrong vector


def peer(name, dtype=torch.float64):
    """A random two-layer model of another architecture."""
    family, options = PEERS[name]
    sizes = dict(vocab_size=41, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    if family != "GPT2":
        sizes |= dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48)
    if family not in ("GPTNeoX", "GPT2"):
        sizes |= dict(num_key_value_heads=2, head_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes, **options)).eval()
        for p in model.parameters():
            p.data += 0.3 * torch.randn_like(p)
    return model.to(dtype).requires_grad_(False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The peers as folders, written as their owners publish them."""
    place = tmp_path_factory.mktemp("peers")
    for name in PEERS:
        peer(name).save_pretrained(place / name)
    return place


# ---- the bridge


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"n_kv_heads": 4}, {"n_kv_heads": 1}, {"rope_theta": 500_000.0, "norm_eps": 1e-3}])
def test_our_weights_are_a_llama_and_come_back(change):
    ours = lively(SMALL.replace(**change))
    llama = to_llama(ours)
    logits = ours(IDS).logits
    assert float(logits.std()) > 0.5
    assert float((llama(IDS).logits.detach() - logits).abs().max()) < PROMISE
    back = from_llama(llama)
    assert torch.equal(back(IDS).logits, logits) and back.config == ours.config
    with torch.no_grad():
        llama.model.embed_tokens.weight.zero_()
    assert torch.equal(ours(IDS).logits, logits) and torch.equal(back(IDS).logits, logits)


@pytest.mark.parametrize("places", [[0, 1, 2, 7, 8, 3, 4, 4], [5, 6, 7, 8, 9, 10, 11, 12], [0, 0, 0, 0, 1, 1, 1, 1]])
def test_positions_that_jump_are_positions_and_not_separate_texts(places):
    """Without mask and cache transformers reads a jump as the start of another text in the same row; through the face a position is a position, as for a tree of drafts."""
    face, ids, places = room.TransformersFace(to_llama(NET)), IDS[:, :8], torch.tensor(places)
    ours = NET(ids, position_ids=places).logits
    assert float((face(ids, position_ids=places).logits - ours).abs().max()) < PROMISE
    whole = torch.ones(8, 8, dtype=torch.bool).tril()
    assert float((face(ids, position_ids=places, attention_mask=whole).logits - ours).abs().max()) < PROMISE


def test_a_llama_of_transformers_is_ours():
    config = transformers.LlamaConfig(vocab_size=41, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=48)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llama = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    for p in llama.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=rng())
    ours = from_llama(llama)
    assert not ours.config.tied and float((ours(IDS).logits.detach() - llama(IDS).logits).abs().max()) < PROMISE


def test_the_bridge_disturbs_nobodys_random_numbers():
    state = torch.random.get_rng_state()
    from_llama(to_llama(NET))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("change", "named"), [({"rope_parameters": STRETCHED}, "rope_type"), ({"attention_bias": True}, "attention_bias"), ({"mlp_bias": True}, "mlp_bias"), ({"hidden_act": "gelu"}, "hidden_act"), ({"head_dim": 16}, "head_dim")])
def test_a_llama_that_we_cannot_be_is_refused(change, named):
    config = transformers.LlamaConfig(**{**dict(vocab_size=41, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=48), **change})
    with pytest.raises(ValueError, match=named):
        from_llama(transformers.LlamaForCausalLM(config))
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        from_llama(peer("qwen2"))
    with pytest.raises(ValueError, match="bidirectional"):
        to_llama(lively(SMALL.replace(causal=False)))


# ---- the law of the next token


@FEW
@example(seed=0, T=1.0, k=1, p=None)
@example(seed=0, T=1.0, k=None, p=1.0)
@given(seed=st.integers(0, 10**6), T=st.floats(0.1, 5), k=st.one_of(st.none(), st.integers(1, 50)), p=st.one_of(st.none(), st.floats(0.01, 1.0)))
def test_warping_is_that_of_transformers(seed, T, k, p):
    z = 3 * torch.randn(4, 41, generator=rng(seed), dtype=torch.float64)
    theirs = z / T
    if k is not None:
        theirs = transformers.TopKLogitsWarper(k)(None, theirs)
    if p is not None and p < 1:
        theirs = transformers.TopPLogitsWarper(p)(None, theirs)
    ours = warp(z, T, k, p)
    assert torch.allclose(ours, theirs.softmax(-1), rtol=0, atol=1e-12) and torch.allclose(ours.sum(-1), torch.ones(4, dtype=torch.float64))


def test_zero_temperature_is_the_first_largest_logit():
    assert torch.equal(warp(torch.tensor([[1.0, 2.0, 2.0]]), 0), torch.tensor([[0.0, 1.0, 0.0]]))
    assert warp(torch.randn(2, 5, generator=rng()).bfloat16(), 0.5).dtype == torch.float32


@pytest.mark.parametrize("T", [5e-324, 1e-300, 1e-46, 1e-30, 9e-10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_at_a_tiny_temperature_the_largest_logits_share_the_mass(T, dtype):
    z = torch.tensor([[1.0, 2.0, 0.0, 2.0], [0.0, -3.0, -4.0, -5.0], [-3e38, -2e38, 3e38, -math.inf], [0.0, 0.0, 0.0, 0.0]], dtype=dtype)
    expected = torch.tensor([[0, 0.5, 0, 0.5], [1, 0, 0, 0], [0, 0, 1, 0], [0.25] * 4]).to(torch.promote_types(dtype, torch.float32))
    for options in ({}, {"top_k": 2}, {"top_p": 1.0}):
        assert torch.equal(warp(z, T, **options), expected)
    close = torch.tensor([[0.0, -T * math.log(3)]], dtype=torch.float64)  # what lies within the temperature still shares by its odds
    if T > 1e-307:  # a subnormal number has too few digits for the odds
        assert torch.allclose(warp(close, T), torch.tensor([[0.75, 0.25]], dtype=torch.float64), rtol=0, atol=1e-12)


def test_draws_follow_the_law_of_pairs():
    dice = lively(TransformerConfig(vocab_size=4, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, context=8), seed=3)
    options = dict(temperature=3.0, top_k=3)
    n = 8000
    pairs = torch.stack(generate(dice, torch.zeros(n, 1, dtype=torch.int64), max_new_tokens=2, generator=rng(), **options).tokens)
    first = warp(dice(torch.zeros(1, 1, dtype=torch.int64)).logits[0, -1], 3.0, 3)
    second = warp(dice(torch.stack((torch.zeros(4, dtype=torch.int64), torch.arange(4)), 1)).logits[:, -1], 3.0, 3)
    law = (first[:, None] * second).flatten().double()
    counts = torch.bincount(4 * pairs[:, 0] + pairs[:, 1], minlength=16).double()
    cells = law > 0
    chi, freedom = float(((counts - n * law).square() / (n * law))[cells].sum()), int(cells.sum()) - 1
    assert float(counts[~cells].sum()) == 0 and freedom >= 4
    assert chi < freedom + 5 * math.sqrt(2 * freedom)  # five standard deviations; the seed is fixed
    flat = cells / cells.sum()
    assert float(((counts - n * flat).square() / (n * flat))[cells].sum()) > freedom + 20 * math.sqrt(2 * freedom)  # the test can fail


def test_the_same_generator_state_repeats_a_draw():
    draw = lambda seed: [row.tolist() for row in generate(NET, IDS[:, :4], max_new_tokens=12, temperature=1.5, generator=rng(seed)).tokens]  # noqa: E731
    assert draw(0) == draw(0) != draw(1)


# ---- greedy decoding


def reference(model, prompt, n):
    """Greedy continuation by transformers."""
    return model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_greedy_is_transformers_greedy_token_for_token(tied):
    net = lively(SMALL.replace(tied=tied))
    llama, prompts = to_llama(net), [IDS[0, :n] for n in (1, 3, 8, 20)]
    out = generate(net, prompts, max_new_tokens=28)
    assert [row.tolist() for row in out.tokens] == [reference(llama, prompt, 28) for prompt in prompts] and out.passes == 28
    assert len({tuple(row.tolist()) for row in out.tokens}) == 4 and min(len(set(row.tolist())) for row in out.tokens) > 2  # and not one token again and again


def test_greedy_of_the_shipped_model_is_transformers_greedy():
    lm = load_causal_lm("code-lm", device="cpu")
    llama = to_llama(lm.model)
    for text in ("def main():\n", "import json\n\n\nclass Reader:\n    ", "x"):
        out = lm.generate(text, max_new_tokens=48)
        assert out.tokens[0].tolist() == reference(llama, lm.encode(text)[0], 48)


@FEW
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), n=st.integers(1, 20))
def test_rows_of_a_batch_are_decoded_as_if_alone(lengths, n):
    prompts = [IDS[row % 3, :length] for row, length in enumerate(lengths)]
    out = generate(NET, prompts, max_new_tokens=n)
    for prompt, row, whole in zip(prompts, out.tokens, out.sequences):
        assert torch.equal(row, generate(NET, prompt, max_new_tokens=n).tokens[0]) and len(row) == n
        assert torch.equal(whole, torch.cat((prompt, row)))


def test_prompts_may_come_in_every_shape():
    expected = generate(NET, IDS[:1, :5], max_new_tokens=6).tokens[0]
    for ids in (IDS[0, :5], IDS[0, :5].tolist(), [IDS[0, :5].tolist()], [IDS[0, :5]], (IDS[0, :5].int(),)):
        assert torch.equal(generate(NET, ids, max_new_tokens=6).tokens[0], expected)


def test_what_is_returned_can_be_trained_on():
    out = generate(NET, IDS[:, :4], max_new_tokens=5)
    net = Transformer(SMALL)
    net(torch.stack(out.sequences)).logits.sum().backward()  # an inference tensor would be refused here
    assert net.model.embed_tokens.weight.grad is not None


def test_generation_inside_a_frozen_block_is_the_same():
    expected = [row.tolist() for row in generate(NET, IDS[:, :4], max_new_tokens=20).tokens]
    with NET.frozen():
        assert [row.tolist() for row in generate(NET, IDS[:, :4], max_new_tokens=20).tokens] == expected
    assert [row.tolist() for row in generate(NET.double(), IDS[:, :4], max_new_tokens=20).tokens] == expected
    NET.float()


# ---- stops, listeners, full contexts


def test_a_stop_ends_its_own_row_only():
    free = [row.tolist() for row in generate(NET, IDS[:, :4], max_new_tokens=24).tokens]
    stop = free[0][5]
    out = generate(NET, IDS[:, :4], max_new_tokens=24, stop=stop)
    for row, full, ended in zip(out.tokens, free, out.stopped):
        cut = full.index(stop) + 1 if stop in full else 24
        assert row.tolist() == full[:cut] and ended == (stop in full)
    pair = free[1][7:9]
    out = generate(NET, IDS[:, :4], max_new_tokens=24, stop=[pair])
    assert out.tokens[1].tolist() == free[1][: next(i for i in range(24) if free[1][i : i + 2] == pair) + 2] and out.stopped[1]


@FEW
@given(seed=st.integers(0, 10**6), start=st.integers(0, 12), length=st.integers(1, 5))
def test_a_string_stop_cuts_the_text_before_it(seed, start, length):
    options = dict(max_new_tokens=24, temperature=3.0)
    prompt = [int(t) for t in torch.randint(32, 127, (4,), generator=rng(seed))]
    free = BYTES.generate(prompt, generator=rng(seed), **options)
    raw = b"".join(BYTES.tokenizer.token_bytes(int(t)) for t in free.tokens[0])
    try:
        needle = raw[start : start + length].decode()
    except UnicodeDecodeError:
        return
    if not needle:
        return
    out = BYTES.generate(prompt, generator=rng(seed), stop=[needle], **options)
    text = b"".join(BYTES.tokenizer.token_bytes(int(t)) for t in out.tokens[0])
    at = raw.find(needle.encode())
    assert out.stopped == (True,) and text == raw[: at + len(needle.encode())]
    assert needle not in out.texts[0] and raw[:at].decode(errors="replace").startswith(out.texts[0][: max(0, len(out.texts[0]) - 3)])


def test_a_listener_hears_every_step_and_may_end_it():
    heard = []
    out = generate(NET, IDS[:, :4], max_new_tokens=9, stream=heard.append)
    assert [list(column) for column in zip(*[row.tolist() for row in out.tokens])] == heard
    heard.clear()
    out = generate(NET, IDS[:, :4], max_new_tokens=9, stream=lambda step: heard.append(step) or len(heard) == 3)
    assert len(heard) == 3 and [len(row) for row in out.tokens] == [3, 3, 3] and out.stopped == (False,) * 3
    free = [row.tolist() for row in generate(NET, IDS[:, :4], max_new_tokens=9).tokens]
    row, at, stop = next((r, i, free[r][i]) for r in range(3) for i in range(1, 5) if free[r][i] not in free[r][:i])
    heard.clear()
    generate(NET, IDS[:, :4], max_new_tokens=9, stop=stop, stream=heard.append)
    assert heard[at][row] == stop and heard[at + 1][row] is None and heard[at - 1][row] is not None


def test_a_text_listener_hears_whole_characters():
    class Scripted:
        """Says the bytes of one text."""

        device, context, vocab_size, training, tokenizer, config = torch.device("cpu"), 400, 260, False, ByteTokenizer(), None
        script = "né €🙂 end".encode()

        def __call__(self, ids, cache=None, positions=None, **rest):
            cache.advance(ids.shape[1])
            logits = torch.zeros(len(ids), 1, 260)
            logits[:, 0, self.script[(cache.length - 1) % len(self.script)]] = 1.0
            return room.TransformerOutput(logits)

        def frozen(self):
            return torch.no_grad()

    pieces = []
    out = generate(Scripted(), [65], max_new_tokens=len(Scripted.script), stream=room._Listener(pieces.append, ByteTokenizer()))
    assert "".join(pieces) == "né €🙂 end" == out.texts[0] and all("\ufffd" not in piece for piece in pieces)


def test_sliding_is_a_fresh_start_from_the_last_half():
    out = generate(NET, IDS[0], max_new_tokens=60, overflow="slide").sequences[0]
    text = IDS[0]
    while len(text) < 80:
        window = text if len(text) == 20 else text[-24:]
        room_left = min(48 - len(window) + 1, 80 - len(text))
        text = torch.cat((text, generate(NET, window, max_new_tokens=room_left).tokens[0]))
    assert torch.equal(out, text)


def test_a_prompt_beyond_the_context_is_refused_or_slides():
    long = torch.randint(0, 41, (60,), generator=rng())
    with pytest.raises(ValueError, match="context = 48"):
        generate(NET, long, max_new_tokens=1)
    assert torch.equal(generate(NET, long, max_new_tokens=5, overflow="slide").tokens[0], generate(NET, long[-24:], max_new_tokens=5).tokens[0])
    assert len(generate(NET, long[:48], max_new_tokens=1).tokens[0]) == 1
    with pytest.raises(ValueError, match="context"):
        generate(NET, long[:48], max_new_tokens=2)
    ragged = generate(NET, [long[:47], long[:3]], max_new_tokens=30, overflow="slide")
    assert [len(row) for row in ragged.tokens] == [30, 30]
    short = generate(NET, [long[:47], long[:3]], max_new_tokens=20, overflow="slide").tokens[1]
    assert torch.equal(short, generate(NET, long[:3], max_new_tokens=20).tokens[0])  # 23 tokens fit into the half that is kept; its padding is not kept


@pytest.mark.parametrize("options", [
    {"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": 1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": 0}, {"overflow": "drop"}, {"stop": [[]]}, {"stop": "x"}, {"stop": 41},
    {"ids": []}, {"ids": [[]]}, {"ids": [[1], []]}, {"ids": [41]}, {"ids": [-1]}, {"ids": torch.zeros(1, 2, 3, dtype=torch.int64)},
], ids=str)
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError):
        generate(NET, **{"ids": [1, 2], "max_new_tokens": 3, **options})


def test_other_refusals():
    with pytest.raises(TypeError):
        generate(NET, torch.zeros(1, 3), max_new_tokens=1)
    with pytest.raises(ValueError, match="bidirectional"):
        generate(lively(SMALL.replace(causal=False)), [1], max_new_tokens=1)
    with pytest.raises(ValueError, match="training"):
        generate(Transformer(SMALL).train(), [1], max_new_tokens=1)
    broken = lively()
    broken.model.norm.weight.data[3] = math.nan
    for options in ({}, {"temperature": 1.0, "generator": rng()}):
        with pytest.raises(ValueError, match="not finite"):
            generate(broken, [1], max_new_tokens=1, **options)
    with pytest.raises(ValueError, match="empty"):
        BYTES.generate("", max_new_tokens=1)
    with pytest.raises(ValueError, match="tokenizer"):
        CausalLM(NET).generate("text", max_new_tokens=1)
    with pytest.raises(TypeError, match="model"):
        CausalLM(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="bidirectional"):
        CausalLM(lively(SMALL.replace(causal=False)))


# ---- the adapter


@pytest.mark.parametrize("name", PEERS)
def test_the_adapters_cache_tree_and_padding_obey_the_laws(name, saved):
    lm, model = load_causal_lm(saved / name, device="cpu"), peer(name)
    atol = SOFTMAX if name == "gemma2" else EXACT
    full = model(IDS).logits
    assert float(full.std()) > 0.5 and torch.allclose(lm(IDS).logits, full, rtol=0, atol=atol)
    with torch.no_grad():
        for cuts in ([1], [5], [19], [3, 4, 11]):
            cache, edges = KVCache(), [0, *cuts, 20]
            parts = [lm(IDS[:, a:b], cache=cache).logits for a, b in zip(edges, edges[1:])]
            assert torch.allclose(torch.cat(parts, 1), full, rtol=0, atol=atol) and cache.length == 20
        cache.crop(6)
        assert torch.allclose(lm(IDS[:, 6:9], cache=cache).logits, full[:, 6:9], rtol=0, atol=atol)
        cache.reorder(torch.tensor([2, 0]))
        assert torch.allclose(lm(IDS[[2, 0], 9:], cache=cache).logits, full[[2, 0], 9:], rtol=0, atol=atol)
        cache.crop(0)
        assert torch.allclose(lm(IDS[:2], cache=cache).logits, full[:2], rtol=0, atol=atol)
        for seed, past in ((0, 0), (1, 3), (2, 9)):
            g = rng(seed)
            parents = torch.tensor([int(torch.randint(-1, i, (1,), generator=g)) if i else -1 for i in range(9)] + [8, 9, 10, 11])  # a bush with one long branch
            tokens, (mask, depth) = torch.randint(0, 41, (1, 13), generator=g), tree_mask(parents, past)
            cache = KVCache()
            if past:
                lm(IDS[:1, :past], cache=cache)
            tree = lm(tokens, cache=cache, attention_mask=mask, position_ids=past + depth).logits[0]
            paths = [[j for j in range(13) if mask[v, past + j]] for v in range(13)]
            for v, path in enumerate(paths):
                assert torch.allclose(tree[v], model(torch.cat((IDS[:1, :past], tokens[:, path]), 1)).logits[0, -1], rtol=0, atol=atol)
            cache.gather(torch.tensor([*range(past), *(past + j for j in paths[-1])]))
            twin = cache.clone()
            onward = model(torch.cat((IDS[:1, :past], tokens[:, paths[-1]], IDS[:1, :4]), 1)).logits[:, -4:]
            assert torch.allclose(lm(IDS[:1, :4], cache=cache).logits, onward, rtol=0, atol=atol) and torch.allclose(lm(IDS[:1, :4], cache=twin).logits, onward, rtol=0, atol=atol)
        padded, real = IDS.clone(), torch.ones(3, 20, dtype=torch.bool)
        padded[1] = torch.cat((torch.zeros(7, dtype=torch.int64), IDS[1, :13]))
        real[1, :7] = False
        out = lm(padded, attention_mask=real, position_ids=(real.cumsum(1) - 1).clamp(min=0)).logits
        assert bool(torch.isfinite(out).all()) and torch.allclose(out[1, 7:], model(IDS[1:2, :13]).logits[0], rtol=0, atol=atol)


@pytest.mark.parametrize("name", PEERS)
def test_the_adapters_greedy_is_transformers_greedy(name, saved):
    lm, model = load_causal_lm(saved / name, device="cpu"), peer(name)
    prompts = [IDS[0, :n] for n in (1, 6, 13)]
    assert [row.tolist() for row in lm.generate(prompts, max_new_tokens=20).tokens] == [reference(model, prompt, 20) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_the_adapters_inside_is_that_of_ours(name, saved):
    lm = load_causal_lm(saved / name, device="cpu")
    before = lm.model.config._attn_implementation
    out = lm(IDS, return_hidden=True, return_attention=True)
    plain = copy.deepcopy(lm.model)
    plain.set_attn_implementation("eager")  # the fused attention of some transformers releases leaves out Gemma's soft capping
    theirs = plain(IDS, output_hidden_states=True).hidden_states
    assert len(out.hidden) == 3 and all(torch.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(out.hidden[:2], theirs))  # the attention of the first call is the plain one
    assert torch.allclose(lm.model.model.norm(out.hidden[2]), theirs[2], rtol=0, atol=1e-4) and not torch.allclose(out.hidden[2], theirs[2], atol=1e-2)
    assert [tuple(w.shape) for w in out.attention] == [(3, 4, 20, 20)] * 2 and torch.allclose(out.attention[1].sum(-1), torch.ones(3, 4, 20, dtype=torch.float64), atol=1e-6)
    assert lm.model.config._attn_implementation == before
    hooks = len(lm.model.model.layers[-1]._forward_hooks)
    lm(IDS, return_hidden=True)
    assert len(lm.model.model.layers[-1]._forward_hooks) == hooks  # ours is taken off (transformers keeps one of its own)
    assert torch.equal(lm(IDS, positions=torch.tensor([-1, 2])).logits, lm(IDS).logits[:, [-1, 2]])
    assert torch.allclose(lm(embeddings=lm.model.get_input_embeddings()(IDS)).logits, lm(IDS).logits, atol=1e-4)
    heard = []
    handle = lm.model.get_submodule("model.layers.0.mlp").register_forward_hook(lambda *a: heard.append(1))
    lm(IDS)
    handle.remove()
    assert heard == [1] and (lm.context, lm.vocab_size, lm.device.type) == (48, 41, "cpu")


def test_ours_and_the_adapter_answer_alike():
    ours, theirs = CausalLM(NET), CausalLM(to_llama(NET))
    mask, depth = tree_mask(torch.tensor([-1, 0, 0, 2]), 5)
    answers = []
    for lm in (ours, theirs):
        cache = KVCache()
        answers.append([lm(IDS[:1, :5], cache=cache).logits, lm(IDS[:1, 5:9], cache=cache, attention_mask=mask, position_ids=5 + depth, positions=torch.tensor([0, -1])).logits])
        cache.gather(torch.tensor([0, 1, 2, 3, 4, 5, 7]))
        answers[-1].append(lm(IDS[:1, 9:], cache=cache, return_hidden=True).hidden[-1])
    for a, b in zip(*answers):
        assert a.shape == b.shape and float((a - b).abs().max()) < PROMISE
    for lm in (ours, theirs):
        for bad in (lambda lm=lm: lm(torch.tensor([[41]])), lambda lm=lm: lm(torch.zeros(1, 49, dtype=torch.int64)), lambda lm=lm: lm(IDS, attention_mask=torch.ones(20, 19, dtype=torch.bool)),
                    lambda lm=lm: lm(IDS, position_ids=torch.arange(20) + 40), lambda lm=lm: lm(), lambda lm=lm: lm(torch.zeros(1, 0, dtype=torch.int64))):
            with pytest.raises(ValueError):
                bad()
        with pytest.raises(TypeError):
            lm(torch.zeros(1, 2))


# ---- loading


def test_shipped_models_load_and_speak():
    lm = load_causal_lm("code-lm", device="cpu")
    assert lm.vocab_size == lm.tokenizer.vocab_size == 4096 and lm.context == 512 and not lm.training and lm.name == "code-lm"
    out = lm.generate("import os\nimport ", max_new_tokens=12, stop="\n")
    assert out.texts[0] == lm.tokenizer.decode(out.tokens[0]).split("\n")[0]
    assert load_causal_lm("code-lm", device="cpu", dtype=torch.bfloat16).model.model.norm.weight.dtype == torch.bfloat16


def test_our_own_folders_load(tmp_path):
    net = lively(SMALL.replace(vocab_size=260))
    card = ModelCard(name="mine", kind="causal", summary="A test.", tokenizer="bytes", limits=("Everything.",))
    save_model(tmp_path / "mine", net, card=card, dtype=torch.float32)
    lm = load_causal_lm(tmp_path / "mine", device="cpu")
    assert torch.equal(lm(IDS).logits, net(IDS).logits) and lm.tokenizer.vocab_size == 260
    file = tmp_path / "mine" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError):
        load_causal_lm(tmp_path / "mine")


def broken(saved, tmp_path, change):
    shutil.copytree(saved / "llama3", tmp_path / "m")
    change(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize(("change", "error", "says"), [
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), WeightsError, "corrupted or cut short"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04" + bytes(99)), WeightsError, "corrupted or cut short"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), WeightsError, "pickle"),
    (lambda f: (f / "model.safetensors").unlink(), ModelNotFoundError, "holds no causal language model"),
    (lambda f: save_file({k: v for k, v in load_file(f / "model.safetensors").items() if "layers.0.mlp.gate" not in k}, f / "model.safetensors", {"format": "pt"}), WeightsError, "lack 1 parameters"),
    (lambda f: save_file({k: v[:3].contiguous() if "model.norm" in k else v for k, v in load_file(f / "model.safetensors").items()}, f / "model.safetensors", {"format": "pt"}), (WeightsError, ModelNotFoundError), "norm|loaded safely"),
    (lambda f: (f / "config.json").write_text("{"), WeightsError, "no JSON"),
    (lambda f: (f / "config.json").unlink(), ModelNotFoundError, "holds no causal language model"),
    (lambda f: (f / "config.json").write_text(json.dumps({**json.loads((f / "config.json").read_text()), "architectures": ["LlamaForSequenceClassification"]})), WeightsError, "predicts no next token"),
    (lambda f: (f / "config.json").write_text(json.dumps({**transformers.BertConfig(vocab_size=41).to_dict(), "architectures": ["BertForMaskedLM"]})), WeightsError, "predicts no next token"),
    (lambda f: (f / "config.json").write_text(json.dumps({**json.loads((f / "config.json").read_text()), "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil"})), ModelNotFoundError, "safely"),
], ids=["cut", "noise", "pickle", "no weights", "missing", "other shape", "no json", "no config", "classifier", "masked", "foreign code"])
def test_what_cannot_be_trusted_is_refused(saved, tmp_path, change, error, says):
    folder = broken(saved, tmp_path, change)
    (folder / "evil.py").write_text("raise SystemExit('ran foreign code')")
    with pytest.raises(error, match=says):
        load_causal_lm(folder)


def test_names_that_are_not_here_say_what_to_fetch():
    for name in ("org/absent", "hf:org/absent"):
        with pytest.raises(ModelNotFoundError, match="hf download org/absent"):
            load_causal_lm(name)
    with pytest.raises(ModelNotFoundError, match="did you mean code-lm"):
        load_causal_lm("code-lmm")
    with pytest.raises(WeightsError, match="load_masked_lm"):
        load_causal_lm("code-mdlm")
    with pytest.raises(ValueError, match="empty"):
        load_causal_lm(" ")
    with pytest.raises(TypeError):
        load_causal_lm(3)
    with pytest.raises(TypeError):
        load_causal_lm("code-lm", dtype=torch.int8)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (lambda: to_llama(NET), lambda: load_causal_lm("org/absent")):
        with pytest.raises(MissingExtraError, match="atomsnb\\[models\\]"):
            call()


def test_importing_the_models_does_not_import_transformers():
    code = ("import sys\nimport atomsnb.models.causal_lm as c, atomsnb.models.generation\nfrom atomsnb.nn.transformer import *\n"
            "lm = c.CausalLM(Transformer(TransformerConfig(vocab_size=9, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=8, context=8)).eval())\n"
            "lm.generate([1], max_new_tokens=3)\nassert not {'transformers', 'tokenizers', 'sklearn'} & set(sys.modules), sorted(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]

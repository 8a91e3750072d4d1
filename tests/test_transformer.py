"""Laws of attention and of the transformer: rotary positions, masks, caches, trees, freezing, training; and what is refused."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.nn.attention import attend, attention_weights, read_mask, rotary_tables, rotate
from atomsnb.nn.transformer import KVCache, Transformer, TransformerConfig, tree_mask

FEW = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
TINY = TransformerConfig(vocab_size=29, d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20, context=40)
ROUNDING = 1e-10  # float64 sums in another order through two blocks, on logits of order 10
F32 = 5e-4  # the same in float32


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(config=TINY, seed=0):
    """Double precision, weights large enough that attention is far from uniform, gains that differ."""
    net, g = Transformer(config, seed=seed).double().eval(), rng(seed)
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
        p.data = p.data + (0.2 * noise if p.ndim == 1 else noise if "embed" in name else 0.25 * noise)
    return net.requires_grad_(False)


CAUSAL, BOTH = lively(), lively(TINY.replace(causal=False))
IDS = torch.randint(0, 29, (3, 14), generator=rng(1))


def test_the_models_of_these_tests_are_not_nearly_constant():
    out = CAUSAL(IDS, return_attention=True)
    assert float(out.logits.std()) > 2 and float(torch.stack(out.attention).amax(-1)[:, :, :, 4:].mean()) > 0.4


# ---- positions


@FEW
@given(seed=seeds, m=st.integers(0, 5000), n=st.integers(0, 5000), half=st.integers(1, 16), theta=st.floats(10.0, 1e6))
def test_rotary_depends_on_relative_position_only(seed, m, n, half, theta):
    q, k = torch.randn(2, 1, 2 * half, generator=rng(seed), dtype=torch.float64)

    def turn(x, p):
        return rotate(x, *rotary_tables(torch.tensor([p]), 2 * half, theta, torch.float64))

    assert abs(float((turn(q, m) * turn(k, n)).sum()) - float((q * turn(k, n - m)).sum())) < 1e-10  # angles up to 5000 carry 1e-12
    assert abs(float(turn(q, m).norm() - q.norm())) < 1e-12


def test_rotary_tables_are_those_of_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    theirs = llama.LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=4096))
    cos, sin = theirs(torch.zeros(1, dtype=torch.float32), torch.arange(4096)[None])
    ours = rotary_tables(torch.arange(4096), 32)
    assert torch.equal(ours[0], cos[0]) and torch.equal(ours[1].abs(), sin[0].abs())
    x = torch.randn(1, 1, 4096, 32, generator=rng())
    assert torch.allclose(rotate(x, *ours), llama.apply_rotary_pos_emb(x, x, cos, sin)[0], rtol=0, atol=1e-6)  # one rounding of the fused sum


def test_rotation_in_low_precision_is_computed_in_the_tables_precision():
    x, tables = torch.randn(5, 8, generator=rng()), rotary_tables(torch.arange(5) + 900, 8)
    low = rotate(x.bfloat16(), *tables)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, rotate(x.bfloat16().float(), *tables).bfloat16())


# ---- attention


def oracle(q, k, v, mask):
    """The formula, head by head."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for head in range(q.shape[1]):
            kv = head // (q.shape[1] // k.shape[1])
            for i in range(q.shape[2]):
                seen = mask[b % mask.shape[0], 0, i % mask.shape[2]].nonzero()[:, 0]
                if len(seen):
                    w = torch.exp(k[b, kv, seen] @ q[b, head, i] / math.sqrt(q.shape[3]))
                    out[b, head, i] = (w / w.sum()) @ v[b, kv, seen]
    return out


@FEW
@given(seed=seeds, B=st.integers(1, 3), K=st.integers(1, 3), G=st.integers(1, 3), n=st.integers(1, 5), m=st.integers(1, 6), rows=st.booleans(), queries=st.booleans())
def test_attention_is_a_weighted_mean(seed, B, K, G, n, m, rows, queries):
    g = rng(seed)
    q, k, v = (torch.randn(B, heads, length, 4, generator=g, dtype=torch.float64) for heads, length in ((K * G, n), (K, m), (K, m)))
    mask = torch.rand(B if rows else 1, 1, n if queries else 1, m, generator=g) < 0.7  # now and then an empty row
    expected = oracle(q, k, v, mask)
    assert torch.allclose(attend(q, k, v, mask=mask), expected, rtol=0, atol=1e-12)
    weights = attention_weights(q, k, mask)
    assert torch.allclose(weights @ v.repeat_interleave(G, 1), expected, rtol=0, atol=1e-12)
    assert bool((weights >= 0).all()) and torch.allclose(weights.sum(-1), mask.any(-1).double().expand(B, K * G, n), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_sees_nothing_gets_zeros_in_every_precision(dtype):
    q, k, v = torch.randn(3, 2, 2, 4, 8, generator=rng()).to(dtype)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[1, 0, 2] = False
    out = attend(q, k, v, mask=mask)
    assert bool((out[1, :, 2] == 0).all()) and bool(torch.isfinite(out).all()) and bool((out[0] != 0).any())
    assert bool((attention_weights(q, k, mask)[1, :, 2] == 0).all())


@pytest.mark.parametrize("groups", [1, 2])
def test_causal_attention_is_attention_under_the_lower_triangle_and_has_its_gradient(groups):
    q = torch.randn(2, 2 * groups, 6, 4, generator=rng(), dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 2, 6, 4, generator=rng(s), dtype=torch.float64, requires_grad=True) for s in (1, 2))
    a, b = attend(q, k, v, causal=True), attend(q, k, v, mask=torch.ones(1, 1, 6, 6, dtype=torch.bool).tril())
    assert torch.allclose(a, b, rtol=0, atol=1e-12)
    for x, y in zip(torch.autograd.grad(a.square().sum(), (q, k, v)), torch.autograd.grad(b.square().sum(), (q, k, v))):
        assert torch.allclose(x, y, rtol=0, atol=1e-11)


def test_grouped_heads_are_plain_heads_that_are_equal():
    grouped, wide = CAUSAL, Transformer(TINY.replace(n_kv_heads=4)).double().eval()
    state = grouped.state_dict()
    for name in [n for n in state if "k_proj" in n or "v_proj" in n]:
        state[name] = state[name].view(2, 6, 24).repeat_interleave(2, 0).reshape(24, 24)
    wide.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(wide(IDS).logits, grouped(IDS).logits, rtol=0, atol=ROUNDING)


# ---- causality, caches


@FEW
@given(seed=seeds, at=st.integers(1, 13))
def test_future_tokens_do_not_change_the_past(seed, at):
    changed = IDS.clone()
    changed[:, at:] = torch.randint(0, 29, (3, 14 - at), generator=rng(seed))
    assert torch.allclose(CAUSAL(changed).logits[:, :at], CAUSAL(IDS).logits[:, :at], rtol=0, atol=ROUNDING)


def test_in_the_bidirectional_model_they_do():
    changed = IDS.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 29
    assert float((BOTH(changed).logits[:, 0] - BOTH(IDS).logits[:, 0]).abs().max()) > 1e-3


@FEW
@given(cuts=st.lists(st.integers(1, 13), unique=True, max_size=6), capacity=st.sampled_from([0, 3, 14, 100]), frozen=st.booleans())
def test_incremental_equals_full_for_every_split(cuts, capacity, frozen):
    cache, parts, edges = KVCache(capacity), [], [0, *sorted(cuts), 14]
    with torch.no_grad():
        for a, b in zip(edges, edges[1:]):
            if frozen:
                with CAUSAL.frozen():
                    parts.append(CAUSAL(IDS[:, a:b], cache=cache).logits)
            else:
                parts.append(CAUSAL(IDS[:, a:b], cache=cache).logits)
            assert cache.length == b
    assert torch.allclose(torch.cat(parts, 1), CAUSAL(IDS).logits, rtol=0, atol=ROUNDING)


def test_cropping_forgets_and_decoding_goes_on():
    cache = KVCache()
    CAUSAL(IDS, cache=cache)
    cache.crop(5)
    assert torch.allclose(CAUSAL(IDS[:, 5:9], cache=cache).logits, CAUSAL(IDS[:, :9]).logits[:, 5:], rtol=0, atol=ROUNDING)
    cache.crop(0)
    assert torch.allclose(CAUSAL(IDS, cache=cache).logits, CAUSAL(IDS).logits, rtol=0, atol=ROUNDING)


@FEW
@given(seed=seeds, length=st.integers(1, 14), ragged=st.booleans())
def test_gather_is_indexing(seed, length, ragged):
    cache, g = KVCache(), rng(seed)
    CAUSAL(IDS, cache=cache)
    before = [tuple(x.clone() for x in cache.layer(i)) for i in range(2)]
    places = torch.stack([torch.randperm(14, generator=g)[:length].sort().values for _ in range(3)]) if ragged else torch.randint(0, 14, (length,), generator=g)
    cache.gather(places)
    rows = places if ragged else places.expand(3, length)
    for i in range(2):
        for x, y in zip(cache.layer(i), before[i]):
            assert torch.equal(x, torch.stack([y[b][:, rows[b]] for b in range(3)]))
    assert cache.length == length


def test_reorder_fans_a_prompt_out_and_clone_isolates():
    cache = KVCache()
    CAUSAL(IDS[:1, :6], cache=cache)
    kept = [x.clone() for x in cache.layer(1)]
    fan = cache.clone()
    fan.reorder(torch.zeros(3, dtype=torch.int64))
    several = CAUSAL(IDS[:, 6:], cache=fan).logits
    for row in range(3):
        assert torch.allclose(several[row], CAUSAL(torch.cat((IDS[:1, :6], IDS[row : row + 1, 6:]), 1)).logits[0, 6:], rtol=0, atol=ROUNDING)
    assert cache.length == 6 and cache.batch == 1 and all(torch.equal(a, b) for a, b in zip(cache.layer(1), kept))
    fan.reorder(torch.tensor([2, 0]))
    assert torch.allclose(CAUSAL(IDS[:2, :1], cache=fan).logits[0, 0], CAUSAL(torch.cat((IDS[:1, :6], IDS[2:, 6:], IDS[:1, :1]), 1)).logits[0, -1], rtol=0, atol=ROUNDING)


def test_what_is_fed_to_a_clone_is_not_in_the_original():
    cache = KVCache(20)
    CAUSAL(IDS[:, :6], cache=cache)
    twin = cache.clone()
    CAUSAL(IDS[:, 6:9], cache=twin)
    CAUSAL(IDS[:, 9:12], cache=cache)
    assert torch.allclose(CAUSAL(IDS[:, 9:], cache=twin).logits, CAUSAL(IDS).logits[:, 9:], rtol=0, atol=ROUNDING)
    assert torch.allclose(CAUSAL(IDS[:, :1], cache=cache).logits, CAUSAL(torch.cat((IDS[:, :6], IDS[:, 9:12], IDS[:, :1]), 1)).logits[:, -1:], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("change", ["nothing", "reorder", "clone", "gather"])
def test_a_cache_started_in_inference_mode_can_be_used_outside(change):
    cache = KVCache()
    with torch.inference_mode():
        CAUSAL(IDS[:, :6], cache=cache)
        if change == "reorder":
            cache.reorder(torch.tensor([0, 1, 2]))
        if change == "gather":
            cache.gather(torch.arange(6))
        cache = cache.clone() if change == "clone" else cache
    assert torch.allclose(CAUSAL(IDS[:, 6:], cache=cache).logits, CAUSAL(IDS).logits[:, 6:], rtol=0, atol=ROUNDING)


def test_with_a_cache_gradients_are_those_of_a_constant_past():
    net = copy.deepcopy(CAUSAL).requires_grad_(True)
    cache = KVCache()
    with torch.no_grad():
        net(IDS[:, :6], cache=cache)
    e = net.model.embed_tokens(IDS).detach().requires_grad_(True)
    cached = torch.autograd.grad(net(embeddings=e[:, 6:], cache=cache).logits.square().sum(), e)[0]
    full = torch.autograd.grad(net(embeddings=torch.cat((e[:, :6].detach(), e[:, 6:]), 1)).logits[:, 6:].square().sum(), e)[0]
    assert float(full[:, 6:].abs().min(0).values.max()) > 0 and torch.allclose(cached, full, rtol=1e-9, atol=1e-8)
    second = torch.autograd.grad(net(embeddings=e[:, 6:7], cache=cache).logits.sum(), e)[0]  # and a further pass does not reach back into the last one
    assert float(second[:, 7:].abs().max()) == 0


# ---- masks, trees, padding


def random_tree(seed, n):
    g = rng(seed)
    return torch.tensor([int(torch.randint(-1, i, (1,), generator=g)) if i else -1 for i in range(n)])


@FEW
@given(seed=seeds, n=st.integers(1, 10), past=st.integers(0, 8), frozen=st.booleans())
def test_each_node_of_a_tree_equals_its_own_path(seed, n, past, frozen):
    parents = random_tree(seed, n)
    tokens = torch.randint(0, 3, (1, n), generator=rng(seed))  # few symbols: duplicates under one and under several parents
    mask, depth = tree_mask(parents, past)
    cache = KVCache()
    with torch.no_grad():
        if past:
            CAUSAL(IDS[:1, :past], cache=cache)
        if frozen:
            with CAUSAL.frozen():
                tree = CAUSAL(tokens, cache=cache, attention_mask=mask, position_ids=past + depth).logits[0]
        else:
            tree = CAUSAL(tokens, cache=cache, attention_mask=mask, position_ids=past + depth).logits[0]
        for v in range(n):
            path = [j for j in range(n) if mask[v, past + j]]
            assert torch.allclose(tree[v], CAUSAL(torch.cat((IDS[:1, :past], tokens[:, path]), 1)).logits[0, -1], rtol=0, atol=ROUNDING)
            assert len(path) == int(depth[v]) + 1
        accepted = [j for j in range(n) if mask[n - 1, past + j]]
        cache.gather(torch.tensor([*range(past), *(past + j for j in accepted)]))
        onward = CAUSAL(IDS[:1, :2], cache=cache).logits
        assert torch.allclose(onward, CAUSAL(torch.cat((IDS[:1, :past], tokens[:, accepted], IDS[:1, :2]), 1)).logits[:, -2:], rtol=0, atol=ROUNDING)


def test_a_tree_may_reach_beyond_the_context_in_nodes_but_not_in_positions():
    cache = KVCache()
    CAUSAL(torch.zeros(1, 38, dtype=torch.int64), cache=cache)
    mask, depth = tree_mask(torch.tensor([-1] * 5), 38)
    assert CAUSAL(torch.arange(5)[None], cache=cache, attention_mask=mask, position_ids=38 + depth).logits.shape == (1, 5, 29)
    with pytest.raises(ValueError, match="context"):
        CAUSAL(torch.zeros(1, 3, dtype=torch.int64), cache=cache)


@FEW
@given(lengths=st.lists(st.integers(1, 14), min_size=3, max_size=3), form=st.sampled_from(["BK", "B1K", "B11K"]), frozen=st.booleans(), net=st.sampled_from([CAUSAL, BOTH]))
def test_left_padding_is_nothing(lengths, form, frozen, net):
    width = max(lengths)
    ids, real = torch.zeros(3, width, dtype=torch.int64), torch.zeros(3, width, dtype=torch.bool)
    for row, n in enumerate(lengths):
        ids[row, width - n :], real[row, width - n :] = IDS[row, :n], True
    shaped = {"BK": real, "B1K": real[:, None], "B11K": real[:, None, None]}[form]
    if form == "BK" and width == 3:
        shaped = real[:, None]  # (3, 3) would be ambiguous
    places = (real.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        if frozen:
            with net.frozen():
                out = net(ids, attention_mask=shaped, position_ids=places).logits
        else:
            out = net(ids, attention_mask=shaped, position_ids=places).logits
        assert bool(torch.isfinite(out).all())
        for row, n in enumerate(lengths):
            assert torch.allclose(out[row, width - n :], net(IDS[row : row + 1, :n]).logits[0], rtol=0, atol=ROUNDING)
            if n < width and net is CAUSAL:  # the first filler sees itself alone
                assert torch.allclose(out[row, 0], net(ids[row : row + 1, :1]).logits[0, 0], rtol=0, atol=ROUNDING)


def test_a_mask_with_a_query_axis_replaces_the_models_rule():
    full = torch.ones(14, 14, dtype=torch.bool)
    state = CAUSAL.state_dict()
    free = Transformer(TINY.replace(causal=False)).double().eval()
    free.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(CAUSAL(IDS, attention_mask=full).logits, free(IDS).logits, rtol=0, atol=ROUNDING)
        assert torch.allclose(free(IDS, attention_mask=full.tril()).logits, CAUSAL(IDS).logits, rtol=0, atol=ROUNDING)


def test_masks_of_every_shape_mean_the_same():
    mask = torch.rand(14, 14, generator=rng(3)) < 0.5
    mask |= torch.eye(14, dtype=torch.bool)
    first = CAUSAL(IDS, attention_mask=mask).logits
    for shaped in (mask[None], mask.expand(3, 14, 14), mask[None, None], mask.expand(3, 1, 14, 14)):
        assert torch.equal(CAUSAL(IDS, attention_mask=shaped).logits, first)
    assert torch.allclose(CAUSAL(IDS, attention_mask=mask, return_attention=True).logits, first, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", [(14,), (13, 14), (14, 13), (2, 14, 14), (3, 2, 14, 14), (3, 1, 14), (1, 14, 14, 1)])
def test_masks_of_other_shapes_are_refused(shape):
    if shape == (3, 1, 14):
        assert read_mask(torch.ones(shape, dtype=torch.bool), 3, 14, 0)[1]
        return
    with pytest.raises(ValueError, match="attention_mask has shape"):
        CAUSAL(IDS, attention_mask=torch.ones(shape, dtype=torch.bool))


def test_a_mask_that_can_be_read_in_two_ways_is_refused():
    with pytest.raises(ValueError, match="can be read as"):
        CAUSAL(IDS[:, :3], attention_mask=torch.ones(3, 3, dtype=torch.bool))
    assert CAUSAL(IDS[:1, :1], attention_mask=torch.ones(1, 1, dtype=torch.bool)).logits.shape == (1, 1, 29)


@pytest.mark.parametrize("parents", [[], [0], [-1, 1], [-1, -2], [-1, 0, 3]])
def test_trees_out_of_order_are_refused(parents):
    with pytest.raises(ValueError, match="parents"):
        tree_mask(torch.tensor(parents, dtype=torch.int64))


def test_without_positions_the_bidirectional_model_is_equivariant_and_shifts_change_nothing():
    order, nowhere = torch.randperm(14, generator=rng(5)), torch.full((14,), 3)
    assert torch.allclose(BOTH(IDS[:, order], position_ids=nowhere).logits, BOTH(IDS, position_ids=nowhere).logits[:, order], rtol=0, atol=ROUNDING)
    assert float((BOTH(IDS[:, order]).logits - BOTH(IDS).logits[:, order]).abs().max()) > 1e-2
    for net in (CAUSAL, BOTH):
        assert torch.allclose(net(IDS, position_ids=torch.arange(14) + 26).logits, net(IDS).logits, rtol=0, atol=ROUNDING)


# ---- inside


def test_hidden_states_and_attention_belong_to_the_logits():
    out = CAUSAL(IDS, return_hidden=True, return_attention=True)
    assert [tuple(x.shape) for x in out.hidden] == [(3, 14, 24)] * 3 and [tuple(x.shape) for x in out.attention] == [(3, 4, 14, 14)] * 2
    assert torch.equal(out.hidden[0], CAUSAL.model.embed_tokens(IDS))
    assert torch.allclose(F.linear(CAUSAL.model.norm(out.hidden[-1]), CAUSAL.model.embed_tokens.weight), CAUSAL(IDS).logits, rtol=0, atol=ROUNDING)
    assert bool((out.attention[0].triu(1) == 0).all()) and torch.allclose(out.attention[1].sum(-1), torch.ones(3, 4, 14, dtype=torch.float64))
    assert CAUSAL(IDS).hidden is None and CAUSAL(IDS).attention is None and CAUSAL(IDS).cache is None


@pytest.mark.parametrize("name", ["model", "model.embed_tokens", "model.layers.0", "model.layers.1.self_attn", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.o_proj",
                                  "model.layers.1.mlp", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj", "model.layers.0.input_layernorm", "model.norm", "lm_head"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_hook_on_any_module_hears_and_may_change(name, frozen):
    net = lively(TINY.replace(tied=False))
    clean, heard = net(IDS).logits, []

    def double(module, args, result):
        heard.append(True)
        return tuple(2 * x if x is not None else x for x in result) if isinstance(result, tuple) else 2 * result

    handle = net.get_submodule(name).register_forward_hook(double)
    with torch.no_grad():
        if frozen:
            with net.frozen():
                changed = net(IDS).logits
        else:
            changed = net(IDS).logits
    handle.remove()
    assert heard and float((changed - clean).abs().max()) > 1e-6
    assert torch.allclose(net(IDS).logits, clean, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("frozen", [False, True])
def test_positions_select_logits(frozen):
    full = CAUSAL(IDS).logits
    per_row = torch.tensor([[0, -1], [3, 3], [-14, 13]])
    with torch.no_grad(), (CAUSAL.frozen() if frozen else torch.no_grad()):
        assert torch.allclose(CAUSAL(IDS, positions=torch.tensor([-1, 2])).logits, full[:, [-1, 2]], rtol=0, atol=ROUNDING)
        assert torch.allclose(CAUSAL(IDS, positions=per_row).logits, torch.stack([full[b][per_row[b]] for b in range(3)]), rtol=0, atol=ROUNDING)
    for wrong in (torch.tensor([14]), torch.tensor([[0], [1]]), torch.tensor([0.0]), torch.tensor([[-15]] * 3)):
        with pytest.raises(ValueError, match="positions"):
            CAUSAL(IDS, positions=wrong)


def test_embeddings_may_stand_for_ids():
    assert torch.equal(CAUSAL(embeddings=CAUSAL.model.embed_tokens(IDS)).logits, CAUSAL(IDS).logits)
    for call in (lambda: CAUSAL(), lambda: CAUSAL(IDS, embeddings=CAUSAL.model.embed_tokens(IDS)), lambda: CAUSAL(embeddings=torch.zeros(1, 0, 24, dtype=torch.float64))):
        with pytest.raises(ValueError, match="embeddings"):
            call()


# ---- frozen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [(1, 1), (1, 5), (3, 1), (3, 4)])
def test_freezing_does_not_change_the_function(dtype, tied, rows):
    net = lively(TINY.replace(tied=tied)).to(dtype)
    ids = IDS[: rows[0], : rows[1]]
    with torch.no_grad():
        plain = net(ids, return_hidden=True)
        with net.frozen():
            fast = net(ids, return_hidden=True)
            with net.frozen():
                assert torch.equal(net(ids).logits, fast.logits)
    limit = {torch.float64: ROUNDING, torch.float32: F32, torch.bfloat16: 2.0}[dtype]  # bfloat16 keeps 3 digits of logits of order 10, through two blocks
    assert fast.logits.dtype == dtype and float((fast.logits - plain.logits).abs().max()) < limit
    assert len(fast.hidden) == 3 and float((fast.hidden[2] - plain.hidden[2]).abs().max()) < limit


def test_freezing_ends_with_its_block_and_sees_no_later_weights():
    net = lively()
    with torch.no_grad():
        with net.frozen():
            before = net(IDS).logits
        net.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
        after = net(IDS).logits
        with net.frozen():
            again = net(IDS).logits
    assert float((after - before).abs().max()) > 1e-3 and torch.allclose(after, again, rtol=0, atol=ROUNDING)


def test_gradients_and_training_do_not_use_the_frozen_copy():
    net = lively().requires_grad_(True)
    with net.frozen():
        net(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ValueError, match="eval"), net.train().frozen():
        pass


# ---- construction, training, compilation


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"n_kv_heads": 1}, {"n_kv_heads": 4}, {"n_layers": 1, "d_ff": 7}])
def test_the_parameter_count_is_its_formula(change):
    config = TINY.replace(**change)
    net = Transformer(config)
    assert sum(p.numel() for p in net.parameters()) == config.n_parameters
    assert ("lm_head.weight" in net.state_dict()) == (not config.tied)
    assert not [name for name in net.state_dict() if "cos" in name or "sin" in name]


def test_initial_weights_have_the_declared_scale_and_disturb_nobody():
    state = torch.random.get_rng_state()
    net = Transformer(TransformerConfig(n_layers=8), seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    layer = net.model.layers[3]
    for p, scale in ((layer.mlp.up_proj.weight, 0.02), (layer.self_attn.q_proj.weight, 0.02), (layer.mlp.down_proj.weight, 0.005), (layer.self_attn.o_proj.weight, 0.005), (net.model.embed_tokens.weight, 0.02)):
        assert abs(float(p.detach().std()) / scale - 1) < 0.02  # 65,536 or more draws: standard error 0.3 %
    assert bool((layer.input_layernorm.weight == 1).all())
    assert torch.equal(Transformer(TINY, seed=5).model.embed_tokens.weight, Transformer(TINY, seed=5).model.embed_tokens.weight)
    assert not torch.equal(Transformer(TINY, seed=5).model.embed_tokens.weight, Transformer(TINY, seed=6).model.embed_tokens.weight)


def test_a_fresh_model_predicts_the_uniform_law():
    net, ids = Transformer(TransformerConfig()), torch.randint(0, 4096, (2, 64), generator=rng())
    with torch.no_grad():
        loss = float(F.cross_entropy(net(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    assert abs(loss - math.log(4096)) < 0.1


def test_dropout_acts_in_training_only():
    net = Transformer(TINY.replace(dropout=0.3))
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(net(IDS).logits, net(IDS).logits)
        net.eval()
        assert torch.equal(net(IDS).logits, net(IDS).logits)
        plain = Transformer(TINY).train()
        assert torch.equal(plain(IDS).logits, plain(IDS).logits)


def test_gradients_are_those_of_finite_differences():
    net = lively().requires_grad_(True)

    def loss():
        return F.cross_entropy(net(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())

    loss().backward()
    directions = [torch.randn(p.shape, generator=rng(i), dtype=torch.float64) for i, p in enumerate(net.parameters())]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(net.parameters(), directions))
    with torch.no_grad():
        values = []
        for step in (1e-6, -2e-6):
            for p, d in zip(net.parameters(), directions):
                p += step * d
            values.append(float(loss()))
    assert abs((values[0] - values[1]) / 2e-6 / slope - 1) < 1e-5  # central difference, step 1e-6: rounding 1e-9 of a slope of order 1 to 10


@pytest.mark.parametrize("causal", [True, False])
def test_the_training_pass_compiles_without_a_graph_break(causal):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("torch 2.6 cannot trace the run-time shape checks that the tests switch on")
    net = Transformer(TINY.replace(causal=causal, dropout=0.1)).train()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    out = compiled(IDS).logits
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    with torch.no_grad():
        assert torch.allclose(torch.compile(net, fullgraph=True, backend="aot_eager")(IDS).logits, net(IDS).logits, rtol=0, atol=1e-6)


def test_copies_casts_and_state_dicts_keep_the_function():
    again = Transformer(TINY, seed=9).double().eval()
    again.load_state_dict(CAUSAL.state_dict())
    assert torch.equal(again(IDS).logits, CAUSAL(IDS).logits) and torch.equal(copy.deepcopy(CAUSAL)(IDS).logits, CAUSAL(IDS).logits)
    low = copy.deepcopy(CAUSAL).bfloat16()
    assert low.cos.dtype == torch.float32 and low.float().double().cos.dtype == torch.float64  # tables are computed anew, not cast
    assert torch.equal(low.cos, CAUSAL.cos)


@pytest.mark.parametrize("ids", [torch.tensor([[29]]), torch.tensor([[-1]]), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 41, dtype=torch.int64)])
def test_ids_that_mean_nothing_are_refused(ids):
    cache = KVCache()
    with pytest.raises(ValueError):
        CAUSAL(ids, cache=cache)
    assert cache.length == 0


@pytest.mark.parametrize("call", [
    lambda: CAUSAL(torch.zeros(1, 3)), lambda: CAUSAL([[1, 2]]), lambda: CAUSAL(IDS, attention_mask=torch.ones(14, 14)), lambda: CAUSAL(IDS, position_ids=torch.zeros(14)), lambda: Transformer({}),
])
def test_other_types_are_refused(call):
    with pytest.raises(TypeError, match="accepted"):
        call()


@pytest.mark.parametrize("places", [torch.arange(14) + 27, torch.arange(14) - 1, torch.arange(13), torch.zeros(2, 14, dtype=torch.int64)])
def test_positions_outside_the_context_or_of_another_shape_are_refused(places):
    with pytest.raises(ValueError, match="position_ids"):
        CAUSAL(IDS, position_ids=places)


def test_a_refused_pass_leaves_the_cache_usable():
    cache = KVCache()
    CAUSAL(IDS[:, :5], cache=cache)
    for call in (lambda: CAUSAL(IDS[:2, 5:], cache=cache), lambda: CAUSAL(IDS[:, 5:] + 29, cache=cache), lambda: lively().float()(IDS[:, 5:], cache=cache), lambda: cache.crop(6), lambda: cache.crop(-1),
                 lambda: cache.gather(torch.tensor([5])), lambda: cache.gather(torch.tensor([0.0])), lambda: cache.gather(torch.tensor([[0], [1]])), lambda: cache.reorder(torch.tensor([3])),
                 lambda: cache.reorder(torch.tensor([], dtype=torch.int64)), lambda: cache.layer(2)):
        with pytest.raises(ValueError):
            call()
    assert torch.allclose(CAUSAL(IDS[:, 5:], cache=cache).logits, CAUSAL(IDS).logits[:, 5:], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("wrong", [{"d_model": 25}, {"n_heads": 5}, {"n_kv_heads": 3}, {"vocab_size": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"rope_theta": 0.0}, {"context": 0}, {"norm_eps": -1.0}, {"norm_eps": math.nan}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError):
        TINY.replace(**wrong)
    with pytest.raises(ValueError, match="unknown setting"):
        TINY.replace(width=3)

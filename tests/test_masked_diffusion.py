"""Laws of masked diffusion: the bound and what it bounds, the estimators, the sampling loop and its shortcuts, models by name."""
import json
import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from atomsnb.models.encoder import ModelNotFoundError, WeightsError
from atomsnb.models.masked_diffusion import (
    Corruption,
    JointModel,
    MaskedLM,
    any_order_bound,
    conditional_log_probs,
    draw_corruption,
    exact_likelihood,
    likelihood_bound,
    load_masked_lm,
    mask_tokens,
    masked_config,
    mdlm_loss,
    model_logits,
)
from atomsnb.models.masked_sampling import Entropy, Factor, LeftToRight, Margin, RandomOrder, Threshold, TopK, best, infill, logits_at, sample
from atomsnb.nn.transformer import Transformer, TransformerConfig

FEW = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(vocabulary, length, seed=0, layers=1, sharp=20.0, heads=2, causal=False):
    """A float64 transformer with large random weights; its mask token is `vocabulary`."""
    config = TransformerConfig(vocab_size=vocabulary + 1, d_model=8 * heads, n_layers=layers, n_heads=heads, n_kv_heads=1, d_ff=24, context=length, causal=causal, tied=seed % 2 == 0)
    model = Transformer(config, seed=seed).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(sharp if p.ndim > 1 else 1)
    return model


def random_joint(V, L, seed):
    p = torch.rand((V,) * L, generator=gen(seed), dtype=torch.float64) ** 3
    return p / p.sum()


def every_text(V, L):
    return torch.tensor(list(product(range(V), repeat=L)))


# --- hiding -----------------------------------------------------------------------------------------------------------------------------------------------------


@FEW
@given(seed=seeds, B=st.integers(1, 4), L=st.integers(1, 9), t=st.floats(0, 1))
def test_hiding_changes_hidden_places_only_and_no_place_that_may_not_be_hidden(seed, B, L, t):
    ids, free = torch.randint(5, (B, L), generator=gen(seed)), torch.rand(B, L, generator=gen(seed)) < 0.6
    noisy, hidden = mask_tokens(ids, 5, t, gen(seed), maskable=free)
    assert torch.equal(noisy == 5, hidden) and torch.equal(noisy[~hidden], ids[~hidden]) and not bool((hidden & ~free).any())
    assert torch.equal(mask_tokens(ids, 5, 1.0, gen(seed))[0], torch.full_like(ids, 5)) and torch.equal(mask_tokens(ids, 5, 0.0, gen(seed))[0], ids)


def test_hiding_is_binomial_with_the_rate_of_each_row():
    t = torch.tensor([0.1, 0.5, 0.9]).repeat(20_000)
    _, hidden = mask_tokens(torch.zeros(60_000, 8, dtype=torch.long), 1, t, gen())
    for rate in (0.1, 0.5, 0.9):
        rows = hidden[t == torch.tensor(rate)].double()
        assert abs(float(rows.mean()) - rate) < 4.5 * math.sqrt(rate * (1 - rate) / 160_000)  # 4.5 standard errors
        assert abs(float(rows.sum(1).var()) / (8 * rate * (1 - rate)) - 1) < 0.06  # a variance over 20,000 rows: 1 % each, six of them


@FEW
@given(seed=seeds, B=st.integers(1, 40))
def test_stratified_times_visit_every_stratum_once(seed, B):
    t = draw_corruption(B, 3, gen(seed)).t
    assert torch.equal((t.double() * B).floor().long().clamp(max=B - 1).sort().values, torch.arange(B)) and float(t.min()) >= 0 and float(t.max()) < 1


def test_each_stratified_time_alone_is_uniform():
    first = torch.stack([draw_corruption(4, 1, gen(s)).t[0] for s in range(4000)]).double()
    counts = torch.histc(first, 10, 0, 1)
    assert float(((counts - 400) ** 2 / 400).sum()) < 27.9  # chi-square, 9 degrees of freedom, 99.9 %


# --- the bound --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("V, L, seed", [(2, 6, 0), (3, 5, 1), (4, 4, 2), (2, 1, 3)])
def test_time_integral_mean_over_orders_and_sum_over_sets_are_one_number(V, L, seed):
    model, texts = tiny(V, L, seed), torch.randint(V, (3, L), generator=gen(seed))
    table = conditional_log_probs(model, texts, mask_id=V)
    bound = any_order_bound(model, texts, mask_id=V)
    lengths = []
    for order in permutations(range(L)):
        seen, total = 0, torch.zeros(3, dtype=torch.float64)
        for i in order:
            total, seen = total - table[:, seen, i], seen | 1 << i
        lengths.append(total)
    lengths = torch.stack(lengths)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    integral = torch.zeros(3, dtype=torch.float64)
    for t, w in zip((nodes + 1) / 2, weights / 2):
        for s in range(2**L - 1):
            holes = [i for i in range(L) if not s >> i & 1]
            integral += w / t * t ** len(holes) * (1 - t) ** (L - len(holes)) * -table[:, s, holes].sum(1)
    assert float((integral - bound).abs().max()) < 1e-10 and float((lengths.mean(0) - bound).abs().max()) < 1e-10  # sums of a few hundred float64 logarithms
    assert float((exact_likelihood(model, texts, mask_id=V) - torch.logsumexp(-lengths, 0) + math.log(math.factorial(L))).abs().max()) < 1e-10


@FEW
@given(seed=seeds)
def test_the_bound_is_never_below_the_exact_code_length_and_the_law_sums_to_one(seed):
    model, texts = tiny(3, 4, seed), every_text(3, 4)
    log_law = exact_likelihood(model, texts, mask_id=3)
    assert abs(float(log_law.exp().sum()) - 1) < 1e-12
    assert float((any_order_bound(model, texts, mask_id=3) + log_law).min()) > -1e-12


@FEW
@given(seed=seeds)
def test_the_bound_is_tight_for_a_consistent_joint_and_loose_after_a_change(seed):
    p = random_joint(3, 3, seed)
    ideal, texts = JointModel(p), every_text(3, 3)
    assert float((any_order_bound(ideal, texts, mask_id=3) + p.reshape(-1).log()).abs().max()) < 1e-10
    assert float((exact_likelihood(ideal, texts, mask_id=3) - p.reshape(-1).log()).abs().max()) < 1e-10

    def bent(ids):  # sharper where two or more tokens are visible: no joint has such conditionals
        return ideal(ids) * torch.where((ids != 3).sum(1) >= 2, 1.5, 1.0)[:, None, None]

    assert float((any_order_bound(bent, texts, mask_id=3) + exact_likelihood(bent, texts, mask_id=3)).max()) > 1e-4


def test_the_loss_without_its_weight_is_below_the_entropy():
    coins, flips = JointModel(torch.full((2,) * 4, 1 / 16, dtype=torch.float64)), torch.zeros(20_000, 4, dtype=torch.long)
    out = mdlm_loss(coins, flips, mask_id=2, generator=gen())
    assert abs(float(out["loss"]) - math.log(2)) < 0.02  # the weighted estimate: ln 2 per token
    assert float(out["masked_ce"] * out["masked_share"]) < 0.55 * math.log(2)  # what is left of it without the weight: half


def test_ideal_model_gives_the_conditionals_of_the_joint_and_equal_odds_where_there_are_none():
    p = random_joint(3, 3, 4)
    p[0] = 0
    p /= p.sum()
    ideal = JointModel(p)
    out = model_logits(ideal, torch.tensor([[3, 1, 3], [0, 3, 3], [3, 3, 3]]), 3).exp()
    assert float((out[0, 0, :3] - p[:, 1].sum(1) / p[:, 1].sum()).abs().max()) < 1e-14
    assert float((out[1, 1, :3] - 1 / 3).abs().max()) < 1e-15  # a context of probability zero
    assert float((out[2, 2, :3] - p.sum((0, 1))).abs().max()) < 1e-14 and float(out[..., 3].max()) == 0


# --- estimators -------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bernoulli", "count"])
@pytest.mark.parametrize("stratified", [True, False])
def test_the_loss_is_an_unbiased_estimate_of_the_bound(scheme, stratified):
    model, text = tiny(3, 5, 2), torch.tensor([[0, 2, 1, 1, 0]])
    truth, g = float(any_order_bound(model, text, mask_id=3)) / 5, gen(1)
    with torch.no_grad():
        means = torch.stack([mdlm_loss(model, text.expand(400, 5), mask_id=3, corruption=draw_corruption(400, 5, g, stratified=stratified), scheme=scheme)["loss"] for _ in range(80)])
    assert abs(float(means.mean()) - truth) < 4.5 * float(means.std()) / 80**0.5 + 1e-3 * truth  # 4.5 standard errors, and the bias of lowest_t


def test_a_fixed_number_of_holes_has_the_smaller_variance_and_stratified_times_reduce_it_where_it_comes_from_times():
    copies = torch.zeros(3, 3, 3, dtype=torch.float64)
    for v in range(3):
        copies[v, v, v] = 1 / 3
    text, g = torch.ones(64, 3, dtype=torch.long), gen(3)

    def spread(**options):
        stratified = options.pop("stratified")
        return float(torch.stack([mdlm_loss(JointModel(copies), text, mask_id=3, corruption=draw_corruption(64, 3, g, stratified=stratified), **options)["loss"] for _ in range(150)]).std())

    count = spread(scheme="count", stratified=False)
    assert count < 0.8 * spread(scheme="bernoulli", stratified=False)
    assert spread(scheme="count", stratified=True) < 0.2 * count  # surprise depends on the number of holes alone: nearly all of the variance goes


@pytest.mark.parametrize("scheme", ["bernoulli", "count"])
def test_the_loss_is_one_graph_that_reads_nothing_back(scheme):
    model, ids = nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 8)), torch.randint(7, (4, 5), generator=gen())
    corruption = draw_corruption(4, 5, gen())

    def loss(ids, corruption):
        return mdlm_loss(model, ids, mask_id=7, corruption=corruption, scheme=scheme)["loss"]

    plain = loss(ids, corruption).detach()
    assert torch.equal(torch.compile(loss, fullgraph=True, backend="eager")(ids, corruption), plain)  # a graph break would raise
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(float(loss(ids, corruption).detach()) - float(plain)) < 0.02 * float(plain)  # bfloat16 has eight bits
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # tensors without values: whoever reads one raises
        loss(fake.from_tensor(ids), Corruption(*(fake.from_tensor(x) for x in corruption)))


@pytest.mark.parametrize("scheme", ["bernoulli", "count"])
def test_gradients_reach_hidden_places_only_and_never_the_mask_token(scheme):
    logits = torch.randn(3, 4, 6, generator=gen(), dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 0.5, 0.5])
    corruption = draw_corruption(3, 4, gen(2))
    ids = torch.randint(5, (3, 4), generator=gen())
    mdlm_loss(lambda _: logits, ids, mask_id=5, corruption=corruption, t=t, scheme=scheme)["loss"].backward()
    touched = logits.grad.abs().sum(2) > 0
    if scheme == "bernoulli":
        assert torch.equal(touched, corruption.noise < 1e-3 + 0.999 * 0.5)
    else:
        assert torch.equal(touched.sum(1), torch.tensor([3, 3, 3]))  # floor(0.5 x 4) + 1
    assert float(logits.grad[..., 5].abs().max()) == 0


@FEW
@given(seed=seeds)
def test_a_fixed_number_of_holes_is_that_number_of_the_places_that_may_be_hidden(seed):
    free = torch.rand(6, 9, generator=gen(seed)) < 0.5
    corruption, shown = draw_corruption(6, 9, gen(seed + 1)), []

    def model(ids):
        shown.append(ids == 7)
        return torch.zeros(6, 9, 8)

    mdlm_loss(model, torch.zeros(6, 9, dtype=torch.long), mask_id=7, corruption=corruption, maskable=free, scheme="count")
    n = free.sum(1)
    assert not bool((shown[0] & ~free).any()) and torch.equal(shown[0].sum(1), torch.minimum((corruption.t * n).long() + 1, n))


@pytest.mark.parametrize("scheme", ["bernoulli", "count"])
def test_nothing_to_hide_or_time_zero_is_zero_and_not_nan(scheme):
    model, ids = tiny(3, 4), torch.zeros(2, 4, dtype=torch.long)
    assert float(mdlm_loss(model, ids, mask_id=3, generator=gen(), maskable=torch.zeros(2, 4, dtype=torch.bool), scheme=scheme)["loss"].detach()) == 0
    assert math.isfinite(float(mdlm_loss(model, ids, mask_id=3, generator=gen(), t=torch.zeros(2), scheme=scheme, lowest_t=0.0)["loss"].detach()))


def test_the_reported_bound_agrees_with_the_exact_one_within_its_error_and_counts_what_it_should():
    model, texts = tiny(3, 5, 6), torch.randint(3, (40, 5), generator=gen(6))
    found = likelihood_bound(model, texts, mask_id=3, samples=60, generator=gen(7), batch_size=16)
    truth = float(any_order_bound(model, texts, mask_id=3).sum()) / 200
    assert found.tokens == 200 and abs(found.nats_per_token - truth) < 4.5 * found.stderr and found.stderr < 0.03 * truth
    coins = JointModel(torch.full((2,) * 5, 1 / 32, dtype=torch.float64))
    free = torch.tensor([[True, True, False, False, True], [False, False, False, False, True]])
    held = likelihood_bound(coins, torch.zeros(2, 5, dtype=torch.long), mask_id=2, samples=3, generator=gen(), maskable=free)
    assert held.tokens == 4 and abs(held.bits_per_byte(8)[0] - 0.5) < 1e-6  # four coins in eight bytes, float32 times


# --- pruned passes ----------------------------------------------------------------------------------------------------------------------------------------------


@FEW
@given(seed=seeds, layers=st.integers(1, 3), W=st.integers(1, 7))
def test_pruned_last_block_gives_the_logits_of_the_whole_pass(seed, layers, W):
    model, ids = tiny(5, 7, seed, layers, heads=4), torch.randint(6, (3, 7), generator=gen(seed))
    where = torch.rand(3, 7, generator=gen(seed)).argsort(1)[:, :W]
    with torch.no_grad():
        full = torch.take_along_dim(model(ids).logits, where[:, :, None], 1)
        assert float((logits_at(model, ids, where) - full).abs().max()) < 1e-11 * max(1.0, float(full.abs().max()))  # float64, other order of summation
        assert float((logits_at(MaskedLM(model, None, 5), ids, where) - full).abs().max()) < 1e-11 * max(1.0, float(full.abs().max()))


def test_a_hook_in_the_pruned_part_is_called_and_a_causal_model_is_not_pruned():
    ids, where = torch.randint(6, (2, 7), generator=gen()), torch.tensor([[1, 3], [0, 6]])
    model, heard = tiny(5, 7, layers=2), []
    model.model.layers[1].mlp.register_forward_hook(lambda *a: heard.append(a[2].shape))
    with torch.no_grad():
        logits_at(model, ids, where)
        assert heard == [torch.Size([2, 7, 16])]
        causal = tiny(5, 7, layers=2, causal=True)
        assert torch.allclose(logits_at(causal, ids, where), torch.take_along_dim(causal(ids).logits, where[:, :, None], 1), atol=1e-11)


# --- the loop ---------------------------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reference(model, ids, mask, start, steps, block, T, g):
    """Block-wise decoding in fifteen lines, nothing left out."""
    ids, per = ids.clone(), steps // ((ids.shape[1] - start) // block)
    for low in range(start, ids.shape[1], block):
        for j in range(per):
            logits = model(ids).logits.double()
            logits[..., mask] = -torch.inf
            hole = ids == mask
            hole[:, :low] = hole[:, low + block :] = False
            noise = torch.zeros_like(logits)
            if T > 0:
                noise[hole] = torch.empty(int(hole.sum()), logits.shape[2], dtype=torch.float64).exponential_(generator=g).log()
            token = (logits - T * noise).argmax(-1)
            p = logits.softmax(-1).gather(2, token[..., None])[..., 0]
            p[~hole] = -1
            top = p.topk(block // per + (j < block % per), dim=1).indices
            ids.scatter_(1, top, token.gather(1, top))
    return ids


@pytest.mark.parametrize("block, steps", [(12, 12), (4, 12), (6, 10), (12, 5), (3, 4), (1, 12)])
@pytest.mark.parametrize("T", [0.0, 0.8])
def test_decoding_equals_the_plain_reference_token_for_token(block, steps, T):
    for seed in range(4):
        model, prompt = tiny(6, 16, seed, 2), torch.randint(6, (3, 4), generator=gen(seed))
        prompt[2] = prompt[0]
        expected = reference(model, torch.cat([prompt, torch.full((3, 12), 6)], 1), 6, 4, steps, block, T, gen(9))
        for shortcuts in (True, False):
            done = sample(model, prompt=prompt, length=12, steps=steps, block=block, temperature=T, generator=gen(9), mask_id=6, shortcuts=shortcuts)
            assert torch.equal(done.ids, expected) and done.forwards == steps
            assert shortcuts is False or done.rows_encoded <= 3 * steps


@FEW
@given(seed=seeds, m=st.integers(1, 12), S=st.integers(1, 15))
def test_the_schedule_splits_evenly_with_the_remainder_first_and_makes_no_empty_call(seed, m, S):
    done = sample(tiny(4, 12, seed), length=m, steps=S, mask_id=4)
    written = torch.bincount(done.committed_at[0], minlength=done.forwards).tolist()
    expected = [m // S + (j < m % S) for j in range(S)]
    assert written == [n for n in expected if n] and done.forwards == min(m, S) and sum(written) == m


@FEW
@given(seed=seeds, T=st.sampled_from([0.0, 1.0]), policy=st.sampled_from([TopK(), TopK(2), Margin(), Entropy(3), RandomOrder(), LeftToRight(2), Threshold(0.5), Factor(1.0)]))
def test_written_tokens_stay_blocks_come_in_order_and_only_holes_of_the_block_compete(seed, T, policy):
    text = torch.randint(5, (3, 14), generator=gen(seed))
    holes = torch.rand(3, 14, generator=gen(seed + 1)) < 0.7
    text[holes] = 5
    before = [text]

    def watch(step):
        old, new = before[-1], step.ids
        assert torch.equal(new[old != 5], old[old != 5])
        first = torch.where(new == 5, torch.arange(14), 99).amin(1)
        start = torch.where(text == 5, torch.arange(14), 99).amin(1)
        block = (torch.arange(14) - start[:, None]).div(4, rounding_mode="floor") == ((first - start) // 4)[:, None]
        assert torch.equal(step.competing, (new == 5) & block & (first < 99)[:, None])
        assert bool((step.chosen.any(1) == step.competing.any(1)).all()) and not bool((step.chosen & ~step.competing).any())
        assert bool(torch.isfinite(step.confidence[step.competing]).all()) and bool((step.quota >= step.competing.any(1)).all())
        before.append(new)

    done = infill(tiny(5, 14, seed, 2), text, block=4, temperature=T, policy=policy, generator=gen(seed), mask_id=5, on_step=watch)
    assert bool((done.ids != 5).all()) and torch.equal(done.ids[~holes], text[~holes]) and torch.equal(done.committed_at < 0, ~holes)
    assert done.forwards == len(before) - 1 and bool((done.steps <= holes.sum(1)).all())


def test_a_row_does_not_depend_on_its_neighbours():
    model, text = tiny(5, 12, 3, 2), torch.randint(5, (4, 12), generator=gen(1))
    for row, holes in enumerate(((2, 3, 4), (0, 5, 6, 7, 11), (), (1,))):
        text[row, list(holes)] = 5
    together = infill(model, text, block=2, policy=Threshold(0.6), mask_id=5)
    for row in range(4):
        alone = infill(model, text[row : row + 1], block=2, policy=Threshold(0.6), mask_id=5)
        assert torch.equal(alone.ids[0], together.ids[row]) and int(alone.steps[0]) == int(together.steps[row])
    assert together.forwards == int(together.steps.max()) and together.rows_encoded == int(together.steps.sum())  # finished rows are not encoded


def test_a_threshold_of_one_is_one_at_a_time_and_of_zero_one_step_per_block():
    model = tiny(5, 16, 1, 2)
    plain = sample(model, length=16, block=4, mask_id=5)
    assert torch.equal(sample(model, length=16, block=4, policy=Threshold(1.0), mask_id=5).ids, plain.ids)
    assert sample(model, length=16, block=4, policy=Threshold(0.0), mask_id=5).forwards == 4


def test_equal_rows_are_encoded_once_until_a_draw_separates_them():
    model = tiny(5, 12, 2, 2)
    greedy = sample(model, prompt=torch.tensor([1, 2]), length=10, batch=8, mask_id=5)
    assert greedy.rows_encoded == greedy.forwards == 10
    drawn = sample(model, prompt=torch.tensor([1, 2]), length=10, batch=8, temperature=1.0, steps=2, generator=gen(), mask_id=5)
    assert drawn.rows_encoded <= 9 and len(drawn.ids.unique(dim=0)) > 1


def test_a_text_without_holes_costs_no_call():
    done = infill(lambda ids: 1 / 0, torch.tensor([[1, 2, 3]]), mask_id=4)
    assert done.forwards == 0 and done.ids.tolist() == [[1, 2, 3]] and done.tokens_per_step == 0


def test_the_mask_token_and_banned_tokens_are_never_written():
    def eager(ids):  # wants the mask token most, then token 0
        return torch.tensor([4.0, 1.0, 2.0, 9.0]).expand(*ids.shape, 4)

    assert sample(eager, length=3, mask_id=3).ids.tolist() == [[0, 0, 0]]
    assert sample(eager, length=3, mask_id=3, banned=[0]).ids.tolist() == [[2, 2, 2]]
    drawn = sample(eager, length=50, steps=1, temperature=5.0, generator=gen(), mask_id=3, banned=[0]).ids
    assert set(drawn.flatten().tolist()) == {1, 2}


def test_proposals_follow_the_softmax_at_the_temperature_and_confidence_is_free_of_noise():
    scores, T, n = torch.tensor([1.0, 0.0, -1.0, -2.0, 0.0]), 0.7, 40_000
    done = sample(lambda ids: scores.expand(*ids.shape, 5), length=n, steps=1, temperature=T, generator=gen(), mask_id=4)
    law = (scores[:4].double() / T).softmax(0)
    counts = torch.bincount(done.ids[0], minlength=4).double()
    assert float(((counts - n * law) ** 2 / (n * law)).sum()) < 16.3  # chi-square, 3 degrees of freedom, 99.9 %
    assert float((done.confidence[0] - scores[:4].double().softmax(0)[done.ids[0]]).abs().max()) < 1e-12


def test_confidence_is_free_of_noise_in_double_precision_too():
    scores = torch.tensor([1.0, 0.0, 5.0], dtype=torch.float64)  # a float64 tensor is not copied by .double()
    done = sample(lambda ids: scores.expand(*ids.shape, 3), length=20, temperature=3.0, policy=RandomOrder(), generator=gen(), mask_id=2)
    assert float((done.confidence[0] - scores[:2].softmax(0)[done.ids[0]]).abs().max()) < 1e-12 and len(done.ids.unique()) == 2


def test_one_random_hole_at_a_time_samples_the_law_that_the_bound_is_about():
    model, n = tiny(3, 3, 5), 30_000
    done = infill(model, torch.full((n, 3), 3), temperature=1.0, policy=RandomOrder(), generator=gen(4), mask_id=3)
    law = exact_likelihood(model, every_text(3, 3), mask_id=3).exp()
    counts = torch.bincount((done.ids * torch.tensor([9, 3, 1])).sum(1), minlength=27).double()
    seen = law * n > 5
    assert float(((counts - n * law) ** 2 / (n * law))[seen].sum()) < 54.1 and float(counts[~seen].sum()) < 60  # 26 degrees of freedom, 99.9 %
    assert done.rows_encoded <= 37  # 1 + 9 + 27 different texts with holes


def test_ranking_draws_by_confidence_is_not_sampling():
    scores = torch.tensor([0.7, 0.3, 1.0]).log()  # independent coins: token 0 with probability 0.7

    def share(policy):
        return float((sample(lambda ids: scores.expand(*ids.shape, 3), length=40, batch=50, temperature=1.0, policy=policy, generator=gen(), mask_id=2).ids == 0).double().mean())

    assert abs(share(RandomOrder()) - 0.7) < 4.5 * math.sqrt(0.21 / 2000)
    assert share(TopK()) > 0.95  # at each step some hole proposes the likelier token, and that one is written


def test_filling_at_once_writes_the_product_of_the_marginals():
    p, n = random_joint(2, 4, 8), 20_000
    done = infill(JointModel(p), torch.full((n, 4), 2), temperature=1.0, steps=1, generator=gen())
    q = torch.stack([p.sum([j for j in range(4) if j != i]) for i in range(4)])
    law = q[torch.arange(4), every_text(2, 4)].prod(1)
    counts = torch.bincount((done.ids * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16).double()
    assert done.forwards == 1 and float(((counts - n * law) ** 2 / (n * law)).sum()) < 37.7  # 15 degrees of freedom, 99.9 %


@pytest.mark.parametrize("T", [0.0, 1.0])
def test_stopping_at_the_end_leaves_the_text_before_it_unchanged(T):
    for seed in range(4):
        model = tiny(30, 42, seed, 2)
        whole = sample(model, prompt=torch.tensor([1, 2]), length=40, block=8, temperature=T, generator=gen(seed), mask_id=30)
        answer = whole.answer[0].tolist()
        end = max(answer[:20], key=answer.index)
        first = answer.index(end)
        short = sample(model, prompt=torch.tensor([1, 2]), length=40, block=8, temperature=T, generator=gen(seed), mask_id=30, end_id=end)
        assert torch.equal(short.answer[0, : first + 1], whole.answer[0, : first + 1]) and set(short.answer[0, first:].tolist()) == {end}
        assert int(short.ended[0]) == first + 2 and short.forwards <= 8 * (first // 8 + 1) < whole.forwards
        assert bool((short.committed_at[0, first + 3 :] == -2).all()) and int(short.committed_at[0, first + 2]) >= 0


# --- policies ---------------------------------------------------------------------------------------------------------------------------------------------------


@FEW
@given(seed=seeds, k=st.integers(1, 9))
def test_best_takes_the_k_largest_of_the_competing_and_breaks_ties_to_the_left(seed, k):
    score = torch.randint(4, (3, 8), generator=gen(seed)).double()
    competing = torch.rand(3, 8, generator=gen(seed + 1)) < 0.6
    for row, chosen in enumerate(best(score, competing, k)):
        wanted = sorted((-float(score[row, i]), i) for i in range(8) if competing[row, i])[:k]
        assert sorted(chosen.nonzero()[:, 0].tolist()) == sorted(i for _, i in wanted)


def test_policies_rank_by_what_they_are_named_after():
    p = torch.tensor([[0.50, 0.45, 0.05, 0.0], [0.48, 0.26, 0.26, 0.0], [0.46, 0.27, 0.27, 0.0]]).double()  # highest: confidence 0, margin 1
    p[1] = torch.tensor([0.49, 0.17, 0.17, 0.17])

    def model(ids):
        return torch.cat([p.clamp(min=1e-12).log(), torch.zeros(3, 1, dtype=torch.float64)], 1)[None]

    def first(policy):
        return int(sample(model, length=3, policy=policy, mask_id=4).committed_at[0].argmin())

    assert first(TopK()) == 0 and first(Margin()) == 1 and first(Entropy()) == int(torch.special.entr(p).sum(1).argmin()) == 0 and first(LeftToRight()) == 0
    assert sample(model, length=3, policy=Factor(1.6), mask_id=4).forwards < 3 == sample(model, length=3, policy=Factor(0.1), mask_id=4).forwards


def test_a_confidence_of_exactly_gamma_is_not_above_it():
    fair = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64)  # two tokens of probability one half, and the mask token
    assert sample(lambda ids: fair.expand(*ids.shape, 3), length=4, policy=Threshold(0.5), mask_id=2).forwards == 4
    assert sample(lambda ids: fair.expand(*ids.shape, 3), length=4, policy=Threshold(0.499), mask_id=2).forwards == 1


def test_a_policy_of_block_scope_sees_written_tokens_and_may_rewrite_proposals():
    model, target = tiny(5, 10, 2, 2), torch.randint(5, (1, 8), generator=gen(3))
    seen = []

    class Oracle:
        """Write exactly what is right already; when nothing is, write the truth."""

        scope = "block"

        def __call__(self, confidence, competing, step):
            seen.append(int(torch.isfinite(confidence).sum()))
            right = competing & (step.proposal == torch.cat([step.ids[:, :2], target], 1))
            if not bool(right.any()):
                step.proposal = torch.cat([step.ids[:, :2], target], 1)
                return competing
            return right

    done = sample(model, prompt=torch.tensor([0, 1]), length=8, block=4, policy=Oracle(), mask_id=5)
    assert torch.equal(done.answer, target) and set(seen) == {4} and done.forwards <= 8
    everywhere = []

    def looks(confidence, competing, step):
        everywhere.append(int(torch.isfinite(confidence).sum()))
        return competing

    looks.scope = "all"
    sample(model, prompt=torch.tensor([0, 1]), length=8, block=4, policy=looks, mask_id=5)
    assert everywhere == [10, 10]


def test_a_policy_that_chooses_nothing_gets_the_most_confident_proposal():
    model = tiny(5, 6, 1)
    lazy = sample(model, length=6, policy=lambda confidence, competing, step: torch.zeros_like(competing), mask_id=5)
    assert torch.equal(lazy.ids, sample(model, length=6, mask_id=5).ids) and lazy.forwards == 6


# --- refusals ---------------------------------------------------------------------------------------------------------------------------------------------------


@FEW
@given(seed=seeds, T=st.sampled_from([0.0, 0.9]), steps=st.sampled_from([None, 3]))
def test_a_callback_that_refuses_nothing_changes_nothing_and_one_that_refuses_is_obeyed(seed, T, steps):
    model, text = tiny(6, 12, seed, 2), torch.randint(6, (2, 12), generator=gen(seed))
    text[:, 2:9] = 6
    free = infill(model, text, steps=steps, temperature=T, generator=gen(seed), mask_id=6)
    for silent in (lambda step: None, lambda step: torch.zeros_like(step.chosen)):
        assert torch.equal(infill(model, text, steps=steps, temperature=T, generator=gen(seed), mask_id=6, on_step=silent).ids, free.ids)
    odd = infill(model, text, steps=steps, temperature=T, generator=gen(seed), mask_id=6, on_step=lambda step: step.chosen & (step.proposal % 2 == 0))
    assert bool((odd.ids[:, 2:9] % 2 == 1).all()) and bool(odd.finished.all()) and odd.forwards <= free.forwards
    kept = (free.committed_at == 0) & (free.ids % 2 == 1)
    assert torch.equal(odd.ids[kept], free.ids[kept])  # what the first step chose and nobody refused


def test_refusing_resamples_from_what_is_left():
    scores, n = torch.tensor([2.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64), 20_000
    done = sample(lambda ids: scores.expand(*ids.shape, 5), length=n, steps=1, temperature=1.0, generator=gen(), mask_id=4, on_step=lambda step: step.chosen & (step.proposal == 0), max_vetoes=n)
    law = scores[1:4].softmax(0)
    counts = torch.bincount(done.ids[0], minlength=4).double()[1:]
    assert done.forwards == 1 and float(((counts - n * law) ** 2 / (n * law)).sum()) < 13.8  # 2 degrees of freedom, 99.9 %
    renormalised = scores.clone()
    renormalised[[0, 4]] = -math.inf
    late = done.confidence[0] - renormalised.softmax(0)[done.ids[0]]
    assert float(late.abs().min()) < 1e-12 and int(done.vetoes[0]) > n // 4  # after a refusal the confidence is that of the tokens that are left


def test_a_row_is_given_up_after_too_many_refusals_and_the_others_go_on():
    model, text = tiny(6, 8, 3), torch.full((2, 8), 6)
    done = infill(model, text, mask_id=6, on_step=lambda step: step.chosen & torch.tensor([[True], [False]]), max_vetoes=3)
    assert done.finished.tolist() == [False, True] and bool((done.ids[0] == 6).all()) and bool((done.ids[1] != 6).all())
    assert int(done.vetoes[0]) == 4 and bool((done.committed_at[0] == -2).all())
    for steps in (2, 8):  # a neighbour that is refused, and chooses again, is nothing to a row
        free = infill(model, text, steps=steps, mask_id=6)
        held = infill(model, text, steps=steps, mask_id=6, on_step=lambda step: step.chosen & torch.tensor([[step.round == 0], [False]]))
        assert int(held.vetoes[0]) >= steps and torch.equal(held.ids[1], free.ids[1]) and torch.equal(held.committed_at[1], free.committed_at[1]) and int(held.vetoes[1]) == 0
    assert infill(tiny(1, 3), torch.tensor([[1, 1, 1]]), mask_id=1, on_step=lambda step: step.chosen).finished.tolist() == [False]  # one token, refused: nothing is left


# --- what refuses -----------------------------------------------------------------------------------------------------------------------------------------------

IDS = torch.zeros(2, 4, dtype=torch.long)
MODEL = tiny(3, 8)
BAD = {
    "t above one": (lambda: mask_tokens(IDS, 3, 1.1, gen()), "t is 1.1"),
    "t of another length": (lambda: mask_tokens(IDS, 3, torch.rand(3), gen()), "t has shape"),
    "no coins": (lambda: mask_tokens(IDS, 3, 0.5), "generator is None"),
    "float ids": (lambda: mask_tokens(IDS.double(), 3, 0.5, gen()), "ids has dtype"),
    "no randomness for the loss": (lambda: mdlm_loss(MODEL, IDS, mask_id=3), "generator is None"),
    "unknown scheme": (lambda: mdlm_loss(MODEL, IDS, mask_id=3, generator=gen(), scheme="counts"), "scheme is 'counts'"),
    "mask beyond the vocabulary": (lambda: mdlm_loss(MODEL, IDS, mask_id=4, generator=gen()), "accepted: token ids in [0, 4)"),
    "one pass": (lambda: likelihood_bound(MODEL, IDS, mask_id=3, samples=1, generator=gen()), "samples is 1"),
    "holes in a text to be coded": (lambda: likelihood_bound(MODEL, IDS + 3, mask_id=3, generator=gen()), "contains the mask token"),
    "nothing counts": (lambda: likelihood_bound(MODEL, IDS, mask_id=3, generator=gen(), maskable=torch.zeros(2, 4, dtype=torch.bool)), "False everywhere"),
    "a model of NaN": (lambda: likelihood_bound(lambda ids: torch.full((*ids.shape, 4), math.nan), IDS, mask_id=3, generator=gen()), "not finite"),
    "too long to enumerate": (lambda: exact_likelihood(MODEL, torch.zeros(1, 15, dtype=torch.long), mask_id=3), "at most 14"),
    "no probabilities": (lambda: JointModel(torch.full((2, 2), 0.3)), "sum to one"),
    "axes of different lengths": (lambda: JointModel(torch.full((2, 3), 1 / 6)), "equal axes"),
    "empty text": (lambda: infill(MODEL, torch.zeros(1, 0, dtype=torch.long), mask_id=3), "empty"),
    "no mask token": (lambda: sample(MODEL, length=4), "mask_id is None"),
    "ids out of range": (lambda: infill(MODEL, torch.tensor([[3, 4]]), mask_id=3), "[3, 4]"),
    "negative ids": (lambda: infill(MODEL, torch.tensor([[3, -1]]), mask_id=3), "[-1, 3]"),
    "mask token in the prompt": (lambda: sample(MODEL, prompt=torch.tensor([3]), length=4, mask_id=3), "prompt contains"),
    "prompt longer than the context": (lambda: sample(MODEL, prompt=torch.zeros(6, dtype=torch.long), length=4, mask_id=3), "context of 8"),
    "text without a tokenizer": (lambda: sample(MODEL, prompt="a", length=4, mask_id=3), "no tokenizer"),
    "no length": (lambda: sample(MODEL, length=0, mask_id=3), "length is 0"),
    "uneven blocks": (lambda: sample(MODEL, length=8, block=3, mask_id=3), "divides the length"),
    "uneven steps": (lambda: sample(MODEL, length=8, block=4, steps=3, mask_id=3), "multiple of the number of blocks"),
    "negative temperature": (lambda: sample(MODEL, length=4, temperature=-1.0, mask_id=3), "temperature is -1.0"),
    "draws without a generator": (lambda: sample(MODEL, length=4, temperature=1.0, mask_id=3), "generator is None"),
    "random order without a generator": (lambda: sample(MODEL, length=4, policy=RandomOrder(), mask_id=3), "generator is None"),
    "policy of another shape": (lambda: sample(MODEL, length=4, policy=lambda c, m, s: m[:, 0], mask_id=3), "policy returned"),
    "callback of another shape": (lambda: sample(MODEL, length=4, on_step=lambda s: s.chosen[0], mask_id=3), "on_step's answer"),
    "callback that is none": (lambda: sample(MODEL, length=4, on_step=3, mask_id=3), "on_step is 3"),
    "everything banned": (lambda: sample(MODEL, length=4, banned=[0, 1, 2], mask_id=3), "no token at all"),
    "logits of NaN": (lambda: sample(lambda ids: torch.full((*ids.shape, 4), math.nan), length=4, mask_id=3), "not finite"),
    "logits of another shape": (lambda: sample(lambda ids: torch.zeros(1, 3, 4), length=4, mask_id=3), "logits of shape"),
    "two numbers of rows": (lambda: sample(MODEL, prompt=IDS[:, :2], batch=3, length=4, mask_id=3), "batch is 3"),
    "no positive k": (lambda: TopK(0), "k is 0"),
    "gamma above one": (lambda: Threshold(1.5), "gamma is 1.5"),
    "factor of zero": (lambda: Factor(0.0), "f is 0.0"),
    "a causal model as a masked one": (lambda: MaskedLM(tiny(3, 4, causal=True), None, 3), "causal"),
    "mask token beyond the vocabulary": (lambda: MaskedLM(MODEL, None, 4), "mask_id is 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, words = BAD[name]
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert words in str(error.value)


# --- models by name ---------------------------------------------------------------------------------------------------------------------------------------------

LLADA = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
         "mlp_hidden_size": 48, "rope": True, "vocab_size": 40, "embedding_size": 40, "max_sequence_length": 24, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "weight_tying": False, "mask_token_id": 39, "pad_token_id": 1}
BLOCK = {"attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
         "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj"}


def llada_folder(folder, shards=1, **changes):
    """A random two-layer model under LLaDA's names; returns the same model under ours."""
    ours = Transformer(masked_config({**LLADA}), seed=3).eval()
    names = {"model.embed_tokens.weight": "model.transformer.wte.weight", "model.norm.weight": "model.transformer.ln_f.weight", "lm_head.weight": "model.transformer.ff_out.weight"}
    names |= {f"model.layers.{n}.{b}.weight": f"model.transformer.blocks.{n}.{a}.weight" for n in range(2) for a, b in BLOCK.items()}
    tensors = {names[key]: value.clone() for key, value in ours.state_dict().items()}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in {**LLADA, **changes}.items() if value is not None}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        files = {key: f"model-{1 + i % shards}.safetensors" for i, key in enumerate(tensors)}
        for file in set(files.values()):
            save_file({key: tensors[key] for key in tensors if files[key] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return ours


@pytest.mark.parametrize("shards", [1, 3])
def test_a_llada_folder_is_read_by_translating_names(tmp_path, shards):
    ours = llada_folder(tmp_path / "llada", shards)
    lm = load_masked_lm(tmp_path / "llada", device="cpu")
    ids = torch.randint(39, (2, 9), generator=gen())
    with torch.no_grad():
        assert torch.equal(lm(ids).logits, ours(ids).logits)
    assert lm.mask_id == 39 and lm.pad_id == 1 and lm.context == 24 and lm.tokenizer is None and lm.name == "llada" and lm.model.config.rope_theta == 500000.0
    assert bool((sample(lm, prompt=ids[:, :3], length=4).ids != 39).all())


def test_a_llama_with_a_mask_token_gives_transformers_logits_without_the_causal_mask(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24}
    for tied in (True, False):
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=tied, mask_token_id=39)).eval()
        llama.save_pretrained(tmp_path / f"llama{tied}")
        lm = load_masked_lm(tmp_path / f"llama{tied}", device="cpu")
        ids = torch.randint(40, (2, 9), generator=gen())
        with torch.no_grad():
            assert float((lm(ids).logits - llama(ids, attention_mask=torch.zeros(2, 1, 9, 9)).logits).abs().max()) < 1e-5  # float32, other kernels
    bare = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(WeightsError, match="mask_token_id"):
        load_masked_lm(tmp_path / "bare")
    assert load_masked_lm(tmp_path / "bare", device="cpu", mask_id=7).mask_id == 7


def test_a_saved_model_of_ours_is_read_back_verified_and_refused_once_changed(tmp_path):
    from atomsnb.models.registry import ModelCard, save_model

    model = Transformer(TransformerConfig(vocab_size=260, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, context=32, causal=False), seed=5).eval()
    card = ModelCard(name="toy-mdlm", kind="masked", summary="A toy.", tokenizer="bytes", limits=("everything",))
    save_model(tmp_path / "toy", model, card=card, dtype=torch.float32)
    lm = load_masked_lm(tmp_path / "toy", device="cpu", dtype=torch.float64)
    ids = torch.randint(256, (1, 6), generator=gen())
    with torch.no_grad():
        assert float((lm(ids).logits - model.double()(ids).logits).abs().max()) < 1e-6
    assert lm.mask_id == lm.tokenizer.mask_id == 258
    done = sample(lm, prompt="abc", length=5, banned=range(256, 260))
    assert done.texts is not None and len(done.texts) == 1 and done.ids.shape == (1, 8)
    file = tmp_path / "toy" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(WeightsError):
        load_masked_lm(tmp_path / "toy")


@pytest.mark.parametrize("changes, words", [({"include_bias": True}, "include_bias"), ({"alibi": True}, "alibi"), ({"block_type": "sequential"}, "block_type"), ({"model_type": "llada_moe"}, "llada_moe"), ({"model_type": "gemma2"}, "gemma2"),
                                            ({"n_layers": 3}, "model.layers.2"), ({"d_model": 64}, "is"), ({"max_sequence_length": None}, "max_sequence_length"), ({"mask_token_id": None}, "mask token")])
def test_another_architecture_is_refused_by_what_differs(tmp_path, changes, words):
    llada_folder(tmp_path / "llada", **changes)
    with pytest.raises(WeightsError, match=words):
        load_masked_lm(tmp_path / "llada")


def test_a_causal_model_of_ours_is_refused_here():
    with pytest.raises(WeightsError, match="causal"):
        masked_config({"model_type": "llama", "atomsnb": {"kind": "causal", "transformer": {}}})


def test_damaged_missing_and_pickled_weights_are_refused(tmp_path):
    llada_folder(tmp_path / "llada", 2)
    one, two = sorted((tmp_path / "llada").glob("*.safetensors"))
    two.write_bytes(two.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        load_masked_lm(tmp_path / "llada")
    two.unlink()
    with pytest.raises(ModelNotFoundError, match="missing"):
        load_masked_lm(tmp_path / "llada")
    index = tmp_path / "llada" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="same folder"):
        load_masked_lm(tmp_path / "llada")
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    with pytest.raises(WeightsError, match="safetensors"):
        load_masked_lm(tmp_path / "llada")
    index.unlink()
    one.unlink()
    (tmp_path / "llada" / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError, match="pickle"):
        load_masked_lm(tmp_path / "llada")


def test_a_name_that_is_not_on_this_machine_says_what_to_fetch():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ModelNotFoundError, match="hf download GSAI-ML/LLaDA-8B-Instruct"):
        load_masked_lm("GSAI-ML/LLaDA-8B-Instruct")
    with pytest.raises(ModelNotFoundError, match="neither a shipped masked model"):
        load_masked_lm("code-mdml")

"""Laws of the training room and of the measures of language models."""
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from atomsnb.models.evaluation import accepted_json, bits_per_byte, continuation_nats, document_rows, infilling_accuracy, parses, repetition
from atomsnb.models.training import (
    RECIPES, DocumentWindows, InBF16, MaskedBatches, MaskedLoss, ModelRecipe, StreamWindows, decayed_groups, flops_per_token, make_batches, next_token_loss, train,
)  # fmt: skip
from atomsnb.nn.transformer import Transformer, TransformerConfig

TINY = ModelRecipe(vocab_size=40, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=64, window=16, batch=4, steps=8, warmup=2, dropout=0.1, precision="fp32")
NOISE = torch.cat([torch.randint(4, 40, (200,), generator=torch.Generator().manual_seed(0)), torch.tensor([1])])


# --- windows ---


@given(n=st.integers(20, 400), window=st.integers(1, 9), batch=st.integers(1, 7), seed=st.integers(0, 5))
def test_an_epoch_of_a_stream_predicts_every_token_once_at_most_and_nearly_all(n, window, batch, seed):
    source = StreamWindows(torch.arange(n), window, batch, seed=seed)
    rows = torch.cat([source(k) for k in range(-(-source.n // batch))])[: source.n]
    predicted = rows[:, 1:].flatten()
    assert len(predicted.unique()) == len(predicted) > n - 2 * window - 1
    assert bool((rows.diff(dim=1) == 1).all())


def test_the_phase_of_a_stream_changes_from_epoch_to_epoch():
    source = StreamWindows(torch.arange(1000), 50, 1)
    assert len({int(source(k)[0, 0]) % 50 for k in range(0, 10 * source.n, source.n)}) > 5


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), window=st.integers(2, 20), seed=st.integers(0, 3))
def test_document_windows_never_cross_a_border_and_reach_every_token(lengths, window, seed):
    stream = torch.cat([torch.tensor([i + 1] * (n - 1) + [0]) for i, n in enumerate(lengths)])
    source = DocumentWindows(stream, window, 4, end_id=0, seed=seed)
    rows = torch.cat([source(k) for k in range(-(-source.n // 4))])[: source.n]
    for row in rows:
        body = row[row != 0]
        assert len(body.unique()) <= 1 and torch.equal(row[: len(body)], body)
    assert set(rows.flatten().tolist()) == set(stream.tolist()) | {0}


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_a_batch_and_its_corruption(world):
    for source in (StreamWindows(NOISE, 16, 6), MaskedBatches(DocumentWindows(NOISE, 16, 6, end_id=1), seed=2)):
        parts, whole = [source.shard(r, world)(5) for r in range(world)], source(5)
        if isinstance(whole, Tensor):
            assert torch.equal(torch.cat(parts), whole)
        else:
            assert torch.equal(torch.cat([p.ids for p in parts]), whole.ids)
            assert torch.equal(torch.cat([p.corruption.noise for p in parts]), whole.corruption.noise) and torch.equal(torch.cat([p.corruption.t for p in parts]), whole.corruption.t)


def test_a_batch_depends_on_its_number_and_seed_alone():
    for kind in ("causal", "masked"):
        a, b, other = (make_batches(TINY.replace(kind=kind, seed=s), NOISE, end_id=1) for s in (0, 0, 1))
        for number in (9, 0, 3):
            first, second = (x(number) if kind == "causal" else x(number).ids for x in (a, b))
            assert torch.equal(first, second)
        assert a.fingerprint() == b.fingerprint() != other.fingerprint()
        changed = NOISE.clone()
        changed[50] += 1
        assert make_batches(TINY.replace(kind=kind), changed, end_id=1).fingerprint() != a.fingerprint()


def test_rows_that_are_sequences_of_their_own_are_shuffled_whole():
    rows = torch.arange(4, 36)[:, None].expand(32, 16)
    batch = make_batches(TINY.replace(kind="masked", data="json"), rows, end_id=1)(0).ids
    assert batch.shape == (4, 16) and bool((batch == batch[:, :1]).all())


# --- losses, optimiser ---


def test_the_gradient_of_the_loss_is_probability_minus_one_hot():
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    batch = torch.randint(7, (2, 6))
    next_token_loss(lambda ids: type("Out", (), {"logits": logits})(), batch).backward()
    expected = (logits.detach().softmax(-1) - torch.nn.functional.one_hot(batch[:, 1:], 7)) / 10
    assert torch.allclose(logits.grad, expected, atol=1e-7)  # cross-entropy in float32


def test_the_fresh_model_is_as_surprised_as_the_logits_spread_says():
    """ln V + half the variance of a logit; tolerance: four standard errors of 2,048 targets."""
    recipe = RECIPES["byte-lm-tiny"]
    model, ids = Transformer(recipe.transformer(), seed=3).eval(), torch.randint(256, (16, 129), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert abs(float(next_token_loss(model, ids)) - math.log(260) - 0.5 * 0.02**2 * recipe.d_model) < 4 * 0.02 * recipe.d_model**0.5 / 2048**0.5 + 0.01


def test_matrices_decay_and_vectors_do_not():
    model = Transformer(TINY.transformer())
    optimizer = decayed_groups(TINY.replace(weight_decay=0.3))(list(model.parameters()))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]
    assert all(p.ndim == 2 for p in optimizer.param_groups[0]["params"]) and all(p.ndim == 1 for p in optimizer.param_groups[1]["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_bf16_copies_deliver_the_gradient_in_float32():
    """Within 5 %: a handful of roundings of 0.4 % along the depth."""
    batch, flat = NOISE[:34].view(2, 17), []
    for loss in (next_token_loss, InBF16(next_token_loss)):
        model = Transformer(TINY.replace(dropout=0.0).transformer(), seed=1)
        loss(model, batch).backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        flat.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert 0 < float((flat[1] - flat[0]).norm() / flat[0].norm()) < 0.05


@pytest.mark.parametrize("causal", [True, False])
def test_counted_operations_are_those_of_torch(causal):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = TransformerConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=48, context=12, causal=causal)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        next_token_loss(Transformer(config), torch.randint(64, (3, 13))).backward()
    assert counter.get_total_flops() == flops_per_token(config, 12) * 3 * 12
    assert flops_per_token(config, 12, training=False) * 3 == flops_per_token(config, 12)
    assert (flops_per_token(config, 12, skip_masked=True) < flops_per_token(config, 12)) == causal


# --- training ---


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_run_that_is_taken_up_gives_the_same_weights_to_the_last_bit(kind, tmp_path):
    recipe = TINY.replace(kind=kind)
    straight, history = train(recipe, NOISE, end_id=1, mask_id=2, device="cpu", progress=False)
    train(recipe, NOISE, end_id=1, mask_id=2, device="cpu", checkpoint=tmp_path, steps=5, progress=False)
    resumed, told = train(recipe, NOISE, end_id=1, mask_id=2, device="cpu", checkpoint=tmp_path, resume="must", progress=False)
    assert told.resumed_from == 5 and told.completed == history.completed == 8 and not resumed.training
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))
    other, _ = train(recipe.replace(seed=1), NOISE, end_id=1, mask_id=2, device="cpu", progress=False)
    assert not all(torch.equal(a, b) for a, b in zip(straight.parameters(), other.parameters()))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train(TINY, NOISE, end_id=1, mask_id=2, device="cpu", checkpoint=tmp_path, steps=3, progress=False)
    with pytest.raises(RuntimeError, match="lr"):
        train(TINY.replace(lr=1e-4), NOISE, end_id=1, mask_id=2, device="cpu", checkpoint=tmp_path, progress=False)


def test_training_lowers_the_loss():
    recipe = TINY.replace(steps=60, dropout=0.0, lr=1e-2, warmup=5)
    _, history = train(recipe, NOISE, end_id=1, mask_id=2, device="cpu", progress=False, log_every=1)
    assert history.losses["loss"][-5:].mean() < history.losses["loss"][:5].mean() - 0.5


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_shipped_model_fits_into_ten_mebibytes(name):
    config = RECIPES[name].transformer()
    assert config.n_parameters == sum(p.numel() for p in Transformer(config).parameters()) and 2 * config.n_parameters < 10 * 2**20
    assert config.causal == (RECIPES[name].kind == "causal") and config.context == RECIPES[name].window


# --- measures ---


class Bigram(nn.Module):
    """Logits that depend on the present token alone."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids):
        return type("Out", (), {"logits": self.table[ids]})()


@given(n=st.integers(1, 60), window=st.integers(2, 20), data=st.data())
def test_every_token_is_counted_once_for_every_window_and_stride(n, window, data):
    """Against a loop over a bigram model; 1e-5 for float32 logits."""
    stride, batch = data.draw(st.integers(1, window)), data.draw(st.integers(1, 5))
    g = torch.Generator().manual_seed(n * 31 + window)
    text, table = torch.randint(6, (n,), generator=g), torch.randn(6, 6, generator=g)
    found = bits_per_byte(Bigram(table), text, 3 * n, window=window, stride=stride, start_id=0, batch_size=batch)
    direct = -sum(float(table[a].log_softmax(-1)[b]) for a, b in zip([0, *text.tolist()], text.tolist()))
    assert found.tokens == n and found.bits_per_byte == pytest.approx(direct / math.log(2) / (3 * n), rel=1e-5) and found.nats_per_token == pytest.approx(direct / n, rel=1e-5)


def test_measuring_leaves_the_model_in_its_mode():
    model = Transformer(TINY.transformer()).train()
    bits_per_byte(model, NOISE, 400)
    assert model.training and all(p.grad is None for p in model.parameters())


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), window=st.integers(1, 12))
def test_document_rows_hold_every_token_once(lengths, window):
    stream = torch.cat([torch.tensor([i + 1] * (n - 1) + [0]) for i, n in enumerate(lengths)])
    rows = document_rows(stream, window, end_id=0)
    assert rows.shape == (sum(-(-n // window) for n in lengths), window)
    assert rows[rows != 0].tolist() == stream[stream != 0].tolist()


def test_a_perfect_model_of_each_direction_restores_every_gap():
    class Up(nn.Module):
        def __init__(self, step):
            super().__init__()
            self.step, self.w = step, nn.Parameter(torch.zeros(1))

        def forward(self, ids, cache=None, positions=None):
            logits = torch.nn.functional.one_hot((ids + self.step) % 40, 41).float() * 50
            return type("Out", (), {"logits": logits if positions is None else logits[:, positions]})()

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, ids):
            before = ids.roll(1, 1)
            return torch.where((before == 40)[..., None], 0.0, torch.nn.functional.one_hot((before + 1) % 40, 41).float() * 50)

    rows = (torch.arange(3)[:, None] * 7 + torch.arange(12)) % 40
    good, bad = (infilling_accuracy(Left(), Up(step), rows, 4, mask_id=40) for step in (1, 2))
    assert good[:4] == (1, 1, 1, 1) and good.gaps == 3 and (bad.masked_tokens, bad.causal_tokens, bad.causal_whole) == (1, 0, 0)


@pytest.mark.parametrize("content, good", [(b'{"a": [1, 2]}', True), (b"[]", True), (b'{"a": 1,}', False), (b"17", False), (b"null", False), (b"\xff[]", False), (b"", False), (b"[" * 200, False)])
def test_json_is_what_the_parser_says_it_is(content, good):
    assert accepted_json(torch.tensor([[*content, 257, 65]]), end_id=257) == float(good)
    assert accepted_json(torch.tensor([[*content, 66]]), end_id=257) == 0.0  # never closed


@given(st.integers(1, 6), st.integers(0, 30))
def test_repetition_of_one_token_has_a_closed_form(order, more):
    n = order + more
    assert repetition(torch.zeros(2, n, dtype=torch.long), order) == pytest.approx(1 - 1 / (n - order + 1)) and repetition(torch.arange(n)[None], order) == 0.0


def test_python_that_is_cut_off_still_parses_and_broken_python_does_not():
    assert parses("def f(x):\n    return x\n\nfor i in ran") and parses("    x = 1\n    y = 2\n    z =")
    assert not parses("def f(x:\n    return x\n\nclass A:\n    pass\n") and not parses("x = 1") and not parses("")


def test_the_judge_and_bits_per_byte_add_up_alike():
    model = Transformer(TINY.transformer()).eval()
    judged = continuation_nats(model, torch.cat([torch.tensor([1]), NOISE[:16]])[None], 1)
    assert judged == pytest.approx(bits_per_byte(model, NOISE[:16], 40, start_id=1).nats_per_token, rel=1e-5)


# --- bad input ---


@pytest.mark.parametrize("call, words", [
    (lambda: ModelRecipe(kind="causual"), "kind"), (lambda: ModelRecipe(steps=10, warmup=10), "warmup"), (lambda: ModelRecipe(precision="fp16"), "precision"), (lambda: ModelRecipe(window=0), "window"),
    (lambda: ModelRecipe().replace(lerning_rate=1), "lerning_rate"), (lambda: StreamWindows(torch.arange(10), 8, 1), "two windows"), (lambda: DocumentWindows(torch.arange(5), 4, 1, end_id=0), "end token"),
    (lambda: StreamWindows(NOISE, 8, 3).shard(0, 2), "batch_size"), (lambda: make_batches(TINY.replace(kind="masked"), torch.ones(4, 5, dtype=torch.long), end_id=1), "window"),
    (lambda: bits_per_byte(Bigram(torch.zeros(6, 6)), torch.zeros(5, dtype=torch.long), 0, window=4), "n_bytes"), (lambda: bits_per_byte(Bigram(torch.zeros(6, 6)), torch.zeros(5, dtype=torch.long), 9, window=4, stride=5), "stride"),
    (lambda: bits_per_byte(Bigram(torch.zeros(6, 6)), torch.zeros(0, dtype=torch.long), 9, window=4), "empty"), (lambda: document_rows(torch.tensor([1, 2]), 4, end_id=0), "end token"),
    (lambda: repetition(torch.zeros(1, 3, dtype=torch.long)), "order"), (lambda: continuation_nats(Bigram(torch.zeros(6, 6)), torch.zeros(1, 5, dtype=torch.long), 0), "start"),
    (lambda: flops_per_token(TINY.transformer(), 0), "window"),
])  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_masked_loss_is_that_of_its_room():
    from atomsnb.models.masked_diffusion import mdlm_loss

    model, batch = Transformer(TINY.replace(kind="masked", dropout=0.0).transformer()).eval(), make_batches(TINY.replace(kind="masked"), NOISE, end_id=1)(0)
    ours, theirs = MaskedLoss(2)(model, batch), mdlm_loss(model, batch.ids, mask_id=2, corruption=batch.corruption, scheme="count")
    assert torch.equal(ours["loss"], theirs["loss"]) and set(ours) == set(theirs)

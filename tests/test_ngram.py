"""Laws of the counting model and of the compressors that it is compared with."""
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.core.runtime import MissingExtraError
from atomsnb.models import ngram as room
from atomsnb.models.ngram import FALLBACK, KneserNey, compressed_bits_per_byte, discounts


def zipf(n, V, seed, a=1.3):
    """Text whose tokens repeat as words do: small numbers often, and stretches copied from before."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < n:
        if len(out) > 20 and rng.random() < 0.25:
            start = int(rng.integers(0, len(out) - 8))
            out += out[start : start + int(rng.integers(2, 8))]
        else:
            out.append(int(min(rng.zipf(a) - 1, V - 1)))
    return np.array(out[:n], dtype=np.int64)


def estimated(counts):
    n = Counter(counts)
    if min(n[i] for i in (1, 2, 3, 4)) == 0:
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    d = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
    return d if all(0 <= x <= i for i, x in enumerate(d, 1)) else FALLBACK


class Reference:
    """The definition with dictionaries: Chen and Goodman's modified Kneser-Ney, interpolated, over a uniform floor."""

    def __init__(self, text, V, n):
        self.V, self.n, padded = V, n, [V] * (n - 1) + list(text)
        self.c = {n: Counter(tuple(padded[i - n + 1 : i + 1]) for i in range(n - 1, len(padded)))}
        for k in range(n - 1, 0, -1):
            left = defaultdict(set)
            for g in self.c[k + 1]:
                left[g[1:]].add(g[0])
            self.c[k] = Counter({g: len(v) for g, v in left.items()})
        self.d = {k: estimated(self.c[k].values()) for k in self.c}
        self.after = {k: defaultdict(dict) for k in self.c}
        for k, grams in self.c.items():
            for g, x in grams.items():
                self.after[k][g[:-1]][g[-1]] = x

    def p(self, w, h, k=None):
        k = self.n if k is None else k
        if k == 0:
            return 1 / self.V
        h = h[len(h) - (k - 1) :] if k > 1 else ()
        below, after = self.p(w, h[1:], k - 1), self.after[k].get(h)
        if not after:
            return below
        D = lambda x: self.d[k][min(x, 3) - 1] if x else 0.0  # noqa: E731
        total = sum(after.values())
        return (after.get(w, 0) - D(after.get(w, 0))) / total + sum(map(D, after.values())) / total * below

    def logprob(self, text):
        padded = (self.V,) * (self.n - 1) + tuple(text)
        return [math.log(self.p(w, padded[i : i + self.n - 1])) for i, w in enumerate(text)]


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_arrays_and_definition_agree(order):
    """1e-11: sums and products of at most five orders in float64, logarithms up to 12."""
    text, test = zipf(3000, 60, 0), np.concatenate([zipf(300, 60, 1), np.arange(60)])
    model, reference = KneserNey(order).fit(text, 60), Reference(text.tolist(), 60, order)
    assert any(d != FALLBACK for d in model.discounts_)  # the estimated discounts are at work
    for ours, theirs in zip(model.discounts_, (reference.d[k] for k in range(1, order + 1)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    np.testing.assert_allclose(model.logprob(test), reference.logprob(test.tolist()), rtol=0, atol=1e-11)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 6))
def test_arrays_and_definition_agree_on_any_small_text(text, test, order):
    model, reference = KneserNey(order).fit(np.array(text), 6), Reference(text, 6, order)
    np.testing.assert_allclose(model.logprob(np.array(test)), reference.logprob(test), rtol=0, atol=1e-11)
    padded = [*test]
    np.testing.assert_allclose(model.distribution(padded), [reference.p(w, ((6,) * (order - 1) + tuple(padded))[len(padded) :]) for w in range(6)], rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 5), st.lists(st.integers(0, 99), max_size=7), st.integers(0, 3))
def test_every_distribution_is_positive_and_sums_to_one(order, context, seed):
    """1e-12: a sum of a hundred float64 numbers below one. Contexts are mostly unseen; token 99 never occurs."""
    model = KneserNey(order).fit(zipf(800, 99, seed), 100)
    p = model.distribution(context)
    assert p.shape == (100,) and p.min() > 0 and abs(p.sum() - 1) < 1e-12


def test_walking_the_trie_and_looking_grams_up_agree():
    model, text = KneserNey(4).fit(zipf(2000, 50, 0), 50), zipf(150, 50, 5)
    np.testing.assert_allclose(model.logprob(text), [math.log(model.distribution(text[:i].tolist())[w]) for i, w in enumerate(text)], rtol=0, atol=1e-12)


def test_only_the_last_tokens_of_a_context_count():
    model = KneserNey(3).fit(zipf(500, 20, 0), 20)
    assert np.array_equal(model.distribution([7, 1, 2]), model.distribution([9, 9, 9, 1, 2])) and not np.array_equal(model.distribution([1, 2]), model.distribution([2, 1]))


def test_one_discount_keeps_the_marginals_of_the_text():
    """Kneser and Ney's constraint, exact when every token occurs; 1e-12: a mean of a few hundred float64 numbers."""
    text = np.concatenate([np.arange(8), zipf(300, 8, 2)])
    for D in (0.2, 0.9):
        model = KneserNey(2, discount=D).fit(text, 8)
        mean = np.mean([model.distribution([t]) for t in text[:-1]] + [model.distribution([])], axis=0)
        np.testing.assert_allclose(mean, np.bincount(text, minlength=8) / len(text), rtol=0, atol=1e-12)


def test_without_discount_it_is_the_relative_frequency():
    text = np.array([0, 1, 0, 2, 0, 1])
    model = KneserNey(2, discount=0).fit(text, 4)
    np.testing.assert_allclose(model.distribution([0]), [0, 2 / 3, 1 / 3, 0], rtol=0, atol=1e-15)
    assert model.logprob(np.array([3]))[0] == -math.inf


def test_a_word_that_follows_one_word_only_is_a_poor_guess_elsewhere():
    """San Francisco: as frequent as `and`, but behind one neighbour only."""
    san, francisco, glass = 0, 1, 2
    text = [x for k in range(30) for x in (san, francisco, 3 + k % 10, glass)]
    p = KneserNey(2).fit(np.array(text), 20).distribution([19])  # 19 was never seen
    assert Counter(text)[francisco] == Counter(text)[glass] and p[glass] > 3 * p[francisco]


def test_longer_contexts_help_on_text_that_repeats():
    train, test = zipf(60_000, 300, 0), zipf(3000, 300, 0)[500:]
    cost = [-KneserNey(n).fit(train, 300).logprob(test).mean() for n in range(1, 6)]
    assert all(b < a for a, b in zip(cost, cost[1:]))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=200))
def test_discounts_lie_between_nothing_and_the_count(counts):
    d = discounts(np.array(counts))
    assert d == pytest.approx(estimated(counts), rel=1e-12) and all(0 <= x <= i for i, x in enumerate(d, 1))


def test_tensors_and_arrays_count_alike():
    text = zipf(400, 30, 0)
    a, b = KneserNey(3).fit(text, 30), KneserNey(3).fit(torch.from_numpy(text).to(torch.int32), 30)
    assert np.array_equal(a.logprob(text[:50]), b.logprob(torch.from_numpy(text[:50])))


def test_large_vocabularies_do_not_overflow():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 2**31 - 1, 2000)
    assert np.isfinite(KneserNey(5).fit(text, 2**31 - 1).logprob(text)).all()
    model = KneserNey(3).fit(rng.integers(0, 200_000, 5000), 200_000)
    assert abs(model.distribution([1, 2]).sum() - 1) < 1e-9


@pytest.mark.parametrize("call, error", [
    (lambda: KneserNey(0), ValueError), (lambda: KneserNey(2.5), TypeError), (lambda: KneserNey(2, discount=1.5), ValueError),
    (lambda: KneserNey(2).fit(np.array([0, 9]), 9), ValueError), (lambda: KneserNey(2).fit(np.array([-1]), 9), ValueError), (lambda: KneserNey(2).fit(np.zeros(0, dtype=int), 9), ValueError),
    (lambda: KneserNey(2).fit(np.zeros(3), 9), TypeError), (lambda: KneserNey(2).fit(np.zeros((2, 2), dtype=int), 9), ValueError), (lambda: KneserNey(2).fit([1, 2], 9), TypeError),
    (lambda: KneserNey(2).logprob(np.array([0])), ValueError), (lambda: KneserNey(2).distribution([0]), ValueError),
    (lambda: KneserNey(2).fit(np.array([0, 1]), 2).logprob(np.array([2])), ValueError), (lambda: KneserNey(2).fit(np.array([0, 1]), 2).distribution([2]), ValueError),
])
def test_bad_input_is_refused(call, error):
    with pytest.raises(error):
        call()


# ---- compressors


@pytest.mark.parametrize("method", ["xz", "zstd"])
def test_a_compressor_pays_nothing_for_what_it_has_read_and_everything_for_noise(method):
    rng = np.random.default_rng(0)
    text, noise = rng.integers(0, 256, 60_000, dtype=np.uint8).tobytes(), rng.integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    try:
        known, unknown = compressed_bits_per_byte(text, text, method), compressed_bits_per_byte(text, noise, method)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert known.bits_per_byte < 0.15 and 7.95 < unknown.bits_per_byte < 8.2  # xz leaves its mode for noise after a block: up to a thousand bytes
    assert known.train_bytes < known.both_bytes < known.train_bytes + 1000
    assert known.bits_per_byte == 8 * (known.both_bytes - known.train_bytes) / len(text)


def test_the_window_reaches_over_the_whole_text():
    """A repeat twelve mebibytes back is found: the xz default of preset 6 has a dictionary of eight."""
    rng = np.random.default_rng(1)
    page = rng.integers(0, 256, 100_000, dtype=np.uint8).tobytes()
    far = page + b"\0" * (12 * 2**20)
    for method in ("xz", "zstd"):
        try:
            assert compressed_bits_per_byte(far, page, method).bits_per_byte < 0.05
        except MissingExtraError:
            continue


def test_bytes_are_those_of_the_text_not_of_the_separators():
    documents = ["é" * 50, "xyz" * 40]
    joined = "".join(d + "\0" for d in documents)
    a, b = compressed_bits_per_byte(["train " * 20], documents), compressed_bits_per_byte("train " * 20 + "\0", joined)
    assert (a.train_bytes, a.both_bytes) == (b.train_bytes, b.both_bytes)
    assert a.bits_per_byte == pytest.approx(b.bits_per_byte * len(joined.encode()) / (100 + 120))


def test_a_compressor_that_is_not_there_gives_no_figure(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="neither is installed"):
        compressed_bits_per_byte("a", "b", "zstd")


@pytest.mark.parametrize("call, error", [(lambda: compressed_bits_per_byte("a", "", "xz"), ValueError), (lambda: compressed_bits_per_byte("a", ["", ""], "xz"), ValueError), (lambda: compressed_bits_per_byte("a", "b", "gzip"), ValueError), (lambda: compressed_bits_per_byte([b"a"], "b"), TypeError)])
def test_what_cannot_be_compressed_is_refused(call, error):
    with pytest.raises(error):
        call()

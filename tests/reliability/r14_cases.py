"""The cases of R14, room by room. A case asserts the documented value, or makes a call that must be refused by name."""
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from r14_adversarial_sizes import Case

from atomsnb.core import bench, checks, data, rule
from atomsnb.core import ledger as books
from atomsnb.core.record import read_json
from atomsnb.models import causal_lm, corpus, evaluation, generation, masked_diffusion, masked_sampling, ngram, tokenizer
from atomsnb.nn import frames, neural_operators, point_operators, schmidt, sparse_coders, transformer
from atomsnb.operators import deeponet, fields, learning, limits, nns2nos, pde
from atomsnb.quantum import digits, entanglement, qnn, statevector
from atomsnb.representation import atoms

CASES: "list[Case]" = []


def case(room: str, kind: str, documented: str, refuses: str = "", error: str = "") -> Callable:
    """Put a function among the cases; its name, in words, is the case's name."""
    def keep(run: Callable[[], Any]) -> Callable[[], Any]:
        CASES.append(Case(run.__name__.replace("_", " "), room, kind, documented, run, refuses, error))
        return run
    return keep


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Fixed normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_lm(**options: Any) -> transformer.Transformer:
    """A tiny transformer in evaluation mode."""
    return transformer.Transformer(transformer.TransformerConfig(**{"vocab_size": 7, "d_model": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_ff": 8, "context": 16} | options)).eval()


class Flat(torch.nn.Module):
    """Equal logits everywhere."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight.expand(*ids.shape, -1)


# --- nn.frames ---

@case("nn.frames", "ties", "two equal atoms have coherence 1")
def coherence_of_all_equal_columns():
    assert frames.coherence(torch.ones(3, 5)) == 1.0


@case("nn.frames", "degenerate", "an all-zero matrix is refused", refuses="D")
def coherence_of_a_zero_matrix():
    return frames.coherence(torch.zeros(3, 4))


@case("nn.frames", "one of a kind", "one atom has no coherence", refuses="D")
def coherence_of_one_column():
    return frames.coherence(torch.ones(4, 1))


@case("nn.frames", "one of a kind", "in one dimension all atoms are parallel: coherence 1, spark 2")
def one_row():
    assert frames.coherence(torch.tensor([[1.0, -2.0, 3.0]])) == 1.0 and frames.spark(torch.tensor([[1.0, -2.0, 3.0]])) == 2


@case("nn.frames", "range", "cosines do not depend on the length of an atom, however long")
def coherence_at_1e200():
    D = rand(4, 6)
    assert abs(frames.coherence(D * 1e200) - frames.coherence(D)) < 1e-12


@case("nn.frames", "range", "cosines do not depend on the length of an atom, however short")
def coherence_at_1e_minus_200():
    D = rand(4, 6)
    assert abs(frames.coherence(D * 1e-200) - frames.coherence(D)) < 1e-12


@case("nn.frames", "large", "a search over more than the limit is refused, not left running", refuses="D")
def spark_of_sixty_columns():
    return frames.spark(rand(30, 60))


@case("nn.frames", "large", "too many supports are refused", refuses="rip_constant")
def rip_constant_of_four_thousand_columns():
    return frames.rip_constant(rand(8, 400), 6)


@case("nn.frames", "degenerate", "with duplicated columns the residual vanishes and the code has at most k entries")
def omp_with_duplicated_columns():
    D = rand(4, 3).repeat(1, 2)
    x = rand(5, 4, seed=1)
    codes = frames.omp(D, x, 4)
    assert bool(torch.isfinite(codes).all()) and int((codes != 0).sum(1).max()) <= 4
    best = x @ torch.linalg.pinv(D).T @ D.T
    assert float((codes @ D.T - best).abs().max()) < 1e-6, float((codes @ D.T - best).abs().max())
    return codes


@case("nn.frames", "ties", "equal scores: the lowest index is chosen")
def omp_takes_the_first_of_equal_columns():
    codes = frames.omp(torch.ones(3, 5, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64), 1)
    assert bool((codes[:, 0] != 0).all()) and int((codes != 0).sum()) == 2


@case("nn.frames", "degenerate", "the zero sample has the zero code")
def omp_of_a_zero_sample():
    assert int(frames.omp(rand(4, 6), torch.zeros(2, 4, dtype=torch.float64), 2).count_nonzero()) == 0


@case("nn.frames", "degenerate", "a sample outside the span is refused", refuses="x")
def basis_pursuit_outside_the_span():
    return frames.basis_pursuit(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))


@case("nn.frames", "range", "independence at mu = 0 and nothing certain at mu = 1")
def unique_sparsity_at_both_ends():
    assert frames.max_unique_sparsity(0.0) == math.inf and frames.max_unique_sparsity(1.0) == 0 and math.isfinite(frames.max_unique_sparsity(5e-300))


# --- representation.atoms ---

@case("representation.atoms", "constant", "activations without variance are refused", refuses="x")
def faithfulness_of_constant_data():
    return atoms.faithfulness(torch.full((5, 3), 2.0), torch.zeros(5, 3))


@case("representation.atoms", "constant", "activations without variance are refused, also where their mean rounds", refuses="x")
def faithfulness_of_constant_data_that_rounds():
    return atoms.faithfulness(torch.full((3, 2), 0.1, dtype=torch.float64), torch.full((3, 2), 0.1, dtype=torch.float64))


@case("representation.atoms", "one of a kind", "one sample has no variance", refuses="x")
def faithfulness_of_one_sample():
    return atoms.faithfulness(rand(1, 4), rand(1, 4))


@case("representation.atoms", "range", "a defined value or a refusal where squares underflow", refuses="x")
def faithfulness_at_1e_minus_200():
    return atoms.faithfulness(rand(6, 3) * 1e-200, rand(6, 3, seed=1) * 1e-200)


@case("representation.atoms", "range", "a float at most 1, or a refusal that names x, where squares overflow")
def faithfulness_at_1e200():
    try:
        value = atoms.faithfulness(rand(6, 3) * 1e200, rand(6, 3) * 0.5e200, centered=False)
    except ValueError as error:
        assert "x" in str(error)
        return None
    assert abs(value - 0.75) < 1e-12, f"half of every sample scores {value} where 0.75 is true"
    return value


@case("representation.atoms", "degenerate", "a rank-deficient second moment is refused", refuses="acts")
def product_of_rank_one_activations():
    return atoms.AtomicInnerProduct.fit(rand(40, 1) @ rand(1, 4, seed=1))


@case("representation.atoms", "degenerate", "all-zero activations are refused, with a ridge too", refuses="acts")
def product_of_zero_activations_with_ridge():
    return atoms.AtomicInnerProduct.fit(torch.zeros(9, 4), ridge=0.1)


@case("representation.atoms", "degenerate", "a rank-deficient dictionary is refused by its own name", refuses="D")
def product_of_a_flat_dictionary():
    return atoms.AtomicInnerProduct.from_dictionary(torch.ones(3, 5))


@case("representation.atoms", "degenerate", "a row of zeros has no direction", refuses="V")
def cosine_with_a_zero_row():
    return atoms.AtomicInnerProduct.fit(rand(40, 4)).cosine(rand(2, 4), torch.zeros(1, 4, dtype=torch.float64))


@case("representation.atoms", "ties", "all atoms equal: overlap 1, one active atom is never unique, q* = 0")
def stability_of_equal_atoms():
    report = atoms.stability(torch.ones(3, 5), torch.tensor([1, 1, 2]))
    assert report.q_star == 0.0 and report.mu_q > 1 - 1e-6
    return report


@case("representation.atoms", "one of a kind", "one row: every overlap is 1; two atoms, one sample")
def stability_of_one_dimension_and_one_sample():
    report = atoms.stability(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    assert report.q_star == 0.0 and report.random_baseline == 0.0
    return report


@case("representation.atoms", "degenerate", "no active atom anywhere counts as one each, and the share says so")
def stability_without_active_atoms():
    report = atoms.stability(torch.eye(4), torch.zeros(3, dtype=torch.long))
    assert report.empty == 1.0 and report.q_star == 1.0
    return report


@case("representation.atoms", "degenerate", "a sample without active atoms refits to zero")
def refit_on_an_empty_support():
    model = atoms.ThresholdSAE.from_dictionary(torch.eye(3), 5.0)
    codes = model.refit_support(torch.ones(2, 3))
    assert int(codes.count_nonzero()) == 0
    return codes


@case("representation.atoms", "degenerate", "duplicated atoms share the coefficient and reproduce the sample")
def refit_on_duplicated_atoms():
    model = atoms.ThresholdSAE.from_dictionary(torch.eye(2).repeat(1, 2), 0.1)
    x = torch.tensor([[1.0, 2.0]])
    codes = model.refit_support(x)
    assert float((codes @ model.w_dec - x).abs().max()) < 1e-5
    return codes


# --- nn.sparse_coders ---

@case("nn.sparse_coders", "ties", "equal scores: the lowest indices are kept, the same each time")
def topk_of_all_equal_scores():
    coder = sparse_coders.TopKCoder(4, 64, 3)
    kept = coder.activate(torch.ones(5, 64)).nonzero()[:, 1].reshape(5, 3)
    assert kept.tolist() == [[0, 1, 2]] * 5, f"kept {kept[0].tolist()} of 64 equal scores"


@case("nn.sparse_coders", "ties", "scores that are not positive stay silent, also inside the k largest")
def topk_of_zero_scores():
    assert int(sparse_coders.TopKCoder(4, 6, 3).activate(torch.zeros(2, 6)).count_nonzero()) == 0


@case("nn.sparse_coders", "constant", "samples without variance are refused", refuses="x")
def coder_on_constant_data():
    return sparse_coders.ReLUCoder(3, 4).fit(torch.full((8, 3), 2.0), l0=1.0, steps=2, batch_size=4, device="cpu", progress=False)


@case("nn.sparse_coders", "one of a kind", "one sample has no variance", refuses="x")
def coder_on_one_sample():
    return sparse_coders.TopKCoder(3, 4, 1).fit(rand(1, 3, dtype=torch.float32), l0=1.0, steps=2, batch_size=4, device="cpu", progress=False)


@case("nn.sparse_coders", "degenerate", "a sample that equals the mean gives finite atoms")
def coder_on_data_that_holds_its_mean():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    coder = sparse_coders.TopKCoder(2, 3, 1).fit(x, l0=1.0, steps=3, batch_size=3, device="cpu", progress=False)
    assert all(bool(torch.isfinite(p).all()) for p in coder.parameters()), "weights that are not finite after three steps"


# --- nn.transformer, models.causal_lm, models.generation ---

@case("nn.transformer", "empty", "a batch without a token is refused", refuses="ids")
def transformer_of_no_token():
    return small_lm()(torch.zeros(1, 0, dtype=torch.long))


@case("nn.transformer", "one of a kind", "one token, one layer, one-token vocabulary")
def transformer_of_one_token():
    with torch.no_grad():
        logits = small_lm(vocab_size=1, context=1)(torch.zeros(1, 1, dtype=torch.long)).logits
    assert logits.shape == (1, 1, 1)
    return logits


@case("nn.transformer", "degenerate", "a token whose keys are all hidden still sees itself")
def transformer_with_everything_hidden():
    with torch.no_grad():
        logits = small_lm()(torch.tensor([[1, 2, 3]]), attention_mask=torch.zeros(1, 3, dtype=torch.bool)).logits
    assert bool(torch.isfinite(logits).all())
    return logits


@case("nn.transformer", "range", "the zero vector is normalised to zero: all logits are zero")
def transformer_of_zero_embeddings():
    with torch.no_grad():
        logits = small_lm()(embeddings=torch.zeros(1, 2, 8)).logits
    assert int(logits.count_nonzero()) == 0
    return logits


@case("models.causal_lm", "empty", "an empty name is refused", refuses="name", error="ModelNotFoundError WeightsError FileNotFoundError")
def causal_lm_without_a_name():
    return causal_lm.load_causal_lm("")


@case("models.causal_lm", "empty", "the empty text is refused, for it gives a model nothing to read", refuses="text")
def causal_lm_encodes_the_empty_text():
    return causal_lm.CausalLM(small_lm(vocab_size=260), tokenizer.ByteTokenizer(), "tiny").encode("")


@case("models.generation", "ties", "temperature 0 puts all mass on the first of equal logits")
def warp_of_equal_logits():
    assert generation.warp(torch.zeros(2, 50), temperature=0).argmax(-1).tolist() == [0, 0]
    assert torch.equal(generation.warp(torch.zeros(2, 50), top_k=3), torch.full((2, 50), 1 / 50))  # what ties with the k-th is kept


@case("models.generation", "range", "a row that sums to one at a temperature of 1e-300 too")
def warp_at_a_tiny_temperature():
    p = generation.warp(torch.tensor([[1.0, 2.0, 0.0]]), temperature=1e-300)
    assert not bool(torch.isnan(p).any()), "NaN at temperature 1e-300"
    assert abs(float(p.sum()) - 1) < 1e-6
    return p


@case("models.generation", "ties", "greedy decoding takes the lowest of equal logits")
def generation_from_equal_logits():
    model = small_lm()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    assert generation.generate(model, [1], max_new_tokens=3).tokens[0].tolist() == [0, 0, 0]


@case("models.generation", "empty", "an empty prompt is refused", refuses="prompt")
def generation_from_nothing():
    return generation.generate(small_lm(), [], max_new_tokens=1)


# --- models.masked_sampling, models.masked_diffusion ---

@case("models.masked_sampling", "ties", "ties go to the left, one at a time")
def infill_with_equal_confidence():
    done = masked_sampling.infill(Flat(5), torch.full((2, 6), 4), mask_id=4)
    assert done.committed_at.tolist() == [[0, 1, 2, 3, 4, 5]] * 2 and bool((done.ids == 0).all())


@case("models.masked_sampling", "ties", "ties go to the left; fewer are chosen where fewer compete")
def best_of_equal_scores():
    chosen = masked_sampling.best(torch.zeros(1, 40), torch.ones(1, 40, dtype=torch.bool), 3)
    assert chosen.nonzero()[:, 1].tolist() == [0, 1, 2]
    assert int(masked_sampling.best(torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool), 3).sum()) == 0


@case("models.masked_sampling", "empty", "a text without holes comes back without a call")
def infill_without_holes():
    done = masked_sampling.infill(Flat(5), torch.zeros(1, 3, dtype=torch.long), mask_id=4)
    assert done.forwards == 0 and done.tokens_per_step == 0.0


@case("models.masked_sampling", "degenerate", "nothing left to propose is refused", refuses="model")
def infill_with_every_token_banned():
    return masked_sampling.infill(Flat(3), torch.full((1, 2), 2), mask_id=2, banned=[0, 1])


@case("models.masked_sampling", "one of a kind", "a vocabulary of one word and the mask, by the margin of two")
def infill_by_margin_with_one_word():
    done = masked_sampling.infill(Flat(2), torch.full((1, 3), 1), mask_id=1, policy=masked_sampling.Margin())
    assert done.ids.tolist() == [[0, 0, 0]]


@case("models.masked_diffusion", "degenerate", "no maskable token: a loss of zero")
def loss_without_maskable_tokens():
    out = masked_diffusion.mdlm_loss(Flat(4), torch.zeros(2, 3, dtype=torch.long), mask_id=3, generator=torch.Generator().manual_seed(0), maskable=torch.zeros(2, 3, dtype=torch.bool))
    assert float(out["loss"].detach()) == 0.0
    return out["loss"].detach()


@case("models.masked_diffusion", "range", "t = 0 and a lowest t of 0: a loss of zero")
def loss_at_time_zero():
    out = masked_diffusion.mdlm_loss(Flat(4), torch.zeros(2, 3, dtype=torch.long), mask_id=3, generator=torch.Generator().manual_seed(0), t=torch.zeros(2), lowest_t=0.0)
    assert float(out["loss"].detach()) == 0.0
    return out["loss"].detach()


@case("models.masked_diffusion", "degenerate", "a context of probability zero has equal probabilities")
def joint_model_of_one_text():
    joint = torch.zeros(3, 3, dtype=torch.float64)
    joint[0, 0] = 1.0
    out = masked_diffusion.JointModel(joint)(torch.tensor([[2, 3]]))[0, 1, :3].exp()
    assert torch.allclose(out, torch.full((3,), 1 / 3, dtype=torch.float64))
    return out


# --- models.tokenizer, models.corpus, models.ngram, models.evaluation ---

@case("models.tokenizer", "large", "a megabyte without a space comes back exactly")
def a_megabyte_without_a_space():
    text, bpe = "x9é_" * 250_000, tokenizer.load_tokenizer("code-bpe")
    assert bpe.decode(bpe.encode(text)) == text


@case("models.tokenizer", "large", "a megabyte of one letter comes back exactly")
def a_megabyte_of_one_letter():
    bpe = tokenizer.load_tokenizer("code-bpe")
    assert bpe.decode(bpe.encode("a" * 1_000_000)) == "a" * 1_000_000


@case("models.tokenizer", "empty", "the empty text has no tokens, and no tokens are the empty text")
def the_empty_text():
    for one in (tokenizer.ByteTokenizer(), tokenizer.load_tokenizer("code-bpe")):
        assert one.encode("") == [] and one.decode([]) == "" and one.encode_batch([]) == []


@case("models.tokenizer", "ties", "equal pairs: the same file from the same texts")
def training_on_ties():
    texts = ["".join(chr(97 + i) + chr(97 + j) + " " for i in range(20) for j in range(20))]
    assert tokenizer.train_bpe(texts, 300).content == tokenizer.train_bpe(texts, 300).content


@case("models.corpus", "empty", "a document without text is one end token, and has no bits per byte", refuses="bits per byte")
def a_stream_of_empty_texts():
    stream = corpus.token_stream("bytes", texts=["", ""], cache=False)
    if stream.ids.tolist() != [257, 257]:
        raise AssertionError(stream.ids.tolist())
    return stream.bits_per_byte(1.0)


@case("models.corpus", "empty", "no text that fits is refused", refuses="records")
def windows_of_no_records():
    return corpus.windows([])


@case("models.ngram", "one of a kind", "one token, one word: probability 1")
def ngram_of_one_token():
    p = ngram.KneserNey(5).fit(torch.tensor([0]), 1).distribution([0])
    assert abs(float(p.sum()) - 1) < 1e-12
    return p


@case("models.ngram", "constant", "a text of one repeated token gives a distribution that sums to one")
def ngram_of_a_constant_text():
    model = ngram.KneserNey(3).fit(torch.zeros(1000, dtype=torch.long), 5)
    assert abs(float(model.distribution([0, 0]).sum()) - 1) < 1e-9 and bool(np.isfinite(model.logprob(torch.tensor([0, 4, 0]))).all())


@case("models.ngram", "large", "order 16 over a vocabulary of two million: exact, or refused before a code overflows")
def ngram_with_a_large_vocabulary():
    ids = torch.tensor([1_999_999, 0, 1_999_999, 1] * 50)
    model = ngram.KneserNey(16).fit(ids, 2_000_000)
    assert bool(np.isfinite(model.logprob(ids)).all())


@case("models.ngram", "empty", "counts of no gram give the fallback")
def discounts_of_nothing():
    assert ngram.discounts(np.zeros(0, dtype=np.int64)) == ngram.FALLBACK


@case("models.evaluation", "nested", "100,000 open brackets are no JSON")
def json_of_open_brackets():
    assert evaluation.accepted_json(torch.tensor([[91] * 100_000 + [257]]), end_id=257) == 0.0


@case("models.evaluation", "nested", "2,000 parentheses are an answer, yes or no")
def python_of_two_thousand_parentheses():
    assert evaluation.parses("(" * 2000 + "1" + ")" * 2000 + "\n") in (True, False)


@case("models.evaluation", "one of a kind", "rows shorter than a gram are refused", refuses="rows")
def repetition_of_one_column():
    return evaluation.repetition(torch.zeros(2, 1, dtype=torch.long))


@case("models.evaluation", "constant", "equal logits cost log2 V bits a token")
def bits_of_one_token():
    model = small_lm()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    found = evaluation.bits_per_byte(model, torch.tensor([3]), 1)
    assert abs(found.bits_per_byte - math.log2(7)) < 1e-5
    return found.bits_per_byte


@case("models.evaluation", "empty", "a stream that no end token closes is refused", refuses="ids")
def rows_without_an_end():
    return evaluation.document_rows(torch.tensor([1, 2]), 4, end_id=0)


# --- quantum ---

@case("quantum.statevector", "degenerate", "the zero vector is no state", refuses="state")
def value_of_the_zero_vector():
    return statevector.expectation(torch.zeros(1, 4, dtype=torch.complex64), statevector.PauliString("Z", (0,)))


@case("quantum.statevector", "one of a kind", "one qubit, one gate, 1,000 turns: the value at the start")
def a_thousand_turns():
    circuit = statevector.Circuit(1, [statevector.PauliString("X", (0,))])
    value = circuit.expectation(statevector.zero_state(1, dtype=torch.complex128), torch.tensor([1000 * 2 * math.pi], dtype=torch.float64), statevector.PauliString("Z", (0,)))
    assert abs(float(value) - 1) < 1e-9
    return value


@case("quantum.statevector", "large", "fifty qubits are refused before memory is asked for", refuses="n is")
def fifty_qubits():
    return statevector.zero_state(50)


@case("quantum.statevector", "large", "4,096 qubits with 5,000 gates can be taken apart")
def a_wide_circuit():
    assert len(statevector.Circuit(4096, [statevector.PauliString("ZX", (i % 4095, 4095)) for i in range(5000)])) == 5000


@case("quantum.statevector", "one of a kind", "the transform of one number is that number")
def walsh_of_one_number():
    assert statevector.walsh(torch.tensor([3.0])).tolist() == [3.0]


@case("quantum.qnn", "degenerate", "where the gradient vanishes the angles stay")
def step_with_a_zero_gradient():
    theta = rand(3)
    assert torch.equal(qnn.polyak_step(theta, 1.0, torch.zeros(3, dtype=torch.float64)), theta)


@case("quantum.qnn", "range", "a gradient whose square underflows: finite angles")
def step_with_a_tiny_gradient():
    theta = qnn.polyak_step(torch.zeros(2, dtype=torch.float64), 1.0, torch.full((2,), 1e-160, dtype=torch.float64))
    assert bool(torch.isfinite(theta).all())
    return theta


@case("quantum.qnn", "degenerate", "weights that are all zero are refused", refuses="weight")
def loss_with_zero_weights():
    return qnn.margin_loss(torch.zeros(3), torch.ones(3), torch.zeros(3))


@case("quantum.digits", "ties", "no majority anywhere: every rule of pixels decides nothing")
def pixel_rules_on_balanced_counts():
    bits, counts = torch.tensor([[0, 1], [1, 0]]), torch.ones(1, 2, 2)
    assert all(int(f(bits, counts).count_nonzero()) == 0 for f in (digits.one_pixel_rule, digits.two_pixel_rule, digits.lookup_rule))


@case("quantum.digits", "one of a kind", "a split with one label is refused", refuses="train")
def logistic_rule_with_one_label():
    return digits.logistic_rule(torch.tensor([[0], [1]]), torch.tensor([[[1, 0], [1, 0]]]))


@case("quantum.digits", "one of a kind", "a constant picture on one pixel is its grey value")
def shrink_to_one_pixel():
    assert abs(float(digits.shrink(torch.full((1, 5, 3), 0.25), 1)) - 0.25) < 1e-6


@case("quantum.entanglement", "constant", "a flat profile has no valley")
def depth_of_a_flat_profile():
    assert float(entanglement.valley_depth(np.ones(5), 3)) == 0.0


@case("quantum.entanglement", "constant", "constant entropies: every law fits, none with a NaN")
def laws_of_constant_entropy():
    fits = entanglement.scaling_fits([3, 4, 5, 6, 7], [1.0] * 5)
    assert all(math.isfinite(v) for f in fits.values() for v in (*f.parameters, *(f.interval or ()), f.aic)), {n: f.aic for n, f in fits.items()}


@case("quantum.entanglement", "one of a kind", "one times one: no entropy")
def entropy_of_one_by_one():
    assert abs(entanglement.page_entropy(1, 1)) < 1e-12 and entanglement.marchenko_pastur_entropy(1, 1) == 0.0


@case("nn.schmidt", "degenerate", "a zero matrix has no entropy", refuses="W")
def profile_of_a_zero_matrix():
    return schmidt.entanglement_profile(torch.zeros(4, 4))


@case("nn.schmidt", "degenerate", "a constant matrix is a product: entropy 0 at every cut")
def profile_of_a_constant_matrix():
    entropy = schmidt.entanglement_profile(torch.full((8, 6), 3.0)).entropy
    assert float(entropy.abs().max()) < 1e-12
    return entropy


@case("nn.schmidt", "range", "entropy does not depend on scale, from subnormal to 1e300")
def profile_at_both_ends_of_the_range():
    W = rand(4, 6)
    want = schmidt.entanglement_profile(W).entropy
    assert all(float((schmidt.entanglement_profile(W * s).entropy - want).abs().max()) < 1e-9 for s in (1e300, 1e-300))
    return schmidt.entanglement_profile(torch.full((4, 6), 5e-324, dtype=torch.float64)).entropy


@case("nn.schmidt", "range", "a thin product does not depend on the scale of its factors")
def thin_profile_at_both_ends_of_the_range():
    A, B = rand(2, 6), rand(4, 2, seed=1)
    want = schmidt.lora_profile(A, B).entropy
    assert all(float((schmidt.lora_profile(A * s, B * s).entropy - want).abs().max()) < 1e-9 for s in (1e140, 1e-140))


@case("nn.schmidt", "one of a kind", "one number has no cut")
def profile_of_one_number():
    assert schmidt.entanglement_profile(torch.ones(1, 1)).bonds == ()


@case("nn.schmidt", "one of a kind", "attention of one token has entropy 0")
def entropy_of_one_token():
    assert float(schmidt.attention_entropy(torch.ones(1, 1))) == 0.0


# --- operators ---

@case("operators.fields", "degenerate", "two equal grid points are refused", refuses="x")
def interpolation_with_two_equal_points():
    return fields.interpolate(torch.tensor([0.0, 0.5, 0.5]), torch.ones(1, 3), torch.tensor([0.2]))


@case("operators.fields", "one of a kind", "one point is refused", refuses="x")
def interpolation_of_one_point():
    return fields.interpolate(torch.tensor([0.0]), torch.ones(1, 1), torch.tensor([0.0]))


@case("operators.fields", "range", "places one subnormal apart: a finite value")
def interpolation_between_neighbouring_numbers():
    value = fields.interpolate(torch.tensor([0.0, 5e-324], dtype=torch.float64), torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64))
    assert float(value) == 1.0
    return value


@case("operators.fields", "range", "the highest mode alone has variance 1")
def a_field_of_the_highest_mode_only():
    field = fields.PeriodicField(dim=1, modes=1)
    u = field.sample(4, 3)
    assert bool(torch.isfinite(u).all()) and abs(float(field.spectrum().sum()) - 1) < 1e-12
    return u


@case("operators.fields", "range", "a decay so steep that powers underflow: variance 1, or a refusal that names alpha")
def a_field_with_a_steep_spectrum():
    try:
        spectrum = fields.PeriodicField(dim=1, alpha=200.0).spectrum()
    except ValueError as error:
        assert "alpha" in str(error) or "tau" in str(error)
        return None
    assert bool(torch.isfinite(spectrum).all()), "the spectrum is not a number"
    return spectrum


@case("operators.fields", "one of a kind", "degree 0 and one function: a constant, integrated exactly")
def a_chebyshev_constant():
    field = fields.ChebyshevSpace(0).sample(1)
    assert abs(float(field.antiderivative(torch.tensor([1.0], dtype=torch.float64))) - float(field.values)) < 1e-12


@case("operators.limits", "degenerate", "two equal sensors are refused", refuses="places")
def floor_with_two_equal_sensors():
    return limits.information_floor(fields.GaussianRandomField(0.2), torch.tensor([0.1, 0.1]), torch.tensor([0.5]))


@case("operators.limits", "degenerate", "an integral over nothing is known: floor 0")
def floor_of_an_empty_integral():
    floor = limits.information_floor(fields.GaussianRandomField(0.2), torch.tensor([0.5]), torch.tensor([0.0]))
    assert float(floor.abs().max()) == 0.0
    return floor


@case("operators.limits", "constant", "constant inputs: the mean output is predicted, finitely")
def ridge_on_constant_inputs():
    fit = limits.ridge(torch.ones(5, 3), rand(5, 2), u_val=torch.ones(2, 3), s_val=rand(2, 2, seed=1))
    assert bool(torch.isfinite(fit.matrix).all()), "the fitted matrix is not a number"
    return fit.matrix


@case("operators.limits", "degenerate", "zero outputs: a floor of zeros")
def rank_floor_of_zeros():
    assert int(limits.rank_floor(torch.zeros(3, 4)).count_nonzero()) == 0


@case("operators.limits", "range", "the bound is infinite where it overflows")
def bound_that_overflows():
    assert limits.sensor_error_bound(1.0, 1e300, 1.0) == math.inf and limits.sensor_error_bound(0.0, 0.0, 1.0) == 0.0


@case("operators.limits", "range", "the bound is infinite where its last product overflows")
def bound_whose_product_overflows():
    value = limits.sensor_error_bound(1e300, 690.0, 1.0)
    assert value == math.inf
    return value


@case("operators.learning", "empty", "no data set is refused by name", refuses="parts")
def stacking_nothing():
    return learning.stack_data([])


@case("operators.learning", "degenerate", "all functions blown up: refused by name, not an empty data set", refuses="u")
def data_that_all_blow_up():
    return learning.dynamics_data(fields.linear_system(), fields.ChebyshevSpace(2, bound=1e6), 4, fields.sensors(3), points=4, limit=1e-6)


@case("operators.pde", "one of a kind", "three points, one step: finite")
def diffusion_on_three_points():
    s = pde.diffusion_reaction(torch.ones(1, 3), steps=1)
    assert bool(torch.isfinite(s).all())
    return s


@case("operators.pde", "degenerate", "a zero coefficient is refused", refuses="a has")
def darcy_with_a_zero_coefficient():
    return pde.darcy(torch.zeros(1, 5, 5))


@case("operators.pde", "degenerate", "no force, no flow: the zero solution")
def darcy_without_a_force():
    assert int(pde.darcy(torch.ones(1, 5, 5), 0.0).count_nonzero()) == 0


@case("operators.pde", "range", "the solution of a tiny coefficient is the solution scaled")
def darcy_at_1e_minus_200():
    a = torch.full((1, 5, 5), 1e-200, dtype=torch.float64)
    s = pde.darcy(a) * 1e-200
    assert float((s - pde.darcy(torch.ones_like(a))).abs().max()) < 1e-9, float(s.abs().max())
    return s


@case("operators.pde", "range", "the highest mode only: dealiased to zero, or decayed, never a NaN")
def burgers_of_the_highest_mode():
    u = pde.burgers(torch.tensor([[1.0, -1.0] * 8], dtype=torch.float64))
    assert float(u.abs().max()) < 1e-12
    return u


@case("operators.pde", "range", "a speed of 1e12 needs more steps than can be taken: refused by name, not left running", refuses="u")
def burgers_at_a_speed_of_1e12():
    return pde.burgers(torch.tensor([[1e12, -1e12] * 8], dtype=torch.float64))


@case("operators.pde", "constant", "no vorticity, no flow")
def navier_stokes_at_rest():
    assert int(pde.navier_stokes(torch.zeros(1, 8, 8)).count_nonzero()) == 0


@case("operators.deeponet", "constant", "principal components of constant outputs: the mean, and modes of size zero")
def components_of_constant_outputs():
    mean, modes, scale = deeponet.pod_basis(torch.full((4, 5), 2.0), 2)
    assert float((mean - 2).abs().max()) == 0 and float(modes.abs().max()) == 0
    return scale


@case("operators.deeponet", "degenerate", "two equal sensors are refused", refuses="sensors")
def network_with_two_equal_sensors():
    return deeponet.DeepONet(torch.tensor([0.0, 0.0]))


@case("operators.deeponet", "degenerate", "a refit to zero outputs from one function: finite weights")
def refit_to_zero_outputs():
    model = deeponet.DeepONet(2, (3,), (3,), 2)
    deeponet.refit_branch(model, learning.OperatorData(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 1), True))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@case("operators.nns2nos", "empty", "no resolution is refused", refuses="resolutions")
def no_resolution():
    return nns2nos.discretization_error(torch.nn.Identity(), [], torch.ones(1, 1, 8))


@case("operators.nns2nos", "degenerate", "a model that answers zero: a change of zero, or a refusal that names the target")
def discretization_of_zero_outputs():
    class Zero(torch.nn.Module):
        def forward(self, x):
            return 0 * x
    try:
        change = nns2nos.discretization_error(Zero(), [4, 8], torch.ones(1, 1, 8)).change
    except ValueError as error:
        assert "target" in str(error)
        return None
    assert bool(torch.isfinite(change).all()), f"change is {change.tolist()}"
    return change


# --- nn.neural_operators, nn.point_operators ---

@case("nn.neural_operators", "degenerate", "two equal grid points are refused", refuses="x")
def weights_of_two_equal_points():
    return neural_operators.quadrature_weights(torch.tensor([0.0, 0.5, 0.5, 1.0]))


@case("nn.neural_operators", "degenerate", "points on one line have no triangle: refused by name", refuses="x")
def triangles_of_collinear_points():
    return neural_operators.quadrature_weights(torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]), "delaunay")


@case("nn.neural_operators", "one of a kind", "one point of a circle has the whole circle")
def weights_of_one_point_of_a_circle():
    assert abs(float(neural_operators.quadrature_weights(torch.tensor([0.3]), "periodic")) - 1) < 1e-6


@case("nn.neural_operators", "range", "the highest mode alone survives the way up and down")
def resampling_the_highest_mode():
    u = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    back = neural_operators.resample(neural_operators.resample(u, 32), 8)
    assert float((back - u).abs().max()) < 1e-12
    return back


@case("nn.neural_operators", "one of a kind", "one point on any grid is a constant")
def resampling_one_point():
    assert neural_operators.resample(torch.tensor([2.0]), 5).tolist() == [2.0] * 5


@case("nn.neural_operators", "range", "a grid of exactly twice the modes: both ways of transforming agree")
def spectral_convolution_at_the_limit():
    x = rand(1, 1, 8, 8, dtype=torch.float32)
    one, two = (neural_operators.SpectralConv(1, 1, 4, transform=t)(x).detach() for t in ("matmul", "fft"))
    assert float((one - two).abs().max()) < 1e-5
    return one


@case("nn.point_operators", "degenerate", "weights that are all zero are refused", refuses="w")
def attention_with_zero_weights():
    return point_operators.QuadratureAttention(4, 2)(torch.ones(1, 3, 4), torch.zeros(3))


@case("nn.point_operators", "degenerate", "a ball without a neighbour is refused", refuses="radius")
def integral_over_an_empty_ball():
    return point_operators.KernelIntegral(1, 1, radius=0.01)(torch.ones(1, 2, 1), torch.tensor([0.0, 1.0]), torch.ones(2), torch.tensor([0.5]))


@case("nn.point_operators", "degenerate", "a mean over a ball whose only neighbour has weight zero: refused by name", refuses="w")
def average_over_a_weightless_ball():
    return point_operators.KernelIntegral(1, 1, radius=0.1, average=True)(torch.ones(1, 2, 1), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))


@case("nn.point_operators", "constant", "a constant function is normalised to zero")
def norm_of_a_constant():
    out = point_operators.FunctionNorm(2)(torch.full((1, 2, 5), 3.0)).detach()
    assert float(out.abs().max()) < 1e-3
    return out


@case("nn.point_operators", "constant", "a constant function with eps = 0: zero, or a refusal that names eps or f")
def norm_of_a_constant_without_eps():
    try:
        out = point_operators.FunctionNorm(2, eps=0.0)(torch.full((1, 2, 4), 3.0)).detach()
    except ValueError as error:
        assert "eps" in str(error) or "f " in str(error)
        return None
    assert not bool(torch.isnan(out).any()), "NaN for a constant channel"
    return out


# --- core ---

@case("core.rule", "nested", "2,000 parentheses are refused", refuses="rule")
def a_rule_of_two_thousand_parentheses():
    return rule.Rule("(" * 2000 + "ours > 0" + ")" * 2000)


@case("core.rule", "nested", "140 parentheses fit the length, and are understood or refused")
def a_rule_of_140_parentheses():
    try:
        parsed = rule.Rule("(" * 140 + "ours > 0" + ")" * 140)
    except rule.LedgerError as error:
        assert "rule" in str(error)
        return
    assert parsed.holds(ours=1.0)


@case("core.rule", "nested", "280 minus signs are nested too deep", refuses="nested")
def a_rule_of_minus_signs():
    return rule.Rule("ours > " + "-" * 280 + "1")


@case("core.rule", "range", "a sum beyond the range is refused", refuses="rule")
def a_rule_that_overflows():
    return rule.Rule("ours * 10 > 0").holds(ours=1e308) and rule.Rule("ours * 1e300 * 1e300 > 0").holds(ours=1.0)


@case("core.rule", "range", "subnormal values are compared exactly")
def a_rule_on_subnormal_numbers():
    assert rule.judge("ours > control", [5e-324], control=[0.0]).verdict == "holds"


@case("core.rule", "empty", "no seed is refused", refuses="ours")
def a_verdict_on_nothing():
    return rule.judge("ours > 0", [])


@case("core.ledger", "nested", "100,000 brackets are no ledger", refuses="JSON")
def a_ledger_of_brackets():
    return read_json("[" * 100_000)


@case("core.ledger", "range", "values at both ends of the range survive the file")
def a_ledger_at_the_edge_of_the_range():
    book = books.Ledger("demo.coin")
    book.claim("edge", "The range.", source="eq. 1", source_certainty="ours", rule="ours > 0", refuted_if="not positive")
    book.measure("edge", ours=[5e-324, 1.7e308], seeds=[0, 1])
    assert json.loads(book.to_json())["records"][0]["ours"] == [5e-324, 1.7e308]


@case("core.ledger", "range", "a spread beyond the range is refused", refuses="spread", error="LedgerError")
def a_spread_that_overflows():
    book = books.Ledger("demo.coin")
    book.claim("edge", "The range.", source="eq. 1", source_certainty="ours", rule="ours < 1e308", refuted_if="not small")
    book.measure("edge", ours=[-1.7e308, 1.7e308], seeds=[0, 1])
    return book.to_json()


@case("core.data", "empty", "no text has no duplicate; empty texts are duplicates of each other")
def duplicates_of_empty_texts():
    assert data.near_duplicates([]) == [] and data.near_duplicates(["", ""]) == [(0, 1, 1.0)]


@case("core.data", "ties", "a thousand equal texts share the side of the first path")
def a_thousand_equal_documents():
    sides = data.assign_splits({f"f{i:04}.py": "one two three four five six seven eight nine" for i in range(1000)})
    assert set(sides.values()) == {data.split_of("f0000.py")}


@case("core.data", "large", "a megabyte without a space, twice")
def duplicates_of_a_megabyte_word():
    assert data.near_duplicates(["a" * 1_000_000] * 2) == [(0, 1, 1.0)]


@case("core.checks", "range", "sides whose difference overflows are not equal", refuses="error", error="AssertionError")
def identity_that_overflows():
    try:
        checks.assert_identity(1.7e308, -1.7e308, 1e308, "a test")
    except AssertionError as error:
        raise ValueError(str(error)) from None


@case("core.checks", "range", "an integer beyond the range of floats is refused", refuses="value")
def a_number_of_four_hundred_digits():
    return checks.check_number(10**400, "value")


@case("core.checks", "degenerate", "a relative error against zero is refused", refuses="rhs")
def identity_relative_to_zero():
    return checks.assert_identity(0.0, 0.0, 1e-9, "a test", relative=True)


@case("core.bench", "constant", "equal times: an exponent of zero")
def exponent_of_constant_times():
    assert bench.fit_exponent([1, 2, 4], [1.0, 1.0, 1.0]).exponent == 0.0


@case("core.bench", "one of a kind", "one size is refused", refuses="sizes")
def exponent_of_one_size():
    return bench.fit_exponent([3, 3], [1.0, 2.0])


@case("core.bench", "range", "sizes and times over 600 orders of magnitude: the exponent")
def exponent_over_the_whole_range():
    assert abs(bench.fit_exponent([1e-300, 1.0, 1e300], [1e-300, 1.0, 1e300]).exponent - 1) < 1e-12


@case("core.bench", "one of a kind", "one value is its own interval, with coverage 0")
def interval_of_one_value():
    found = bench.median_interval([2.0])
    assert (found.low, found.median, found.high, found.coverage) == (2.0, 2.0, 2.0, 0.0)


@case("core.bench", "large", "the interval of 100,000 values, in time")
def interval_of_many_values():
    found = bench.median_interval(np.arange(100_000.0))
    assert found.low < found.median < found.high and found.coverage >= 0.949

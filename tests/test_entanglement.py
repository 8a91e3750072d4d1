"""Laws of entanglement profiles, their nulls, the fine-tuning experiment and its report; bad inputs."""
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from atomsnb.models.encoder import ModelNotFoundError
from atomsnb.nn import adapters
from atomsnb.nn.fine_tuning import Arm, AttentionStates, FineTuning, FineTuningConfig, attention_states, norm_matched, spectrum_matched, truncated
from atomsnb.nn.schmidt import attention_entropy, entanglement_profile, lora_profile, prime_sites
from atomsnb.nn.transformer import Transformer, TransformerConfig
from atomsnb.quantum import entanglement as E

FEW = settings(max_examples=25, deadline=None, derandomize=True)
LN2 = math.log(2)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(W, sites):
    """Entropies by one singular value decomposition per cut."""
    out, P = [], 1
    for site in sites[:-1]:
        P *= site
        s = torch.linalg.svdvals(W.reshape(P, -1)) ** 2
        p = s / s.sum()
        out.append(float(-torch.special.xlogy(p, p).sum()))
    return torch.tensor(out, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- profiles
@FEW
@given(m=st.integers(1, 24), n=st.integers(1, 24), seed=st.integers(0, 10**6))
def test_profile_is_the_entropy_of_every_unfolding(m, n, seed):
    W = gaussian(m, n, seed=seed)
    profile = entanglement_profile(W)
    assert profile.dims == sum(prime_sites((m, n)), ())
    assert torch.allclose(profile.entropy, literal(W, profile.dims), atol=1e-11)  # float64, Gram against SVD
    assert bool((profile.entropy <= profile.ceiling + 1e-12).all()) and bool((profile.entropy >= 0).all())
    steps = profile.entropy.diff().abs()
    assert bool((steps <= torch.tensor([math.log(s) for s in profile.dims[1:-1]], dtype=torch.float64) + 1e-11).all())  # subadditivity
    assert all(abs(float(p.sum()) - 1) < 1e-12 and bool((p.diff(dim=-1) <= 1e-15).all()) for p in profile.spectrum)


@FEW
@given(d_out=st.integers(1, 40), d_in=st.integers(1, 40), r=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_thin_path_is_the_dense_path(d_out, d_in, r, seed):
    A, B = gaussian(2, r, d_in, seed=seed), gaussian(2, d_out, r, seed=seed + 1)
    fast, dense = lora_profile(A, B), entanglement_profile(B @ A)
    assert fast.dims == dense.dims and fast.center == dense.center and fast.bonds == dense.bonds
    assert torch.allclose(fast.entropy, dense.entropy, atol=1e-9)  # the product of badly scaled factors loses a few digits
    for p, q in zip(fast.spectrum, dense.spectrum):
        k = min(p.shape[-1], q.shape[-1])
        assert torch.allclose(p[..., :k], q[..., :k], atol=1e-11) and float(p[..., k:].abs().sum() + q[..., k:].abs().sum()) < 1e-11


@FEW
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-30, 1e30))
def test_scale_and_rotations_leave_what_they_must(seed, scale):
    W = gaussian(16, 8, seed=seed)
    before = entanglement_profile(W)
    assert torch.allclose(entanglement_profile(scale * W).entropy, before.entropy, atol=1e-10)
    Q, P = torch.linalg.qr(gaussian(16, 16, seed=seed + 1)).Q, torch.linalg.qr(gaussian(8, 8, seed=seed + 2)).Q
    assert abs(float(entanglement_profile(Q @ W @ P).central - before.central)) < 1e-11
    assert abs(float(entanglement_profile(W[torch.randperm(16, generator=torch.Generator().manual_seed(seed))]).central - before.central)) < 1e-12


def test_known_states():
    hadamard = torch.tensor([[1.0]])
    for _ in range(4):
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    ghz = torch.zeros(16, 16)
    ghz[0, 0] = ghz[-1, -1] = 1
    tent = torch.tensor([1, 2, 3, 4, 3, 2, 1], dtype=torch.float64) * LN2
    for matrix, known in ((torch.eye(16), tent), (hadamard, tent), (ghz, LN2 + 0 * tent), (torch.ones(16, 16), 0 * tent), (torch.ones(16, 16, dtype=torch.int64), 0 * tent)):
        assert torch.allclose(entanglement_profile(matrix).entropy, known, atol=1e-12)
    assert torch.allclose(entanglement_profile(torch.eye(16), base=2).entropy, tent / LN2, atol=1e-12)
    assert float(entanglement_profile(hadamard, order="interleaved").entropy[1::2].max()) < 1e-12  # one pair of digits per factor
    W = gaussian(8, 8)
    assert torch.allclose(entanglement_profile(W, dims=(4, 16)).entropy, literal(W, (4, 16)), atol=1e-12) and entanglement_profile(W, dims=(4, 16)).center is None
    assert entanglement_profile(W, dims=(4, 2, 8)).center == 2


def test_half_precision_input_is_computed_in_double():
    W = gaussian(32, 32).bfloat16()
    assert entanglement_profile(W).entropy.dtype == torch.float64
    assert torch.allclose(entanglement_profile(W).entropy, entanglement_profile(W.double()).entropy, atol=1e-12)
    assert torch.allclose(entanglement_profile(W.float().numpy()).entropy, entanglement_profile(W.double()).entropy, atol=1e-12)


def test_quimb_agrees():
    """Entropies of a matrix product state of the same vector (quimb counts in bits)."""
    tensor = pytest.importorskip("quimb.tensor")
    W = gaussian(8, 4)
    state = tensor.MatrixProductState.from_dense((W / W.norm()).reshape(-1).numpy(), dims=[2] * 5)
    ours = entanglement_profile(W, base=2)
    assert np.allclose([state.entropy(k) for k in ours.bonds], ours.entropy, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------- nulls
@pytest.mark.parametrize("m,n,known", [(4, 8, 1.1533), (64, 64, 3.6586), (64, 1024, 4.1276)])
def test_page_formula(m, n, known):
    exact = sum(1 / k for k in range(n + 1, m * n + 1)) - (m - 1) / (2 * n)
    assert abs(E.page_entropy(m, n) - exact) < 1e-10 and E.page_entropy(n, m) == E.page_entropy(m, n)
    assert abs(exact - known) < 6e-4
    assert abs(E.page_entropy(m, n) - E.marchenko_pastur_entropy(m, n)) < 1 / m**1.5


def test_chain_of_two_is_marchenko_pastur_and_squares_give_harmonic_numbers():
    assert abs(E.chain_entropy(40, 100) - E.marchenko_pastur_entropy(40, 100)) < 1e-13
    for M in range(1, 6):
        assert abs(E.chain_entropy(*[50] * (M + 1)) - (math.log(50) - sum(1 / j for j in range(2, M + 2)))) < 1e-12
    assert E.chain_entropy(1, 7, 9) == 0.0
    assert abs(E.chain_entropy(16, 500, 700) - (math.log(16) - 8 / 500 - 8 / 700 + 256 / (6 * 500 * 700))) < 1e-12


@FEW
@given(a=st.integers(3, 12), b=st.integers(3, 12), k=st.integers(0, 12))
def test_null_profiles_respect_rank_and_symmetry(a, b, k):
    r = 2 ** min(k, a, b)
    profile = E.lora_null_profile(2**a, 2**b, r)
    assert len(profile) == a + b - 1 and profile[a - 1] <= math.log(r) + 1e-12
    assert np.allclose(profile, E.lora_null_profile(2**b, 2**a, r)[::-1], atol=1e-12)
    assert (profile <= np.minimum(np.arange(1, a + b), np.arange(a + b - 1, 0, -1)) * LN2 + 1e-12).all()
    assert (profile <= E.full_null_profile(2**a, 2**b) + 1e-12).all()


@pytest.mark.parametrize("d_out,d_in,r", [(128, 128, 8), (64, 128, 8), (96, 48, 12)])
def test_formula_is_what_random_factors_show(d_out, d_in, r):
    measured = lora_profile(gaussian(40, r, d_in), gaussian(40, d_out, r, seed=1)).entropy.mean(0).numpy()
    assert np.abs(measured - E.lora_null_profile(d_out, d_in, r)).max() < 0.04  # finite size, real entries
    G1, G2, B = gaussian(40, r, 8, 4, seed=2), gaussian(40, 4, d_in // 8, seed=3), gaussian(40, d_out, r, seed=4)
    measured = lora_profile(torch.einsum("srix,sxj->srij", G1, G2).reshape(40, r, d_in), B).entropy.mean(0).numpy()
    assert np.abs(measured - E.mps_null_profile(d_out, d_in, r, 4, 8, d_in // 8)).max() < 0.12  # chi = 4 is far from the limit
    full = entanglement_profile(gaussian(20, d_out, d_in, seed=5)).entropy.mean(0).numpy()
    assert np.abs(full - E.full_null_profile(d_out, d_in)).max() < 0.02


def test_the_mps_formula_counts_the_digits_that_each_cut_moves():
    """With equal small factors every size in the chain matters: a size that lost the factor P is off by 0.06 to 0.6 nats."""
    d_out = d1 = d2 = r = chi = 16
    G1, G2, B = gaussian(60, r, d1, chi, seed=2), gaussian(60, chi, d2, seed=3), gaussian(60, d_out, r, seed=4)
    measured = lora_profile(torch.einsum("srix,sxj->srij", G1, G2).reshape(60, r, d1 * d2), B).entropy.mean(0).numpy()
    assert np.abs(measured - E.mps_null_profile(d_out, d1 * d2, r, chi, d1, d2)).max() < 0.05  # finite size, real entries


def test_a_distance_between_states_has_no_direction():
    w = E.random_attention(6, 1.0, samples=2, generator=torch.Generator().manual_seed(0)).float().reshape(1, 1, 1, 2, 6, 6)
    small, large = AttentionStates(w, gaussian(1, 1, 1, 6, 4).float()), AttentionStates(w, 3 * gaussian(1, 1, 1, 6, 4, seed=1).float())
    there, back = E.state_distances(small, large), E.state_distances(large, small)
    x, y = (s.outputs.double().flatten() for s in (small, large))
    assert abs(float(there["output"][0]) - float((x - y).norm() / ((x.norm() + y.norm()) / 2))) < 1e-6
    assert all(np.allclose(there[name], back[name]) for name in ("entropy", "output", "cka"))


def test_the_valley_is_where_rank_puts_it():
    for r in (4, 16, 64):
        profile = E.lora_null_profile(4096, 4096, r)
        assert abs(int(profile[:12].argmax()) + 1 - (12 + math.log2(r)) / 2) <= 0.5
        assert abs(float(E.valley_depth(profile, 12)) - ((12 - math.log2(r)) / 2 * LN2 - 0.5)) < 0.02  # terms of order r / d
    assert float(E.valley_depth(E.full_null_profile(256, 256), 8)) < 0
    A, B = gaussian(3, 4, 64), gaussian(3, 64, 4)
    assert np.allclose(E.valley_depth(lora_profile(A, B)), E.valley_depth(lora_profile(A, B).entropy.numpy(), 6))


def test_marchenko_pastur_density_is_a_density():
    for ratio in (0.1, 0.5, 1.0):
        low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
        u = (np.arange(200_000) + 0.5) / 200_000
        x = low + (high - low) * (1 - np.cos(math.pi * u)) / 2  # removes the root singularities
        weight = (high - low) * math.pi / 2 * np.sin(math.pi * u) / 200_000
        density = E.marchenko_pastur_pdf(x, ratio)
        assert abs((density * weight).sum() - 1) < 1e-4 and abs((density * x * weight).sum() - 1) < 1e-4
    assert E.marchenko_pastur_pdf(np.array([-1.0, 0.0, 9.0]), 0.5).tolist() == [0.0, 0.0, 0.0]


# ---------------------------------------------------------------------------------------------------------- attention
def test_attention_entropy_of_known_matrices():
    assert abs(float(attention_entropy(torch.eye(8))) - math.log(8)) < 1e-12
    assert float(attention_entropy(torch.full((3, 8, 8), 1 / 8)).abs().max()) < 1e-12
    with pytest.warns(RuntimeWarning, match="sums differ from 1"):
        attention_entropy(torch.full((8, 8), 0.5))


def test_null_of_full_attention_and_of_the_mask():
    S = attention_entropy(E.random_attention(512, 0.5, causal=False, samples=2, generator=torch.Generator().manual_seed(0))).mean()
    assert abs(float(S) - E.attention_null_entropy(512, 0.5)) < 0.02  # finite size
    assert E.attention_null_entropy(100, 0.0) == 0.0
    for n, known in ((32, 1.367), (64, 1.527), (128, 1.666)):
        assert abs(E.attention_null_entropy(n, 0.0, causal=True) - known) < 1e-3  # three digits were given
    low = E.random_attention(64, 1.0, rank=4, samples=2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(low.sum(-1), torch.ones(2, 64, dtype=torch.float64)) and float(low.triu(1).abs().max()) == 0


def test_leading_block_of_causal_attention_is_attention_of_the_prefix():
    model = Transformer(TransformerConfig(vocab_size=20, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, context=32), seed=1)
    ids = torch.randint(0, 20, (1, 32), generator=torch.Generator().manual_seed(0))
    whole, prefix = attention_states(model, ids).weights, attention_states(model, ids[:, :12]).weights
    assert torch.allclose(E.attention_scaling(whole, [12])[..., 0], attention_entropy(prefix), atol=1e-5)  # float32 forward
    assert torch.allclose(E.attention_scaling(whole, [2])[..., 0], attention_entropy(whole[..., :2, :2].double()), atol=1e-6)  # the smallest that is accepted; float32 rows
    with pytest.raises(ValueError, match="above the diagonal"):
        E.attention_scaling(torch.full((8, 8), 1 / 8), [4])


def test_spread_of_logits_is_recovered():
    w = E.random_attention(256, 0.7, samples=2, generator=torch.Generator().manual_seed(0))
    assert abs(float(E.logit_spread(w).mean()) - 0.7) < 0.02  # 25,000 logits


@pytest.mark.parametrize("law,y", [("constant", lambda x: 2 + 0 * x), ("log", lambda x: 0.3 + 0.6 * np.log(x)), ("loglog", lambda x: 0.2 + 2 * np.log(np.log(x))), ("power", lambda x: 0.5 * x**0.5)])
def test_the_law_that_was_planted_is_found(law, y):
    x = np.array([16, 23, 32, 45, 64, 91, 128, 181, 256])
    fits = E.scaling_fits(x.tolist(), y(x) * (1 + 0.005 * gaussian(9).numpy()))
    assert min(fits.values(), key=lambda f: f.aic).law == law
    if law == "log":
        low, high = fits["log"].interval
        assert low < 0.6 < high and high - low < 0.1


# ---------------------------------------------------------------------------------------------------------- experiment
SMALL = FineTuningConfig(seeds=2, window=16, batch=2, steps=8, warmup=1, records=(2, 8), rank=4, chi=2, heldout_windows=4, attention_windows=2, attention_length=16)


def toy(cfg=SMALL, model=None):
    g = torch.Generator().manual_seed(0)
    stream = (torch.rand(4000, generator=g) < 0.8).long().cumsum(0) % 16
    if model is None:
        model = Transformer(TransformerConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=48, context=32, dropout=0.3))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(8.0 if p.ndim == 2 else 1.0)
    return FineTuning(model, {"train": stream[:3000], "validation": stream[3000:3400], "heldout": stream[3400:]}, cfg)


@pytest.mark.parametrize("method", adapters.METHODS)
def test_every_arm_learns_and_leaves_the_model_as_it_was(method):
    trial = toy()
    before, weights = trial.score(), {k: v.clone() for k, v in trial.model.state_dict().items()}
    arm = trial.run(method, 0.02, progress=False)
    assert (arm.losses[-1] < before).all() and arm.losses.shape == (2, 2) and arm.steps == (2, 8)
    assert all(torch.equal(v, weights[k]) for k, v in trial.model.state_dict().items()) and not adapters.adapters_of(trial.model)
    with trial.applied(arm):
        assert np.allclose(trial.score(), arm.losses[-1], atol=1e-5)  # float32
    assert np.array_equal(trial.run(method, 0.02, progress=False).losses, arm.losses)  # a run is a function of its arguments


def test_copies_equal_runs_of_their_own():
    both, alone = toy().run("mps", 0.02, progress=False), toy(SMALL.replace(seeds=1)).run("mps", 0.02, progress=False)
    assert np.allclose(both.losses[:, 0], alone.losses[:, 0], atol=1e-5)  # float32 products of another batch shape


def test_tuning_scores_the_validation_side_seed_by_seed():
    trial = toy()
    found = trial.tune("lora", (0.001, 0.02))
    assert {lr: v.shape for lr, v in found.items()} == {0.001: (2,), 0.02: (2,)}
    with trial.applied(trial.run("lora", 0.02, progress=False)):
        assert np.allclose(trial.score("validation"), found[0.02], atol=1e-5)  # float32
    assert found[0.02].mean() < found[0.001].mean()


def test_streams_end_every_document_and_keep_the_sides_apart(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": side, "name": side, "split": side}) for side in ("train", "fit", "validation", "heldout", "prompts")))
    tokenizer = E.base_model("byte-lm-tiny")[1]
    streams = E.token_streams(E.fine_tuning_text(str(path)), tokenizer)
    assert bytes(t for t in streams["train"].tolist() if t < 256) == b"trainfit" and streams["train"].tolist().count(tokenizer.end_id) == 2
    assert streams["heldout"].tolist() == [*b"heldout", tokenizer.end_id] and set(streams) == {"train", "validation", "heldout"}


def test_the_rates_of_the_configuration_are_the_winners_of_the_stored_search():
    found = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "entanglement_rates.json").read_text())
    cfg = E.EntanglementConfig.preset("cpu")
    assert found["rates"] == {"full": cfg.lr_full, "lora": cfg.lr_lora, "mps": cfg.lr_mps, "equal": cfg.lr_equal} and found["steps"] == cfg.steps
    for arm, losses in found["validation"].items():
        means = {float(lr): np.mean(v) for lr, v in losses.items()}
        assert len(means) >= 3 and min(means, key=means.get) == found["rates"][arm] and min(means) < found["rates"][arm] < max(means)


def test_the_loss_is_the_sum_of_the_means_of_the_copies():
    trial = toy()
    batch = trial.streams["train"].unfold(0, 17, 1)[[0, 50, 100, 150]].view(2, 2, 17)
    alone = [float(trial.loss(trial.model, batch[k : k + 1], 0)) for k in range(2)]
    assert abs(float(trial.loss(trial.model, batch, 0)) - sum(alone)) < 1e-5  # float32


def test_a_failed_run_leaves_no_adapter_behind():
    trial = toy()
    with pytest.raises(ValueError, match="lr"):
        trial.run("lora", 0.0, progress=False)
    assert not adapters.adapters_of(trial.model)


def test_untrained_partners_are_what_they_claim():
    deltas, g = {"q": gaussian(2, 16, 32), "v": gaussian(2, 8, 32, seed=1)}, torch.Generator().manual_seed(0)
    for name, (A, B) in norm_matched(deltas, 3, g).items():
        assert torch.allclose(torch.linalg.matrix_norm(B @ A), torch.linalg.matrix_norm(deltas[name])) and A.shape[1] == 3
    A, B = truncated(deltas, 3)["q"]
    s = torch.linalg.svdvals(deltas["q"])
    assert torch.allclose((deltas["q"] - B @ A).square().sum((1, 2)), (s[:, 3:] ** 2).sum(1))  # Eckart and Young
    profile = spectrum_matched(deltas["q"], 16, 5, g)
    assert profile.entropy.shape == (5, 2, 8) and torch.allclose(profile.central, entanglement_profile(deltas["q"]).central.expand(5, 2), atol=1e-10)
    null = E.depth_null(deltas, 3, 50, g)
    assert null.shape == (50, 2) and abs(null.mean() - np.mean([E.valley_depth(E.lora_null_profile(16, 32, 3), 4), E.valley_depth(E.lora_null_profile(8, 32, 3), 3)])) < 0.1


def test_the_experiment_runs_on_a_transformers_model():
    """The path of scale full: a random two-layer Llama with grouped queries in place of Llama-3.2-1B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    trial = toy(model=LlamaForCausalLM._from_config(config, attn_implementation="eager"))
    arms = {m: trial.run(m, 0.05, progress=False) for m in ("lora", "full")}
    assert {d.shape for d in arms["lora"].deltas().values()} == {(2, 32, 32), (2, 16, 32)}
    states = {name: trial.attention(arm) for name, arm in arms.items()} | {"base": trial.attention(), "random": trial.attention(trial.fixed("random", norm_matched(arms["lora"].deltas(), 4, torch.Generator().manual_seed(0))))}
    report = E.no_hair_report(states)
    for part in (report.pair, report.seeds, report.control, report.base):
        assert all(v.shape == (2,) and np.isfinite(v).all() and (v > -1e-9).all() for v in part.values())
    assert E.arm_depth(arms["lora"]).shape == (4, 2)


def test_report_knows_the_same_from_the_different():
    w = E.random_attention(10, 1.0, samples=4, generator=torch.Generator().manual_seed(0)).float().reshape(1, 2, 1, 2, 10, 10)
    o = gaussian(1, 2, 1, 10, 4).float()
    same, turned = AttentionStates(w, o), AttentionStates(w, o @ torch.linalg.qr(gaussian(4, 4, seed=3)).Q.float())
    report = E.no_hair_report({"lora": same, "full": same, "random": turned, "base": AttentionStates(w[:, :1], o[:, :1])})
    assert all(float(v.max()) < 1e-6 for v in report.pair.values()) and float(report.seeds["kl"].min()) > 0.01
    assert float(report.control["output"].min()) > 0.1 and float(report.control["cka"].max()) < 1e-5  # CKA does not see rotations
    assert float(report.base["kl"][0]) < 1e-9 < float(report.base["kl"][1])
    assert all(np.allclose(report.crossed[m], report.seeds[m]) for m in E.METRICS)  # two equal arms: across arms and seeds is across seeds
    model = Transformer(TransformerConfig(vocab_size=16, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, context=16))
    with pytest.raises(ValueError, match="batch is needed"):
        E.no_hair_report({"lora": same, "full": same, "random": model, "base": model})
    with pytest.raises(ValueError, match="models lacks"):
        E.no_hair_report({"lora": same})
    one = AttentionStates(w[:, :1], o[:, :1])
    with pytest.raises(ValueError, match="two copies"):
        E.no_hair_report({"lora": one, "full": one, "random": one, "base": one})


def test_the_training_step_alone_resumes_and_writes_files_that_peft_reads(tmp_path):
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    class Letters:
        end_id = 95

        def encode(self, text):
            return [min(max(ord(c) - 32, 0), 94) for c in text]

    def base():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)).eval()

    text = tmp_path / "text.jsonl"
    lines = [{"text": f"document {k}: " + "the quick brown fox " * 5} for k in range(40)]
    text.write_text("\n".join(map(json.dumps, lines)) + '\n{"messages": [{"role": "user", "content": "hello"}]}\n')
    cfg = E.EntanglementConfig(**{f: getattr(SMALL, f) for f in ("seeds", "window", "batch", "steps", "warmup", "records", "rank", "heldout_windows", "attention_windows", "attention_length")}, alpha=8.0, text=str(text))
    model = base()
    history = E.train(cfg, out=tmp_path / "run", model=model, tokenizer=Letters(), progress=False)
    assert history.completed == 8 and not adapters.adapters_of(model)
    assert E.train(cfg, out=tmp_path / "run", model=base(), tokenizer=Letters(), progress=False).completed == 8  # taken up from the checkpoint
    state = load_file(tmp_path / "run/seed1/adapter_model.safetensors")
    ids = torch.randint(0, 95, (2, 16), generator=torch.Generator().manual_seed(0))
    theirs = PeftModel.from_pretrained(base(), str(tmp_path / "run/seed1")).eval()
    ours = base()
    adapters.inject_adapters(ours, r=4, alpha=8.0)
    adapters.load_peft_state_dict(ours, state)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, atol=1e-5) and not torch.allclose(theirs(ids).logits, base()(ids).logits, atol=1e-4)


def test_reference_text_has_disjoint_sides():
    data = E.python_reference()
    sides = [set(data.splits[s]) for s in data.splits]
    assert sum(map(len, sides)) == len(set().union(*sides)) == len(data) >= 50 and data.texts("heldout")


def test_lines_of_a_file_keep_the_split_they_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"row {k}", "name": f"n{k}", "split": "heldout" if k % 2 else "train"}) for k in range(6)))
    data = E.fine_tuning_text(str(path))
    assert set(data.splits["heldout"]) == {"n1", "n3", "n5"} and set(data.splits["train"]) == {"n0", "n2", "n4"}
    with pytest.raises(ValueError, match="jsonl"):
        E.fine_tuning_text("nowhere.jsonl")
    with pytest.raises(ValueError, match="jsonl"):
        E.fine_tuning_text("tulu3")


@pytest.mark.parametrize("scale", ["cpu", "gpu", "full"])
def test_presets_are_valid(scale):
    """And at every scale each arm has its own rate: searched, or (cpu) the winner of a stored search."""
    cfg = E.EntanglementConfig.preset(scale)
    assert cfg.records[-1] == cfg.steps and cfg.seeds >= 3 and (scale == "cpu" or len(cfg.lr_grid) >= 3)


def test_everything_promised_is_there():
    names = ("entanglement_profile EntanglementProfile lora_profile attention_entropy page_entropy marchenko_pastur_pdf marchenko_pastur_entropy lora_null_profile mps_null_profile attention_null_entropy prime_sites "
             "LoRALinear MPSLinear inject_adapters delta_weights merge valley_depth no_hair_report EntanglementConfig").split()
    assert not [n for n in names if not hasattr(E, n)] and set(names) <= set(E.__all__)


# ---------------------------------------------------------------------------------------------------------- bad input
W, A4, B4 = gaussian(4, 4), gaussian(2, 4), gaussian(4, 2)
BAD = {
    "zero": (ValueError, lambda: entanglement_profile(torch.zeros(4, 4)), "zero matrix"),
    "nan": (ValueError, lambda: entanglement_profile(torch.full((4, 4), math.nan)), "W"),
    "one axis": (ValueError, lambda: entanglement_profile(np.ones(4)), "W"),
    "complex": (TypeError, lambda: entanglement_profile(np.ones((4, 4), dtype=complex)), "W"),
    "bool": (TypeError, lambda: entanglement_profile(np.ones((4, 4), dtype=bool)), "W"),
    "empty": (ValueError, lambda: entanglement_profile(np.ones((0, 4))), "W"),
    "dims": (ValueError, lambda: entanglement_profile(W, dims=(2, 3, 2)), "dims"),
    "dims zero": (ValueError, lambda: entanglement_profile(W, dims=(0, 16)), "dims"),
    "dims order": (ValueError, lambda: entanglement_profile(W, dims=(4, 4), order="interleaved"), "dims"),
    "order": (ValueError, lambda: entanglement_profile(W, order="columns"), "order"),
    "base": (ValueError, lambda: entanglement_profile(W, base=1.0), "base"),
    "shape": (ValueError, lambda: prime_sites((0, 4)), "shape"),
    "shape length": (ValueError, lambda: prime_sites((4, 4, 4)), "shape"),
    "factors": (ValueError, lambda: lora_profile(gaussian(3, 4), B4), "A has shape"),
    "factors batch": (ValueError, lambda: lora_profile(gaussian(5, 2, 4), gaussian(6, 4, 2)), "A has shape"),
    "factor zero": (ValueError, lambda: lora_profile(A4, torch.zeros(4, 2)), "zero matrix"),
    "factor nan": (ValueError, lambda: lora_profile(A4, torch.full((4, 2), math.inf)), "B"),
    "attention": (ValueError, lambda: attention_entropy(torch.ones(3, 4)), "attn"),
    "attention zero": (ValueError, lambda: attention_entropy(torch.zeros(4, 4)), "zero"),
    "page": (ValueError, lambda: E.page_entropy(0, 4), "m"),
    "ratio": (ValueError, lambda: E.marchenko_pastur_pdf(1.0, 1.5), "ratio"),
    "chain": (ValueError, lambda: E.chain_entropy(5), "sizes"),
    "chain zero": (ValueError, lambda: E.chain_entropy(5, 0), "sizes"),
    "null rank": (ValueError, lambda: E.lora_null_profile(8, 16, 9), "r is 9"),
    "null rank 0": (ValueError, lambda: E.lora_null_profile(8, 16, 0), "r is 0"),
    "null chi": (ValueError, lambda: E.mps_null_profile(8, 16, 2, 0, 4, 4), "chi"),
    "null d1": (ValueError, lambda: E.mps_null_profile(8, 16, 2, 2, 4, 2), "d1"),
    "null cut": (ValueError, lambda: E.mps_null_profile(8, 12, 2, 2, 3, 4), "d1"),
    "valley": (ValueError, lambda: E.valley_depth(np.ones(7)), "center"),
    "valley end": (ValueError, lambda: E.valley_depth(np.ones(7), 7), "center"),
    "tokens": (ValueError, lambda: E.attention_null_entropy(0, 1.0), "n"),
    "spread": (ValueError, lambda: E.attention_null_entropy(8, -1.0), "s"),
    "sizes": (ValueError, lambda: E.attention_scaling(torch.eye(4), [5]), "sizes"),
    "fit": (ValueError, lambda: E.scaling_fits([4, 8, 16], [1.0, 2.0, 3.0]), "sizes"),
    "fit negative": (ValueError, lambda: E.scaling_fits([4, 8, 16, 32, 64], [1.0, 2.0, 3.0, 4.0, -1.0]), "sizes"),
    "records": (ValueError, lambda: E.EntanglementConfig(records=(1, 2)), "records"),
    "records 0": (ValueError, lambda: E.EntanglementConfig(records=(0, 50)), "records"),
    "lr": (ValueError, lambda: E.EntanglementConfig(lr_full=0.0), "lr_full"),
    "grid": (ValueError, lambda: E.EntanglementConfig(lr_grid=(0.1, -1.0)), "lr_grid"),
    "targets": (ValueError, lambda: E.EntanglementConfig(targets=()), "targets"),
    "unknown": (ValueError, lambda: E.EntanglementConfig.preset("cpu", rnak=3), "rank"),
    "device": (ValueError, lambda: entanglement_profile(W, device="abacus"), "device"),
    "dims none": (TypeError, lambda: entanglement_profile(W, dims=4), "dims"),
    "shape none": (TypeError, lambda: prime_sites(4), "shape"),
    "density nan": (ValueError, lambda: E.marchenko_pastur_pdf(math.nan, 0.5), "x holds NaN"),
    "density text": (TypeError, lambda: E.marchenko_pastur_pdf("one", 0.5), "x is"),
    "full null": (ValueError, lambda: E.full_null_profile(8, 1), "d_in"),
    "valley number": (ValueError, lambda: E.valley_depth(np.array(1.0), 3), "profile"),
    "valley nan": (ValueError, lambda: E.valley_depth(np.full(7, np.nan), 3), "profile"),
    "rank without mask": (ValueError, lambda: E.attention_null_entropy(8, 1.0, rank=2), "rank"),
    "no sizes": (TypeError, lambda: E.attention_scaling(torch.eye(4), []), "sizes"),
    "not causal": (ValueError, lambda: E.attention_scaling(torch.full((4, 4), 0.25), [4]), "diagonal"),
    "fit nan": (ValueError, lambda: E.scaling_fits([4, 8, 16, 32, 64], [1.0, 2.0, 3.0, 4.0, math.nan]), "entropy"),
    "no deltas": (TypeError, lambda: E.depth_null({}, 2, 3, torch.Generator()), "deltas"),
    "deltas rank": (ValueError, lambda: norm_matched({"q": gaussian(2, 4, 8)}, 5, torch.Generator()), "r is 5"),
    "cut rank": (ValueError, lambda: truncated({"q": gaussian(2, 4, 8)}, 0), "r is 0"),
    "null samples": (ValueError, lambda: E.depth_null({"q": gaussian(2, 4, 8)}, 2, 0, torch.Generator()), "samples"),
    "arm": (TypeError, lambda: E.arm_depth({}), "arm"),
    "record": (ValueError, lambda: Arm("x", 1, 0.1, (1,), np.zeros((1, 2)), ({"q": (gaussian(2, 4, 4),)},)).deltas(1), "record"),
    "states": (TypeError, lambda: E.state_distances(None, None), "a is a"),
    "report": (TypeError, lambda: E.no_hair_report([]), "models"),
    "report pair": (TypeError, lambda: E.no_hair_report({}, pair="lora"), "pair"),
    "text": (TypeError, lambda: E.fine_tuning_text(None), "name"),
    "data": (TypeError, lambda: E.token_streams("text", None), "data"),
    "tokenizer": (TypeError, lambda: E.token_streams(E.python_reference(), "bytes"), "tokenizer"),
    "empty grid": (ValueError, lambda: toy().tune("lora", []), "grid"),
    "model": (TypeError, lambda: FineTuning("llama", {}, SMALL), "model"),
    "streams": (ValueError, lambda: FineTuning(torch.nn.Linear(2, 2), {"train": torch.arange(99)}, SMALL), "streams"),
    "no o_proj": (ValueError, lambda: attention_states(torch.nn.Linear(2, 2), torch.zeros(1, 4, dtype=torch.int64)), "o_proj"),
    "method": (ValueError, lambda: toy().run("dora", 0.1, progress=False), "method"),
    "side": (ValueError, lambda: toy().windows("test", 1, 8), "side"),
    "window": (ValueError, lambda: toy().windows("heldout", 1, 10**6), "side"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    kind, call, word = BAD[case]
    with pytest.raises(kind, match=word):
        call()


def test_an_arm_gives_matrices_and_profiles_from_its_factors():
    A, B = gaussian(2, 3, 16), gaussian(2, 8, 3)
    arm = Arm("x", 1, 0.1, (1,), np.zeros((1, 2)), ({"thin": (A, B), "free": (B @ A,)},))
    assert torch.equal(arm.deltas()["thin"], B @ A)
    profiles = arm.profiles()
    assert torch.allclose(profiles["thin"].entropy, profiles["free"].entropy, atol=1e-10)


def test_the_base_model_is_a_shipped_one_or_a_folder_of_transformers(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    model, tokenizer = E.base_model("byte-lm-tiny")
    assert isinstance(model, Transformer) and next(model.parameters()).dtype == torch.float32 and tokenizer.encode("ab") == [97, 98]
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)).save_pretrained(tmp_path)
    shutil.copy(Path(E.__file__).parents[1] / "models" / "weights" / "code-bpe" / "tokenizer.json", tmp_path)
    model, tokenizer = E.base_model(str(tmp_path))
    states = attention_states(model, torch.tensor([tokenizer.encode("a line of text")]))
    assert states.weights.shape[:4] == (1, 1, 1, 2)
    (tmp_path / "tokenizer.json").unlink()
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="without a tokenizer"):
        E.base_model(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        E.base_model("nobody/no-such-model")


@pytest.mark.parametrize("name, column", [("constant", None), ("log", np.log), ("loglog", lambda x: np.log(np.log(x)))])
def test_a_scaling_law_is_a_linear_regression_and_its_criterion_the_corrected_one(name, column):
    """The laws that are linear in their parameters against numpy's least squares and the textbook's formulas; the interval against scipy's regression."""
    from scipy.stats import linregress
    from scipy.stats import t as student
    x = np.array([8, 16, 32, 64, 128, 256, 512], dtype=float)
    y = 1.3 + 0.4 * np.log(x) + 0.02 * np.cos(x)
    design = np.ones((len(x), 1)) if column is None else np.stack([np.ones_like(x), column(x)], 1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    rss, k, n = float(((design @ solution - y) ** 2).sum()), design.shape[1] + 1, len(x)
    fit = E.scaling_fits(x.astype(int).tolist(), y)[name]
    assert np.allclose(fit.parameters, solution, rtol=1e-6)
    assert fit.aic == pytest.approx(n * math.log(rss / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1), abs=1e-6)
    if column is None:
        assert fit.interval is None
    else:
        line = linregress(column(x), y)
        half = student.ppf(0.975, n - 2) * line.stderr
        assert fit.interval == pytest.approx((line.slope - half, line.slope + half), rel=1e-5)

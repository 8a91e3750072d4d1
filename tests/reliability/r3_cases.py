"""The calls that R3 spoils: one right call for each public function, with the kind of each argument."""
import torch
from r3_bad_inputs import Case

from atomsnb.core.batches import TensorBatches
from atomsnb.core.bench import Ceilings
from atomsnb.core.ledger import Ledger
from atomsnb.core.plots import figure
from atomsnb.representation.atoms import AtomicInnerProduct, ThresholdSAE


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    """Fixed normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae_arguments() -> dict:
    """A small call of the threshold autoencoder's loss."""
    return {"x": rand(5, 4), "w_enc": rand(6, 4, seed=1), "b_enc": rand(6, seed=2), "theta": rand(6, seed=3).abs(), "w_dec": rand(6, 4, seed=4),
            "b_dec": rand(4, seed=5), "bandwidth": 0.1, "l0_coef": 0.01}


def product():
    """A fitted metric on 4 coordinates."""
    return AtomicInnerProduct.fit(rand(40, 4, seed=9))


def coder():
    """A small threshold autoencoder."""
    return ThresholdSAE(4, 6)


def axes():
    """An empty figure's axes."""
    return figure(alt="an empty figure")[1]


def book() -> Ledger:
    """A ledger with one claim."""
    ledger = Ledger("demo.coin")
    ledger.claim("fair", "Heads, half of the time", source="eq. 1", source_certainty="ours", rule="ours > 0.4", refuted_if="fewer")
    return ledger


def training() -> dict:
    """Two steps of a linear model."""
    return {"model": torch.nn.Linear(2, 1), "loss_fn": lambda model, batch, step: model(batch).square().mean(), "batches": TensorBatches(rand(8, 2), batch_size=4), "steps": 2, "device": "cpu"}


CASES = [
    Case("core.checks:check_tensor", lambda: {"x": rand(3, 4), "name": "x", "ndim": 2, "shape": (3, 4)}, {"x": "sized"}),
    Case("core.checks:check_int", lambda: {"value": 3, "name": "value", "minimum": 1}, {"value": "count"}),
    Case("core.checks:check_number", lambda: {"value": 0.5, "name": "value", "minimum": 0, "open_min": True}, {"value": "positive"}),
    Case("core.checks:check_choice", lambda: {"value": "a", "name": "value", "options": ("a", "b")}, {"value": "choice"}),
    Case("core.checks:assert_identity", lambda: {"lhs": 1.0, "rhs": 1.0, "tol": 1e-9, "why": "exact"}, {"tol": "nonnegative", "why": "text"}),
    Case("core.runtime:seed_everything", lambda: {"seed": 1}, {"seed": "natural"}),
    Case("nn.frames:coherence", lambda: {"D": rand(4, 7)}, {"D": "tensor"}),
    Case("nn.frames:welch_bound", lambda: {"H": 4, "N": 8}, {"H": "count", "N": "count"}),
    Case("nn.frames:spark", lambda: {"D": rand(3, 6)}, {"D": "tensor"}),
    Case("nn.frames:max_unique_sparsity", lambda: {"mu": 0.2}, {"mu": "nonnegative"}),
    Case("nn.frames:rip_constant", lambda: {"D": rand(4, 7), "K": 2}, {"D": "tensor", "K": "count"}),
    Case("nn.frames:omp", lambda: {"D": rand(4, 7), "x": rand(3, 4), "k": 2}, {"D": "tensor", "x": "sized", "k": "count"}, {"D": "atoms", "x": "columns"}),
    Case("nn.frames:basis_pursuit", lambda: {"D": rand(4, 7), "x": rand(3, 4)}, {"D": "tensor", "x": "sized"}),
    Case("nn.frames:near_orthogonal_dictionary", lambda: {"H": 4, "N": 8, "iterations": 5}, {"H": "count", "N": "count", "iterations": "natural"}),
    Case("kernels.threshold_sae:jumprelu", lambda: {"z": rand(5, 6), "theta": rand(6, seed=3).abs(), "bandwidth": 0.1}, {"bandwidth": "positive"}),
    Case("kernels.threshold_sae:heaviside", lambda: {"z": rand(5, 6), "theta": rand(6, seed=3).abs(), "bandwidth": 0.1}, {"bandwidth": "positive"}),
    Case("kernels.threshold_sae:threshold_sae_loss", sae_arguments, {"bandwidth": "positive", "backend": "choice"}),
    Case("kernels.gram:offdiagonal_histogram", lambda: {"D": rand(4, 7), "bins": 16, "backend": "torch"}, {"D": "tensor", "bins": "count", "backend": "choice"}),
    Case("kernels.gram:max_offdiagonal", lambda: {"D": rand(4, 7), "backend": "torch"}, {"D": "tensor", "backend": "choice"}),
    Case("nn.frames:planted_atoms", lambda: {"H": 4, "N": 6, "K": 2, "n": 5}, {"H": "count", "N": "count", "K": "count", "n": "count"}),
    Case("nn.sparse_coders:TopKCoder", lambda: {"d_in": 4, "n_atoms": 6, "k": 2}, {"d_in": "count", "n_atoms": "count", "k": "count"}),
    Case("representation.atoms:AtomicInnerProduct.fit", lambda: {"acts": rand(40, 4)}, {"acts": "tensor", "ridge": "nonnegative"}),
    Case("representation.atoms:AtomicInnerProduct.whiten", lambda: {"self": product(), "x": rand(5, 4)}, {"x": "sized rows"}),
    Case("representation.atoms:AtomicInnerProduct.cosine", lambda: {"self": product(), "U": rand(5, 4), "V": rand(3, 4, seed=1)}, {"U": "sized", "V": "sized"}),
    Case("representation.atoms:faithfulness", lambda: {"x": rand(6, 4), "x_hat": rand(6, 4, seed=1)}, {"x": "sized", "x_hat": "sized stack"}),
    Case("representation.atoms:random_stability", lambda: {"H": 4, "l0": torch.tensor([1, 2, 2])}, {"H": "count", "l0": "integers"}),
    Case("representation.atoms:stability", lambda: {"D": rand(4, 7), "l0": torch.tensor([1, 2, 2])}, {"D": "tensor", "l0": "integers", "method": "choice"}),
    Case("representation.atoms:ThresholdSAE", lambda: {"d_in": 4, "n_atoms": 6}, {"d_in": "count", "n_atoms": "count"}),
    Case("representation.atoms:ThresholdSAE.from_dictionary", lambda: {"D": rand(4, 7), "tau": 0.1}, {"D": "tensor", "tau": "nonnegative"}),
    Case("representation.atoms:ThresholdSAE.encode", lambda: {"self": coder(), "x": rand(5, 4)}, {"x": "sized stack"}),
    Case("representation.atoms:ThresholdSAE.refit_support", lambda: {"self": coder(), "x": rand(5, 4)}, {"x": "sized"}),
    Case("representation.atoms:ThresholdSAE.fit", lambda: {"self": coder(), "x": rand(20, 4), "l0": 2.0, "steps": 2, "batch_size": 4},
         {"x": "sized", "l0": "positive", "steps": "count", "batch_size": "count"}),
    Case("representation.atoms:best_cosines", lambda: {"D": rand(4, 7), "target": rand(4, 3, seed=1)}, {"D": "tensor", "target": "tensor"}),
    Case("core.data:load", lambda: {"name": "digits"}, {"name": "choice"}),
    Case("core.data:split_of", lambda: {"relative_path": "json/decoder.py"}, {"relative_path": "text"}),
    Case("core.batches:TensorBatches", lambda: {"tensors": rand(8, 3), "batch_size": 4}, {"batch_size": "count"}),
    Case("core.train:warmup_cosine", lambda: {"steps": 10}, {"steps": "count"}),
    Case("core.train:constant_with_warmup", lambda: {"warmup": 3}, {"warmup": "natural"}),
    Case("core.train:make_optimizer", lambda: {"optimizer": "adam", "model": torch.nn.Linear(2, 1), "lr": 0.1}, {"optimizer": "choice", "lr": "nonnegative"}),  # torch allows a rate of zero
    Case("core.train:fit", training, {"steps": "natural", "accumulate": "count", "seed": "natural", "precision": "choice", "resume": "choice", "clip_norm": "positive", "save_every": "count",
                                      "log_every": "count"}),
    Case("core.plots:figure", lambda: {"width": 3.0, "height": 2.0, "alt": "an empty figure"}, {"width": "positive", "height": "positive", "ncols": "count", "nrows": "count", "alt": "text"}),
    Case("core.plots:histogram", lambda: {"ax": axes(), "values": [1.0, 2.0, 2.5]}, {"values": "numbers of any shape"}),
    Case("core.plots:band", lambda: {"ax": axes(), "x": [0.0, 1.0], "runs": [[1.0, 2.0], [2.0, 3.0]]}, {"x": "numbers", "runs": "numbers", "spread": "choice"}),
    Case("core.plots:power_fit", lambda: {"x": [1.0, 2.0, 4.0], "y": [1.0, 3.9, 16.1]}, {"x": "numbers", "y": "numbers", "level": "positive"}),
    Case("core.plots:colour_distance", lambda: {"one": "#000000", "other": "#ffffff", "deficiency": "protanopia"}, {"deficiency": "choice"}),
    Case("core.plots:render", lambda: {"fig": figure(alt="an empty figure")[0]}, {"kind": "choice"}),
    Case("core.bench:compare", lambda: {"functions": {"ours": list, "peer": dict}, "pairs": 2, "warmup": 0}, {"pairs": "count", "inner": "count", "warmup": "natural"}),
    Case("core.bench:median_interval", lambda: {"values": [1.0, 2.0, 3.0], "coverage": 0.9}, {"values": "numbers", "coverage": "positive"}),
    Case("core.bench:fit_exponent", lambda: {"sizes": [1.0, 2.0, 4.0], "values": [1.0, 2.0, 4.0]}, {"sizes": "numbers", "values": "numbers"}),
    Case("core.bench:roofline", lambda: {"flops": 1e9, "bytes": 1e6, "measured": Ceilings("a device", "float32", 1e12, 1e11)}, {"flops": "nonnegative", "bytes": "nonnegative"}),
    Case("core.rule:Rule", lambda: {"text": "ours > 0.5"}, {"text": "text"}, {"text": "rule"}),
    Case("core.rule:judge", lambda: {"rule": "ours > 0.5", "ours": [0.7, 0.6]}, {"rule": "text", "ours": "numbers"}),
    Case("core.record:to_values", lambda: {"values": [0.5, 0.6], "name": "values"}, {"values": "numbers"}),
    Case("core.ledger:Ledger", lambda: {"paper": "demo.coin"}, {"paper": "text", "scale": "choice"}),
    Case("core.ledger:Ledger.claim", lambda: {"self": Ledger("demo.coin"), "id": "fair", "statement": "Heads", "source": "eq. 1", "source_certainty": "ours", "rule": "ours > 0.4", "refuted_if": "fewer"},
         {"id": "text", "statement": "text", "source": "text", "source_certainty": "choice", "rule": "text", "refuted_if": "text", "paper_value": "finite"}),
    Case("core.ledger:Ledger.measure", lambda: {"self": book(), "id": "fair", "ours": [0.5, 0.6]},
         {"id": "text", "ours": "numbers", "peer": "numbers", "control": "numbers", "wall_s": "nonnegative", "peak_mb": "nonnegative"}, {"id": "claim"}),
    Case("core.ledger:Ledger.not_testable", lambda: {"self": book(), "id": "fair", "reason": "too large"}, {"reason": "text"}),
    Case("core.papers:find_paper", lambda: {"name": "atoms"}, {"name": "text"}, {"name": "paper"}),
    Case("core.papers:check_scale", lambda: {"scale": "cpu"}, {"scale": "choice"}),
]

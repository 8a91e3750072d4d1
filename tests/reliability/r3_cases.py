"""The calls that R3 spoils: one right call for each public function, with the kind of each argument."""
import torch
from r3_bad_inputs import Case

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
]

"""The calls that R3 spoils: one right call for each public function, with the kind of each argument."""
import torch
from r3_bad_inputs import Case


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    """Fixed normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae_arguments() -> dict:
    """A small call of the threshold autoencoder's loss."""
    return {"x": rand(5, 4), "w_enc": rand(6, 4, seed=1), "b_enc": rand(6, seed=2), "theta": rand(6, seed=3).abs(), "w_dec": rand(6, 4, seed=4),
            "b_dec": rand(4, seed=5), "bandwidth": 0.1, "l0_coef": 0.01}


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
]

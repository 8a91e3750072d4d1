"""Laws of neural operators: quadratures that know no grid, conversions that change nothing on the training grid, and equality with neuraloperator."""
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atomsnb.operators.nns2nos import (
    FNO, FunctionNorm, Interpolated, KernelIntegral, LocalConv, LocalPool, NeighbourMean, NNs2NOsConfig, OperatorTransformer, OperatorUNet, PatchTransformer, QuadratureAttention, SpectralConv, UNet,
    discretization_error, quadrature_weights, resample, to_operator,
)

DRAW = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


def peer(name, attribute):
    """A part of neuraloperator 2, or a visible skip."""
    try:
        return getattr(importlib.import_module(name), attribute)
    except ImportError:
        pytest.skip("not measured: neuraloperator is not installed")


def close(a, b, tolerance):
    assert float((a - b).detach().abs().max()) <= tolerance


@pytest.mark.parametrize("dim, grid", [(1, (8,)), (1, (9,)), (1, (13,)), (2, (9, 9)), (2, (8, 8)), (2, (8, 13)), (2, (13, 8)), (3, (8, 9, 10))])
def test_thin_products_equal_the_fft_on_odd_even_and_smallest_grids(dim, grid):
    """K = 4: a grid of 8 points carries the Nyquist mode. 1e-13: the same sums in another order, float64."""
    one, two = (SpectralConv(2, 3, 4, dim=dim, transform=how).double() for how in ("matmul", "fft"))
    x = randn(2, 2, *grid)
    close(one(x), two(x), 1e-13)


@pytest.mark.parametrize("grid", [(8, 8), (8, 16), (9, 15), (16, 9)])
def test_spectral_layer_is_the_layer_on_the_trigonometric_interpolant(grid):
    """Odd, even and smallest grids, Nyquist included: refine the input by Fourier interpolation, thin the output. 1e-13: rounding."""
    layer, x = SpectralConv(2, 2, 4).double(), randn(1, 2, *grid)
    close(layer(x), layer(resample(x, [2 * n for n in grid]))[..., ::2, ::2], 1e-13)


@pytest.mark.parametrize("shift", [(1, 0), (2, 5)])
@pytest.mark.parametrize("grid", [(9, 9), (12, 12)])
def test_spectral_layer_commutes_with_translations(grid, shift):
    layer, x = SpectralConv(1, 1, 4).double(), randn(1, 1, *grid)
    close(layer(x.roll(shift, (-2, -1))), layer(x).roll(shift, (-2, -1)), 1e-13)


def copied(theirs, modes, dim):
    """Our layer with the weights of neuraloperator's, (c_in, c_out, *modes) complex."""
    weight = theirs.weight.to_tensor() if hasattr(theirs.weight, "to_tensor") else theirs.weight
    ours = SpectralConv(weight.shape[0], weight.shape[1], modes, dim=dim)
    with torch.no_grad():
        ours.weight.copy_(torch.view_as_real(weight).movedim((-1, 0, 1), (0, -2, -1)))
        ours.bias.copy_(theirs.bias.flatten())
    return ours


@pytest.mark.parametrize("dim, grid", [(1, (8,)), (1, (9,)), (1, (16,)), (2, (10, 8)), (2, (10, 9)), (2, (16, 16)), (3, (10, 10, 8))])
def test_neuraloperator_spectral_conv_with_the_same_weights(dim, grid):
    """Even and odd sizes, Nyquist of the last axis (8 points, K = 4). 2e-6: float32 sums of a few hundred terms of order one."""
    theirs = peer("neuralop.layers.spectral_convolution", "SpectralConv")(2, 3, (*(9,) * (dim - 1), 8))
    x = randn(2, 2, *grid).float()
    close(copied(theirs, 4, dim)(x), theirs(x), 2e-6)


def test_neuraloperator_shifts_modes_on_an_odd_first_axis():
    """Version 2.0.0 undoes fftshift by fftshift, which on an odd axis is one mode off: its layer does not commute with translations there, ours does."""
    theirs = peer("neuralop.layers.spectral_convolution", "SpectralConv")(1, 1, (9, 8))
    ours, x = copied(theirs, 4, 2), randn(1, 1, 11, 12).float()
    gap = [float((layer(x.roll(1, -2)) - layer(x).roll(1, -2)).detach().norm() / layer(x).detach().norm()) for layer in (ours, theirs)]
    assert gap[0] < 1e-5
    if gap[1] < 1e-5:
        close(ours(x), theirs(x), 2e-6)  # repaired in another version: then the two agree


def copy_fno(theirs, ours):
    """Weights of neuraloperator's FNO into ours."""
    with torch.no_grad():
        for a, b in ((theirs.lifting, ours.lift), (theirs.projection, ours.project)):
            for fc, m in zip(a.fcs, b.maps):
                m.weight.copy_(fc.weight[..., 0]), m.bias.copy_(fc.bias)
        for i, conv in enumerate(theirs.fno_blocks.convs):
            new = copied(conv, ours.spectral[i].modes, ours.dim)
            ours.spectral[i].load_state_dict(new.state_dict())
            ours.skip[i].copy_(next(theirs.fno_blocks.fno_skips[i].parameters())[..., 0])


@pytest.mark.parametrize("grid", [(16, 16), (16, 15), (32, 32)])
def test_neuraloperator_fno_with_the_same_weights(grid):
    """The whole network, gradient included; without a channel MLP, version 2.0.0 activates twice in a row. 1e-5 of the output: float32 through the layers."""
    theirs = peer("neuralop.models", "FNO")(n_modes=(9, 8), in_channels=1, out_channels=1, hidden_channels=6, n_layers=3, positional_embedding=None, use_channel_mlp=False)
    ours = FNO(1, 1, 4, 6, 3, coordinates=False, activation=lambda h: F.gelu(F.gelu(h)))
    copy_fno(theirs, ours)
    x = randn(2, 1, *grid).float().requires_grad_()
    a, b = ours(x), theirs(x)
    close(a, b, 1e-5 * float(b.detach().abs().max()))
    da, db = (torch.autograd.grad(y.square().sum(), x)[0] for y in (a, b))
    close(da, db, 1e-4 * float(db.abs().max()))


@pytest.mark.parametrize("knots, mode", [(3, "circular"), (5, "zeros"), (1, "circular")])
def test_local_convolution_is_the_ordinary_one_at_its_spacing(knots, mode):
    conv = nn.Conv2d(2, 3, knots, padding=knots // 2, padding_mode=mode).double()
    x = randn(2, 2, 16, 16)
    close(to_operator(conv, x)(x), conv(x), 1e-13)


@pytest.mark.parametrize("n", [24, 32, 48, 64])
def test_local_convolution_by_spread_taps_equals_the_stencil_written_out(n):
    layer, x = LocalConv(1, 2, 3, 1 / 16).double(), randn(1, 1, n, n)
    A = layer.taps(n)
    kernel = torch.tensordot(torch.tensordot(layer.weight, A, dims=([2], [1])), A, dims=([2], [1]))
    r = (A.shape[0] - 1) // 2
    close(layer(x), F.conv2d(F.pad(x, (r,) * 4, mode="circular"), kernel, layer.bias), 1e-12)


def test_local_convolution_with_equal_taps_returns_linear_functions_inside():
    layer = LocalConv(1, 1, 3, 1 / 16, dim=1, bias=False, periodic=False).double()
    with torch.no_grad():
        layer.weight.fill_(1 / 3)
    x = torch.arange(64, dtype=torch.float64) / 64
    close(layer(x[None, None])[0, 0, 12:-12], x[12:-12], 1e-13)


def test_duplicated_points_with_halved_weights_change_nothing():
    """Attention, kernel integral and norm; the nearest-neighbour mean does change."""
    x, w, f = torch.linspace(0, 1, 20, dtype=torch.float64), torch.rand(20, generator=DRAW, dtype=torch.float64), randn(1, 20, 4)
    xx, ww, ff = torch.cat([x, x]), torch.cat([w, w]) / 2, torch.cat([f, f], 1)
    attention, integral, norm = QuadratureAttention(4, 2).double(), KernelIntegral(4, 2, radius=0.3).double(), FunctionNorm(4).double()
    close(attention(ff, ww)[:, :20], attention(f, w), 1e-13)
    close(integral(ff, xx, ww, x), integral(f, x, w), 1e-13)
    close(norm(ff.mT, ww)[..., :20], norm(f.mT, w), 1e-13)
    near = NeighbourMean(4, 2, neighbours=5).double()
    assert float((near(ff, xx[:, None])[:, :20] - near(f, x[:, None])).detach().abs().max()) > 1e-3


def test_weighted_attention_is_scaled_dot_product_attention_with_log_weights():
    layer, x, w = QuadratureAttention(8, 2).double(), randn(2, 7, 8), torch.rand(2, 7, generator=DRAW, dtype=torch.float64)
    q, k, v = (z.unflatten(-1, (2, 4)).transpose(1, 2) for z in layer.qkv(x).split(8, -1))
    out = layer.out(F.scaled_dot_product_attention(q, k, v, attn_mask=w.log()[:, None, None].expand(2, 1, 7, 7)).transpose(1, 2).flatten(2))
    close(layer(x, w), out, 1e-13)


def test_delaunay_weights_are_exact_for_linear_functions():
    x = torch.cat([torch.rand(50, 2, generator=DRAW, dtype=torch.float64), torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)])
    w = quadrature_weights(x, "delaunay")
    close(torch.stack([w.sum(), w @ x[:, 0], w @ x[:, 1]]), torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64), 1e-13)


@pytest.mark.parametrize("make", [lambda: UNet(1, 1, 4), lambda: UNet(2, 1, 4, 1), lambda: PatchTransformer(1, 1, 16, 4, 2, resolution=16, patch=4), lambda: PatchTransformer(1, 2, 16, 2, 1, resolution=16, patch=2)])
def test_conversion_keeps_the_function_on_the_training_grid_and_the_weights(make):
    net = make()
    u = randn(2, net.c_in, 16, 16).float()
    twin = to_operator(net, u)
    close(twin(u), net(u), 1e-5)
    assert {k.removeprefix("net."): v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert twin(randn(1, net.c_in, 64, 64).float()).shape[-2:] == (64, 64)


def test_converted_networks_converge_under_refinement_and_plain_ones_do_not():
    """Second order at least: the change between 32 and 128 points is a fraction of the plain network's."""
    x = torch.arange(128, dtype=torch.float64) / 128
    u = ((2 * torch.pi * x).sin()[:, None] * (4 * torch.pi * x).cos()).exp()[None, None].float()
    net = PatchTransformer(1, 1, 16, 4, 2, resolution=32)
    plain, twin = (discretization_error(m, [32, 64, 128], u).change for m in (net, to_operator(net, u[..., ::4, ::4])))
    assert twin[0] < 0.2 * plain[0] and twin[1] < 0.35 * twin[0]


def test_operator_unet_and_transformer_start_as_their_plain_forms():
    u = randn(1, 1, 32, 32).float()
    close(OperatorUNet(1, 1, 4, resolution=32, seed=3)(u), UNet(1, 1, 4, seed=3)(u), 1e-6)
    close(OperatorTransformer(1, 1, 16, seed=3)(u), PatchTransformer(1, 1, 16, seed=3)(u), 1e-5)


@pytest.mark.parametrize("n, m", [(8, 12), (9, 16), (16, 9), (12, 8)])
def test_fourier_resampling_is_exact_below_nyquist(n, m):
    f = lambda n: (2 * torch.pi * 3 * torch.arange(n, dtype=torch.float64) / n + 0.3).sin()  # noqa: E731
    close(resample(f(n), m), f(m), 1e-13)


def test_interpolated_models_are_flat_on_band_limited_inputs():
    f = lambda n: (2 * torch.pi * torch.arange(n) / n).sin()[None, None]  # noqa: E731
    net = Interpolated(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), 16)
    close(net(f(64))[..., ::4], net(f(16)), 1e-5)


NAN = torch.full((1, 1, 16, 16), float("nan"))


@pytest.mark.parametrize("wrong, name", [
    (lambda: FNO(1, 1, 9)(torch.zeros(1, 1, 16, 16)), "modes"), (lambda: FNO(1, 1, 4)(NAN), "u"), (lambda: FNO(1, 1, 4)(torch.zeros(1, 1, 16, 16).double()), "u"), (lambda: FNO(1, 1, 0), "modes"),
    (lambda: SpectralConv(1, 1, 4)(torch.zeros(1, 1, 7, 16)), "modes"), (lambda: SpectralConv(1, 1, 4)(NAN), "x"), (lambda: SpectralConv(1, 1, 4, dim=4), "dim"), (lambda: SpectralConv(1, 1, 4)([1.0]), "x"),
    (lambda: LocalConv(1, 1, 2, 0.1), "knots"), (lambda: LocalConv(1, 1, 3, 0.0), "spacing"), (lambda: LocalConv(1, 1, 3, 0.5), "spacing"), (lambda: LocalPool(0.1, 3)(torch.zeros(1, 1, 16, 16)), "stride"),
    (lambda: quadrature_weights(torch.tensor([0.0, 1.0, 0.5])), "x"), (lambda: quadrature_weights(torch.tensor([0.0, 0.5, 0.5])), "x"), (lambda: quadrature_weights(torch.tensor([0.0, 2.0]), "voronoi"), "domain"),
    (lambda: quadrature_weights(torch.tensor([[0.0, 0], [1, 0], [0, 1], [0, 0]]), "delaunay"), "x"), (lambda: quadrature_weights(torch.tensor([0.0, 1.0]), "simpson"), "rule"),
    (lambda: QuadratureAttention(4, 2)(torch.zeros(1, 3, 4), torch.tensor([1.0, -1.0, 1.0])), "w"), (lambda: QuadratureAttention(4, 2)(torch.zeros(1, 3, 4), torch.ones(2)), "w"), (lambda: QuadratureAttention(4, 3), "heads"),
    (lambda: KernelIntegral(1, 1, radius=1e-3)(torch.zeros(1, 2, 1), torch.tensor([0.0, 1.0]), torch.ones(2), torch.tensor([0.5])), "radius"), (lambda: KernelIntegral(1, 1)(torch.zeros(1, 2, 1), torch.zeros(3), torch.ones(3)), "x"),
    (lambda: to_operator(nn.Conv2d(1, 1, 3, stride=2), torch.zeros(1, 1, 16, 16)), "module"), (lambda: to_operator(nn.Flatten(), torch.zeros(1, 1, 16, 16)), "module"), (lambda: to_operator(3, torch.zeros(1)), "module"),
    (lambda: to_operator(NeighbourMean(1, 1), torch.zeros(1)), "radius"), (lambda: discretization_error(nn.Identity(), [5], torch.zeros(1, 1, 16)), "resolutions"), (lambda: resample(torch.zeros(4), 0), "size"),
    (lambda: resample(torch.zeros(4), 8, "cubic"), "mode"), (lambda: UNet(1, 1)(torch.zeros(1, 1, 18, 18)), "u"), (lambda: PatchTransformer(1, 1, patch=5), "patch"), (lambda: NNs2NOsConfig(modes=9), "modes"),
    (lambda: NNs2NOsConfig.preset("cpu", mode=3), "mode"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(wrong, name):
    with pytest.raises((ValueError, TypeError)) as error:
        wrong()
    assert name in str(error.value)

"""Laws of neural operators: quadratures that know no grid, conversions that change nothing on the training grid, and equality with neuraloperator."""
import importlib
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.exc import InternalTorchDynamoError
from torch._inductor.exc import CppCompileError

from atomsnb.core.checks import check_tensor
from atomsnb.nn import neural_operators
from atomsnb.nn.neural_operators import draw_uniform
from atomsnb.operators import nns2nos
from atomsnb.operators.nns2nos import (
    FNO, FunctionNorm, Interpolated, KernelIntegral, LocalConv, LocalConvTranspose, LocalPool, NeighbourMean, NNs2NOsConfig, OperatorTransformer, OperatorUNet, PatchTransformer, QuadratureAttention, SpectralConv, UNet,
    discretization_error, periodic_coordinates, quadrature_weights, resample, to_operator,
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


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("n", [24, 32, 48, 64])
def test_local_convolution_by_spread_taps_equals_the_stencil_written_out(n, periodic):
    """Up to the last point of the domain: a field that is zero outside has a smoothing that is not."""
    layer, x = LocalConv(1, 2, 3, 1 / 16, periodic=periodic).double(), randn(1, 1, n, n)
    A = layer.taps(n)
    kernel = torch.tensordot(torch.tensordot(layer.weight, A, dims=([2], [1])), A, dims=([2], [1]))
    r = (A.shape[0] - 1) // 2
    close(layer(x), F.conv2d(F.pad(x, (r,) * 4, mode="circular" if periodic else "constant"), kernel, layer.bias), 1e-12)


@pytest.mark.parametrize("dim, mode", [(1, "zeros"), (1, "circular"), (2, "zeros"), (2, "circular")])
def test_strided_convolutions_become_themselves_on_the_training_grid(dim, mode):
    """Every kernel to 6, stride to 4 and padding to 3, two groups, with the grid divided by the stride: equal to torch's, 1e-13 for sums of at most 72 terms; all others are refused by the option's name."""
    kept, x = 0, randn(2, 4, *(12,) * dim)
    for k, s, p, groups in itertools.product(range(1, 7), range(1, 5), range(4), (1, 2)):
        conv = (nn.Conv1d, nn.Conv2d)[dim - 1](4, 2, k, stride=s, padding=p, padding_mode=mode, groups=groups, bias=s > 1, dtype=torch.float64)
        if k - s <= 2 * p < k:
            twin = to_operator(conv, x)
            close(twin(x), conv(x), 1e-13)
            assert twin(randn(1, 4, *(36,) * dim)).shape[2:] == (36 // s,) * dim
            kept += 1
        else:
            with pytest.raises(ValueError, match="accepted of padding"):
                to_operator(conv, x)
    assert kept == 54
    for k in (2, 4, 5):
        conv = (nn.Conv1d, nn.Conv2d)[dim - 1](4, 2, k, padding="same", padding_mode=mode, dtype=torch.float64)
        close(to_operator(conv, x)(x), conv(x), 1e-13)


@pytest.mark.parametrize("dim", [1, 2])
def test_transposed_convolutions_become_themselves_on_the_training_grid(dim):
    """Every kernel to 6, stride to 4, padding and output padding that multiply the grid by the stride: equal to torch's, 1e-13 as above; all others are refused by the option's name."""
    kept, x = 0, randn(2, 4, *(6,) * dim)
    for k, s, p, more, groups in itertools.product(range(1, 7), range(1, 5), range(3), range(4), (1, 2)):
        if more >= s:
            continue  # refused by torch
        conv = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dim - 1](4, 2, k, s, padding=p, output_padding=more, groups=groups, bias=p > 0, dtype=torch.float64)
        if k - 2 * p + more == s:
            twin = to_operator(conv, x)
            close(twin(x), conv(x), 1e-13)
            assert all(twin(randn(1, 4, *(n,) * dim)).shape[2:] == (n * s,) * dim for n in (3, 9, 12))
            kept += 1
        else:
            with pytest.raises(ValueError, match="accepted of padding and output_padding"):
                to_operator(conv, x)
    assert kept == 54


@pytest.mark.parametrize("n", [18, 24, 30, 36, 48, 96])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("dim, k, s, lead", [(1, 3, 2, 1), (1, 4, 2, 1), (1, 5, 3, 0), (1, 2, 2, 1), (2, 3, 2, 1), (2, 4, 2, 1), (2, 2, 3, 0)])
def test_transposed_layer_is_the_transpose_of_the_strided_one_on_every_grid(n, periodic, dim, k, s, lead):
    """<S f, g> = <f, T g> with the same weights, on grids coarser than the knots, finer, and in between. 1e-13 of the norms: one sum in two orders."""
    down, up = (layer.double() for layer in (LocalConv(2, 3, k, 1 / 24, dim=dim, stride=s, lead=lead, periodic=periodic, bias=False), LocalConvTranspose(3, 2, k, 1 / 24, s, dim=dim, lead=lead, periodic=periodic, bias=False)))
    up.load_state_dict(down.state_dict())
    f, g = randn(1, 2, *(n,) * dim), randn(1, 3, *(n // s,) * dim)
    close((down(f) * g).sum(), (f * up(g)).sum(), 1e-13 * float(f.norm() * g.norm()))


TAPS = torch.tensor([0.3, -0.2, 0.5, 0.4, -0.1], dtype=torch.float64)


def tapped(layer):
    """A convolution of one channel with given taps."""
    k = layer.weight.shape[-1]
    with torch.no_grad():
        layer.weight.copy_(TAPS[:k] if layer.weight.ndim == 3 else TAPS[:k, None] * TAPS.flip(0)[:k])
    return layer.requires_grad_(False)


def rms(x):
    return float(x.square().mean().sqrt())


def orders(errors):
    """Between neighbouring grids, each twice as fine."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:])]


def answers(w, p, sign, y, n0, wave):
    """A transformed kernel of taps w at (j - p) / n0 applied to a wave, in closed form: the transform of the hat times the sum over taps."""
    a = 2 * math.pi / n0
    return (math.sin(a / 2) / (a / 2)) ** 2 * sum(float(w[j]) * wave(2 * math.pi * (y + sign * (j - p) / n0)) for j in range(len(w)))


@pytest.mark.parametrize("k, s, p", [(3, 2, 1), (4, 2, 1), (2, 2, 0), (5, 3, 1), (3, 3, 0), (5, 1, 2)])
def test_converted_strided_convolution_is_of_order_two_and_the_pixel_one_collapses(k, s, p):
    conv = tapped(nn.Conv1d(1, 1, k, s, padding=p, padding_mode="circular", bias=False, dtype=torch.float64))
    twin, errors, pixels = to_operator(conv, torch.zeros(1, 1, 24, dtype=torch.float64)), [], []
    for n in (24, 48, 96, 192):
        x = torch.arange(n, dtype=torch.float64) / n
        f, exact = (2 * math.pi * x).sin()[None, None], answers(conv.weight[0, 0], p, 1, x[::s], 24, torch.sin)
        errors.append(rms(twin(f)[0, 0].detach() - exact))
        pixels.append(rms(conv(f)[0, 0] - exact))
    assert all(abs(o - 2) < 0.1 for o in orders(errors)), orders(errors)
    assert pixels[-1] > pixels[1] > 10 * errors[1]


@pytest.mark.parametrize("k, s, p, more", [(3, 2, 1, 1), (4, 2, 1, 0), (2, 2, 0, 0), (5, 3, 1, 0), (3, 3, 0, 0), (2, 3, 0, 1)])
def test_converted_transposed_convolution_is_of_order_two_and_the_pixel_one_is_not(k, s, p, more):
    """Around the circle everywhere; as converted, which continues by zeros, at a distance from the ends. The coarse grid itself is too coarse for the knots: orders from twice the grid on."""
    conv = tapped(nn.ConvTranspose1d(1, 1, k, s, padding=p, output_padding=more, bias=False, dtype=torch.float64))
    twin = to_operator(conv, torch.zeros(1, 1, 12, dtype=torch.float64))
    circle = LocalConvTranspose(1, 1, k, 1 / (12 * s), s, lead=p, dim=1, bias=False).double().requires_grad_(False)
    circle.load_state_dict(conv.state_dict())
    errors, inside, pixels = [], [], []
    for n in (24, 48, 96, 192):
        x, y = (torch.arange(m, dtype=torch.float64) / m for m in (n, n * s))
        f, exact = (2 * math.pi * x).cos()[None, None], answers(conv.weight[0, 0], p, -1, y, 12 * s, torch.cos) / s
        errors.append(rms(circle(f)[0, 0] - exact))
        middle = (y > 0.3) & (y < 0.7)
        inside.append(rms((twin(f)[0, 0].detach() - exact)[middle]))
        pixels.append(rms((conv(f)[0, 0] - exact)[middle]))
    assert all(abs(o - 2) < 0.2 for o in orders(errors)), orders(errors)
    assert abs(math.log2(inside[0] / inside[-1]) / 3 - 2) < 0.2 and pixels[-1] > 0.5 * pixels[0] and pixels[-1] > 10 * inside[-1]


def test_a_grid_as_fine_as_the_knots_has_no_checkerboard():
    """A constant: s different values on the training grid, one where the coarse spacing divides that of the knots."""
    conv = tapped(nn.ConvTranspose2d(1, 1, 3, 2, padding=1, output_padding=1, bias=False, dtype=torch.float64))
    circle = LocalConvTranspose(1, 1, 3, 1 / 16, 2, lead=1, bias=False).double().requires_grad_(False)
    circle.load_state_dict(conv.state_dict())
    one = lambda n: torch.ones(1, 1, n, n, dtype=torch.float64)  # noqa: E731
    assert float(circle(one(8)).std()) > 1e-2
    close(circle(one(16)), conv.weight.sum() / 4, 1e-14)
    close(to_operator(conv, one(8))(one(8)), conv(one(8)), 1e-14)


def test_padding_by_zeros_is_of_order_one_at_the_end_and_two_inside():
    """f = cos is one at the ends: continued by zero it jumps there, and the points count whole."""
    conv = tapped(nn.Conv1d(1, 1, 4, 2, padding=1, bias=False, dtype=torch.float64))
    twin, end = to_operator(conv, torch.zeros(1, 1, 24, dtype=torch.float64)), []
    fine = twin((2 * math.pi * torch.arange(24 * 256, dtype=torch.float64) / (24 * 256)).cos()[None, None])[0, 0]
    for r in (2, 4, 8, 16):
        gap = (twin((2 * math.pi * torch.arange(24 * r, dtype=torch.float64) / (24 * r)).cos()[None, None])[0, 0] - fine[:: 256 // r]).abs()
        end.append((float(gap.max()), float(gap[len(gap) // 4 : -len(gap) // 4].max())))
    assert abs(math.log2(end[0][0] / end[-1][0]) / 3 - 1) < 0.2 and abs(math.log2(end[0][1] / end[-1][1]) / 3 - 2) < 0.1


def test_an_hourglass_of_strided_and_transposed_layers_converges_and_the_plain_one_does_not():
    """The whole network: on the training grid the given function, then changes that fall with order two away from the zero padding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 6, 4, 2, padding=1, padding_mode="circular"), nn.GELU(), nn.Conv1d(6, 6, 3, 2, padding=1, padding_mode="circular"), nn.GELU(), nn.ConvTranspose1d(6, 6, 4, 2, padding=1),
                        nn.GELU(), nn.ConvTranspose1d(6, 1, 3, 2, padding=1, output_padding=1)).double().requires_grad_(False)
    u = (2 * math.pi * torch.arange(1024, dtype=torch.float64) / 1024).sin().exp()[None, None]
    twin = to_operator(net, u[..., ::32])
    close(twin(u[..., ::32]), net(u[..., ::32]), 1e-13)
    gaps = [[float((m(u[..., :: 1024 // n])[0, 0, :: n // 32] - m(u)[0, 0, ::32])[8:24].abs().max()) for n in (64, 128, 256)] for m in (twin, net)]
    assert min(orders(gaps[0])) > 1.8 and abs(orders(gaps[0])[-1] - 2) < 0.2, orders(gaps[0])  # the first step is before the asymptote
    assert gaps[0][-1] < 0.1 * gaps[1][-1]


@pytest.mark.parametrize("layer, option", [
    (nn.Conv1d(1, 1, 3, dilation=2, padding=2), "dilation"), (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode"), (nn.Conv2d(1, 1, (3, 5), padding=1), "kernel_size"),
    (nn.Conv2d(1, 1, 3, (1, 2), padding=1), "stride"), (nn.Conv2d(1, 1, 3, padding=(1, 2)), "padding"), (nn.Conv1d(1, 1, 5, 5), "stride"), (nn.Conv1d(1, 1, 4, padding=2), "padding"), (nn.Conv1d(1, 1, 17, padding=8), "knots"),
    (nn.ConvTranspose1d(1, 1, 3, 2, dilation=2), "dilation"), (nn.ConvTranspose1d(1, 1, 3, 2, padding=1), "output_padding"), (nn.ConvTranspose2d(1, 1, 3, 2, padding=1, output_padding=(1, 0)), "output_padding"),
    (nn.ConvTranspose1d(1, 1, 1, 2), "output_padding"), (nn.ConvTranspose3d(1, 1, 2, 2), "ConvTranspose3d"), (nn.MaxPool1d(2, dilation=2), "dilation"), (nn.AvgPool2d(2, divisor_override=3), "divisor"), (nn.AvgPool1d(3, 2), "window"),
])  # fmt: skip
def test_what_has_no_operator_is_refused_by_the_option(layer, option):
    x = torch.zeros(1, 1, *(16,) * (1 if "1d" in type(layer).__name__ else 3 if "3d" in type(layer).__name__ else 2))
    with pytest.raises(ValueError, match=option):
        to_operator(nn.Sequential(layer), x)


def test_grids_that_are_no_squares_are_refused_where_a_spacing_is_needed():
    """One spacing for both axes: a layer that saw 16 by 32 points would not be itself on the training grid."""
    for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 2, 2), nn.ConvTranspose2d(1, 1, 2, 2), nn.AvgPool2d(2)):
        with pytest.raises(ValueError, match="grid"):
            to_operator(layer, torch.zeros(1, 1, 16, 32))
    x = randn(1, 4, 16, 32).float()
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
    close(to_operator(net, x)(x), net(x), 1e-5)  # pointwise maps and norms need none; variance in another order, float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0])
def test_the_values_of_an_example_do_not_matter(value):
    """A U-Net refuses a NaN in a field, but an example is there for its grid. Equal weights and equal arithmetic: no difference at all."""
    net, x = UNet(1, 1, 4, 1), randn(1, 1, 8, 8).float()
    assert torch.equal(to_operator(net, torch.full((1, 1, 8, 8), value))(x), to_operator(net, torch.zeros(1, 1, 8, 8))(x))


def test_conversion_keeps_what_is_frozen():
    conv, norm = nn.Conv1d(1, 2, 3, padding=1).requires_grad_(False), nn.GroupNorm(1, 2)
    norm.bias.requires_grad_(False)
    net = nn.Sequential(conv, norm)
    assert [p.requires_grad for p in to_operator(net, torch.zeros(1, 1, 8)).parameters()] == [p.requires_grad for p in net.parameters()] == [False, False, True, False]


def test_conversion_keeps_double_precision():
    norm = nn.GroupNorm(1, 3, dtype=torch.float64)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    conv = nn.Conv1d(3, 3, 4, 2, padding=1, dtype=torch.float64)
    for layer, x in ((norm, randn(2, 3, 16)), (conv, randn(2, 3, 16))):
        close(to_operator(layer, x)(x), layer(x), 1e-13)


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


LINEAR = QuadratureAttention(8, 2, kind="linear", seed=5).double()


def split_heads(layer, x):
    return (z.unflatten(-1, (2, 4)).transpose(1, 2) for z in layer.qkv(x).split(8, -1))


@pytest.mark.parametrize("shape", [None, (7,), (2, 7)])
def test_linear_attention_is_the_quadratic_formula_with_explicit_weights(shape):
    """phi(q_i) . phi(k_j) w_j as an n x n matrix, rows divided by their sums. 1e-13: the same sums in another order."""
    x, w = randn(2, 7, 8), None if shape is None else torch.rand(shape, generator=DRAW, dtype=torch.float64)
    q, k, v = split_heads(LINEAR, x)
    a = (F.elu(q) + 1) @ (F.elu(k) + 1).mT * (1 if w is None else w.view(-1, 1, 1, 7))
    close(LINEAR(x, w), LINEAR.out((a / a.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2)), 1e-13)


def test_linear_attention_measures_the_domain_and_does_not_count_points():
    """A point split into two of half its weight changes nothing; places may come in any order; a weight of zero hides a place."""
    x, w, order = randn(2, 9, 8), torch.rand(9, generator=DRAW, dtype=torch.float64), torch.randperm(9, generator=DRAW)
    more, parts = torch.cat([x, x[:, 4:5]], 1), torch.cat([w, w[4:5] / 2])
    parts[4] /= 2
    close(LINEAR(more, parts)[:, :9], LINEAR(x, w), 1e-13)
    assert float((LINEAR(more)[:, :9] - LINEAR(x)).detach().abs().max()) > 1e-3  # without weights it does
    close(LINEAR(x[:, order], w[order]), LINEAR(x, w)[:, order], 1e-13)
    close(LINEAR(x, torch.where(torch.arange(9) < 5, w, 0.0)), LINEAR(x, w[:5], context=x[:, :5]), 1e-13)
    close(LINEAR(x, 1000 * w), LINEAR(x, w), 1e-13)


def test_linear_attention_converges_with_order_two_on_clustered_points():
    values = lambda n: torch.stack([(3 * z).sin() for z in ((torch.linspace(0, 1, n, dtype=torch.float64) ** 2)[:, None] + torch.arange(8))])[None]  # noqa: E731
    ask, shares = values(5), lambda n: quadrature_weights(torch.linspace(0, 1, n, dtype=torch.float64) ** 2)
    best = LINEAR(ask, shares(4097), context=values(4097))
    gaps = [float((LINEAR(ask, shares(n), context=values(n)) - best).detach().abs().max()) for n in (65, 129, 257)]
    assert all(abs(o - 2) < 0.2 for o in orders(gaps)), orders(gaps)
    assert float((LINEAR(ask, context=values(257)) - best).detach().abs().max()) > 100 * gaps[-1]


def test_linear_attention_is_finite_where_its_features_vanish():
    """Logarithms of features down to -1e4, far below the smallest float32: means of the values still, with finite gradients; and keys that are all of the order of e^-500 against the formula written out in float64."""
    layer = QuadratureAttention(8, 2, kind="linear", bias=False)
    with torch.no_grad():
        layer.qkv.weight[:16] *= 5000
        layer.out.weight.copy_(torch.eye(8))
    x, w = randn(1, 12, 8).float().requires_grad_(), torch.rand(12, generator=DRAW)
    out, kept = layer(x, w), F.linear(x, layer.qkv.weight[16:])
    assert bool((out >= kept.amin(1, keepdim=True) - 1e-5).all()) and bool((out <= kept.amax(1, keepdim=True) + 1e-5).all())
    assert bool(torch.autograd.grad(out.sum(), x)[0].isfinite().all())
    low = QuadratureAttention(8, 2, kind="linear", seed=5)
    with torch.no_grad():
        low.qkv.bias[8:16] = -500
    x, twin = randn(1, 12, 8), QuadratureAttention(8, 2, kind="linear", seed=5).double()
    twin.load_state_dict(low.state_dict())
    q, k, v = split_heads(twin, x)
    a = (F.elu(q) + 1) @ k.exp().mT  # k < 0: elu(k) + 1 itself, without the rounding of one
    close(low(x.float()).double(), twin.out((a / a.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2)), 1e-3)  # float32 knows a logarithm of 500 to 3e-5
    small = randn(1, 4, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LINEAR(x, torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)), small)


def test_both_kinds_of_attention_have_the_same_parameters_and_start():
    a, b = QuadratureAttention(8, 2, seed=3), QuadratureAttention(8, 2, kind="linear", seed=3)
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_kernel_integral_without_a_basis_has_the_parameters_it_had():
    """Names, and the draws from the seed in their order."""
    net, draw = KernelIntegral(2, 3, 1, hidden=4, seed=7), torch.Generator().manual_seed(7)
    assert list(net.state_dict()) == ["first", "shift", "second"]
    for p, bound in ((net.first, math.sqrt(1 / 2)), (net.shift, 1.0), (net.second, math.sqrt(3 / 4 / 2))):
        assert torch.equal(p, (2 * torch.rand(*p.shape, generator=draw) - 1) * bound)
    assert list(KernelIntegral(2, 3, 1, radius=0.2, basis=3).state_dict()) == ["coefficients"]


@pytest.mark.parametrize("basis", [1, 3])
def test_smooth_basis_converges_faster_than_any_power_and_a_cut_kernel_with_order_one(basis):
    """Against Gauss's rule on the kernel written out, 400 and 600 points of which agree to 1e-13; the same ball with a constant kernel, cut at its edge, against sine in closed form."""
    from numpy.polynomial.legendre import leggauss

    net, y, r = KernelIntegral(1, 1, radius=0.2, basis=basis, smooth=False, seed=1).double().requires_grad_(False), 0.47, 0.2
    centres, A, beta = net.centres[:, 0].tolist(), net.coefficients[:, 0].tolist(), lambda z: math.exp(1 - 1 / (1 - z * z)) if abs(z) < 1 else 0.0
    kappa = lambda z: beta(z) * sum(a * beta((z - c) * (basis + 1) / 3) for a, c in zip(A, centres))  # noqa: E731
    truth, check = (r * sum(m * kappa(z) * math.sin(5 * (y + r * z)) for z, m in zip(*leggauss(points))) for points in (600, 400))
    assert abs(truth - check) < 1e-13
    cut = KernelIntegral(1, 1, radius=0.2, kernel=lambda x, y: torch.ones(len(y), len(x), dtype=x.dtype), smooth=False).double()
    smooth, sharp = [], []
    for n in (33, 65, 129, 257, 513):
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        ask = lambda layer: float(layer((5 * x).sin()[None, :, None], x, quadrature_weights(x), torch.tensor([y], dtype=torch.float64)))  # noqa: E731, B023
        smooth.append(abs(ask(net) - truth))
        sharp.append(abs(ask(cut) - (math.cos(5 * (y - r)) - math.cos(5 * (y + r))) / 5))
    assert smooth[-1] < 1e-9 and math.log2(smooth[0] / smooth[-1]) / 4 > 4
    assert 0.3 < math.log2(sharp[0] / sharp[-1]) / 4 < 1.7


@pytest.mark.parametrize("dim, count", [(1, 4), (2, 16), (3, 56)])
def test_smooth_basis_is_a_convolution_of_compact_support(dim, count):
    """Shifting points and places together changes nothing (1e-12: the shift is rounded); a point beyond the radius is not seen; centres on a lattice within the ball."""
    net = KernelIntegral(2, 3, dim, radius=0.4, basis=4, smooth=False).double().requires_grad_(False)
    x, f, w = torch.rand(60, dim, generator=DRAW, dtype=torch.float64), randn(1, 60, 2), torch.rand(60, generator=DRAW, dtype=torch.float64)
    assert len(net.centres) == count and float(net.centres.norm(dim=1).max()) < 1
    close(net(f, x + 3.25, w), net(f, x, w), 1e-12)
    y = x[:1]
    far = (x - y).norm(dim=1) >= 0.4
    close(net(f, x, w, y), net(f[:, ~far], x[~far], w[~far], y), 1e-14)
    close(net(torch.cat([f, f], 1), torch.cat([x, x]), torch.cat([w, w]) / 2, y), net(f, x, w, y), 1e-13)


def test_delaunay_weights_are_exact_for_linear_functions():
    x = torch.cat([torch.rand(50, 2, generator=DRAW, dtype=torch.float64), torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)])
    w = quadrature_weights(x, "delaunay")
    close(torch.stack([w.sum(), w @ x[:, 0], w @ x[:, 1]]), torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64), 1e-13)


def test_the_blocks_of_a_transformer_begin_with_different_weights():
    one, two = (list(block.parameters()) for block in PatchTransformer(1, 1, 16, 4, 2, resolution=16).blocks)
    assert all(not torch.equal(p, q) for p, q in zip(one, two) if p.ndim > 1)


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
    (lambda: NNs2NOsConfig.preset("cpu", mode=3), "mode"), (lambda: LocalConv(1, 1, 3, 0.1, lead=3), "lead"), (lambda: LocalConv(1, 1, 3, 0.1, stride=0), "stride"), (lambda: LocalConv(1, 1, 3, 0.1, stride=3)(torch.zeros(1, 1, 16, 16)), "stride"),
    (lambda: LocalConv(2, 3, 3, 0.1, groups=2), "groups"), (lambda: LocalConvTranspose(1, 1, 2, 0.1, 2), "knots"), (lambda: LocalConvTranspose(1, 1, 3, 0.5, 2), "spacing"), (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2.0), "stride"),
    (lambda: LocalConvTranspose(1, 1, 3, -0.1, 2), "spacing"), (lambda: LocalConvTranspose(3, 2, 3, 0.1, 2, groups=3), "groups"), (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2, dim=3), "dim"), (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2)(NAN), "x"),
    (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2)(torch.zeros(1, 2, 16, 16)), "x"), (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2)(torch.zeros(1, 1, 16, 16).double()), "x"), (lambda: LocalConvTranspose(1, 1, 3, 0.1, 2)([1.0]), "x"),
    (lambda: QuadratureAttention(4, 2, kind="lineal"), "kind"), (lambda: QuadratureAttention(4, 2, kind="linear")(torch.zeros(1, 3, 4), -torch.ones(3)), "w"), (lambda: QuadratureAttention(4, 2, kind="linear")(torch.full((1, 3, 4), float("nan"))), "x"),
    (lambda: KernelIntegral(1, 1, basis=3), "basis"), (lambda: KernelIntegral(1, 1, radius=0.2, basis=0), "basis"), (lambda: KernelIntegral(1, 1, radius=0.2, basis=2.5), "basis"), (lambda: KernelIntegral(1, 1, radius=0.2, basis=2, kernel=torch.cdist), "basis"),
    (lambda: KernelIntegral(1, 1, radius=0.2, basis=2)(torch.zeros(1, 2, 1).double(), torch.zeros(2), torch.ones(2)), "f"),
    (lambda: SpectralConv(1, 1, 2.5), "modes"), (lambda: FNO(1, 1, None), "modes"), (lambda: FNO(1, 1, float("nan")), "modes"), (lambda: SpectralConv(1, 1, (4, "4")), "modes"), (lambda: SpectralConv(1, 1, [4], dim=2), "modes"),
    (lambda: LocalConv(1, 1, 3, 0.1).taps(0), "n is"), (lambda: LocalConv(1, 1, 3, 0.1).taps(2.5), "n is"), (lambda: LocalPool(0.125, 2)(NAN), "x has"), (lambda: resample(torch.zeros(4), 2.5), "size"), (lambda: resample(torch.tensor(1.0), 4), "u has"),
    (lambda: draw_uniform((2, 0), 1.0, DRAW), "shape"), (lambda: draw_uniform((2,), float("nan"), DRAW), "bound"), (lambda: periodic_coordinates((8, 0), torch.zeros(1)), "grid"), (lambda: periodic_coordinates((8, 2.5), torch.zeros(1)), "grid"),
    (lambda: OperatorUNet(1, 1, 4, 1, resolution=0), "resolution"), (lambda: OperatorUNet(1, 1, 4, 2, resolution=10), "resolution"), (lambda: OperatorUNet(1, 1, 4, 1, resolution=8.0), "resolution"),
    (lambda: discretization_error(nn.Identity(), [8], torch.zeros(1, 1, 16), chunk=0), "chunk"), (lambda: discretization_error(nn.Identity(), None, torch.zeros(1, 1, 16)), "resolutions"),
    (lambda: Interpolated(nn.Conv2d(1, 1, 1), 8)(torch.zeros(1, 1, 8, 8, 8)), "u, of shape"), (lambda: Interpolated(nn.Identity(), 8)("text"), "u is"), (lambda: Interpolated(nn.Identity(), 8)(NAN), "u has"),
    (lambda: to_operator(nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 2, 8, 8)), "example, of shape"), (lambda: to_operator(nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 8, 9)), "example"), (lambda: to_operator(UNet(1, 1, 4, 2), torch.zeros(1, 1, 10, 10)), "example"),
    (lambda: NeighbourMean(1, 1, neighbours=2)(torch.full((1, 4, 1), float("inf")), torch.rand(4, 1)), "f has"), (lambda: NeighbourMean(1, 1, neighbours=2)(torch.zeros(1, 4, 1), torch.zeros(4, 2)), "x has"),
    (lambda: NeighbourMean(1, 1, neighbours=5)(torch.zeros(1, 4, 1), torch.rand(4, 1)), "neighbours"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(wrong, name):
    with pytest.raises((ValueError, TypeError)) as error:
        wrong()
    assert name in str(error.value)


class Broken(nn.Module):
    """Fails as it is told."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, u):
        raise self.error


FAULTS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError("CUDA driver error: unknown error"), RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"),
    RuntimeError("Triton Error [CUDA]: out of resources"), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("CUDA error: device-side assert triggered")
    if hasattr(torch, "AcceleratorError") else RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."), MemoryError(),
    InternalTorchDynamoError("compiler"), CppCompileError(["cc"], "no such header"), KeyError("weights")]  # fmt: skip


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: f"{type(error).__name__}: {str(error)[:30]}")
def test_faults_of_the_device_the_memory_and_the_compiler_pass_unchanged(error):
    for call in (lambda: Interpolated(Broken(error), 8)(torch.zeros(1, 1, 8)), lambda: to_operator(Broken(error), torch.zeros(1, 1, 8))):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error


@pytest.mark.parametrize("model", [nn.Conv1d(2, 1, 1), nn.Conv1d(1, 1, 1).double(), nn.Linear(5, 1), nn.Unflatten(-1, (3, 3)), nn.Embedding(3, 2), Broken(IndexError("axis 7")), Broken(TypeError("u")),
                                   Broken(RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")), Broken(RuntimeError("Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor)")),
                                   Broken(NotImplementedError("\"GeluKernelImpl\" not implemented for 'Long'"))], ids=repr)
def test_what_a_model_says_of_its_input_names_the_argument(model):
    with pytest.raises((ValueError, TypeError), match=r"^u, of shape \(1, 1, 8\), is refused by the model: ") as caught:
        Interpolated(model, 8)(torch.zeros(1, 1, 8))
    assert caught.value.__cause__ is not None


def test_the_library_s_unet_looks_at_its_input_alone(monkeypatch):
    """Once, at the door; the numbers are those of the layers that look for themselves, bit for bit. A converted network of somebody else keeps such layers."""
    net, u = OperatorUNet(2, 1, 4, 2, resolution=16, seed=1), randn(2, 2, 32, 32).float()
    looked = []
    monkeypatch.setattr(neural_operators, "check_tensor", lambda x, name, **more: looked.append(name) or check_tensor(x, name, **more))
    out = net(u)
    assert looked == ["u"]
    monkeypatch.setattr(nns2nos, "_unchecked", lambda layer, x: layer(x))
    assert torch.equal(out, net(u)) and looked.count("x") == 12  # five pairs of convolutions and two windows
    monkeypatch.undo()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="^u has"):
            net(torch.full((1, 2, 16, 16), bad))
        with pytest.raises(ValueError, match="^x has"):
            to_operator(nn.Sequential(nn.AvgPool1d(2)), torch.zeros(1, 1, 8))(torch.full((1, 1, 8), bad))


# ---- written out by hand

def test_a_fourier_operator_is_what_its_formula_says():
    """No activation after the last layer; weights start within the square root of one over the width."""
    net = FNO(2, 1, 3, width=5, layers=3, dim=1, coordinates=False, seed=3).double()
    u = randn(4, 2, 16)
    h = net.lift(u)
    for i, (spectral, skip) in enumerate(zip(net.spectral, net.skip)):
        h = spectral(h) + torch.einsum("oc,bcn->bon", skip, h)
        h = F.gelu(h) if i < 2 else h
    close(net(u), net.project(h), 1e-12)
    assert [m.weight.shape for m in net.lift.maps] == [(10, 2), (5, 10)]
    assert max(float(w.detach().abs().max()) for w in net.skip) <= math.sqrt(1 / 5)


def test_a_block_has_attention_and_a_pointwise_network():
    block = OperatorTransformer(1, 1, 8, seed=3).double().blocks[0]
    h = randn(2, 9, 8)
    half = h + block.attention(block.norms[0](h), None)
    close(block(h), half + block.narrow(F.gelu(block.wide(block.norms[1](half)))), 1e-12)


@pytest.mark.parametrize("length", [0.5, 3.0])
def test_the_unit_of_length_does_not_matter_to_pooling(length):
    pool, x, fine = nn.Sequential(nn.AvgPool1d(2)), randn(1, 2, 16), randn(1, 2, 64)
    scaled, unit = to_operator(pool, x, length=length), to_operator(pool, x)
    close(scaled(x), pool(x), 1e-12)
    close(scaled(fine), unit(fine), 1e-12)


def test_the_mean_over_neighbours_is_a_mean():
    net = NeighbourMean(2, 3, neighbours=4, hidden=6, seed=1).double()
    x, f = randn(7, 1), randn(2, 7, 2)
    for i in range(7):
        near = (x - x[i]).abs()[:, 0].argsort()[:4]
        each = [(F.gelu(net.first[:1].T @ x[j] + net.first[1:].T @ x[i] + net.shift) @ net.second).view(3, 2) @ f[:, j].T for j in near]
        close(net(f, x)[:, i], torch.stack(each).mean(0).T, 1e-12)

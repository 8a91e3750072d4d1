"""The calls that R3 spoils in the operator part: fields, dynamics, equations, networks, DeepONet, neural operators.

Not spoiled, as in the other rooms: functions, modules and fields passed as arguments, flags, dtypes, devices. Not here: `apply_to` of the layers, which is documented to take its input unseen;
`Field`, `HardConstraint` and `Discretization`, which hold what they are given; indexing a field, where torch's IndexError is Python's own convention.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from r3_bad_inputs import Case
from r3_cases import rand
from torch import nn

from atomsnb.nn.neural_operators import LocalConv, LocalConvTranspose, LocalPool, SpectralConv
from atomsnb.nn.point_operators import FunctionNorm, KernelIntegral, QuadratureAttention
from atomsnb.operators.deeponet import DeepONet, FourierFeatures, OperatorData, PODDeepONet
from atomsnb.operators.dynamics import linear_system
from atomsnb.operators.fields import ChebyshevField, ChebyshevSpace, GaussianRandomField, PeriodicField, SplineField
from atomsnb.operators.limits import ridge
from atomsnb.operators.nets import MLPOperator, ParallelMLP, ResNetOperator, SequenceOperator, SideBySide
from atomsnb.operators.nns2nos import FNO, Interpolated, NeighbourMean, OperatorTransformer, OperatorUNet, PatchTransformer, UNet


@dataclass
class OperatorCase(Case):
    """A case that can spoil one entry of a sequence, and that looks into what is returned."""

    put: "dict[str, Callable]" = field(default_factory=dict)  # argument -> from the (spoiled) value to what is passed, e.g. v -> (0.0, v): the upper end of an interval
    after: "Callable[[Any], Any]" = lambda result: result  # what of the result is compared and searched for NaN

    def call(self, **changed: Any) -> Any:
        """The call with some arguments replaced."""
        given = {**self.good(), **changed}
        return self.after(super().call(**{**changed, **{name: put(given[name]) for name, put in self.put.items()}}))


def method(thing: Any, name: str, good: dict, kinds: "dict[str, str]", **more: Any) -> OperatorCase:
    """The case of a method of an object."""
    return OperatorCase(f"{type(thing).__module__.removeprefix('atomsnb.')}:{type(thing).__name__}.{name}", lambda: {"self": thing, **good}, kinds, **more)


def grid(*shape: int) -> torch.Tensor:
    """Increasing numbers in (0, 1]."""
    n = torch.Size(shape).numel()
    return (torch.arange(1, n + 1, dtype=torch.float32) / n).view(shape)


layer = partial(dict, c_in=2, c_out=2)
deeponet, pod = partial(DeepONet, 3, (4,), (4,), 2), partial(PODDeepONet, 3, rand(6, 4), grid(4, 1), (4,), 2)
aligned = partial(OperatorData, rand(6, 3), grid(4, 1), rand(6, 4, seed=1), True)  # functions at 3 sensors, with values at 4 places
entry, high = (lambda v: (2, v)), (lambda v: (0.0, v))  # a value as an entry of a sequence, or as the upper end of an interval
arrays, matrices = (lambda d: (d.u, d.y, d.s)), (lambda found: (found.matrix, found.offset))
SPACE, LAW, CURVES, TIMES = ChebyshevSpace(3), GaussianRandomField(0.3, points=20), SplineField(rand(3, 5)), grid(3).expand(3, 3).contiguous()
VORTICITY = rand(2, 8, 8) - rand(2, 8, 8).mean((1, 2), keepdim=True)
NETWORK = {"copies": "count", "activation": "choice", "seed": "natural"}
PAIR, PAIRS, SQUARE = {"u": "sized", "y": "sized"}, {"u": rand(2, 4, 3), "y": grid(2, 4, 1)}, rand(2, 2, 8, 8)
LAYER = {"c_in": "count", "c_out": "count", "seed": "natural"}
KERNEL = {**LAYER, "knots": "count", "spacing": "positive", "stride": "count", "dim": "count", "length": "positive", "lead": "natural", "groups": "count"}
CONVOLUTION = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
UNSEEN = dict.fromkeys(("nan", "+inf", "-inf"), "the values of an example do not matter")

CASES = [
    # Fields
    OperatorCase("operators.fields:sensors", lambda: {"m": 3, "domain": 1.0}, {"m": "count", "domain": "positive", "kind": "choice"}, put={"domain": high}),
    Case("operators.fields:check_increasing", lambda: {"x": grid(5), "name": "x"}, {"x": "tensor"}),
    OperatorCase("operators.fields:SplineField", lambda: {"values": rand(3, 5), "domain": 1.0}, {"values": "tensor", "domain": "positive"}, put={"domain": high}, after=lambda f: f.values),
    OperatorCase("operators.fields:ChebyshevField", lambda: {"coefficients": rand(3, 5), "domain": 1.0}, {"coefficients": "tensor", "domain": "positive"}, put={"domain": high}, after=lambda f: f.values),
    *[method(f, name, {"x": grid(3, 4)}, {"x": "tensor"}) for f in (CURVES, ChebyshevField(rand(3, 5))) for name in ("__call__", "antiderivative")],
    OperatorCase("operators.fields:ChebyshevSpace", lambda: {"degree": 3, "domain": 1.0}, {"degree": "natural", "bound": "positive", "domain": "positive"}, put={"domain": high}),
    method(SPACE, "sample", {"n": 2}, {"n": "count", "seed": "natural"}),
    method(SPACE, "kappa", {"m": 2}, {"m": "count"}),
    Case("operators.fields:interpolate", lambda: {"x": grid(5), "values": rand(2, 5), "y": grid(5)[1:]}, {"x": "sized", "values": "sized", "y": "tensor", "kind": "choice"}),
    OperatorCase("operators.fields:GaussianRandomField", lambda: {"length_scale": 0.3, "domain": 1.0},
                 {"length_scale": "positive", "kernel": "choice", "domain": "positive", "variance": "positive", "points": "optional count"}, put={"domain": high}),
    method(LAW, "covariance", {"x": grid(4), "y": grid(3)}, {"x": "tensor", "y": "tensor"}),
    method(LAW, "sample", {"n": 2}, {"n": "count", "seed": "natural", "method": "choice"}),
    Case("operators.fields:interpolation_rms", lambda: {"field": LAW, "m": 3}, {"m": "count"}),
    Case("operators.fields:PeriodicField", dict, {"dim": "count", "alpha": "positive", "tau": "positive", "sigma": "positive", "modes": "count"}),
    method(PeriodicField(modes=2), "sample", {"n": 2, "resolution": 8}, {"n": "count", "resolution": "count", "seed": "natural"}),
    # Dynamics
    Case("operators.dynamics:tableau", lambda: {"method": "rk4"}, {"method": "choice"}),
    Case("operators.dynamics:integrate", lambda: {"rhs": lambda t, s: -s, "start": rand(3, 2), "times": TIMES}, {"start": "tensor", "times": "tensor", "substeps": "count", "method": "choice", "limit": "positive"}),
    OperatorCase("operators.dynamics:Dynamics", lambda: {"name": "still", "g": lambda s, u: s, "start": 0.0, "lipschitz": lambda bound: 1.0}, {"name": "text", "start": "finite"}, put={"start": high}),
    Case("operators.dynamics:linear_system", dict, {"decay": "finite", "gain": "finite"}),
    Case("operators.dynamics:riccati_system", dict, {"gain": "finite"}),
    OperatorCase("operators.dynamics:pendulum_system", lambda: {"k": 1.0, "start": 0.0}, {"k": "nonnegative", "start": "finite"}, put={"start": high}),
    Case("operators.dynamics:solve", lambda: {"system": linear_system(), "u": CURVES, "times": TIMES, "n": 3}, {"times": "tensor", "n": "count", "step": "positive", "method": "choice", "limit": "positive"}),
    # Partial differential equations
    Case("operators.pde:diffusion_reaction", lambda: {"u": rand(2, 6), "steps": 3}, {"u": "tensor", "D": "nonnegative", "k": "finite", "T": "positive", "steps": "count", "limit": "positive"}),
    Case("operators.pde:sine_basis", lambda: {"points": 4}, {"points": "count"}),
    Case("operators.pde:darcy", lambda: {"a": rand(2, 5, 5).exp(), "f": 1.0, "iterations": 50}, {"a": "sized", "f": "finite", "tol": "positive", "iterations": "count"}),
    Case("operators.pde:darcy", lambda: {"a": rand(2, 5, 5).exp(), "f": rand(5, 5), "iterations": 50}, {"f": "sized"}),
    Case("operators.pde:burgers", lambda: {"u": rand(2, 8), "nu": 0.1, "T": 0.1, "steps": 20}, {"u": "tensor", "nu": "positive", "T": "positive", "steps": "optional count", "snapshots": "count"}),
    Case("operators.pde:cole_hopf", lambda: {"potential": torch.cos, "x": grid(4), "nu": 0.1, "t": 0.5, "nodes": 50}, {"x": "tensor", "nu": "positive", "t": "positive", "span": "nonnegative", "nodes": "count"}),
    *[Case(f"operators.pde:{name}", lambda: {"omega": VORTICITY[0]}, {"omega": "sized stack"}) for name in ("velocity", "energy", "enstrophy")],
    Case("operators.pde:navier_stokes", lambda: {"omega": VORTICITY, "nu": 0.1, "T": 0.1, "steps": 20, "forcing": VORTICITY},
         {"omega": "sized", "nu": "nonnegative", "T": "positive", "steps": "optional count", "forcing": "sized", "snapshots": "count"}),
    # Plain networks
    Case("operators.nets:check_widths", lambda: {"widths": [4], "name": "widths"}, {"widths": "text"}),
    OperatorCase("operators.nets:check_widths", lambda: {"widths": 4, "name": "widths"}, {"widths": "count"}, put={"widths": entry}),
    Case("operators.nets:ParallelMLP", lambda: {"widths": [3, 2]}, {"widths": "text", **NETWORK}),
    OperatorCase("operators.nets:ParallelMLP", lambda: {"widths": 3}, {"widths": "count"}, put={"widths": entry}),
    *[method(ParallelMLP((3, 4, 2), copies=2), name, {"x": rand(2, 5, 3)}, {"x": "sized"}) for name in ("forward", "hidden")],
    Case("operators.nets:take_copy", lambda: {"module": ParallelMLP((3, 4, 2), copies=2), "index": 1}, {"index": "natural"}),
    Case("operators.nets:check_pairs", lambda: {**PAIRS, "m": 3, "d": 1, "copies": 2, "paired": True}, PAIR),
    OperatorCase("operators.nets:MLPOperator", lambda: {"sensors": 3, "hidden": 4}, {"sensors": "count", "hidden": "count", "dim_y": "count", **NETWORK}, put={"hidden": entry}),
    Case("operators.nets:ResNetOperator", lambda: {"sensors": 3, "width": 4}, {"sensors": "count", "width": "count", "blocks": "count", "dim_y": "count", **NETWORK}),
    *[method(model, name, PAIRS, PAIR) for model in (MLPOperator(3, (4,), copies=2), ResNetOperator(3, 4, 1, copies=2)) for name in ("forward", "grid")],
    Case("operators.nets:SequenceOperator", lambda: {"sensors": 3, "outputs": 2}, {"sensors": "count", "outputs": "count", "hidden": "count", "seed": "natural"}),
    method(SequenceOperator(3, 2), "forward", {"u": rand(5, 3)}, {"u": "sized"}),
    method(SequenceOperator(3, 2), "grid", {"u": rand(5, 3), "y": grid(2, 1)}, {"u": "sized", "y": "tensor"}),
    method(SideBySide(SequenceOperator(3, 2), SequenceOperator(3, 2, seed=1)), "grid", {"u": rand(5, 3), "y": grid(2, 1)}, {"u": "sized", "y": "tensor"}),
    Case("operators.nets:relative_l2", lambda: {"predicted": rand(3, 4), "target": rand(3, 4, seed=1)}, {"predicted": "sized", "target": "sized"}),
    Case("operators.nets:trimmed_mse", lambda: {"error": rand(3, 4)}, {"error": "tensor", "fraction": "share"}, allowed={"error": {"wrong rank": "any shape"}}),
    # DeepONet; the settings of one loop are checked alike, so that one or two of each loop stand for all
    Case("operators.deeponet:DeepONetConfig", dict, {"seeds": "count", "lr": "positive", "sequence_steps": "natural", "points": "count", "m": "count"}),
    OperatorCase("operators.deeponet:DeepONetConfig", lambda: {"ranks": 3, "fnn_nonlinear": 4}, {"ranks": "count", "fnn_nonlinear": "count"}, put={"ranks": entry, "fnn_nonlinear": entry}),
    Case("operators.deeponet:FourierFeatures", lambda: {"dim_y": 1, "count": 3}, {"dim_y": "count", "count": "count", "scale": "positive", "seed": "natural"}),
    method(FourierFeatures(2, 3), "forward", {"y": rand(5, 2)}, {"y": "sized rows"}),
    OperatorCase("operators.deeponet:DeepONet", lambda: {"sensors": 3, "branch": 4, "trunk": 4, "p": 2, "domain": 1.0},
                 {"sensors": "count", "branch": "count", "trunk": "count", "p": "count", "out_dim": "count", "split": "choice", "dim_y": "count", "domain": "positive", **NETWORK},
                 put={"branch": entry, "trunk": entry, "domain": lambda v: [(0.0, v)]}),
    Case("operators.deeponet:DeepONet", lambda: {"sensors": grid(3)}, {"sensors": "tensor"}),
    Case("operators.deeponet:DeepONet", lambda: {"sensors": 3, "stacked": True, "branch": [4], "trunk": [4], "p": 2}, {"copies": "count", "activation": "choice", "seed": "natural"}),
    method(deeponet(copies=2), "coeffs", {"u": PAIRS["u"]}, {"u": "sized"}),
    method(deeponet(copies=2), "basis", {"y": PAIRS["y"]}, {"y": "sized"}),
    *[method(deeponet(copies=2), name, PAIRS, PAIR) for name in ("forward", "grid")],
    method(deeponet(copies=2), "derivative", PAIRS, {**PAIR, "axis": "natural"}),
    Case("operators.deeponet:refit_branch", lambda: {"model": deeponet(), "data": aligned()}, {"penalty": "positive"}),
    Case("operators.deeponet:pod_basis", lambda: {"outputs": rand(6, 4), "p": 2}, {"outputs": "tensor", "p": "count"}),
    OperatorCase("operators.deeponet:PODDeepONet", lambda: {"sensors": 3, "outputs": rand(6, 4), "places": grid(4, 1), "branch": 4, "p": 2},
                 {"sensors": "count", "outputs": "sized", "places": "tensor", "branch": "count", "p": "count", **NETWORK}, put={"branch": entry}),
    method(pod(), "basis", {"y": grid(4, 1) * 0.5 + 0.4}, {"y": "stack"}),  # an axis of copies may stand in front
    *[method(pod(copies=2), name, {"u": PAIRS["u"], "y": grid(1, 4, 1)}, PAIR) for name in ("forward", "grid")],
    OperatorCase("operators.deeponet:OperatorData", lambda: {"u": rand(4, 3), "y": grid(4, 1), "s": rand(4), "aligned": False}, {"u": "tensor", "y": "tensor", "s": "sized"}, after=arrays),
    OperatorCase("operators.deeponet:stack_data", lambda: {"parts": [aligned(), aligned()]}, {"parts": "text"}, after=arrays),
    OperatorCase("operators.deeponet:dynamics_data", lambda: {"system": linear_system(), "space": SPACE, "n": 3, "places": grid(3)},
                 {"n": "count", "places": "tensor", "points": "natural", "T": "positive", "seed": "natural", "limit": "positive"}, after=arrays),
    OperatorCase("operators.deeponet:diffusion_data", lambda: {"space": SPACE, "n": 3, "places": grid(3), "cells": 4},
                 {"n": "count", "places": "tensor", "D": "nonnegative", "k": "finite", "cells": "count", "points": "natural", "seed": "natural", "limit": "positive"}, after=arrays),
    Case("operators.deeponet:fit_operator", lambda: {"model": deeponet(), "data": aligned(), "steps": 2, "device": "cpu", "progress": False},
         {"steps": "count", "batch": "count", "lr": "positive", "final": "share", "seed": "natural", "weight": "nonnegative"}),
    Case("operators.deeponet:operator_error", lambda: {"model": deeponet(), "data": aligned()}, {"rows": "count"}),
    Case("operators.deeponet:sensor_error_bound", lambda: {"kappa": 0.1, "lipschitz": 1.0, "length": 1.0}, {"kappa": "nonnegative", "lipschitz": "nonnegative", "length": "positive"}),
    # What a learning curve is drawn beside
    OperatorCase("operators.limits:interpolant", lambda: {"u": CURVES, "m": 4}, {"m": "count", "kind": "choice"}, after=lambda f: f(grid(4))),
    Case("operators.limits:information_floor", lambda: {"field": LAW, "places": grid(3), "y": grid(2), "nodes": 4}, {"places": "tensor", "y": "tensor", "nodes": "count"}),
    Case("operators.limits:rank_floor", lambda: {"outputs": rand(6, 4)}, {"outputs": "tensor"}),
    OperatorCase("operators.limits:ridge", lambda: {"u": rand(6, 3), "s": rand(6, 2), "u_val": rand(4, 3), "s_val": rand(4, 2), "penalties": 1e-3},
                 {"u": "sized", "s": "sized", "u_val": "sized", "s_val": "sized", "penalties": "positive"}, put={"penalties": lambda v: [0.1, v]}, after=matrices),
    method(ridge(rand(6, 3), rand(6, 2), u_val=rand(4, 3), s_val=rand(4, 2)), "__call__", {"u": rand(5, 3)}, {"u": "sized"}),
    # Layers of a grid
    Case("nn.neural_operators:check_domain", lambda: {"domain": [0.0, 1.0]}, {"domain": "numbers"}),
    OperatorCase("nn.neural_operators:check_domain", lambda: {"domain": 1.0}, {"domain": "positive"}, put={"domain": high}),
    Case("nn.neural_operators:quadrature_weights", lambda: {"x": grid(5)}, {"x": "tensor", "rule": "choice"}),
    OperatorCase("nn.neural_operators:quadrature_weights", lambda: {"x": rand(6, 2), "rule": "delaunay", "domain": 1.0}, {"x": "sized", "domain": "positive"}, put={"domain": high}),
    Case("nn.neural_operators:check_weights", lambda: {"w": grid(2, 5), "n": 5}, {"w": "sized"}),
    Case("nn.neural_operators:check_sizes", lambda: {"value": 3, "name": "value"}, {"value": "count"}),
    Case("nn.neural_operators:resample", lambda: {"u": rand(6), "size": 4}, {"u": "rows", "size": "count", "mode": "choice"}),
    OperatorCase("nn.neural_operators:resample", lambda: {"u": rand(6, 6), "size": 4}, {"u": "stack", "size": "count"}, put={"size": entry}),
    Case("nn.neural_operators:check_field", lambda: {"x": rand(2, 3, 8), "channels": 3, "dim": 1, "like": rand(1)}, {"x": "tensor"}),
    OperatorCase("nn.neural_operators:draw_uniform", lambda: {"shape": 3, "bound": 1.0, "generator": torch.Generator().manual_seed(0)}, {"shape": "count", "bound": "nonnegative"}, put={"shape": entry}),
    Case("nn.neural_operators:SpectralConv", lambda: layer(modes=2), {**LAYER, "modes": "count", "dim": "count", "transform": "choice"}),
    OperatorCase("nn.neural_operators:SpectralConv", lambda: layer(modes=2), {"modes": "count"}, put={"modes": entry}),
    *[method(model, "forward", {"x": SQUARE}, {"x": "tensor"}) for model in (SpectralConv(2, 2, 2), LocalConvTranspose(2, 2, 3, 0.0625, 2))],
    Case("nn.neural_operators:LocalConv", lambda: layer(knots=3, spacing=0.1), KERNEL),
    method(LocalConv(2, 2, 3, 0.1), "taps", {"n": 10}, {"n": "count"}),
    Case("nn.neural_operators:LocalConvTranspose", lambda: layer(knots=3, spacing=0.1, stride=2), KERNEL),
    Case("nn.neural_operators:LocalPool", lambda: {"window": 0.25, "stride": 2}, {"window": "positive", "stride": "count", "dim": "count", "length": "positive", "kind": "choice"}),
    *[method(model, "forward", {"x": SQUARE}, {"x": "sized"}) for model in (LocalConv(2, 2, 3, 0.125, stride=2), LocalPool(0.25, 2))],
    # Layers of points
    Case("nn.point_operators:check_points", lambda: {"f": rand(2, 5, 2), "x": grid(5, 1), "channels": 2, "like": rand(1)}, {"f": "sized", "x": "tensor"}),
    Case("nn.point_operators:KernelIntegral", lambda: layer(radius=0.5, basis=3), {**LAYER, "dim": "count", "radius": "positive", "hidden": "count", "basis": "optional count"}),
    method(KernelIntegral(2, 2), "forward", {"f": rand(2, 5, 2), "x": grid(5, 1), "w": grid(5), "y": grid(3, 1)}, {"f": "sized", "x": "sized", "w": "sized", "y": "sized"}),
    Case("nn.point_operators:QuadratureAttention", lambda: {"width": 4, "heads": 2}, {"width": "count", "heads": "count", "kind": "choice", "seed": "natural"}),
    method(QuadratureAttention(4, 2), "forward", {"x": rand(2, 5, 4), "w": grid(2, 3), "context": rand(2, 3, 4)}, {"x": "sized", "w": "sized", "context": "sized"}),
    Case("nn.point_operators:FunctionNorm", lambda: {"channels": 4, "groups": 2}, {"channels": "count", "groups": "optional count", "eps": "nonnegative"}),
    method(FunctionNorm(4), "forward", {"f": rand(2, 4, 5), "w": grid(2, 5)}, {"f": "sized", "w": "sized"}),
    # Neural operators
    Case("operators.nns2nos:NNs2NOsConfig", dict, {"seeds": "count", "lr": "positive", "resolution": "count", "modes": "count", "field_modes": "count", "rough_modes": "count"}),
    Case("operators.nns2nos:discretization_error", lambda: {"model": LocalConv(2, 2, 3, 0.125), "resolutions": [4, 8], "u": rand(3, 2, 8, 8), "target": rand(3, 2, 8, 8)},
         {"resolutions": "text", "u": "sized", "target": "sized", "chunk": "count"}),
    OperatorCase("operators.nns2nos:discretization_error", lambda: {"model": LocalConv(2, 2, 3, 0.125), "resolutions": 4, "u": SQUARE}, {"resolutions": "count"}, put={"resolutions": entry}),
    OperatorCase("operators.nns2nos:periodic_coordinates", lambda: {"grid": 4, "like": rand(1)}, {"grid": "count"}, put={"grid": entry}),
    Case("operators.nns2nos:FNO", lambda: layer(modes=2, width=4, layers=1), {**LAYER, "modes": "count", "width": "count", "layers": "count", "dim": "count"}),
    Case("operators.nns2nos:PatchTransformer", lambda: layer(width=4, heads=2, layers=1, resolution=8), {**LAYER, "width": "count", "heads": "count", "layers": "count", "resolution": "count", "patch": "count"}),
    *[method(kind(2, 2, 4, 2, 1, resolution=8), "forward", {"u": SQUARE}, {"u": "sized"}) for kind in (PatchTransformer, OperatorTransformer)],
    Case("operators.nns2nos:Interpolated", lambda: {"model": CONVOLUTION, "resolution": 8}, {"resolution": "count", "mode": "choice"}),
    *[method(model, "forward", {"u": SQUARE}, {"u": "tensor"}) for model in (FNO(2, 2, 2, 4, 1), Interpolated(CONVOLUTION, 6))],
    Case("operators.nns2nos:to_operator", lambda: {"module": CONVOLUTION, "example": rand(1, 2, 8, 8)}, {"example": "sized", "length": "positive"}, allowed={"example": UNSEEN}),
    Case("operators.nns2nos:to_operator", lambda: {"module": NeighbourMean(2, 2), "example": grid(1, 1, 5), "radius": 0.5}, {"radius": "positive"}),
    Case("operators.nns2nos:NeighbourMean", lambda: layer(neighbours=2), {**LAYER, "dim": "count", "neighbours": "count", "hidden": "count"}),
    method(NeighbourMean(2, 2, neighbours=2), "forward", {"f": rand(2, 5, 2), "x": grid(5, 1)}, {"f": "sized", "x": "sized"}),
    Case("operators.nns2nos:UNet", lambda: layer(width=4, depth=1), {**LAYER, "width": "count", "depth": "count"}),
    Case("operators.nns2nos:OperatorUNet", lambda: layer(width=4, depth=1, resolution=8), {**LAYER, "width": "count", "depth": "count", "resolution": "count"}),
    *[method(model, "forward", {"u": SQUARE}, {"u": "sized"}) for model in (UNet(2, 2, 4, 1), OperatorUNet(2, 2, 4, 1, resolution=8))],
]

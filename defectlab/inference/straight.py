"""Networks for one image as a straight line of operators, with BatchNorm folded into convolutions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_TOLERANCE = 1e-4  # of a logit; folding changes one by 1e-6


class _Unrecorded(Exception):
    """An operator that is no function from tensors to one tensor, or a tensor that folding does away with."""


class _Recorder(TorchFunctionMode):
    """Add the operators of a forward pass to a graph; tensors that it does not make itself become constants."""

    def __init__(self, images: Tensor, fold: bool) -> None:
        super().__init__()
        self.fold = fold
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.nodes: dict[int, fx.Node | None] = {id(images): self.graph.placeholder("images")}
        self.kept: list[Any] = [images]  # an id stands for a tensor as long as that is there

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        found = function(*args, **given)
        if isinstance(found, Tensor):
            folded = self._folded(*args, **given) if self.fold and function is F.batch_norm else None
            taken: Any = map_aggregate((args, given), self._recorded) if folded is None else None
            self.nodes[id(found)] = folded or self.graph.call_function(function, *taken)
            self.kept.append(found)
        elif found is None or (isinstance(found, tuple | list) and any(isinstance(each, Tensor) for each in found)):
            raise _Unrecorded
        return found

    def node(self, tensor: Tensor) -> fx.Node:
        """Return what a tensor comes from."""
        if id(tensor) not in self.nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = tensor.detach()
            self.nodes[id(tensor)] = self.graph.get_attr(name)
            self.kept.append(tensor)
        found = self.nodes[id(tensor)]
        if found is None:
            raise _Unrecorded
        return found

    def _recorded(self, given: Any) -> Any:
        return self.node(given) if isinstance(given, Tensor) else given

    def _folded(
        self, maps: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> fx.Node | None:  # fmt: skip
        """Fold BatchNorm into the convolution that its input comes straight from; None where there is none."""
        convolution = self.nodes.get(id(maps))
        if convolution is None or convolution.target is not F.conv2d or convolution.users or convolution.kwargs:
            return None
        source, *given = convolution.args
        made = [str(each.target) for each in given[:2] if isinstance(each, fx.Node) and each.op == "get_attr"]
        if training or mean is None or variance is None or len(made) < 2 - given[:2].count(None):
            return None
        filters, shift = self.constants[made[0]], self.constants[made[1]] if len(made) > 1 else None
        fused = nn.utils.fuse_conv_bn_weights(filters, shift, mean, variance, eps, weight, bias)
        with self.graph.inserting_before(convolution):
            convolution.args = (source, *map(self.node, fused), *given[2:])
        self.nodes[id(maps)] = None  # not to be had any more
        return convolution


def straight_line(forward: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return what computes `forward` for images of this shape on the CPU, in a fraction of the time for a single one.

    Most of the time of a small network goes into calling its modules. BatchNorm of running statistics is folded into the
    convolution before it, if nothing else reads that (Jacob et al. 2018, section 3.2): a logit changes by about 1e-6. The
    weights are those of now.

    Args:
        forward: images (N, C, H, W) to logits (N, K); what it does depends on their shape alone, not on their values.
        images: an example.

    Returns:
        None where an operator cannot be recorded, or the result differs for the other image that is tried.
    """
    other = images.flip(2)
    expected = forward(other)
    for fold in (True, False):
        recorder = _Recorder(images.clone(), fold)
        try:
            with recorder:
                logits = forward(recorder.kept[0])
            recorder.graph.output(recorder.node(logits))
        except _Unrecorded:
            continue
        for node in list(recorder.graph.nodes):
            if node.op == "get_attr" and not node.users:
                recorder.graph.erase_node(node)
        line: Callable[[Tensor], Tensor] = fx.GraphModule(recorder.constants, recorder.graph).forward
        if torch.allclose(line(other), expected, rtol=0, atol=_TOLERANCE):
            return line
    return None

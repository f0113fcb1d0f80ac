"""Record every layer of a network as one image passes through it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from defectlab.errors import InputError
from defectlab.summary.layers import Layer, NetworkSummary, Window
from defectlab.summary.receptive_field import ReceptiveFieldTracker, as_pair
from defectlab.utils._compat import operator_name
from defectlab.utils.text import first_line


def summarize(network: nn.Module, image: tuple[int, int, int]) -> NetworkSummary:
    """Summarise the layers of any module for one black image (C, H, W); the module is left as it was.

    Layers are modules without submodules; operations between them have an entry where maps are joined or resized.

    Raises:
        InputError: the network cannot take such an image.
    """
    first = next(iter(network.parameters()), torch.zeros(()))
    black = torch.zeros(1, *image, device=first.device, dtype=first.dtype)
    training = {module: module.training for module in network.modules()}
    recorder = _Recorder(black)
    hooks = [hook for name, module in network.named_modules() for hook in recorder.watch(name, module)]
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a single operation, which nothing counts
    try:
        # A compiled network shows no layers.
        with torch.compiler.set_stance("force_eager"), torch.no_grad(), counter, recorder:
            network.eval()(black)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{type(network).__name__} cannot take an image of {'×'.join(map(str, image))} (channels, height, width): "
            f"{first_line(error)}; give another size"
        ) from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    total = sum(parameter.numel() for parameter in network.parameters())
    return NetworkSummary(image, recorder.layers, total, counter.get_total_flops() // 2)


class _Recorder(ReceptiveFieldTracker):  # type: ignore[no-untyped-call]
    """Record each call of a layer, and the operations between layers that join or resize maps."""

    def __init__(self, image: Tensor) -> None:
        super().__init__(image)
        self.layers: list[Layer] = []
        self._inside: list[str] = []
        self._in_layer = False
        self._counted: set[int] = set()

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Return the hooks of one module."""
        is_layer = not any(True for _ in module.children())
        return [
            module.register_forward_pre_hook(partial(self._enter, name, is_layer)),
            module.register_forward_hook(partial(self._leave, is_layer)),
        ]

    def _enter(self, name: str, is_layer: bool, module: nn.Module, given: Any) -> None:
        self._inside.append(name)
        self._in_layer = is_layer

    def _leave(self, is_layer: bool, module: nn.Module, given: Any, result: Any) -> None:
        name = self._inside.pop()
        self._in_layer = False
        if not is_layer or not isinstance(result, Tensor) or not given or not isinstance(given[0], Tensor):
            return
        source = self.field_of(given[0])
        if isinstance(module, nn.Linear) and result.ndim > 2 and source is not None:
            self.set_field(result, source)  # position by position, unlike other matrix products
        multiply_adds = 0
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            multiply_adds = result.numel() * module.weight[0].numel()
        new = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in self._counted}
        self._counted |= set(new)
        self._add(
            name, type(module).__name__, given[0], result, window=_window_of(module),
            groups=module.groups if isinstance(module, nn.Conv2d) else 1, parameters=sum(new.values()),
            multiply_adds=multiply_adds,
        )  # fmt: skip

    def _add(
        self, name: str, kind: str, source: Tensor, result: Tensor, window: Window | None = None, groups: int = 1,
        parameters: int = 0, multiply_adds: int = 0,
    ) -> None:  # fmt: skip
        self.layers.append(
            Layer(
                name=name, kind=kind, input=tuple(source.shape[1:]), output=tuple(result.shape[1:]), window=window,
                groups=groups, parameters=parameters, multiply_adds=multiply_adds, receptive_field=self.field_of(result),
            )
        )  # fmt: skip

    def note(self, func: Any, sources: list[Tensor], result: Any) -> None:
        """Record what joins two maps or changes a size, but no views."""
        if self._in_layer or func.is_view or not sources or not isinstance(result, Tensor):
            return
        if len(sources) > 1 or sources[0].numel() != result.numel():
            widest = max(sources, key=Tensor.numel)
            self._add(self._inside[-1], operator_name(func).strip("_"), widest, result)


def _window_of(module: nn.Module) -> Window | None:
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return None
    kernel, stride = as_pair(module.kernel_size), as_pair(module.stride)
    dilation = (1, 1) if isinstance(module, nn.AvgPool2d) else as_pair(module.dilation)
    padding: tuple[float, float] = (0, 0) if isinstance(module.padding, str) else as_pair(module.padding)
    if module.padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) / 2, dilation[1] * (kernel[1] - 1) / 2)
    return Window(
        kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=getattr(module, "ceil_mode", False)
    )

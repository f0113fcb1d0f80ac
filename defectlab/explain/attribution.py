"""Attribute a class's logit to the pixels of an image: five methods, computed by captum."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal, get_args

import torch
from captum.attr import IntegratedGradients, LayerGradCam, LayerGradientXActivation, NoiseTunnel, Saliency
from torch import Tensor, nn
from torch.nn import functional

from defectlab.engine.host import evaluating
from defectlab.errors import InputError
from defectlab.networks.base import Network
from defectlab.networks.tiling import tiled_network

Method = Literal["gradient", "smoothgrad", "integrated_gradients", "grad_cam", "hires_cam", "tiles"]
METHODS: tuple[Method, ...] = get_args(Method)[:-1]  # of any network
CAMS: tuple[Method, ...] = ("grad_cam", "hires_cam")  # need feature maps, and are as coarse as these
COARSE: tuple[Method, ...] = (*CAMS, "tiles")
_BLOCK = 32  # images at a time
_SAMPLES = 32  # noisy copies of an image in SmoothGrad; the paper sees little gain above 50
_NOISE = 0.15  # their sd as a share of the image's range; the paper recommends 0.1 to 0.2
_STEPS = 32  # points on the path of Integrated Gradients; the paper takes 20 to 300


def attribute(task: nn.Module, images: Tensor, targets: Tensor, method: Method, seed: int = 0) -> Tensor:
    """Compute how much each pixel speaks for the class `targets` of its image, by one of `METHODS`.

    - `gradient`: |d logit / d pixel|, the largest of the channels (Simonyan et al. 2014).
    - `smoothgrad`: the same of the mean gradient of 32 copies with noise, whose sd is 0.15 of the image's range
      (Smilkov et al. 2017). Every image gets the same noise, so that its map does not depend on its neighbours.
    - `integrated_gradients`: the gradient along the straight path from a baseline to the image, times their
      difference, summed over the channels; absolute values (Sundararajan et al. 2017). The baseline is 0 in
      normalised units, which is the mean of the training images, not black.
    - `grad_cam`: feature maps weighted by the mean of the logit's gradient, their sum where it is positive, upsampled
      bilinearly (Selvaraju et al. 2017). All 0 where nothing speaks for the class. Right for heads that take means of
      the maps; of a spread (`stages` of `PretrainedNetwork`) the mean gradient is 0, and it has no part.
    - `hires_cam`: the same, but each value of a map times its own gradient (Draelos & Carin 2020): what each place adds
      to the logit, exactly so for heads that are linear in means, spreads or the flattened maps.

    - `tiles`: what each tile adds to the logit against the mean tile, where it is positive: see
      `PretrainedNetwork.tile_contributions`. Of networks with tiles alone.

    The maps of both CAMs are those of `forward_features`; of another network than `defectlab.networks` has, those of its last
    layer that gives maps. Weights, modes, gradients, hooks and the random state are left as they were.

    Args:
        task: returns logits (N, num_classes).
        images: normalised, (N, C, H, W), on any device.
        targets: class indices, int64 (N,).
        method: one of `METHODS`, or `tiles`.
        seed: of SmoothGrad's noise.

    Returns:
        Maps (N, H, W), at least 0, on the CPU. Their scale means nothing across images.
    """
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}: expected one of {', '.join(get_args(Method))}")
    if images.ndim != 4 or targets.shape != images.shape[:1]:
        raise InputError(
            f"images of shape {tuple(images.shape)} with targets of shape {tuple(targets.shape)}: "
            "expected (N, C, H, W) and (N,)"
        )
    device = next((parameter.device for parameter in task.parameters()), images.device)
    # One image at a time where the method makes a batch of it.
    block = 1 if method in ("smoothgrad", "integrated_gradients") else _BLOCK
    maps: list[Tensor] = []
    if len(images) == 0:
        return torch.empty(0, *images.shape[-2:])
    with torch.inference_mode(False), torch.enable_grad(), evaluating(task):
        explain = _explainer(task, method, seed)
        for some, classes in zip(torch.split(images, block), torch.split(targets, block), strict=True):
            # A copy: a tensor made in inference mode can have no gradient.
            batch = some.detach().to(device, torch.float32, copy=True).requires_grad_()
            found = explain(batch, classes.detach().to(device, torch.int64, copy=True))
            maps.append(found.detach().float().cpu())
    return torch.cat(maps)


def _explainer(task: nn.Module, method: Method, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of images (N, C, H, W) and classes (N,) that computes maps (N, H, W)."""
    match method:
        case "gradient":
            return lambda images, targets: Saliency(task).attribute(images, targets).amax(dim=1)
        case "smoothgrad":
            tunnel = NoiseTunnel(Saliency(task))

            def smoothgrad(images: Tensor, targets: Tensor) -> Tensor:
                spread = _NOISE * float(images.detach().max() - images.detach().min())
                with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
                    torch.manual_seed(seed)
                    # The mean of signed gradients: noise cancels, and only then are signs dropped.
                    mean: Tensor = tunnel.attribute(
                        images, nt_samples=_SAMPLES, stdevs=spread, target=targets, abs=False
                    )
                return mean.abs().amax(dim=1)

            return smoothgrad
        case "integrated_gradients":
            path = IntegratedGradients(task)
            return lambda images, targets: path.attribute(images, target=targets, n_steps=_STEPS).sum(dim=1).abs()
        case "tiles":
            return _tile_map(task)
        case "grad_cam":
            return _class_activation(task, LayerGradCam)
        case "hires_cam":
            return _class_activation(task, LayerGradientXActivation)


def _tile_map(task: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    network = tiled_network(task)
    if network is None:
        raise InputError("method tiles needs a network with tiles, and this one has none: take hires_cam")

    def tile_map(images: Tensor, targets: Tensor) -> Tensor:
        added = network.tile_contributions(network.embed_tiles(images).detach(), targets).relu()
        return functional.interpolate(added[:, None], size=images.shape[-2:])[:, 0]

    return tile_map


def _class_activation(
    task: nn.Module, attribution: type[LayerGradCam] | type[LayerGradientXActivation]
) -> Callable[[Tensor, Tensor], Tensor]:
    network = next((module for module in task.modules() if isinstance(module, Network)), None)
    halves = None if network is None else _Halves(network)

    def class_activation(images: Tensor, targets: Tensor) -> Tensor:
        model, layer = (task, _last_map(task, images)) if halves is None else (halves, halves.body)
        # Grad-CAM's channels are summed already, and the sum of one is itself.
        cam: Tensor = attribution(model, layer).attribute(images, targets).sum(dim=1, keepdim=True).relu()
        return functional.interpolate(cam, size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    return class_activation


class _Body(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)


class _Halves(nn.Module):
    """Split a network for captum: what `forward_features` returns is the output of a layer with a name."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.body = _Body(network)

    def forward(self, images: Tensor) -> Tensor:
        return self.body.network.forward_head(self.body(images))


def _last_map(task: nn.Module, images: Tensor) -> nn.Module:
    """Return the last module to give maps (N, D, h, w) of more than one pixel."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
            found.append(module)

    with ExitStack() as hooks, torch.no_grad():
        for module in task.modules():
            hooks.enter_context(module.register_forward_hook(note))
        task(images[:1])
    if not found:
        raise InputError(
            f"method {' and '.join(CAMS)} need a network with feature maps, and this one has none: take gradient"
        )
    return found[-1]

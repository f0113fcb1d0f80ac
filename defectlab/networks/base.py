"""The base class of networks, how a network is built from a class or function, and checks of arguments."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from defectlab.errors import InputError, check_at_least
from defectlab.networks.scaler import StandardScaler
from defectlab.utils.image_format import Size, checked_size, sides
from defectlab.utils.text import first_line


class Network(nn.Module):
    """An image classifier: `features` up to the last feature map, `head` from there to the logits.

    A subclass sets both in its constructor, which begins with the same three arguments and raises InputError for any
    that is out of range. `standardise_pixels` puts a `StandardScaler` before the features.

    Args:
        num_classes: Number of logits, at least 2.
        in_channels: Channels of the images, 1 for grey and 3 for colour.
        image_size: Side of square images in pixels, or `(height, width)`.
        smallest: The shortest side that leaves at least one pixel after all pools.
    """

    features: nn.Sequential
    head: nn.Sequential
    scaler: StandardScaler | None

    def __init__(self, num_classes: int, in_channels: int, image_size: Size, smallest: int = 1) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 2)
        check_at_least("in_channels", in_channels, 1)
        image_size = checked_size(image_size)  # a checkpoint has a list
        if min(sides(image_size)) < smallest:
            raise InputError(
                f"image_size is {image_size}: {type(self).__name__} with these settings needs at least "
                f"{smallest} pixels; give larger images or a network with fewer pools"
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size
        self.scaler = None

    def standardise_pixels(self) -> StandardScaler:
        """Add a scaler, which does nothing until it is fitted, and return it."""
        self.scaler = StandardScaler(self.in_channels, self.image_size)
        return self.scaler

    def forward_features(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into the last feature map (N, D, h, w)."""
        features: Tensor = self.features(images if self.scaler is None else self.scaler(images))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn the last feature map (N, D, h, w) into logits (N, num_classes)."""
        logits: Tensor = self.head(features)
        return logits

    def embed_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn images (N, in_channels, H, W) into embeddings (N, D) and logits (N, num_classes) in one pass.

        An embedding is the mean over space of the last feature map; of networks that pool otherwise, what they pool.
        """
        features = self.forward_features(images)
        return features.mean(dim=(2, 3)), self.forward_head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def embed_and_classify(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Turn images (N, C, H, W) into embeddings (N, E) and logits (N, num_classes), in one pass of any network.

    One without a method of this name is embedded by what its last linear layer takes, or by its logits.
    """
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(network, "embed_and_classify", None)
    if own is not None:
        return own(images)
    taken: list[Tensor] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])) for layer in layers]
    try:
        logits: Tensor = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return (taken[-1] if taken else logits).flatten(1), logits


def build_network(
    network: nn.Module | Callable[..., nn.Module],
    num_classes: int,
    in_channels: int | None = None,
    image_size: Size | None = None,
) -> nn.Module:
    """Build a network from its class, or from a function that returns it; a ready one is returned as it is.

    Of `num_classes`, `in_channels` (or timm's `in_chans`) and `image_size` it is given those that it has arguments for;
    all three by position if it has none of these names, and `num_classes` if it takes any keyword.

    Args:
        network: a module, class or function.
        num_classes: number of logits.
        in_channels: channels of the images, None if they are not known.
        image_size: side in pixels, or (height, width); None if it is not known.

    Raises:
        InputError: it takes other arguments, or its logits of two black images are not of shape (2, num_classes).
    """
    image_size = None if image_size is None else checked_size(image_size)
    if isinstance(network, nn.Module):
        module = network
    else:
        offered: dict[str, Size | None] = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "in_chans": in_channels,
        }
        offered |= {"image_size": image_size}
        parameters = inspect.signature(network).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        names = {name for name in offered if name in parameters}
        if inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
            names |= {"num_classes"}
            if "model_name" in parameters:  # timm's create_model
                names |= {"in_chans"}
        by_position = inspect.Parameter.VAR_POSITIONAL in kinds or len(parameters) >= 3
        positional = (num_classes, in_channels, image_size) if not names and by_position else ()
        try:
            module = network(*positional, **{name: offered[name] for name in names if offered[name] is not None})
        except TypeError as error:
            raise InputError(
                f"model.network {_name(network)} cannot be built: {error}; it is given those of num_classes, in_channels "
                "and image_size that it has arguments for, and needs a default for every other one, or init_args"
            ) from error
    if in_channels is not None and image_size is not None:
        _check_logits(module, num_classes, (2, in_channels, *sides(image_size)))
    return module


def _name(network: object) -> str:
    return str(getattr(network, "__name__", type(network).__name__))


def _check_logits(network: nn.Module, num_classes: int, shape: tuple[int, int, int, int]) -> None:
    """Raise InputError unless two black images give logits: before any data is read."""
    name = type(network).__name__
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(shape))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"model.network {name} cannot take images of shape {shape}: {reason}") from None
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (shape[0], num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"model.network {name} turns images of shape {shape} into {found}: expected logits of shape "
            f"({shape[0]}, {num_classes}); it is given num_classes, in_channels and image_size"
        )


def check_width(width: float) -> None:
    """Raise InputError unless the width multiplier lies in (0, 10]; the papers use 0.25 to 1.4."""
    if not 0 < width <= 10:
        raise InputError(f"width is {width}: expected a multiplier such as 0.25, 0.5 or 1.0; change width")


def check_dropout(dropout: float) -> None:
    """Raise InputError unless the dropout probability lies in [0, 1)."""
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}: expected a probability in [0, 1); change dropout")

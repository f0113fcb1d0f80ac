"""List every program of the course: its config, and its published accuracy."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

Set = Literal["neu", "mnist", "fashion", "flowers"]


@dataclass(frozen=True)
class Program:
    """One experiment: `published` is a test accuracy in per cent of the course, or of this project itself.

    `settings` lie over the config's values, by dotted name; `teacher` is the program whose run of the same seed is
    distilled.
    """

    name: str
    title: str
    config: str
    data: Set
    _: KW_ONLY
    settings: Mapping[str, object] = field(default_factory=dict)
    published: float | None = None
    teacher: str | None = None


_WHOLE_TEST = {"data.test_size": None}
_FROM_NOTHING = {
    "model.weights": None, "model.backbone_lr_factor": 1, "model.freeze_batch_norm": False, "trainer.max_epochs": 15,
}  # fmt: skip

PROGRAMS = (
    # The programs that the course documents give in full.
    Program("mnist-keras", "Keras CNN, 32-64 filters", "mnist_bipyramidal.yaml", "mnist", published=99.04),
    Program("mnist-cnn", "CNN, 12-24 filters", "mnist_compact.yaml", "mnist"),
    Program("mnist-lenet5", "LeNet-5", "mnist_lenet5.yaml", "mnist"),
    Program(
        "mnist-900", "CNN, 16-32 filters, 900 images", "mnist_lab.yaml", "mnist", settings=_WHOLE_TEST, published=94.0,
    ),
    Program("fashion-10000", "the same CNN, 10,000 images", "fashion_lab.yaml", "fashion", published=89.0),
    Program("fashion-keras", "Keras CNN with BatchNorm and dropout", "fashion_bipyramidal.yaml", "fashion"),
    Program("neu-keras", "Keras CNN, 32-64-128 filters", "neu_bipyramidal.yaml", "neu", published=92.67),
    Program("neu-simple", "SimpleDefectCNN", "neu_simple_cnn.yaml", "neu"),
    Program("neu-lenet5", "LeNet-5", "neu_simple_cnn.yaml", "neu", settings={"model.network": "LeNet5"}),
    Program("neu-depthwise", "depthwise separable convolutions", "neu_depthwise.yaml", "neu"),
    # Transfer learning, beside the same network without it.
    Program("neu-scratch", "MobileNetV3, from random weights", "neu_mobilenet.yaml", "neu", settings=_FROM_NOTHING),
    Program("neu-features", "MobileNetV3, features computed once", "neu_feature_extraction.yaml", "neu"),
    Program("neu-frozen", "MobileNetV3, frozen, augmented", "neu_frozen_head.yaml", "neu"),
    Program("neu-fine-tuning", "MobileNetV3, all layers at a low rate", "neu_fine_tuning.yaml", "neu"),
    Program("neu-resnet18", "ResNet-18 from ImageNet", "neu_resnet18.yaml", "neu"),
    Program("neu-vgg16", "VGG-16 from ImageNet", "neu_vgg16.yaml", "neu"),
    Program("flowers-3", "the 3 most frequent of Flowers-102", "flowers_three.yaml", "flowers"),
    Program("flowers-102", "all of Flowers-102", "flowers_all.yaml", "flowers"),
    Program(
        "neu-distilled", "depthwise separable, taught by MobileNetV3", "neu_distillation.yaml", "neu",
        teacher="neu-mobilenet",
    ),
    Program(
        "mnist-900-distilled", "the CNN of mnist-900, taught by mnist-keras, which saw 55,000",
        "mnist_distillation.yaml", "mnist", settings=_WHOLE_TEST, teacher="mnist-keras",
    ),
    # One option at a time, against mnist-plain.
    Program("mnist-plain", "LeNet-5, Adam, 5,000 images", "mnist_plain.yaml", "mnist"),
    Program("mnist-sgd", "the same with SGD", "mnist_sgd.yaml", "mnist"),
    Program("mnist-rmsprop", "with RMSprop", "mnist_rmsprop.yaml", "mnist"),
    Program("mnist-adamw", "with AdamW", "mnist_adamw.yaml", "mnist"),
    Program("mnist-l1", "with an L1 penalty", "mnist_l1.yaml", "mnist"),
    Program("mnist-l2", "with an L2 penalty", "mnist_l2.yaml", "mnist"),
    Program("mnist-dropout", "with dropout after each dense layer", "mnist_dropout.yaml", "mnist"),
    Program("mnist-batch-norm", "with batch normalisation", "mnist_batch_norm.yaml", "mnist"),
    Program("mnist-layer-norm", "with layer normalisation", "mnist_layer_norm.yaml", "mnist"),
    Program("mnist-group-norm", "with group normalisation", "mnist_group_norm.yaml", "mnist"),
    Program("mnist-label-smoothing", "with label smoothing", "mnist_label_smoothing.yaml", "mnist"),
    Program("mnist-early-stopping", "with early stopping", "mnist_early_stopping.yaml", "mnist"),
    Program("mnist-standard-scaler", "with each pixel standardised", "mnist_standard_scaler.yaml", "mnist"),
    Program("mnist-lr-finder", "at the rate that a range test finds", "mnist_lr_finder.yaml", "mnist"),
    Program("mnist-ema", "with a moving average of the weights", "mnist_ema.yaml", "mnist"),
    Program("mnist-swa", "with stochastic weight averaging", "mnist_swa.yaml", "mnist"),
    Program("neu-no-tta", "CompactCNN, judged once", "neu_tta.yaml", "neu", settings={"model.tta": "none"}),
    Program("neu-tta", "the same, judged with its mirror image", "neu_tta.yaml", "neu"),
    # Beyond the course: the figures are this project's own bars.
    Program("mnist-small", "residual network, 9,464 weights", "mnist_small_resnet.yaml", "mnist", published=99.5),
    Program(
        "fashion-small", "residual network, 84,154 weights", "fashion_small_resnet.yaml", "fashion", published=93.0,
    ),
    Program("neu-mobilenet", "MobileNetV3, the default of this project", "neu_mobilenet.yaml", "neu"),
    Program("neu-noise", "the same, trained to bear noise", "neu_noise.yaml", "neu"),
)  # fmt: skip

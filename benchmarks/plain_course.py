"""The course's two programs, written out plainly: what a student with PyTorch and torchvision would run.

NEU-CLS: the 32-64-128 network on grey images of 200 px, Adam 1e-3, batch 32, ten epochs, no augmentation.
MNIST: the 32-64 network, Adam 1e-3. Nothing is tuned: PIL, a DataLoader as it comes, the system's allocator.

    python benchmarks/plain_course.py neu FOLDER     with train/<class>/ and test/<class>/
    python benchmarks/plain_course.py mnist FOLDER   with MNIST/raw/

Prints a JSON object an epoch: the seconds since reading began, and the accuracy on the test images.
"""

import argparse
import json
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


class CourseCNN(nn.Module):
    """Blocks of 3×3 convolution, ReLU and 2×2 pool, then a dense layer of 128."""

    def __init__(self, widths: Sequence[int], image_size: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
            image_size //= 2
        layers += [
            nn.Flatten(),
            nn.Linear(channels * image_size**2, 128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def neu(folder: str, image_size: int, batch_size: int, epochs: int, target: float) -> None:
    """Train until the accuracy on the test images is at least `target`, for at most `epochs`."""
    began = time.perf_counter()
    steps = [transforms.Grayscale(), transforms.Resize((image_size, image_size)), transforms.ToTensor()]
    train = datasets.ImageFolder(f"{folder}/train", transforms.Compose(steps))
    test = datasets.ImageFolder(f"{folder}/test", transforms.Compose(steps))
    network = CourseCNN((32, 64, 128), image_size, len(train.classes))
    fit(
        network,
        DataLoader(train, batch_size, shuffle=True),
        DataLoader(test, batch_size),
        epochs,
        target,
        began,
    )


def mnist(folder: str, batch_size: int, epochs: int, target: float) -> None:
    """The same for MNIST."""
    began = time.perf_counter()
    train = datasets.MNIST(folder, train=True, transform=transforms.ToTensor())
    test = datasets.MNIST(folder, train=False, transform=transforms.ToTensor())
    network = CourseCNN((32, 64), 28, 10)
    fit(network, DataLoader(train, batch_size, shuffle=True), DataLoader(test, 1000), epochs, target, began)


def fit(
    network: nn.Module,
    train: "DataLoader[tuple[torch.Tensor, torch.Tensor]]",
    test: "DataLoader[tuple[torch.Tensor, torch.Tensor]]",
    epochs: int,
    target: float,
    began: float,
) -> None:
    """The training loop that every course shows."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = nn.CrossEntropyLoss()
    for epoch in range(1, epochs + 1):
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss = loss_function(network(images), labels)
            loss.backward()
            optimizer.step()
        accuracy = evaluate(network, test)
        seconds = time.perf_counter() - began
        print(json.dumps({"epoch": epoch, "seconds": round(seconds, 2), "accuracy": accuracy}), flush=True)
        if accuracy >= target:
            break


def evaluate(network: nn.Module, test: "DataLoader[tuple[torch.Tensor, torch.Tensor]]") -> float:
    """Share of the test images that are named rightly."""
    network.eval()
    hits = count = 0
    with torch.no_grad():
        for images, labels in test:
            hits += int((network(images).argmax(dim=1) == labels).sum())
            count += len(labels)
    return hits / count


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one program."""
    parser = argparse.ArgumentParser(description="The course's programs, written out plainly.")
    parser.add_argument("course", choices=("neu", "mnist"))
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=200, help="of neu")
    parser.add_argument("--target", type=float, default=1.0, help="accuracy at which to stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    if given.course == "neu":
        neu(given.folder, given.image_size, given.batch_size, given.epochs, given.target)
    else:
        mnist(given.folder, given.batch_size, given.epochs, given.target)


if __name__ == "__main__":
    main()

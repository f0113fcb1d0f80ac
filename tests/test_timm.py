"""Backbones of timm's: levels, weights from every source, all modes of training; nothing asks a network."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import read, refusal
from safetensors.torch import save_file

from defectlab.cli.main import main
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights, save_backbone_weights
from defectlab.runs import RunFolder

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked a network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked a network"))


def whole_state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: value.contiguous() for key, value in timm.create_model(name).state_dict().items()}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_maxvit"])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_are_those_of_timm_with_the_same_weights(name: str, channels: int, tmp_path: Path) -> None:
    state = whole_state(name)
    torch.save(state, tmp_path / "whole.pth")
    network = PretrainedNetwork(3, channels, (64, 96), backbone=f"timm/{name}", stages="middle").eval()
    load_backbone_weights(network, str(tmp_path / "whole.pth"))
    size = {"img_size": (64, 96)} if name in ("test_vit", "test_maxvit") else {}
    reference: Any = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}, in_chans=channels, **size
    ).eval()
    images = torch.randn(2, channels, 64, 96)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=network.stages, norm=False, intermediates_only=True)
        found = network.stage_maps(images)
        assert network.embed(images).shape == (2, network.embedding_size)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape[2] * 96 == one.shape[3] * 64  # NCHW
    save_backbone_weights(network, tmp_path / "own.safetensors", half=False)
    again = PretrainedNetwork(3, channels, (64, 96), backbone=f"timm/{name}", stages="middle").eval()
    load_backbone_weights(again, str(tmp_path / "own.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(again.embed(images), network.embed(images))


def test_features_alone_and_a_folder_are_read(tmp_path: Path) -> None:
    network = PretrainedNetwork(3, 3, 64, backbone="timm/test_resnet", stages=[1, 2])
    features = timm.create_model("test_resnet", features_only=True)
    torch.save(features.state_dict(), tmp_path / "features.pth")
    load_backbone_weights(network, str(tmp_path / "features.pth"))
    kernel = next(iter(features.state_dict().values()))
    assert torch.equal(next(iter(network.features.state_dict().values())), kernel)
    save_file(whole_state("test_resnet"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    load_backbone_weights(network, str(tmp_path))
    assert not torch.equal(next(iter(network.features.state_dict().values())), kernel)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    refusal(lambda: load_backbone_weights(network, str(tmp_path)), "timm/resnet18")


def test_a_part_of_the_weights_is_refused(tmp_path: Path) -> None:
    network = PretrainedNetwork(3, 3, 64, backbone="timm/test_resnet")
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def refused(state: dict[str, torch.Tensor], word: str) -> None:
        torch.save(state, tmp_path / "w.pth")
        refusal(lambda: load_backbone_weights(network, str(tmp_path / "w.pth")), word)

    state = whole_state("test_resnet")
    key = next(key for key in state if key.startswith("layer4") and key.endswith("weight"))
    refused({k: v for k, v in state.items() if k != key}, key)
    refused({**state, "layer9.0.weight": torch.ones(1)}, "layer9")
    refused({**state, key: torch.full_like(state[key], torch.nan)}, key)
    refused(whole_state("test_efficientnet"), "does not fit timm/test_resnet")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_built_is_one_line() -> None:
    def refused(*words: str, **given: Any) -> None:
        refusal(lambda: PretrainedNetwork(3, 1, **{"image_size": 64, **given}), *words)

    refused("did you mean timm/", backbone="timm/test_resnett")
    refused("no such network", backbone="timm/hf-hub:timm/resnet18")
    refused("no such network", backbone="timm/local-dir:/tmp")
    refused("width", backbone="timm/test_resnet", width=0.5)
    refused("stages", backbone="timm/test_resnet", stages=[5])
    refused("patches of 16", backbone="timm/test_vit", image_size=70)
    refused("image_size", backbone="timm/test_convnext", image_size=8)


def test_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    class Session:
        head = unreachable

    monkeypatch.setattr(hub, "get_session", Session)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    network = PretrainedNetwork(3, 3, 64, backbone="timm/test_resnet")
    refusal(lambda: load_backbone_weights(network, "imagenet"), "no route", "model.safetensors")
    save_file(whole_state("test_resnet"), tmp_path / "cached.safetensors")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "cached.safetensors"))
    load_backbone_weights(network, "imagenet")


@pytest.mark.parametrize(
    "mode",
    [
        {"backbone": "timm/test_vit", "cache_features": "true"},
        {"backbone": "timm/test_resnet", "trainable": "head_then_all", "unfreeze_epoch": "1"},
    ],
)
def test_a_run_is_trained_and_predicts(mode: dict[str, str], class_folders: Path, tmp_path: Path) -> None:
    save_file(whole_state(mode["backbone"].removeprefix("timm/")), tmp_path / "w.safetensors")
    words = ["fit", "--config", "folder_mobilenet.yaml", "--data.root", str(class_folders), "--data.image_size", "32"]
    words += ["--data.channels", "1", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--model.weights", str(tmp_path / "w.safetensors")]
    for key, value in mode.items():
        words += [f"--model.{key}", value]
    assert main(words) == 0
    (tmp_path / "w.safetensors").unlink()  # a run needs its checkpoint alone
    run = RunFolder(next((tmp_path / "runs").rglob("metrics.json")).parent)
    assert "test" in read(run.path)
    assert main(["predict", str(run.path), str(class_folders), "--output", str(tmp_path / "p.csv")]) == 0

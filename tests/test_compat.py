"""Private parts of dependencies: each is of the shape that defectlab relies on, in whatever release is installed."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from defectlab.utils import _compat

PACKAGE = Path(__file__).parents[1] / "defectlab"


def test_lightnings_command_line_calls_what_is_overridden() -> None:
    _compat.check_cli(LightningCLI)

    class Renamed(LightningCLI):
        _parse_ckpt_path: Any = None

    with pytest.raises(RuntimeError, match=r"lightning [\d.]+.* has no cli._parse_ckpt_path as defectlab expects"):
        _compat.check_cli(Renamed)


def test_trainer_parts() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert _compat.script_children(trainer) is None
    assert _compat._takes(trainer.fit_loop.setup_data)
    assert _compat._takes(trainer.strategy.setup_optimizers, "trainer")
    assert _compat.finds_unused_parameters(DDPStrategy(find_unused_parameters=True))
    assert not _compat.finds_unused_parameters(DDPStrategy())
    several = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    assert _compat.script_children(several) == []


def test_a_checkpoint_callback_that_was_moved(tmp_path: Path) -> None:
    state = {**ModelCheckpoint(tmp_path).state_dict(), "best_model_path": "/old/best.ckpt"}
    _compat.relocate_checkpoints(state, tmp_path)
    assert state["best_model_path"] == str(tmp_path / "best.ckpt")
    assert state["last_model_path"] == ""
    with pytest.raises(RuntimeError, match=r"ModelCheckpoint\.state_dict"):
        _compat.relocate_checkpoints({"best_model_path": ""}, tmp_path)


def test_weight_averaging() -> None:
    callback = WeightAveraging()
    assert _compat.averaged_model(callback) is None
    _compat.add_averaged_step(callback, 7)
    assert _compat.last_averaged_step(callback) == 7
    assert callback.state_dict() == {"latest_update_step": 7}
    _compat.drop_averaged_model(callback)
    del callback._average_model
    with pytest.raises(RuntimeError, match="WeightAveraging"):
        _compat.averaged_model(callback)


def test_torch_and_torchvision() -> None:
    schedule = OneCycleLR(torch.optim.SGD(nn.Linear(1, 1).parameters()), 0.1, total_steps=9)
    rest = _compat.without_length(schedule.state_dict())
    assert "last_epoch" in rest
    assert not {"total_steps", "_schedule_phases"} & set(rest)
    assert _compat.operator_name(torch.ops.aten.convolution.default) == "convolution"
    assert sum(isinstance(layer, nn.Conv2d) for layer in _compat.vgg_features("D")) == 13
    with pytest.raises(RuntimeError, match=r"torchvision .*vgg"):
        _compat.vgg_features("Z")


def test_what_jsonargparse_says_is_understood() -> None:
    import jsonargparse

    def said(*words: str) -> _compat.ArgumentMessage:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--count", type=int)
        parser.add_argument("--module", type=nn.Module)
        with pytest.raises(jsonargparse.ArgumentError) as caught:
            parser.parse_args([*words])
        return _compat.ArgumentMessage(str(caught.value))

    assert said("--count", "many").place == "count"
    assert said("--count", "many").expected_types == ["<class 'int'>"]
    assert said("--count", "many").given_value == "many"
    assert said("--cont", "1").unknown_key == "cont"
    assert said("stray").stray_words == "stray"
    assert said("--module", "torch.nn.Lineer").missing_class == "Lineer"
    assert said("--module", "pathlib.Path").wrong_subclass == ("pathlib.Path", "Module")
    assert said("--module", "torch.nn.Linear", "--module.in_featurs", "3").unknown_key == "in_featurs"


def test_no_other_module_touches_a_private_part() -> None:
    private = ("_average_model", "_latest_update_step", "_ddp_kwargs", "_SubprocessScriptLauncher", "_python_dispatch")
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert file.name == "_compat.py" or not [name for name in private if name in text], file

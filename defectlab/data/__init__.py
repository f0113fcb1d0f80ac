"""LightningDataModules, and where their images come from."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names, name_places

if TYPE_CHECKING:
    from defectlab.data.datamodules.base import ImageDataModule
    from defectlab.data.datamodules.dataset import DatasetDataModule
    from defectlab.data.datamodules.flowers import FlowersDataModule
    from defectlab.data.datamodules.folder import ImageFolderDataModule
    from defectlab.data.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
    from defectlab.data.datamodules.neu import NEUDataModule
    from defectlab.data.datamodules.surfaces import SurfacesDataModule
    from defectlab.data.pipeline.augment import Augmentation
    from defectlab.data.pipeline.split_table import SplitTable
    from defectlab.data.sources.label_table import LabelColumns

__all__ = [
    "Augmentation", "DatasetDataModule", "FashionMNISTDataModule", "FlowersDataModule", "ImageDataModule",
    "ImageFolderDataModule", "LabelColumns", "MNISTDataModule", "NEUDataModule", "SplitTable", "SurfacesDataModule",
]  # fmt: skip

__getattr__ = lazy_names(globals(), name_places({
    "datamodules.base": "ImageDataModule",
    "datamodules.dataset": "DatasetDataModule",
    "datamodules.flowers": "FlowersDataModule",
    "datamodules.folder": "ImageFolderDataModule",
    "datamodules.mnist": "FashionMNISTDataModule MNISTDataModule",
    "datamodules.neu": "NEUDataModule",
    "datamodules.surfaces": "SurfacesDataModule",
    "pipeline.augment": "Augmentation",
    "pipeline.split_table": "SplitTable",
    "sources.label_table": "LabelColumns",
}))  # fmt: skip

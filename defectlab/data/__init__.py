"""LightningDataModules, and where their images come from."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names

if TYPE_CHECKING:
    from defectlab.data.datamodules.base import ImageDataModule
    from defectlab.data.datamodules.dataset import DatasetDataModule
    from defectlab.data.datamodules.flowers import FlowersDataModule
    from defectlab.data.datamodules.folder import ImageFolderDataModule
    from defectlab.data.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
    from defectlab.data.datamodules.neu import NEUDataModule
    from defectlab.data.datamodules.surfaces import SurfacesDataModule
    from defectlab.data.pipeline.augment import Augmentation

__all__ = [
    "Augmentation", "DatasetDataModule", "FashionMNISTDataModule", "FlowersDataModule", "ImageDataModule",
    "ImageFolderDataModule", "MNISTDataModule", "NEUDataModule", "SurfacesDataModule",
]  # fmt: skip

__getattr__ = lazy_names(globals(), {
    "ImageDataModule": "datamodules.base",
    "DatasetDataModule": "datamodules.dataset",
    "FlowersDataModule": "datamodules.flowers",
    "ImageFolderDataModule": "datamodules.folder",
    "FashionMNISTDataModule": "datamodules.mnist",
    "MNISTDataModule": "datamodules.mnist",
    "NEUDataModule": "datamodules.neu",
    "SurfacesDataModule": "datamodules.surfaces",
    "Augmentation": "pipeline.augment",
})  # fmt: skip

"""LightningDataModules, and where their pictures come from."""

from defectlab.data.augment import Augmentation
from defectlab.data.base import ImageDataModule
from defectlab.data.flowers import FlowersDataModule
from defectlab.data.folder import ImageFolderDataModule
from defectlab.data.mnist import FashionMNISTDataModule, MNISTDataModule
from defectlab.data.neu import NEUDataModule
from defectlab.data.surfaces import SurfacesDataModule

__all__ = [
    "Augmentation", "FashionMNISTDataModule", "FlowersDataModule", "ImageDataModule", "ImageFolderDataModule",
    "MNISTDataModule", "NEUDataModule", "SurfacesDataModule",
]  # fmt: skip

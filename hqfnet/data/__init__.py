"""Data: folders of images and masks, generated scenes, and the Lightning modules that serve them."""

from hqfnet.data.classes import IGNORE_INDEX, ClassList, load_classes
from hqfnet.data.datamodule import FolderData, GeneratedData, SceneData
from hqfnet.data.folder import FolderDataset
from hqfnet.data.generated import SCENE_CLASSES, GeneratedScenes

__all__ = [
    "IGNORE_INDEX",
    "SCENE_CLASSES",
    "ClassList",
    "FolderData",
    "FolderDataset",
    "GeneratedData",
    "GeneratedScenes",
    "SceneData",
    "load_classes",
]

"""Data: folders of images and masks, published data sets, generated scenes, and the Lightning modules for them."""

from hqfnet.data.balance import class_pixels, class_weights
from hqfnet.data.classes import IGNORE_INDEX, ClassList, load_classes
from hqfnet.data.datamodule import FolderData, GeneratedData, SceneData
from hqfnet.data.folder import FolderDataset
from hqfnet.data.generated import SCENE_CLASSES, GeneratedScenes
from hqfnet.data.openearthmap import OpenEarthMap
from hqfnet.data.published import LandCoverAIData, OpenEarthMapData, SeasoNetData

__all__ = [
    "IGNORE_INDEX",
    "SCENE_CLASSES",
    "ClassList",
    "FolderData",
    "FolderDataset",
    "GeneratedData",
    "GeneratedScenes",
    "LandCoverAIData",
    "OpenEarthMap",
    "OpenEarthMapData",
    "SceneData",
    "SeasoNetData",
    "class_pixels",
    "class_weights",
    "load_classes",
]

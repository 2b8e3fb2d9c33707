"""HQF-Net (arXiv 2604.06715): hybrid quantum-classical segmentation of remote-sensing images."""

from hqfnet.model import HQFNet, create_model
from hqfnet.predict import predict_scene

__all__ = ["HQFNet", "create_model", "predict_scene"]

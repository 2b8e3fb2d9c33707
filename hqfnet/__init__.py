"""HQF-Net (arXiv 2604.06715): hybrid quantum-classical segmentation of remote-sensing images."""

from hqfnet.model import HQFNet, create_model

__all__ = ["HQFNet", "create_model"]

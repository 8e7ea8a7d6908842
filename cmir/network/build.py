"""A configuration -> the network it describes, with random weights."""

from typing import TypeAlias

from cmir.network.cmirnet_model import CmirNet
from cmir.network.model import NetworkConfig, SharedSpaceNet

# Both embed by the same three calls: encode_image, encode_speech, unit_prototypes.
Network: TypeAlias = SharedSpaceNet | CmirNet


def build_network(config: NetworkConfig) -> Network:
    """The network of `config.architecture`, in training mode."""
    return CmirNet(config) if config.architecture == "cmirnet" else SharedSpaceNet(config)

"""A readable decoder: one small file a block, one dataclass for its shape."""

from longhaul_trainer.model.decoder import Decoder
from longhaul_trainer.model.shape import DecoderShape

__all__ = ["Decoder", "DecoderShape"]

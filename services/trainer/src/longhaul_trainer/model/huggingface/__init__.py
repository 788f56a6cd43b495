"""The same decoder as transformers knows it: configuration and weights, both ways."""

from longhaul_trainer.model.huggingface.configuration import huggingface_config, shape_from_huggingface
from longhaul_trainer.model.huggingface.families import Family, family_of
from longhaul_trainer.model.huggingface.weights import from_huggingface, to_huggingface

__all__ = [
    "Family",
    "family_of",
    "from_huggingface",
    "huggingface_config",
    "shape_from_huggingface",
    "to_huggingface",
]

"""Settings of the corpus service."""

from typing import ClassVar

from longhaul_core.settings import ServiceSettings


class CorpusSettings(ServiceSettings):
    """What the corpus service is told at start."""

    service: ClassVar[str] = "corpus"

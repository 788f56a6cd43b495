"""`python -m longhaul_corpus` runs the corpus service."""

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_corpus.app import build
    from longhaul_corpus.settings import CorpusSettings

if __name__ == "__main__":
    main(CorpusSettings, build)

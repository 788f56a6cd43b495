"""`python -m longhaul_gpuhealth`: run the service."""

from __future__ import annotations

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_gpuhealth.app import build
    from longhaul_gpuhealth.settings import GpuHealthSettings

if __name__ == "__main__":
    main(GpuHealthSettings, build)

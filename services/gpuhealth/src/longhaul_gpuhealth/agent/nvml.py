"""GPU signals by NVML under the names of dcgm-exporter, for machines without DCGM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Value = float | None
Read = Callable[[Any, Any], float]


def open_nvml() -> Any | None:
    """The NVML module, initialised; None where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:
        return None
    return pynvml


@dataclass(frozen=True, slots=True)
class Field:
    """A signal: its DCGM name, its kind, and how NVML gives it."""

    name: str
    kind: str
    read: Read


FIELDS = (
    Field("DCGM_FI_DEV_SM_CLOCK", "gauge", lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),
    Field("DCGM_FI_DEV_MEM_CLOCK", "gauge", lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
    Field("DCGM_FI_DEV_GPU_TEMP", "gauge", lambda n, h: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
    Field("DCGM_FI_DEV_POWER_USAGE", "gauge", lambda n, h: n.nvmlDeviceGetPowerUsage(h) / 1000),
    Field("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", lambda n, h: n.nvmlDeviceGetTotalEnergyConsumption(h)),
    Field("DCGM_FI_DEV_GPU_UTIL", "gauge", lambda n, h: n.nvmlDeviceGetUtilizationRates(h).gpu),
    Field("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", lambda n, h: n.nvmlDeviceGetUtilizationRates(h).memory),
    Field("DCGM_FI_DEV_FB_USED", "gauge", lambda n, h: n.nvmlDeviceGetMemoryInfo(h).used / 2**20),
    Field("DCGM_FI_DEV_FB_FREE", "gauge", lambda n, h: n.nvmlDeviceGetMemoryInfo(h).free / 2**20),
    Field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", lambda n, h: n.nvmlDeviceGetPcieReplayCounter(h)),
    Field("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "gauge", lambda n, h: n.nvmlDeviceGetCurrentClocksThrottleReasons(h)),
    Field("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", lambda n, h: _ecc(n, h, "CORRECTED", "VOLATILE")),
    Field("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", lambda n, h: _ecc(n, h, "UNCORRECTED", "VOLATILE")),
    Field("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "counter", lambda n, h: _ecc(n, h, "CORRECTED", "AGGREGATE")),
    Field("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "counter", lambda n, h: _ecc(n, h, "UNCORRECTED", "AGGREGATE")),
    Field("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", lambda n, h: n.nvmlDeviceGetRemappedRows(h)[0]),
    Field("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", lambda n, h: n.nvmlDeviceGetRemappedRows(h)[1]),
    Field("DCGM_FI_DEV_ROW_REMAP_PENDING", "gauge", lambda n, h: n.nvmlDeviceGetRemappedRows(h)[2]),
    Field("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", lambda n, h: n.nvmlDeviceGetRemappedRows(h)[3]),
    Field("DCGM_FI_DEV_RETIRED_SBE", "counter", lambda n, h: _retired(n, h, "MULTIPLE_SINGLE_BIT_ECC_ERRORS")),
    Field("DCGM_FI_DEV_RETIRED_DBE", "counter", lambda n, h: _retired(n, h, "DOUBLE_BIT_ECC_ERROR")),
    Field("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "counter", lambda n, h: _nvlink(n, h, "DL_CRC_FLIT")),
    Field("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "counter", lambda n, h: _nvlink(n, h, "DL_CRC_DATA")),
    Field("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "counter", lambda n, h: _nvlink(n, h, "DL_REPLAY")),
    Field("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "counter", lambda n, h: _nvlink(n, h, "DL_RECOVERY")),
)


@dataclass(frozen=True, slots=True)
class _Gpu:
    handle: Any
    labels: str


@dataclass(slots=True)
class NvmlCollector:
    """Reads all GPUs. A field that a GPU does not have is left out, a GPU that does not answer too."""

    nvml: Any
    node: str

    def exposition(self) -> str:
        """A page as dcgm-exporter would give it."""
        gpus = list(self._gpus())
        lines: list[str] = []
        for field in FIELDS:
            rows = [(gpu, value) for gpu in gpus if (value := self._value(field, gpu)) is not None]
            if rows:
                lines += (f"# HELP {field.name} By NVML.", f"# TYPE {field.name} {field.kind}")
                lines += (f"{field.name}{{{gpu.labels}}} {_shown(value)}" for gpu, value in rows)
        return "\n".join(lines) + "\n" if lines else ""

    def _gpus(self) -> Iterator[_Gpu]:
        driver = _text(self.nvml.nvmlSystemGetDriverVersion())
        for index in range(self.nvml.nvmlDeviceGetCount()):
            try:
                handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, model = _text(self.nvml.nvmlDeviceGetUUID(handle)), _text(self.nvml.nvmlDeviceGetName(handle))
                bus = _text(self.nvml.nvmlDeviceGetPciInfo(handle).busId)
            except self.nvml.NVMLError:
                continue
            yield _Gpu(
                handle,
                f'gpu="{index}",UUID="{uuid}",pci_bus_id="{bus}",device="nvidia{index}",modelName="{model}",'
                f'Hostname="{self.node}",DCGM_FI_DRIVER_VERSION="{driver}"',
            )

    def _value(self, field: Field, gpu: _Gpu) -> Value:
        try:
            return float(field.read(self.nvml, gpu.handle))
        except (self.nvml.NVMLError, AttributeError):
            return None


def _ecc(nvml: Any, handle: Any, error: str, counter: str) -> float:
    kind = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{error}")
    return float(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, getattr(nvml, f"NVML_{counter}_ECC")))


def _retired(nvml: Any, handle: Any, cause: str) -> float:
    return len(nvml.nvmlDeviceGetRetiredPages(handle, getattr(nvml, f"NVML_PAGE_RETIREMENT_CAUSE_{cause}")))


def _nvlink(nvml: Any, handle: Any, error: str) -> float:
    """Sum over the links that are there."""
    total, links = 0.0, 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            total += nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, getattr(nvml, f"NVML_NVLINK_ERROR_{error}"))
        except nvml.NVMLError:
            continue
        links += 1
    if not links:
        raise AttributeError("the GPU has no NVLink")
    return total


def _shown(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

"""NVML by its C functions: the real binding calls a library of this test over the C calling convention."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from longhaul_gpuhealth.agent.nvml import NvmlCollector, open_nvml
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.reading import Attribution

HANDLE, INT = ctypes.c_void_p, ctypes.c_uint
OUT, LONG_OUT = ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_ulonglong)
NOT_SUPPORTED, GPU_IS_LOST, INSUFFICIENT_SIZE = 3, 15, 7
GPUS = 2


class Library:
    """Two GPUs; the second one's links are not there, and it may be lost."""

    def __init__(self) -> None:
        self.lost = False
        self.calls: list[str] = []
        self._kept: list[Any] = []
        self.lib = SimpleNamespace()
        self._add("nvmlInitWithFlags", [INT], lambda flags: 0)
        self._add("nvmlDeviceGetCount_v2", [OUT], lambda out: put(out, GPUS))
        self._add("nvmlDeviceGetHandleByIndex_v2", [INT, ctypes.c_void_p], self._handle)
        self._text("nvmlSystemGetDriverVersion", [], lambda: "570.124")
        self._text("nvmlDeviceGetUUID", [HANDLE], lambda handle: f"GPU-{handle}")
        self._text("nvmlDeviceGetName", [HANDLE], lambda handle: "NVIDIA H100 80GB HBM3")
        self._add("nvmlDeviceGetPciInfo_v3", [HANDLE, ctypes.POINTER(pynvml.nvmlPciInfo_t)], self._pci)
        self._add("nvmlDeviceGetClockInfo", [HANDLE, INT, OUT], lambda h, kind, out: put(out, 1000 + kind))
        self._add("nvmlDeviceGetTemperature", [HANDLE, INT, OUT], lambda h, sensor, out: put(out, 50 + h))
        self._add("nvmlDeviceGetPowerUsage", [HANDLE, OUT], lambda h, out: put(out, 650_500))
        self._add("nvmlDeviceGetTotalEnergyConsumption", [HANDLE, LONG_OUT], lambda h, out: NOT_SUPPORTED)
        self._add("nvmlDeviceGetPcieReplayCounter", [HANDLE, OUT], lambda h, out: put(out, 3))
        self._add("nvmlDeviceGetCurrentClocksThrottleReasons", [HANDLE, LONG_OUT], lambda h, out: put(out, 0x48))
        self._add("nvmlDeviceGetTotalEccErrors", [HANDLE, INT, INT, LONG_OUT], self._ecc)
        self._add("nvmlDeviceGetRemappedRows", [HANDLE, OUT, OUT, OUT, OUT], self._rows)
        self._add("nvmlDeviceGetRetiredPages", [HANDLE, INT, OUT, LONG_OUT], self._pages)
        self._add("nvmlDeviceGetNvLinkErrorCounter", [HANDLE, INT, INT, LONG_OUT], self._link)
        self._add("nvmlDeviceGetMemoryInfo", [HANDLE, ctypes.POINTER(pynvml.c_nvmlMemory_t)], self._memory)
        self._add(
            "nvmlDeviceGetUtilizationRates", [HANDLE, ctypes.POINTER(pynvml.c_nvmlUtilization_t)], self._utilization
        )

    def _add(self, name: str, types: list[Any], fn: Callable[..., int]) -> None:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return fn(*arguments)

        made = ctypes.CFUNCTYPE(ctypes.c_int, *types)(call)
        self._kept.append(made)
        setattr(self.lib, name, made)

    def _text(self, name: str, types: list[Any], text: Callable[..., str]) -> None:
        def fill(*arguments: Any) -> int:
            *given, buffer, size = arguments
            data = text(*given).encode() + b"\0"
            assert len(data) <= size
            ctypes.memmove(buffer, data, len(data))
            return 0

        self._add(name, [*types, ctypes.c_void_p, INT], fill)

    def _handle(self, index: int, out: int) -> int:
        if self.lost and index == 1:
            return GPU_IS_LOST
        return put(ctypes.cast(out, ctypes.POINTER(HANDLE)), index + 1)

    def _pci(self, handle: int, out: Any) -> int:
        out[0].busId = f"00000000:{0x1A + handle:02X}:00.0".encode()
        return 0

    def _ecc(self, handle: int, kind: int, counter: int, out: Any) -> int:
        return put(out, 100 * kind + 10 * counter + handle)

    def _rows(self, handle: int, corrected: Any, uncorrected: Any, pending: Any, failure: Any) -> int:
        for place, value in ((corrected, 4), (uncorrected, 5), (pending, 1), (failure, 0)):
            put(place, value)
        return 0

    def _pages(self, handle: int, cause: int, count: Any, pages: Any) -> int:
        wanted = 7 if cause == pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS else 2
        fits = bool(pages) and count[0] >= wanted
        put(count, wanted)
        return 0 if fits else INSUFFICIENT_SIZE

    def _link(self, handle: int, link: int, counter: int, out: Any) -> int:
        return put(out, 10 + counter) if handle == 1 and link < 18 else NOT_SUPPORTED

    def _memory(self, handle: int, out: Any) -> int:
        out[0].total, out[0].used, out[0].free = 80 << 30, 60 << 30, 20 << 30
        return 0

    def _utilization(self, handle: int, out: Any) -> int:
        out[0].gpu, out[0].memory = 97, 40
        return 0


def put(out: Any, value: int) -> int:
    out[0] = value
    return 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(pynvml, "nvmlLib", made.lib)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return made


def test_binding_and_collector_agree_on_every_function(rules: Any, library: Library) -> None:
    nvml = open_nvml()
    assert nvml is pynvml
    page = NvmlCollector(nvml, "n0").exposition()
    gpus = Attribution(rules.wanted).attribute("n0", 1.0, PageReader().read(page)).gpus
    assert sorted(gpus) == [0, 1]
    first, second = (gpus[index].signals for index in (0, 1))
    assert (gpus[1].uuid, gpus[1].model) == ("GPU-2", "NVIDIA H100 80GB HBM3")
    assert 'pci_bus_id="00000000:1C:00.0"' in page
    assert 'DCGM_FI_DRIVER_VERSION="570.124"' in page
    assert first["DCGM_FI_DEV_SM_CLOCK"] == 1000 + pynvml.NVML_CLOCK_SM
    assert (first["DCGM_FI_DEV_GPU_TEMP"], second["DCGM_FI_DEV_GPU_TEMP"]) == (51, 52)
    assert first["DCGM_FI_DEV_POWER_USAGE"] == 650.5
    assert first["DCGM_FI_DEV_GPU_UTIL"] == 97
    assert first["DCGM_FI_DEV_CLOCKS_EVENT_REASONS"] == 0x48
    assert first["DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"] == 101
    assert first["DCGM_FI_DEV_ECC_SBE_AGG_TOTAL"] == 11
    assert first["DCGM_FI_DEV_ROW_REMAP_PENDING"] == 1
    assert first["DCGM_FI_DEV_ROW_REMAP_FAILURE"] == 0
    assert first["DCGM_FI_DEV_RETIRED_SBE"] == 7
    assert first["DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"] == 18 * (10 + pynvml.NVML_NVLINK_ERROR_DL_CRC_FLIT)
    assert "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL" not in second, "it has no links"
    assert "DCGM_FI_DEV_FB_USED" in page
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" not in page, "this GPU does not support it"


def test_lost_gpu_is_left_out_and_the_rest_is_read(rules: Any, library: Library) -> None:
    nvml = open_nvml()
    library.lost = True
    page = NvmlCollector(nvml, "n0").exposition()
    assert list(Attribution(rules.wanted).attribute("n0", 1.0, PageReader().read(page)).gpus) == [0]


def test_function_that_an_old_driver_lacks_is_left_out(library: Library) -> None:
    nvml = open_nvml()
    del library.lib.nvmlDeviceGetRemappedRows
    page = NvmlCollector(nvml, "n0").exposition()
    assert "ROW_REMAP" not in page
    assert "DCGM_FI_DEV_GPU_TEMP" in page


def test_machine_without_the_library_has_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", lambda name: ctypes.CDLL("libthat-is-nowhere.so"))
    assert open_nvml() is None

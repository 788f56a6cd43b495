"""The node agent: XIDs of the kernel's log, NVML under the DCGM names, and how both join the exporter's page."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from longhaul_gpuhealth.agent.kernel_log import KernelLog, exposition
from longhaul_gpuhealth.agent.nvml import NvmlCollector
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.reading import Attribution, Reading

XID_LINE = (
    "4,1042,98213,-;NVRM: Xid (PCI:0000:1b:00): {}, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
)


def test_xids_are_counted_by_device_and_code(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("6,1,2,-;eth0: link up\n" + XID_LINE.format(79) + XID_LINE.format(13) + XID_LINE.format(13))
    log = KernelLog(path)
    log.read()
    log.read()
    assert log.counts == {("0000:1b:00", 79): 1, ("0000:1b:00", 13): 2}
    with path.open("a") as file:
        file.write(XID_LINE.format(79)[:30])
    log.read()
    assert log.counts["0000:1b:00", 79] == 1, "half a line says nothing"
    with path.open("a") as file:
        file.write(XID_LINE.format(79)[30:])
    log.read()
    assert log.counts["0000:1b:00", 79] == 2
    log.close()


def test_restarted_agent_counts_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text(XID_LINE.format(79))
    texts = []
    for _ in range(2):
        log = KernelLog(path)
        log.read()
        texts.append(exposition(log))
        log.close()
    assert texts[0] == texts[1]


def test_rotated_log_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    path.write_text(XID_LINE.format(79))
    log = KernelLog(path)
    log.read()
    path.rename(tmp_path / "kern.log.1")
    path.write_text(XID_LINE.format(48))
    log.read()
    assert log.counts == {("0000:1b:00", 79): 1, ("0000:1b:00", 48): 1}
    log.close()


def test_pipe_that_has_nothing_yet_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = KernelLog(path)
    log.read()
    with path.open("w") as pipe:
        log.read()
        pipe.write(XID_LINE.format(79))
        pipe.flush()
        log.read()
    assert log.counts["0000:1b:00", 79] == 1
    log.close()


def test_log_that_cannot_be_read_says_so_and_claims_nothing(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "absent")
    log.read()
    assert "No such file" in log.error
    assert "LONGHAUL_KERNEL_LOG_UP 1" not in exposition(log)
    (tmp_path / "absent").write_text(XID_LINE.format(79))
    log.read()
    assert log.error == ""


def joined(
    engine: Engine, exporter: tuple[Any, Any], agent: tuple[Any, Any], pages: tuple[str, str], time: float
) -> None:
    readings = [
        attribution.attribute("n0", time, reader.read(page))
        for (reader, attribution), page in zip((exporter, agent), pages, strict=True)
    ]
    engine.observe(readings[0].with_other(readings[1]))


def test_agent_beside_an_exporter_shows_the_first_fault_and_its_repeat(bench: Any, tmp_path: Path) -> None:
    by_pci: dict[str, int] = {}
    exporter = PageReader(), Attribution(bench.rules.wanted, by_pci)
    agent = PageReader(), Attribution(bench.rules.wanted, by_pci)
    dcgm = 'DCGM_FI_DEV_XID_ERRORS{{gpu="0",UUID="G",pci_bus_id="00000000:1B:00.0"}} {}\n'
    path = tmp_path / "kmsg"
    path.write_text("")
    log = KernelLog(path)
    for time, gauge, code in ((1.0, 0, None), (2.0, 13, 13), (3.0, 13, 13), (70.0, 13, None)):
        if code:
            with path.open("a") as file:
                file.write(XID_LINE.format(code))
        log.read()
        joined(bench.engine, exporter, agent, (dcgm.format(gauge), exposition(log)), time)
    log.close()
    fired = {one.rule: one for one in bench.engine.findings("n0")}
    assert "age is unknown" not in fired["xid-application"].message
    assert "xid-application-repeated" in fired, "the gauge alone would have hidden the repeat"
    assert fired["xid-application"].gpu == 0


class NotSupportedError(Exception):
    pass


def nvml(**changes: Any) -> Any:
    def unsupported(*_: Any) -> Any:
        raise NotSupportedError

    names = SimpleNamespace(
        NVMLError=NotSupportedError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        NVML_MEMORY_ERROR_TYPE_CORRECTED=0,
        NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1,
        NVML_VOLATILE_ECC=0,
        NVML_AGGREGATE_ECC=1,
        NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS=0,
        NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR=1,
        NVML_NVLINK_MAX_LINKS=18,
        NVML_NVLINK_ERROR_DL_REPLAY=0,
        NVML_NVLINK_ERROR_DL_RECOVERY=1,
        NVML_NVLINK_ERROR_DL_CRC_FLIT=2,
        NVML_NVLINK_ERROR_DL_CRC_DATA=3,
        nvmlSystemGetDriverVersion=lambda: b"570.1",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetName=lambda handle: "NVIDIA H100",
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=f"00000000:{0x1B + handle:02X}:00.0"),
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetTemperature=lambda handle, kind: 55 + handle,
        nvmlDeviceGetPowerUsage=lambda handle: 650_500,
        nvmlDeviceGetTotalEnergyConsumption=unsupported,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=99, memory=40),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2**30, free=2**31),
        nvmlDeviceGetPcieReplayCounter=lambda handle: 3,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 4,
        nvmlDeviceGetTotalEccErrors=lambda handle, kind, counter: kind * 10 + counter,
        nvmlDeviceGetRemappedRows=lambda handle: (1, 2, 0, 1),
        nvmlDeviceGetRetiredPages=lambda handle, cause: [0] * cause,
        nvmlDeviceGetNvLinkErrorCounter=lambda handle, link, counter: counter if link < 2 else unsupported(),
    )
    names.__dict__.update(changes)
    return names


def read(rules: Any, text: str) -> Reading:
    return Attribution(rules.wanted).attribute("n0", 1.0, PageReader().read(text))


def test_nvml_gives_what_rules_watch_under_the_dcgm_names(rules: Any) -> None:
    reading = read(rules, NvmlCollector(nvml(), "n0").exposition())
    signals = reading.gpus[1].signals
    assert (reading.gpus[1].uuid, reading.driver) == ("GPU-1", "570.1")
    assert signals["DCGM_FI_DEV_GPU_TEMP"] == 56
    assert signals["DCGM_FI_DEV_POWER_USAGE"] == 650.5
    assert signals["DCGM_FI_DEV_ROW_REMAP_FAILURE"] == 1
    assert signals["DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"] == 10
    assert signals["DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"] == 6
    assert signals["DCGM_FI_DEV_CLOCKS_EVENT_REASONS"] == 4


@pytest.mark.parametrize("missing", ["nvmlDeviceGetRemappedRows", "nvmlDeviceGetNvLinkErrorCounter"])
def test_what_a_gpu_does_not_have_is_left_out(rules: Any, missing: str) -> None:
    def unsupported(*_: Any) -> Any:
        raise NotSupportedError

    signals = read(rules, NvmlCollector(nvml(**{missing: unsupported}), "n0").exposition()).gpus[0].signals
    assert "DCGM_FI_DEV_GPU_TEMP" in signals
    absent = "ROW_REMAP" if "Rows" in missing else "NVLINK"
    assert not [name for name in signals if absent in name]


def test_gpu_that_does_not_answer_is_left_out_so_that_it_counts_as_lost(rules: Any) -> None:
    def handle(index: int) -> int:
        if index == 1:
            raise NotSupportedError
        return index

    assert list(read(rules, NvmlCollector(nvml(nvmlDeviceGetHandleByIndex=handle), "n0").exposition()).gpus) == [0]

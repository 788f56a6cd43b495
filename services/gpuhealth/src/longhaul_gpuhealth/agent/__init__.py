"""The node agent, optional: XIDs of the kernel's log, and NVML under the DCGM names where there is no DCGM."""

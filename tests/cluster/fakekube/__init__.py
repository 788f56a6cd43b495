"""A Kubernetes API in memory, served over HTTP on loopback, whose every fault a test can play."""

from fakekube.faults import Fault
from fakekube.server import FakeKubernetes

__all__ = ["FakeKubernetes", "Fault"]

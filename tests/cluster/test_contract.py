"""The contract suite of the cluster seam on a real Kubernetes API; the suite plays scheduler and kubelets."""

import pytest
from test_cluster import *  # noqa: F403 (the tests themselves)

pytestmark = pytest.mark.cluster

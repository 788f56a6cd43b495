"""Training on a real Kubernetes API; the suite plays the kubelets."""

import pytest
from training_contract import *  # noqa: F403 (the tests themselves)

pytestmark = pytest.mark.cluster

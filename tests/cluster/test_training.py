"""Training on a real Kubernetes API: the suite for every cluster, and what is Kubernetes' own; kubelets are played."""

import pytest
from recovery_contract import *  # noqa: F403 (the tests themselves)
from training_contract import *  # noqa: F403 (the tests themselves)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# SPDX-License-Identifier: Apache-2.0
"""Deployments of real architectures, narrow ones where the width does not matter."""

from __future__ import annotations

import pytest
from tiny import tiny_metadata, tiny_network

from anomaly_seg_ros.export.deployment import Deployment


@pytest.fixture
def deployment() -> Deployment:
    """The default architecture, narrow, with outlier head and hybrid score."""
    return Deployment(tiny_network(outlier_head=True), tiny_metadata(True), "dense_hybrid")

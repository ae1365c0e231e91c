# SPDX-License-Identifier: Apache-2.0
"""From an RGB image to labels, anomaly scores and masks."""

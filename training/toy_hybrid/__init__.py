# SPDX-License-Identifier: Apache-2.0
"""A toy in two dimensions: discriminative, generative and hybrid anomaly scores side by side."""

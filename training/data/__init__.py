# SPDX-License-Identifier: Apache-2.0
"""Training data: road scenes, foreign objects, how they are mixed, and style alignment."""

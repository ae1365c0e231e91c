# SPDX-License-Identifier: Apache-2.0
"""Pasting foreign objects into road scenes: location, size, edges and labels."""

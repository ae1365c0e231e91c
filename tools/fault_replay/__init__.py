# SPDX-License-Identifier: Apache-2.0
"""Fires a seeded plan of good and bad frames and other faults at a running detector."""

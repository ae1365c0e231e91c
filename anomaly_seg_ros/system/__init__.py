# SPDX-License-Identifier: Apache-2.0
"""Devices, memory, timing, installed files, crash logs."""

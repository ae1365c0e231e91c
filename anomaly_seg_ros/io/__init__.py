# SPDX-License-Identifier: Apache-2.0
"""Bounded readers, images, pixel formats, atomic writes."""

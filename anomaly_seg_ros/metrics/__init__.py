# SPDX-License-Identifier: Apache-2.0
"""Exact, mergeable metrics in bounded memory."""

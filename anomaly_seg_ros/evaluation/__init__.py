# SPDX-License-Identifier: Apache-2.0
"""Models, data sets and bags to figures, reports and films."""

# SPDX-License-Identifier: Apache-2.0
"""Networks, and what wraps any other."""

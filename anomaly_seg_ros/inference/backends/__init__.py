# SPDX-License-Identifier: Apache-2.0
"""What runs a network: torch, or a compiler or runtime that is faster on this machine."""

# SPDX-License-Identifier: Apache-2.0
"""Weight files: reading safely, recognising, loading."""

# SPDX-License-Identifier: Apache-2.0
"""A running detector in the browser: the node on a bag, a video, pictures or a camera."""

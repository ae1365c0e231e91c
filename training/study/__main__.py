# SPDX-License-Identifier: Apache-2.0
"""``python -m training.study``."""

import sys

from training.study.run import main

sys.exit(main())

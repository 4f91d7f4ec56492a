"""Names of the entries of a log."""

from __future__ import annotations

import re

# In the message hub, and in a log with hierarchy: what an entry is of.
TRAIN_PREFIX = 'train/'
VAL_PREFIX = 'val/'

# The student's own losses in all, their weight, each weighted term, and its weight now.
TASK_LOSS = 'task_loss'
TASK_WEIGHT = 'task_weight'
TERM_PREFIX = 'kd.'
WEIGHT_PREFIX = 'kd_weight.'

# The norm of the gradient; with a dot and the name of a loss behind it, that of the loss's.
GRAD_NORM = 'grad_norm'
# Before the name of a term: between its gradient and the task's.
ANGLE_PREFIX = 'angle.'

# Entries whose mean over the last iterations is logged, of others the last: mmengine's and terms.
MEAN_PATTERN = rf'.*(loss|time|data_time|{GRAD_NORM}|{re.escape(TERM_PREFIX)}).*'

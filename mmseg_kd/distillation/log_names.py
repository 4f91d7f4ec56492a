"""Names of what a distillation logs."""

from __future__ import annotations

# Entries of the log: the student's own losses in all, each weighted term, and its weight at this
# iteration.
TASK_LOSS = 'task_loss'


TERM_PREFIX = 'kd.'


WEIGHT_PREFIX = 'kd_weight.'

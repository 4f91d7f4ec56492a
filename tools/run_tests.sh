#!/usr/bin/env bash
# Run the tests on a machine with nothing installed:  bash tools/run_tests.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
MMSEG_KD_EXTRAS=dev
. tools/setup_env.sh
# A process a core, each of one thread; no more than four, for each holds the hosts in memory.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"

#!/usr/bin/env bash
# Run the tests on a machine with nothing installed:  bash tools/run_tests.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
MMSEG_KD_EXTRAS=dev
. tools/setup_env.sh
exec python -m pytest "$@"

#!/usr/bin/env bash
# The main job on a machine with nothing installed:  bash tools/quickstart.sh [--help]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup_env.sh
exec python -m mmseg_kd quickstart "$@"

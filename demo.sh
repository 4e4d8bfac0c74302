#!/usr/bin/env bash
# Sets up .venv where needed and runs the demonstration: a synthetic patient in; segmentation, picture and report out.
set -euo pipefail
cd "$(dirname "$0")"
Utilities/setup.sh
exec .venv/bin/python -m medgen demo "$@"

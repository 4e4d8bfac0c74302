#!/usr/bin/env bash
# Sets up .venv where needed and passes the tests. Further words go to pytest: ./test.sh -k phantoms
set -euo pipefail
cd "$(dirname "$0")"
Utilities/setup.sh test
export PATH="$PWD/.venv/bin:$PATH" QT_QPA_PLATFORM=offscreen OMP_NUM_THREADS=1
ruff check .
ruff format --check .
mypy
python -m pytest -n 2 -m 'not slow and not alone' "$@"
# What measures how soon something answers runs by itself; no such test is meant by most words (exit code 5).
python -m pytest -m 'alone and not slow' "$@" || [ $? = 5 ]

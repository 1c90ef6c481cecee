#!/usr/bin/env bash
# tools/venv.sh DIR PIP_ARGUMENT...: make a virtual environment in DIR and run `pip install PIP_ARGUMENT...` in it.
# Does nothing if DIR was made before with the same arguments and requirement files. PYTHON is the interpreter (default: python3).
set -euo pipefail
dir=$1
shift
wanted="$*
$(cat requirements*.txt demo/requirements*.txt tests/requirements*.txt tests/parity/requirements*.txt seg/requirements*.txt)"
if [ -f "$dir/installed" ] && [ "$(cat "$dir/installed")" = "$wanted" ]; then
    exit 0
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo "error: $python is older than Python 3.9; set PYTHON=" >&2; exit 1; }
echo "setting up $dir (once) ..."
rm -rf "$dir"
if ! "$python" -m venv "$dir" >/dev/null 2>&1; then  # Debian's python3 comes without ensurepip
    rm -rf "$dir"
    borrowed=$(mktemp -d)
    trap 'rm -rf "$borrowed"' EXIT
    "$python" -m pip install --quiet --target "$borrowed" virtualenv
    PYTHONPATH="$borrowed" "$python" -m virtualenv --quiet "$dir"
fi
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"  # half the time; Python compiles on import
printf '%s' "$wanted" > "$dir/installed"

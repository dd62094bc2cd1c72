#!/bin/sh
# Builds the wheels of both distributions into a folder, beside the versions that the tests last ran with.
set -eu
wheels=$1
cd "$(dirname "$0")/.."
mkdir -p "$wheels"
wheels=$(cd "$wheels" && pwd)
python3 -m venv "$wheels/.build"
"$wheels/.build/bin/pip" install --quiet --no-cache-dir -c constraints.txt build
for distribution in packages/spatialvla-client .; do
    "$wheels/.build/bin/python" -m build --wheel --outdir "$wheels" "$distribution"
done
rm -rf "$wheels/.build"
cp constraints.txt "$wheels"

#!/bin/sh
# Installs the wheels that lie beside this file, with extras, into a virtual environment of their own.
set -eu
environment=$1
extras=$2
wheels=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --no-cache-dir -c "$wheels/constraints.txt" \
    "$(echo "$wheels"/spatialvla_client-*.whl)" "$(echo "$wheels"/spatialvla-[0-9]*.whl)[$extras]"
"$environment/bin/spatialvla" doctor

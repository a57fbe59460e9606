#!/bin/sh
# Install into the image's environment: from the wheels that the build was given, where it was given
# any, otherwise from the index that pip is configured for.
set -eu
bin=/opt/bnrecal/bin
if ls /wheels/*.whl > /dev/null 2>&1; then
    set -- --no-index --find-links /wheels "$@"
fi
python3 -m pip --python "$bin/python" install --no-compile "$@"

# Data and tests that no server reads.
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site/onnx/backend/test/data"
find "$site" -type d -name tests -prune -exec rm -rf {} +

# The root file system is read-only later: what is not compiled now is compiled at every start.
# compileall instead of pip, because it uses all cores and comes after the removal.
"$bin/python" -m compileall -q -j 0 "$site"

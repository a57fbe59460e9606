#!/bin/sh
# Install into the environment of the image: from the wheels of the build if there are any, otherwise
# from the configured index.
set -eu
bin=/opt/bnrecal/bin
if ls /wheels/*.whl > /dev/null 2>&1; then
    set -- --no-index --find-links /wheels "$@"
fi
python3 -m pip --python "$bin/python" install --no-compile "$@"

# Data, tests and headers that the server does not use.
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site/onnx/backend/test/data" "$site/torch/test" "$site/torch/include"
find "$site" -type d -name tests -prune -exec rm -rf {} +
rm -rf "$site/ray/jars" "$site/ray/cpp" "$site/ray/dashboard/client"
if [ -d "$site/torch/bin" ]; then
    find "$site/torch/bin" -type f ! -name torch_shm_manager -delete # torch does not start without it
fi

# The root file system is read-only at run time: modules not compiled now are compiled at every start.
# compileall instead of pip, because it uses all cores and runs after the removal. Some of torch's own
# tests are written for newer versions of Python.
"$bin/python" -m compileall -q -j 0 -x 'torch/testing/_internal' "$site"

